"""How much one request to the admin API may bring and ask for."""

from durable.web import security


class Limits(security.Limits, frozen=True, kw_only=True):
    """The limits of every request, and of what only the admin API is asked."""

    #: Levels of arrays and objects in a body.
    body_depth: int = 64
    #: Invocations that one batch operation names.
    batch: int = 1000
    #: The same where progress is streamed.
    batch_streamed: int = 100_000
