"""Which invocations to find: the one description every store understands."""

import msgspec

from durable.core.invocation import Invocation, Status


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which invocations to list, newest first."""

    id: str | None = None
    service: str | None = None
    handler: str | None = None
    key: str | None = None
    status: frozenset[str] = frozenset()
    limit: int = 100
    #: Only those accepted before this one (the `seq` of the last of the page before).
    before: int | None = None


def matches(where: Filter, invocation: Invocation) -> bool:
    """Whether a filter selects an invocation."""
    submission = invocation.submission
    return (
        (where.id is None or submission.id == where.id)
        and (where.service is None or submission.service == where.service)
        and (where.handler is None or submission.handler == where.handler)
        and (where.key is None or submission.key == where.key)
        and (not where.status or Status(invocation.status) in where.status)
        and (where.before is None or invocation.seq < where.before)
    )
