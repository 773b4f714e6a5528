"""The trace of an invocation, as it travels and is stored: in its headers, under the W3C's names.

Over HTTP and in records, a trace comes in the headers, and handlers see it there. So it needs no column of its own,
and an engine without telemetry passes it on.
"""

from collections.abc import Mapping, MutableMapping
from hashlib import blake2b

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from durable.core.invocation import Submission

PARENT, STATE = "traceparent", "tracestate"
#: Nothing: what an attempt's context begins with, whatever started the engine.
EMPTY = Context()
_w3c = TraceContextTextMapPropagator()


def carried(headers: Mapping[str, str]) -> SpanContext | None:
    """The span that headers name; None if they name none, or nonsense."""
    if PARENT not in headers:
        return None
    carrier = {name: headers[name] for name in (PARENT, STATE) if name in headers}
    found = get_current_span(_w3c.extract(carrier, EMPTY)).get_span_context()
    return found if found.is_valid else None


def carry(span: SpanContext, headers: MutableMapping[str, str]) -> None:
    """Write this span into headers."""
    headers[PARENT] = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    headers.pop(STATE, None)
    if span.trace_state:
        headers[STATE] = span.trace_state.to_header()


def above(headers: Mapping[str, str]) -> SpanContext | None:
    """The span under which a request goes on: the current span, or the one in the headers if that is another trace.

    (If both belong to one trace, the current span is the nearer one, because the headers came from a client.)
    """
    here, told = get_current_span().get_span_context(), carried(headers)
    return here if here.is_valid and (told is None or told.trace_id == here.trace_id) else told


def below(span: SpanContext) -> Context:
    """The context in which to make a child of that span."""
    return set_span_in_context(NonRecordingSpan(span), EMPTY)


def stored(submission: Submission) -> SpanContext:
    """The span that is the parent of all spans of an invocation.

    If the invocation was accepted without telemetry, the span follows from its id. So its attempts still share one
    trace, across restarts too, although nobody ever sees their parent.
    """
    found = carried(submission.headers)
    if found is not None:
        return found
    digest = blake2b(submission.id.encode(), digest_size=24, person=b"durable trace").digest()
    trace_id, span_id = int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:], "big")
    return SpanContext(trace_id or 1, span_id or 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
