"""A collector of OpenTelemetry's, as small as it can be: OTLP over HTTP, on loopback, and the spans that came."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Told(NamedTuple):
    """A span as it came over the wire."""

    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    #: Spans that it is linked to.
    links: tuple[bytes, ...]
    began_ns: int
    error: bool
    attributes: dict[str, Any]


class Collector:
    """Use it in a `with` block."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.spans += _spans(body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def __enter__(self) -> "Collector":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Told]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, *names: str) -> None:
        """Until there is a span of each of these names."""
        deadline = time.monotonic() + 60
        while missing := [name for name in names if not self.named(name)]:
            assert time.monotonic() < deadline, (missing, [span.name for span in self.spans])
            time.sleep(0.01)

    def tree(self) -> list[str]:
        """As `support.tree`, but those below the same parent in the order of their names."""
        known = {span.span_id: span for span in self.spans}
        lines: list[str] = []

        def add(parent: bytes, depth: int) -> None:
            below = [span for span in self.spans if (span.parent_id if span.parent_id in known else b"") == parent]
            for span in sorted(below, key=lambda one: (one.name, one.began_ns)):
                orphan = "^" if not depth and span.parent_id else ""
                linked = "".join(f" ~ {known[one].name}" for one in span.links if one in known)
                lines.append(f"{'  ' * depth}{orphan}{span.name}{'!' if span.error else ''}{linked}")
                add(span.span_id, depth + 1)

        add(b"", 0)
        return lines


def _spans(body: bytes) -> list[Told]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Told(
            span.name,
            span.trace_id,
            span.span_id,
            span.parent_span_id,
            tuple(link.span_id for link in span.links),
            span.start_time_unix_nano,
            span.status.code == span.status.STATUS_CODE_ERROR,
            {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in span.attributes},
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
