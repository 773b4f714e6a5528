"""How an engine fares, in one word, in sentences and in numbers: also of one that does not run."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from durable import Context, Engine, RetryPolicy, handler
from durable.admin import create_app
from durable.core.effects import Writes
from durable.store import Store
from durable.telemetry.metrics import ASKED, TOLD
from durable.testing import MemoryStore, VirtualClock, run
from durable.testing.faults import around
from durable.views import health
from durable.views.health import MIB, Health, judged

DOCS = Path(__file__).parents[2] / "docs"


@handler(service="S", retry=RetryPolicy(max_attempts=1))
async def fails(ctx: Context) -> None:
    raise ValueError("a bug")


@handler(service="S")
async def waits(ctx: Context) -> None:
    await ctx.run(asyncio.sleep, 3600)


# ---- the verdict ----

WELL = Health(role="holder", commit_s=0.002, queued=0, ready=0, paused=0, blocked_s=0.0, disk_free=2**40, wal_size=0)
WORSE: list[tuple[str, dict[str, Any], str]] = [
    ("ok", {}, ""),
    ("ok", {"role": "standby"}, ""),
    ("ok", {"ready": 100, "oldest_ready_s": 59.0}, ""),
    ("failing", {"role": None}, "the engine does not run"),
    ("failing", {"role": None, "failure": "the engine stopped: OSError"}, "the engine stopped: OSError"),
    ("failing", {"role": "standby", "holder_silent_s": 6.0}, "whoever has the file has not answered for 6 s"),
    ("failing", {"committing_s": 11.0}, "a commit has been under way for 11.0 s"),
    ("failing", {"disk_free": 63 * MIB}, "63 MiB are left on the disk: a commit that finds none"),
    ("degraded", {"disk_free": 1023 * MIB}, "1023 MiB are left on the disk"),
    ("degraded", {"paused": 1}, "1 invocation is paused: mend the cause"),
    ("degraded", {"paused": 2}, "2 invocations are paused"),
    ("degraded", {"commit_s": 0.26}, "a commit takes 0.26 s"),
    ("degraded", {"ready": 100, "oldest_ready_s": 61.0}, "100 wait for a slot, the oldest for up to 61 s"),
    ("degraded", {"queued": 1001}, "1001 commands wait for a transaction"),
    ("degraded", {"blocked_s": 0.6}, "the event loop stood still for 0.6 s"),
    ("degraded", {"wal_size": 257 * MIB}, "the write-ahead log has 257 MiB"),
    ("degraded", {"damage": ("an index",)}, "the file is damaged: an index"),
    ("degraded", {"subscriptions": ("sub_1",)}, "a subscription reads nothing: sub_1"),
    ("failing", {"paused": 1, "committing_s": 11.0}, "under way for 11.0 s"),
]


@pytest.mark.parametrize(("verdict", "facts", "says"), WORSE)
def test_a_verdict_has_its_reasons_and_the_worst_comes_first(verdict: str, facts: dict[str, Any], says: str) -> None:
    found = judged(msgspec.structs.replace(WELL, **facts))
    assert found.verdict == verdict
    assert bool(found.reasons) is (verdict != "ok")
    assert says in "".join(found.reasons[:1])


# ---- of an engine ----


def test_of_one_that_works_and_has_paused_ones(tmp_path: Path) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"max_concurrent_invocations": 1, "shutdown_timeout": 0.1}
        async with Engine(tmp_path / "a.db", services=[fails, waits], **options) as engine:
            well = await engine.health()
            assert (well.verdict, well.reasons, well.role) == ("ok", (), "holder")
            failing = await engine.send(fails)
            while (await failing.describe()).status != "paused":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for _ in range(3):
                await engine.send(waits)
            found = await engine.health()
            assert found.verdict == "degraded"
            assert found.reasons[0].startswith("1 invocation is paused")
            assert (found.running, found.ready, found.paused, found.pending) == (1, 2, 1, 0)
            assert found.oldest_ready_s is not None and found.oldest_paused_s is not None
            assert found.commit_s is not None and found.commit_s_max is not None
            assert 0 < found.commit_s <= found.commit_s_max
            assert found.wal_size and found.database_size and found.disk_free
        stopped = await engine.health()
        assert (stopped.verdict, stopped.role, stopped.reasons) == ("failing", None, ("the engine does not run",))
        assert stopped.database_size and stopped.disk_free

    asyncio.run(main())


def slow(seconds: float) -> Store:
    """A store whose every commit takes so long."""

    async def late(method: Any, arguments: tuple[Writes, ...]) -> Any:
        await asyncio.sleep(seconds)
        return await method(*arguments)

    return around(MemoryStore(), lambda name, method, args: late(method, args) if name == "commit" else method(*args))


def test_of_one_whose_disk_is_slow_and_then_does_not_answer() -> None:
    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[waits], store=slow(1.0), clock=clock) as engine:
            await engine.send(waits)
            found = await engine.health()
            assert found.commit_s == pytest.approx(1.0)
            assert found.verdict == "degraded" and found.reasons == ("a commit takes 1.00 s: the disk is slow",)
        stuck = Engine(services=[waits], store=slow(3600), clock=clock, shutdown_timeout=0)
        async with stuck:
            asking = asyncio.ensure_future(stuck.send(waits))
            await asyncio.sleep(11)
            found = await stuck.health()
            assert found.verdict == "failing"
            assert "a commit has been under way for 11.0 s" in found.reasons[0]
            asking.cancel()
            stuck.abandon()

    run(story)


def test_of_one_that_has_failed() -> None:
    def broken(name: str, method: Any, arguments: tuple[Any, ...]) -> Any:
        if name == "commit" and arguments[0].created:
            raise OSError("no disk")
        return method(*arguments)

    async def main() -> None:
        engine = await Engine(services=[waits], store=around(MemoryStore(), broken)).start()
        with pytest.raises(Exception, match="no disk"):
            await engine.send(waits)
        found = await engine.health()
        assert found.verdict == "failing"
        assert "no disk" in found.reasons[0]
        await engine.close()

    asyncio.run(main())


def test_of_one_whose_event_loop_stood_still(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine(tmp_path / "a.db", services=[waits]) as engine:
            loop = engine._running()
            loop.roster.stalls.append((loop.time() - 120, 5.0))
            assert (await engine.health()).blocked_s == 0
            loop.roster._stalled(0.7)
            assert (await engine.health()).reasons == (
                "the event loop stood still for 0.7 s: the log names who blocked it",
            )

    asyncio.run(main())


def test_of_one_whose_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10 * MIB

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)

    async def main() -> None:
        async with Engine(tmp_path / "a.db", services=[waits]) as engine:
            assert (await engine.health()).verdict == "failing"

    asyncio.run(main())


@pytest.mark.process
def test_of_one_on_standby_and_of_one_whose_holder_is_silent(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine(tmp_path / "a.db", services=[fails]) as holder:
            await holder.send(fails)
            async with Engine(tmp_path / "a.db", services=[fails], standby=True) as other:
                found = await other.health()
                assert (found.verdict, found.role, found.paused) == ("ok", "standby", None)
                assert 'role="standby"' in other.metrics()
                life: Any = other._life
                life._standing = msgspec.structs.replace(life._standing, tries=3, since=life.event_loop.time() - 60)
                found = await other.health()
                assert found.verdict == "failing"
                assert "has not answered for 60 s" in found.reasons[0]

    asyncio.run(main())


# ---- over HTTP, and in the pages ----


def test_details_are_answered_whether_the_engine_runs_or_not_and_probes_get_an_empty_answer() -> None:
    engine = Engine(services=[waits], store=MemoryStore())

    async def main() -> None:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(engine)), base_url="http://localhost")
        async with client as http:
            stopped = await http.get("/health/details")
            assert (stopped.status_code, stopped.json()["verdict"]) == (200, "failing")
            assert (await http.get("/health")).status_code == 503
            async with engine:
                found = msgspec.json.decode((await http.get("/health/details")).content, type=Health)
                assert (found.verdict, found.role, found.reasons) == ("ok", "holder", ())
                probe = await http.get("/health")
                assert (probe.status_code, probe.content) == (200, b"")
                document = (await http.get("/openapi")).json()
                assert document["paths"]["/health/details"]["get"]["responses"]["200"]["content"]
                text = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
                assert list(text) == ["text/plain; version=0.0.4; charset=utf-8"]

    asyncio.run(main())


def test_the_page_names_every_metric_and_every_limit() -> None:
    page = (DOCS / "metrics.md").read_text()
    rows = re.findall(r"^\| `(durable\.[a-z.]+)` \| `(\w+)` \| (\w+) \| (.*) \| (.*) \|$", page, re.M)
    assert rows == [
        (one.name, one.prometheus, one.kind, ", ".join(f"`{label}`" for label in one.labels), one.help)
        for one in (*TOLD, *ASKED)
    ]
    [promql] = re.findall(r"```promql\n(.*?)```", page, re.S)
    known = {one.prometheus for one in (*TOLD, *ASKED)}
    for name in re.findall(r"durable_\w+", promql):
        assert name.removesuffix("_bucket") in known
    for limit in (
        f"{health.SILENT_S:.0f} s", f"{health.COMMIT_STUCK_S:.0f} s", f"{health.DISK_FULL // MIB} MiB",
        f"{health.COMMIT_SLOW_S * 1000:.0f} ms", f"{health.READY_S:.0f} s", f"{health.QUEUED_MAX:,} commands",
        f"{health.BLOCKED_S} s", f"{health.DISK_LOW // MIB // 1024} GiB", f"{health.WAL_MAX // MIB} MiB",
    ):  # fmt: skip
        assert limit in page
