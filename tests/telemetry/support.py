"""Engines whose spans are kept in memory, and those spans as a tree that can be read."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode

from durable import Engine
from durable.telemetry import Traces
from durable.testing import MemoryStore, VirtualClock, run


class Spans:
    """A provider, and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.named(name)
        assert len(found) == 1, (name, [span.name for span in self.all])
        return found[0]

    def tree(self) -> list[str]:
        return tree(self.all)

    def tell(
        self, story: Callable[[Engine], Awaitable[Any]], services: Iterable[object], **options: Any
    ) -> list[str]:
        """Tell it with an engine on a virtual clock; returns the spans as a tree."""

        async def main() -> None:
            clock = VirtualClock(asyncio.get_running_loop())
            options.setdefault("store", MemoryStore())
            async with Engine(services=services, clock=clock, observer=Traces(self.provider), **options) as engine:
                await story(engine)

        run(main)
        return self.tree()


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def tree(spans: Iterable[ReadableSpan]) -> list[str]:
    """Names, indented below their parents, in the order in which they began, with `!` for an error.

    A span whose parent is not there is marked with `^`; one that is linked names what it is linked to.
    """
    by_id = {context(span).span_id: span for span in spans}
    children: dict[int | None, list[ReadableSpan]] = {}
    for span in by_id.values():
        parent = span.parent.span_id if span.parent is not None and span.parent.span_id in by_id else None
        children.setdefault(parent, []).append(span)
    lines: list[str] = []

    def add(parent: int | None, depth: int) -> None:
        for span in sorted(children.get(parent, []), key=lambda one: one.start_time or 0):
            orphan = "^" if parent is None and span.parent is not None else ""
            error = "!" if span.status.status_code is StatusCode.ERROR else ""
            linked = [by_id[link.context.span_id].name for link in span.links if link.context.span_id in by_id]
            lines.append(f"{'  ' * depth}{orphan}{span.name}{error}{''.join(f' ~ {name}' for name in linked)}")
            add(context(span).span_id, depth + 1)

    add(None, 0)
    return lines
