"""A trace goes on wherever an invocation is asked for: over HTTP, from another process, with a record."""

import asyncio
from functools import partial
from pathlib import Path

import httpx
import pytest
from opentelemetry.trace import SpanKind

from durable import Context, Engine, handler
from durable.client import Handle
from durable.core.invocation import Flavor
from durable.core.record_commands import Begin, Subscribe, Take
from durable.core.sources import GroupPartition, Subscription
from durable.ingress import create_app
from durable.kafka.records import Records
from durable.remote.client import connect
from durable.remote.sync import connect_sync
from durable.telemetry import Traces
from tests.scenarios.test_records import Record
from tests.telemetry.support import Spans, attributes, context

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@handler(service="Doors")
async def enter(ctx: Context, number: int) -> int:
    if number == 13:
        raise ConnectionError("never")
    return number


@pytest.fixture
def spans() -> Spans:
    return Spans()


def test_a_request_over_http_is_a_span_below_its_clients(spans: Spans) -> None:
    async def story(engine: Engine) -> None:
        transport = httpx.ASGITransport(create_app(engine), client=("192.0.2.7", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            headers = {"traceparent": PARENT}
            await http.post("/Doors/enter", json=1, headers=headers)
            await http.post("/Doors/enter/send", json=1)
            await http.post("/Doors/enter", json=1, headers={"idempotency-key": "x"})
            await http.post("/Doors/enter", json=1, headers={"idempotency-key": "x"})
            await http.post("/Doors/nowhere", json=1)
            await asyncio.sleep(1)

    below = ["  invocation-start Doors/enter", "    invocation-attempt Doors/enter", "    invocation-end Doors/enter"]
    assert spans.tell(story, [enter]) == [
        "^ingress Doors/enter",
        *below,
        *("ingress Doors/enter", *below),
        *("ingress Doors/enter", *below),
        "ingress Doors/enter",
    ]
    called, _, _, joined = spans.named("ingress Doors/enter")
    assert f"{context(called).trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert called.kind is SpanKind.SERVER
    said = attributes(called)
    assert (said["client.socket.address"], said["client.socket.port"]) == ("192.0.2.7", 4711)
    assert "http.response.status_code" not in said, "it has ended before"
    assert attributes(joined)["http.response.status_code"] == 200


@pytest.mark.parametrize("sync", [False, True])
def test_what_another_process_asks_nests_under_its_span(spans: Spans, tmp_path: Path, sync: bool) -> None:
    """(It is this one, but the way is the same.)"""
    path = tmp_path / "app.db"

    def ask_and_wait() -> None:
        with connect_sync(path) as client, spans.tracer.start_as_current_span("elsewhere"):
            client.call("Doors/enter", 1)

    async def story() -> None:
        async with Engine(path, services=[enter], observer=Traces(spans.provider)):
            if sync:
                await asyncio.to_thread(ask_and_wait)
                return
            async with connect(path) as client:
                with spans.tracer.start_as_current_span("elsewhere"):
                    await client.call("Doors/enter", 1)

    asyncio.run(story())
    assert spans.tree() == [
        "elsewhere",
        "  ingress Doors/enter",
        "    invocation-start Doors/enter",
        "      invocation-attempt Doors/enter",
        "      invocation-end Doors/enter",
    ]


def test_a_record_goes_on_in_the_trace_of_whoever_sent_it(spans: Spans) -> None:
    one = Subscription(
        "sub_1", "kafka://c/t", "service://Doors/enter", {}, "c", "t", "g", "Doors", "enter", Flavor.SERVICE, 1
    )

    async def story(engine: Engine) -> None:
        loop = engine._running()
        place = GroupPartition("c", "g", "t", 0)
        await loop.ask(partial(Subscribe, one))
        await loop.ask(partial(Begin, "sub_1", {place: 0}))
        sent, untraced, bad = Record(0, 0, b"k", b"1"), Record(0, 1, b"k", b"2"), Record(0, 2, b"k", b"no number")
        sent.headers = (("traceparent", PARENT.encode()), ("authorization", b"secret"))
        records = Records(one, engine._registry, engine._new_ids, loop.observer)
        offered = records.one_by_one([sent, untraced, bad], records.handler)
        await loop.ask(partial(Take, "sub_1", place, 0, offered))
        await loop.ask(partial(Take, "sub_1", place, 0, records.offered([sent], records.handler)))
        for record in offered[:2]:
            await Handle[int](engine, record.submission.id, int).result()

    below = ["  invocation-start Doors/enter", "    invocation-attempt Doors/enter", "    invocation-end Doors/enter"]
    failed = ["  invocation-start Doors/enter", "    invocation-end Doors/enter!"]
    found = spans.tell(story, [enter])
    assert found[:4] == ["^ingress_kafka Doors/enter", *below]
    assert sorted(found[4:]) == sorted(["ingress_kafka Doors/enter", *below, "ingress_kafka Doors/enter", *failed])
    first = spans.named("ingress_kafka Doors/enter")[0]
    assert first.parent is not None and f"{first.parent.span_id:016x}" == "b7ad6b7169203331"
    assert first.kind is SpanKind.CONSUMER
    said = attributes(first)
    messaging = {name: value for name, value in said.items() if name.startswith("messaging.")}
    assert messaging == {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "g",
        "messaging.kafka.offset": 0,
        "messaging.source.name": "t",
        "messaging.source.partition.id": "0",
    }
    assert "secret" not in "".join(span.to_json() for span in spans.all)
