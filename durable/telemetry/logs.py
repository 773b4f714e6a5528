"""The application's own log lines, in handlers and steps: which invocation they belong to, and whether they repeat.

    logging.basicConfig(format="%(levelname)s %(invocation_id)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(durable.InvocationFilter())
        handler.addFilter(durable.ReplayFilter())

A filter belongs on a handler of `logging`: on a logger it would not see the records of that logger's children.
"""

import sys
from typing import Any

from durable.log import About, Filter, LogRecord
from durable.runtime.attempt import Attempt
from durable.runtime.current import CURRENT, InStep
from durable.runtime.lines import about

#: The attributes that records about an invocation have.
FIELDS = About._fields


def fields() -> dict[str, Any]:
    """The invocation that the calling code belongs to, by the names in `FIELDS`; empty outside of handlers and steps.

    `key` is None for services, `step` outside of steps. `trace_id` and `span_id` are those of OpenTelemetry's current
    span, or of the trace that the invocation was started in, or None.
    """
    here = CURRENT.get()
    if isinstance(here, InStep):
        marked = about(here.submission, here.attempt, here.name)
    elif isinstance(here, Attempt):
        marked = about(here.submission, here.number)
    else:
        return {}
    return marked._asdict() | _current_span()


def replaying() -> bool:
    """Whether the calling handler repeats what it did in an earlier attempt; False outside of handlers.

    This is True until it has asked for the last entry in its journal. Nobody knows what it did after that in an
    attempt that failed, so from there on this is False. It is also False in a step, because a step that runs was not
    recorded.
    """
    here = CURRENT.get()
    return isinstance(here, Attempt) and here.repeating


class InvocationFilter(Filter):
    """Lets every record pass, and gives it the attributes `invocation_id`, `target`, `key`, `attempt`, `step`,
    `trace_id`, `span_id`: of the handler or step that speaks, None for any other code. What a record has it keeps.
    """

    #: The names of the attributes.
    fields = FIELDS

    def filter(self, record: LogRecord) -> bool:
        """Called by `logging`."""
        found = None
        for name in FIELDS:
            if not hasattr(record, name):
                if found is None:
                    found = fields()
                setattr(record, name, found.get(name))
        return True


class ReplayFilter(Filter):
    """Drops what a handler logs while it is replayed, so that each line is logged once.

    Lines after the last recorded entry are logged again rather than lost, because the journal cannot tell whether
    they were logged. The engine's own lines always pass.
    """

    def filter(self, record: LogRecord) -> bool:
        """Called by `logging`."""
        return record.name.startswith("durable.") or not replaying()


def _current_span() -> dict[str, str]:
    """Of OpenTelemetry, where the application uses it."""
    trace = sys.modules.get("opentelemetry.trace")
    span = None if trace is None else trace.get_current_span().get_span_context()
    if span is None or not span.is_valid:
        return {}
    return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
