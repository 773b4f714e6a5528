"""What is counted: the same numbers for Prometheus and for OpenTelemetry, bounded, and at nobody's expense."""

import asyncio
import inspect
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from prometheus_client.parser import text_string_to_metric_families

from durable import Context, Engine, ObjectContext, RetryPolicy, TerminalError, VirtualObject, handler
from durable.admin import create_app
from durable.telemetry import instruments
from durable.telemetry.metrics import ASKED, OTHER, TARGETS_MAX, TOLD, Targets
from durable.testing import MemoryStore
from tests.runtime.support import settled

FAMILIES = {one.name: one for one in (*TOLD, *ASKED)}
#: Which change by themselves between two looks.
RESTLESS = ("durable.invocations.oldest.age", "durable.commands.queued", "durable.disk.free", "durable.wal.size")
Points = dict[tuple[tuple[str, str], ...], Any]


def prometheus(page: str) -> dict[str, Points]:
    """What the official parser reads, by our names; of a histogram the buckets, sum and count."""
    found: dict[str, Points] = {}
    names = {one.prometheus.removesuffix("_total"): one.name for one in FAMILIES.values()}
    for family in text_string_to_metric_families(page):
        points = found.setdefault(names[family.name], {})
        for sample in family.samples:
            labels = dict(sample.labels)
            if family.type == "histogram":
                le = labels.pop("le", None)
                point = points.setdefault(tuple(sorted(labels.items())), {})
                point[le or sample.name.rpartition("_")[2]] = sample.value
            else:
                points[tuple(sorted(labels.items()))] = sample.value
    return found


def opentelemetry(reader: InMemoryMetricReader) -> dict[str, Points]:
    """The same of what an SDK exports."""
    found: dict[str, Points] = {}
    data = reader.get_metrics_data()
    for scope in data.resource_metrics[0].scope_metrics if data is not None else ():
        for metric in scope.metrics:
            points = found.setdefault(metric.name, {})
            for point in metric.data.data_points:
                labels = tuple(sorted((key, str(value)) for key, value in (point.attributes or {}).items()))
                points[labels] = _value(point)
    return found


def _value(point: Any) -> Any:
    if not hasattr(point, "bucket_counts"):
        return point.value
    value: dict[str, float] = {"sum": point.sum, "count": point.count}
    number = 0
    for bound, count in zip((*point.explicit_bounds, None), point.bucket_counts, strict=True):
        number += count
        value["+Inf" if bound is None else f"{bound:g}"] = number
    return value


def rounded(points: dict[str, Points]) -> dict[str, Points]:
    """Without what changes by itself; bounds and sums of histograms in one notation."""
    return {
        name: {
            labels: {
                key if key in ("sum", "count", "+Inf") else f"{float(key):g}": pytest.approx(number)
                for key, number in value.items()
            }
            if isinstance(value, dict)
            else value
            for labels, value in of.items()
        }
        for name, of in points.items()
        if of and name not in RESTLESS
    }


def counted(points: Points) -> Points:
    """Without what is told with 0 from the beginning."""
    return {labels: value for labels, value in points.items() if value}


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """Of a meter provider that the process has installed."""
    reader = InMemoryMetricReader()
    views = []
    if "explicit_bucket_boundaries_advisory" not in inspect.signature(api.Meter.create_histogram).parameters:
        views = [  # as docs/metrics.md says
            View(instrument_name=one.name, aggregation=ExplicitBucketHistogramAggregation(one.bounds))
            for one in FAMILIES.values()
            if one.kind == "histogram"
        ]
    provider = MeterProvider([reader], shutdown_on_exit=False, views=views)
    monkeypatch.setattr(api, "get_meter_provider", lambda: provider)
    yield reader
    provider.shutdown()


failures = 0  #: which the story makes one: a test may be the first of its process, and nothing else may fail there


async def flaky() -> None:
    global failures
    if failures:
        failures -= 1
        raise ConnectionError


