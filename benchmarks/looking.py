"""How long do an operator's questions take over a million invocations, and what do they cost busy handlers?"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from benchmarks.million import HOT_KEY, PARENT, fill, name_of
from benchmarks.support import folder, step
from benchmarks.table import Result
from durable import Context, Engine, handler
from durable.admin import create_app

COUNT = 1_000_000
#: How often each question is asked, and for how long handlers work before any is.
ROUNDS, ALONE_S = 20, 5.0
#: What `GET /invocations` takes, by itself and as people combine it.
FILTERS: dict[str, dict[str, str]] = {
    "a service": {"service": "Orders"},
    "a rare service": {"service": "Rare"},
    "a handler": {"service": "Cart", "handler": "add"},
    "a handler of any service": {"handler": "refund"},
    "a key": {"key": "key-7777"},
    "a hot key": {"key": HOT_KEY},
    "paused on a hot key": {"key": HOT_KEY, "status": "paused"},
    "paused": {"status": "paused"},
    "backing off in a service": {"status": "backing-off", "service": "Stock"},
    "completed": {"status": "completed"},
    "older than 20 days": {"older_than": "20 days"},
    "newer than 2 days": {"newer_than": "2 days"},
    "suspended for more than 20 days": {"status": "suspended", "older_than": "20 days"},
    "completed in a service, older than 20 days": {"service": "Orders", "status": "completed", "older_than": "20d"},
    "a text in many failures": {"failure": "declined"},
    "a text in few failures": {"failure": "host 43 "},
    "a text in no failure": {"failure": "nobody has said that"},
    "a text in no failure of a rare service": {"failure": "nobody has said that", "service": "Rare"},
    "a reason": {"reason": "journal-mismatch"},
    "a parent with many children": {"parent": name_of(PARENT)},
    "an idempotency key": {"idempotency_key": "once-12346"},
}
_ALL = "'Orders','Cart','Mail','Stock','Rare'"
_GROUPS = (
    "COUNT(1) as num_invocations, MIN(created_at) as oldest_at, FIRST_VALUE(id ORDER BY created_at ASC)"
    " as oldest_invocation"
)
_LIST = "SELECT id FROM sys_invocation inv {} ORDER BY inv.created_at DESC, inv.id LIMIT 100"
#: Statements of Restate's command line.
STATEMENTS = {
    "invocations list": _LIST.format("WHERE status != 'completed'"),
    "invocations list --all": _LIST.format(""),
    "invocations list --status running": _LIST.format("WHERE status IN ('running')"),
    "  (its count)": "SELECT COUNT(1) FROM (SELECT * FROM sys_invocation inv LIMIT 50000 ) "
    "WHERE status != 'completed'",
    "services status": f"SELECT target_service_name, target_handler_name, status, {_GROUPS} FROM sys_invocation "
    f"WHERE target_service_name IN ({_ALL}) GROUP BY target_service_name, target_handler_name, status "
    "ORDER BY target_handler_name",
    "  (what is pending)": f"SELECT target_service_name, target_handler_name, 'pending' as status, {_GROUPS} FROM "
    f"sys_invocation_status WHERE status == 'inboxed' AND target_service_name IN ({_ALL}) GROUP BY "
    "target_service_name, target_handler_name",
    "  (newest of a service)": "SELECT id FROM sys_invocation inv WHERE inv.target_service_name = 'Cart' "
    "ORDER BY inv.created_at DESC, inv.id LIMIT 5",
}

_steps = 0


async def _step(number: int) -> int:
    global _steps
    _steps += 1
    return await step(number)


@handler(service="Busy")
async def busy(ctx: Context, count: int) -> None:
    """So many steps."""
    for number in range(count):
        await ctx.run(_step, number)


async def _ask(path: Path) -> list[Result]:
    async with Engine(path, services=[busy]) as engine:

        async def work() -> None:
            while True:
                await engine.call(busy, 50)

        workers = [asyncio.create_task(work()) for _ in range(100)]
        transport = httpx.ASGITransport(create_app(engine, token="benchmark"))
        headers = {"authorization": "Bearer benchmark", "accept": "application/json"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as http:
            await asyncio.sleep(1)
            alone, began = _steps, time.perf_counter()
            await asyncio.sleep(ALONE_S)
            rate = (_steps - alone) / (time.perf_counter() - began)
            results = [Result("(steps/s of 100 handlers, and nobody asks)", rate, "/s")]
            for kind, questions in _questions(http).items():
                before, began, rows = _steps, time.perf_counter(), []
                for name, ask in questions.items():
                    rows.append(await _measure(f"{kind}: {name}", ask, None if kind == "sql" else 200))
                meanwhile = (_steps - before) / (time.perf_counter() - began)
                results += [*rows, Result(f"{kind}: steps/s meanwhile (floor: without)", meanwhile, "/s", rate)]
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return results


async def _measure(question: str, ask: Callable[[], Awaitable[httpx.Response]], target: float | None) -> Result:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = await ask()
        took.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, answer.text[:200]
    took.sort()
    return Result(f"{question}, p95 (p50 {took[ROUNDS // 2]:.0f})", took[int(ROUNDS * 0.95) - 1], "ms", None, target)


def _questions(http: httpx.AsyncClient) -> dict[str, dict[str, Callable[[], Awaitable[httpx.Response]]]]:
    moment = datetime.now(UTC) - timedelta(days=20)
    deep = {"cursor": f"{round(moment.timestamp() * 1000)}-1"}

    def get(path: str, **query: str) -> Callable[[], Awaitable[httpx.Response]]:
        return lambda: http.get(path, params=query)

    def sql(text: str) -> Callable[[], Awaitable[httpx.Response]]:
        return lambda: http.post("/query", json={"query": text})

    one = f"/invocations/{name_of(COUNT // 20 * 20 - 100)}"
    return {
        "list": {
            "first page": get("/invocations"),
            "a page in the middle": get("/invocations", **deep),
            "a thousand at once": get("/invocations", limit="1000"),
        },
        "filter": {name: get("/invocations", **query) for name, query in FILTERS.items()},
        "count": {
            "all": get("/invocations", counts="true", limit="1"),
            "a service": get("/invocations", counts="true", limit="1", service="Orders"),
            "a text in many failures": get("/invocations", counts="true", limit="1", failure="declined"),
        },
        "one": {
            "describe": get(one),
            "journal": get(f"{one}/journal"),
            "children": get(f"/invocations/{name_of(PARENT)}/children"),
        },
        "sql": {name: sql(text) for name, text in STATEMENTS.items()},
    }


def looking() -> list[Result]:
    """Over the admin API, with a file of a million."""
    with folder() as path:
        began = time.perf_counter()
        fill(path / "million.db", COUNT)
        filled = time.perf_counter() - began
        size = (path / "million.db").stat().st_size
        results = asyncio.run(_ask(path / "million.db"))
    return [
        Result(f"(a file of {COUNT:,} invocations, {size / COUNT:.0f} bytes each, written in)", filled, "s"),
        *results,
    ]
