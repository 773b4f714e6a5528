"""What the log says of invocations: one line for each thing that happens to one, at the level of who has to act."""

import re

from durable import log
from durable.core.invocation import Submission

#: What W3C's `traceparent` says: a trace, and a span in it.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*")


def about(submission: Submission, attempt: int | None = None, step: str | None = None) -> log.About:
    """What a line about an invocation is marked with."""
    trace = _TRACEPARENT.fullmatch(submission.headers.get("traceparent", ""))
    return log.About(
        submission.id,
        submission.target,
        submission.key,
        attempt,
        step or None,
        *(trace.groups() if trace is not None else (None, None)),
    )