class Cart(VirtualObject):
    @handler(retry=RetryPolicy(initial_interval="1ms", max_attempts=2))
    async def add(self, ctx: ObjectContext, number: int) -> int:
        await ctx.run(flaky)
        await ctx.sleep("5ms")
        if number == 3:
            raise TerminalError("no")
        if number == 4:
            raise ValueError("a bug")
        return number

    @handler(shared=True)
    async def waits(self, ctx: Context) -> None:
        await ctx.run(lambda: None)
        await ctx.sleep("1d")


async def work(engine: Engine) -> None:
    """Something of everything."""
    global failures
    failures = 1
    for number in range(4):
        handle = await engine.send(Cart.add, number, key="secret-key")
        await asyncio.gather(handle.result(), return_exceptions=True)
    waiting = await engine.send("Cart/waits", key="second-key")
    killed = await engine.send("Cart/waits", key="second-key")
    await engine.kill(killed.id)
    await settled(engine, (await engine.send(Cart.add, 4, key="secret-key")).id)
    while not (await waiting.describe()).timers:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_prometheus_and_opentelemetry_tell_the_same_numbers(tmp_path: Path, reader: InMemoryMetricReader) -> None:
    async def main() -> None:
        async with Engine(tmp_path / "a.db", services=[Cart()]) as engine:
            await work(engine)
            exported, page = opentelemetry(reader), prometheus(engine.metrics())
        assert rounded(page) == rounded(exported)
        add, waits = ("target", "Cart/add"), ("target", "Cart/waits")
        assert counted(page["durable.invocations.accepted"]) == {(add,): 5, (waits,): 2}
        assert counted(page["durable.invocations.completed"]) == {
            (("outcome", "success"), add): 3,
            (("outcome", "error"), add): 1,
            (("outcome", "killed"), waits): 1,
        }
        assert counted(page["durable.retries"]) == {(add,): 2}
        assert counted(page["durable.invocations.paused"]) == {(add,): 1}
        assert page["durable.attempts"][(("result", "failed"), add)] == 3
        assert page["durable.invocations.open"] == {
            (("status", "paused"), add): 1,
            (("status", "running"), waits): 1,
        }
        assert page["durable.step.duration"][(("outcome", "success"), add)]["count"] == 5
        assert page["durable.step.duration"][(("outcome", "error"), add)]["count"] == 1
        assert page["durable.timers.pending"] == {(): 1}
        commits = page["durable.commit.duration"][()]
        assert commits["count"] == page["durable.commit.rows"][()]["count"] > 5
        assert page["durable.commit.commands"][()]["sum"] >= commits["count"]
        assert page["durable.slots"] == {(("state", "used"),): 1, (("state", "free"),): 999}
        assert page["durable.wal.size"][()] > 0 and page["durable.disk.free"][()] > 0
        assert set(exported) <= set(page) == set(FAMILIES)

    asyncio.run(main())


def test_what_has_not_happened_to_a_handler_yet_is_told_with_0() -> None:
    """Prometheus sees how much a counter grows, so it has to see it before its first failure."""

    async def main() -> dict[str, Points]:
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            return prometheus(engine.metrics())

    page = asyncio.run(main())
    add, waits = ("target", "Cart/add"), ("target", "Cart/waits")
    assert page["durable.invocations.paused"] == page["durable.retries"] == {(add,): 0, (waits,): 0}
    outcomes = ("success", "error", "cancelled", "killed")
    assert page["durable.invocations.completed"] == {
        (("outcome", outcome), one): 0 for one in (add, waits) for outcome in outcomes
    }
    assert page["durable.attempts"][(("result", "lost"), add)] == 0


def test_no_label_has_a_key_an_id_or_the_name_of_a_step(tmp_path: Path) -> None:
    async def main() -> str:
        async with Engine(tmp_path / "a.db", services=[Cart()]) as engine:
            engine.measure()
            await work(engine)
            return engine.metrics()

    page = asyncio.run(main())
    assert not re.search("secret-key|second-key|inv_1|flaky", page)
    labels = {key for points in prometheus(page).values() for point in points for key, _ in point}
    assert labels <= {"target", "status", "outcome", "result", "state", "role", "version"}


def test_handlers_beyond_two_hundred_are_told_together() -> None:
    targets = Targets()
    names = {targets.name("S", f"h{number}") for number in range(1000)}
    assert len(names) == TARGETS_MAX + 1
    assert OTHER in names
    assert targets.name("S", "h1") == "S/h1"


