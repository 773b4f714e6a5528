"""The trace that an invocation belongs to, as it travels and is stored: in its headers, as the W3C names them.

Headers are where a trace comes from over HTTP and with records, and where handlers can see it. So an engine needs no
column for it, and one that has no telemetry carries it on.
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
    """The span that headers name, or None: also where what they say is nonsense."""
    if PARENT not in headers:
        return None
    carrier = {name: headers[name] for name in (PARENT, STATE) if name in headers}
    found = get_current_span(_w3c.extract(carrier, EMPTY)).get_span_context()
    return found if found.is_valid else None


def carry(span: SpanContext, headers: MutableMapping[str, str]) -> None:
    """Have headers name this span."""
    headers[PARENT] = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    headers.pop(STATE, None)
    if span.trace_state:
        headers[STATE] = span.trace_state.to_header()


def above(headers: Mapping[str, str]) -> SpanContext | None:
    """What is asked for here and now goes on below this: the span of now, or that of the headers of another trace.

    (Where both are of one trace, the span of now is the nearer one: the headers have come from a client.)
    """
    here, told = get_current_span().get_span_context(), carried(headers)
    return here if here.is_valid and (told is None or told.trace_id == here.trace_id) else told


def below(span: SpanContext) -> Context:
    """The context of a child of that span."""
    return set_span_in_context(NonRecordingSpan(span), EMPTY)


def stored(submission: Submission) -> SpanContext:
    """The span that all of an invocation's spans are children of.

    Where it was accepted without telemetry, one follows from its id: then its attempts are in one trace all the same,
    also across restarts, though nobody ever sees their parent.
    """
    found = carried(submission.headers)
    if found is not None:
        return found
    digest = blake2b(submission.id.encode(), digest_size=24, person=b"durable trace").digest()
    trace_id, span_id = int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:], "big")
    return SpanContext(trace_id or 1, span_id or 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
