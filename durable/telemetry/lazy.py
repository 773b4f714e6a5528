"""A span that is made when somebody looks at it, or else after it has ended, on the thread that ends spans.

OpenTelemetry's SDK takes about as long for a span as the engine for a step. Most steps never look at their span.
Those that do (to make spans of their own, for the ids of a log line, for headers to pass on) find a real one, which
began when the step did.
"""

import threading
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, set_span_in_context

#: Held while one is made, as two threads may look at once; reentrant, as samplers and processors may look, too.
_making = threading.RLock()


class LazySpan(Context):
    """A context whose current span is only made when somebody asks the context for anything.

    `start` starts a span, as a tracer's does, and must raise nothing.
    """

    __slots__ = ("_attributes", "_began_ns", "_name", "_parent", "_seen", "_span", "_start", "ended_ns")

    def __init__(
        self, start: Callable[..., Span], name: str, parent: Context, attributes: dict[str, Any], began_ns: int
    ) -> None:
        #: None once the span is made, or is being made.
        self._start: Callable[..., Span] | None = start
        self._name = name
        self._parent = parent
        self._attributes = attributes
        self._began_ns = began_ns
        self._span: Span | None = None
        self._seen: Context | None = None
        #: 0 while it goes on.
        self.ended_ns = 0

    @property
    def span(self) -> Span:
        """The span; it is made if it does not exist yet."""
        if self._span is None:
            with _making:
                start, self._start = self._start, None
                if start is not None:
                    self._span = start(
                        self._name, self._parent, SpanKind.INTERNAL, self._attributes, None, self._began_ns
                    )
        return self._span or INVALID_SPAN

    def end(self, end_ns: int) -> None:
        """End it as of then."""
        self.span.end(end_ns)

    def look(self) -> Context:
        """The real context, with the span in it."""
        if self._seen is None:
            span = self.span
            if span is INVALID_SPAN:  # a sampler looks, which is asked whether there is to be one
                return self._parent
            self._seen = set_span_in_context(span, self._parent)
        return self._seen


def _asks(name: str) -> Callable[..., Any]:
    def asked(self: LazySpan, *about: Any) -> Any:
        return getattr(self.look(), name)(*[one.look() if isinstance(one, LazySpan) else one for one in about])

    return asked


#: All that tells what is in a dict.
LOOKS = {"get", "keys", "values", "items", "copy"}
LOOKS |= {
    f"__{name}__" for name in ("getitem", "contains", "iter", "reversed", "len", "eq", "ne", "or", "ror", "repr")
}
for _name in LOOKS:
    setattr(LazySpan, _name, _asks(_name))