def test_names_have_units_as_both_conventions_want_them() -> None:
    for family in FAMILIES.values():
        assert re.fullmatch(r"durable(\.[a-z]+)+", family.name)
        assert re.fullmatch(r"durable(_[a-z]+)+", family.prometheus)
        assert family.prometheus.endswith("_total") is (family.kind == "counter")
        assert family.unit in ("s", "By", "") or re.fullmatch(r"\{[a-z]+\}", family.unit)
        assert family.help.endswith(".")
        assert ("_seconds" in family.prometheus) is (family.unit == "s")


def test_hostile_names_are_escaped() -> None:
    @handler(service="S", name='a"b\\c\nd')
    async def odd(ctx: Context) -> None: ...

    async def main() -> str:
        async with Engine(services=[odd], store=MemoryStore()) as engine:
            engine.measure()
            await engine.call(odd)
            return engine.metrics()

    page = prometheus(asyncio.run(main()))
    assert counted(page["durable.invocations.accepted"]) == {(("target", 'S/a"b\\c\nd'),): 1}


def test_plain_steps_are_told_by_whether_they_have_a_thread() -> None:
    release, began = threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        release.wait(60)

    @handler(service="S")
    async def blocks(ctx: Context) -> None:
        await ctx.run(block)

    async def main() -> None:
        async with Engine(services=[blocks], store=MemoryStore(), max_step_threads=1) as engine:
            handles = [await engine.send(blocks) for _ in range(3)]
            await asyncio.to_thread(began.wait, 60)
            threads = engine._running().lending.threads
            while threads.numbers["waiting"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            page = prometheus(engine.metrics())
            assert {of[0][1]: number for of, number in page["durable.step.threads"].items()} == {
                "running": 1, "waiting": 2, "given-up": 0,
            }  # fmt: skip
            release.set()
            await asyncio.gather(*(handle.result() for handle in handles))

    asyncio.run(main())


def test_topics_tell_how_far_they_are_and_one_that_reads_nothing_is_no_good_health(tmp_path: Path) -> None:
    clusters = {"main": {"bootstrap.servers": "127.0.0.1:1"}}  # nobody listens there

    async def main() -> None:
        async with Engine(tmp_path / "a.db", services=[Cart()], kafka_clusters=clusters) as engine:
            made = await engine.subscribe("kafka://main/orders", Cart.add)
            labels = (("source", "kafka://main/orders"), ("subscription", made.id))
            page = prometheus(await asyncio.to_thread(engine.metrics))
            assert page["durable.kafka.records"] == {labels: 0}
            assert page["durable.kafka.lag"] == {}, "it is not known"
            while (await engine.subscription(made.id)).state != "retrying":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            found = await engine.health()
            assert found.verdict == "degraded"
            assert f"{made.id} (kafka://main/orders) is retrying" in found.reasons[0]
            view = msgspec.structs.replace(await engine.subscription(made.id), lag=7, taken=5)
            engine._views = lambda: [view]  # type: ignore[method-assign]
            page = prometheus(engine.metrics())
            assert (page["durable.kafka.lag"], page["durable.kafka.records"]) == ({labels: 7}, {labels: 5})

    asyncio.run(main())


# ---- over HTTP ----


def test_the_admin_app_shows_them_and_counts_from_the_start_of_the_engine() -> None:
    engine = Engine(services=[Cart()], store=MemoryStore())
    app = create_app(engine)

    async def main() -> None:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
        async with client as http:
            assert 'role="stopped"' in (await http.get("/metrics")).text
            async with engine:
                await engine.call(Cart.add, 1, key="a")
                answer = await http.get("/metrics")
                assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
                assert counted(prometheus(answer.text)["durable.invocations.completed"]) == {
                    (("outcome", "success"), ("target", "Cart/add")): 1
                }
            assert 'role="stopped"' in (await http.get("/metrics")).text
            async with engine:  # its next life counts on
                await engine.call(Cart.add, 1, key="a")
                page = prometheus((await http.get("/metrics")).text)
            assert counted(page["durable.invocations.accepted"]) == {(("target", "Cart/add"),): 2}

    asyncio.run(main())


def test_an_engine_that_nobody_asked_for_metrics_has_no_observer_and_counts_once_somebody_does() -> None:
    async def main() -> None:
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            assert engine._running().observer is None
            await engine.call(Cart.add, 1, key="a")
            assert counted(prometheus(engine.metrics())["durable.invocations.accepted"]) == {}
            await engine.call(Cart.add, 1, key="a")
            assert counted(prometheus(engine.metrics())["durable.invocations.accepted"]) == {
                (("target", "Cart/add"),): 1
            }

    asyncio.run(main())


# ---- exporters that do not behave ----


class Hanging(MetricExporter):
    """Never comes back, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.released = threading.Event(), threading.Event()

    def export(self, metrics_data: Any, timeout_millis: float = 10_000, **kwargs: Any) -> Any:
        self.asked.set()
        self.released.wait(60)
        raise ConnectionError("the collector is down")

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None: ...


def test_an_exporter_that_hangs_and_then_raises_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = Hanging()
    provider = MeterProvider(
        [PeriodicExportingMetricReader(exporter, export_interval_millis=1)], shutdown_on_exit=False
    )
    monkeypatch.setattr(api, "get_meter_provider", lambda: provider)

    async def main() -> None:
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            while not exporter.asked.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert await asyncio.wait_for(engine.call(Cart.add, 1, key="a"), 30) == 1
            exporter.released.set()
            assert await asyncio.wait_for(engine.call(Cart.add, 2, key="a"), 30) == 2

    asyncio.run(main())
    provider.shutdown()


@pytest.mark.parametrize("what", ["create_histogram", "create_observable_gauge", "get_meter"])
def test_an_sdk_that_raises_changes_nothing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where instruments are made, and where values are recorded."""

    class Raising:
        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if name in (what, "record"):
                    raise ConnectionError(name)
                return self

            return call

    monkeypatch.setattr(instruments, "provider", Raising)
    monkeypatch.setattr("durable.engine.measuring.provider", Raising)
    monkeypatch.setattr(instruments, "WAIT_MAX", 0)

    async def main() -> None:
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            assert await engine.call(Cart.add, 1, key="a") == 1
            assert counted(prometheus(engine.metrics())["durable.invocations.accepted"]) == {
                (("target", "Cart/add"),): 1
            }

    asyncio.run(main())


def test_values_beyond_those_that_wait_are_handed_over_at_once(
    reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instruments, "WAIT_MAX", 2)

    async def main() -> None:
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            for _ in range(5):
                await engine.call(Cart.add, 1, key="a")
            assert rounded(opentelemetry(reader)) == rounded(prometheus(engine.metrics()))

    asyncio.run(main())


def test_an_engine_that_is_gone_is_not_kept_and_tells_nothing(reader: InMemoryMetricReader) -> None:
    import gc
    import weakref

    async def main() -> "weakref.ref[Engine]":
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            await engine.call(Cart.add, 1, key="a")
            assert opentelemetry(reader)
        return weakref.ref(engine)

    gone = asyncio.run(main())
    gc.collect()
    assert gone() is None
    assert "durable.invocations.accepted" not in {name for name, of in opentelemetry(reader).items() if of}


def test_two_engines_of_a_process_are_told_apart(tmp_path: Path, reader: InMemoryMetricReader) -> None:
    async def main() -> None:
        first = Engine(tmp_path / "a.db", services=[Cart()])
        async with first, Engine(tmp_path / "b.db", services=[Cart()]) as second:
            await first.call(Cart.add, 1, key="a")
            await second.call(Cart.add, 1, key="a")
            await second.call(Cart.add, 1, key="a")
            data: Any = reader.get_metrics_data()
            counted = {
                scope.scope.attributes["durable.database"][-4:]: sum(point.value for point in metric.data.data_points)
                for scope in data.resource_metrics[0].scope_metrics
                for metric in scope.metrics
                if metric.name == "durable.invocations.accepted"
            }
            assert counted == {"a.db": 1, "b.db": 2}

    asyncio.run(main())
