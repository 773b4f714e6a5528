"""A client, its call, a call of that, a send, a retry, a SIGKILL and a restart are one trace, at a real collector."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from durable import connect
from tests.telemetry.collector import Collector


@contextmanager
def worker(tmp_path: Path, collector: Collector) -> Iterator["subprocess.Popen[str]"]:
    """It ends in good order where it was not killed."""
    command = [sys.executable, "-m", "tests.telemetry.worker", str(tmp_path / "app.db"), collector.endpoint]
    process = subprocess.Popen([*command, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "running\n"
        yield process
        process.stdin.close()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        if not process.stdin.closed:
            process.stdin.close()


@pytest.mark.process
def test_a_chain_with_a_retry_a_kill_and_a_restart_is_one_trace(tmp_path: Path) -> None:
    with Collector() as collector:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.endpoint)))
        asyncio.run(tell(tmp_path, collector, provider))
        provider.shutdown()
        expected = [
            "client",
            "  ingress Chain/a",
            "    invocation-start Chain/a",
            "      attempt-lost Chain/a!",
            "      invocation-attempt Chain/a!",
            "        run prepare!",
            "      invocation-attempt Chain/a",
            "      invocation-end Chain/a",
            "      invocation-start Chain/b",
            "        attempt-lost Chain/b!",
            "        invocation-attempt Chain/b",
            "          run pack",
            "        invocation-end Chain/b",
            "  ingress Chain/a",  # the client asked again, and was told of the invocation that it had
            "invocation-start Chain/c ~ invocation-start Chain/b",
            "  invocation-attempt Chain/c",
            "  invocation-end Chain/c",
        ]
        # What was done by the attempts that were killed: of those themselves it is only told that they were lost.
        orphans = ["^run prepare", "^run reserve", "  SELECT stock"]
        assert collector.tree() == [*expected, *orphans], "\n".join(collector.tree())
        attempts = [
            span.attributes["durable.attempt.number"] for span in collector.named("invocation-attempt Chain/b")
        ]
        assert attempts == [2]
        lost = [
            collector.named(f"attempt-lost Chain/{name}")[0].attributes["durable.attempt.number"] for name in "ab"
        ]
        assert lost == [2, 1]
        of_a, of_c = (collector.named(f"invocation-start Chain/{name}")[0].trace_id for name in "ac")
        assert {span.trace_id for span in collector.spans} == {of_a, of_c}


async def tell(tmp_path: Path, collector: Collector, provider: TracerProvider) -> None:
    """The story, with the engine in a process of its own."""
    with worker(tmp_path, collector) as first:
        async with connect(tmp_path / "app.db") as client:
            with provider.get_tracer("client").start_as_current_span("client"):
                asked = asyncio.create_task(client.call("Chain/a", idempotency_key="one"))
                await asyncio.to_thread(
                    collector.wait_for, "run reserve", "SELECT stock", "invocation-end Chain/c", "run prepare"
                )
                while not (tmp_path / "pack").exists():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                first.kill()
                first.wait()
                with worker(tmp_path, collector):
                    assert await asked == "reserved"
