"""What operators look for and start: listings, one invocation, trees, deadlocks, backups."""

import asyncio
import base64
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from durable import (
    Context,
    Engine,
    InvalidRequestError,
    NotFoundError,
    ObjectContext,
    TerminalError,
    VirtualObject,
    handler,
)
from durable.admin import create_app
from durable.testing import MemoryStore, VirtualClock, run
from tests.admin.support import UNKNOWN, Desk, Served, services, story


@handler(service="Bakery")
async def bake(ctx: Context, what: str) -> str:
    if what == "unicorn":
        raise TerminalError('no "unicorns" today', code=410)
    if what == "stone":
        raise ValueError("stones do not bake")
    return f"one {what}"


@handler(service="Bakery")
async def order(ctx: Context) -> int:
    await ctx.call(bake, "bread")
    ctx.send(bake, "cake")
    ctx.send(order_nothing)
    return await ctx.awakeable(int)


@handler(service="Bakery")
async def order_nothing(ctx: Context) -> None:
    pass


async def listed(http: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await http.get("/invocations", params=query)
    assert answer.status_code == 200, answer.text
    return [one["target"] for one in answer.json()["invocations"]]


async def a_day_at_the_bakery(engine: Engine, http: httpx.AsyncClient) -> None:
    async def reaches(id: str, status: str) -> str:
        while (await engine.describe(id)).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return id

    bread = await reaches((await engine.send(bake, "bread", idempotency_key="b")).id, "completed")
    await asyncio.sleep(0.2)
    middle = engine.now_ms()
    await asyncio.sleep(0.2)
    await reaches((await engine.send(bake, "unicorn")).id, "completed")
    await reaches((await engine.send(bake, "stone")).id, "backing-off")
    parent = await reaches((await engine.send(order)).id, "suspended")
    later = (await engine.send(bake, "later", delay="1h")).id
    while len(await engine.invocations(caller=parent, status="completed")) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)

    everything = (await http.get("/invocations")).json()["invocations"]
    assert len(everything) == 8
    assert [one["created_at"] for one in everything] == sorted(
        (one["created_at"] for one in everything), reverse=True
    )
    by_id = {one["id"]: one for one in everything}
    assert by_id[bread]["status"] == "completed"
    assert by_id[bread]["completion_result"] == "success"
    assert by_id[later]["scheduled_start_at"] > by_id[later]["created_at"]
    assert "input" not in by_id[bread]

    # filters
    assert len(await listed(http, service="Bakery")) == 8
    assert await listed(http, service="Bakery", handler="order") == ["Bakery/order"]
    assert await listed(http, service="Nobody") == []
    assert await listed(http, status="suspended") == ["Bakery/order"]
    assert len(await listed(http, status="backing-off,scheduled")) == 2
    assert len(await listed(http, parent=parent)) == 3
    assert await listed(http, idempotency_key="b") == ["Bakery/bake"]
    assert await listed(http, failure='no "unicorns"') == ["Bakery/bake"]
    assert await listed(http, failure="stones do not") == ["Bakery/bake"]
    assert await listed(http, failure="Nothing of the kind") == []
    text = datetime.fromtimestamp(middle / 1000, UTC).isoformat()
    assert len(await listed(http, created_before=text)) == 1
    assert len(await listed(http, created_after=text)) == 7
    assert len(await listed(http, newer_than="1h")) == 8
    assert await listed(http, older_than="1h") == []

    # pages: what is accepted meanwhile does not move them
    first = (await http.get("/invocations", params={"limit": 5, "counts": "true"})).json()
    assert first["counts"] == {"backing-off": 1, "completed": 5, "scheduled": 1, "suspended": 1}
    await engine.call(bake, "another")
    second = (await http.get("/invocations", params={"limit": 5, "cursor": first["next"]})).json()
    assert [*first["invocations"], *second["invocations"]] == everything
    assert "next" not in second

    # one
    answer = (await http.get(f"/invocations/{bread}")).json()
    assert answer["idempotency_key"] == "b"
    assert (answer["input"], answer["output"]) == ({"json": "bread"}, {"json": "one bread"})
    waiting = (await http.get(f"/invocations/{parent}")).json()
    assert [wait["kind"] for wait in waiting["waits_for"]] == ["awakeable"]
    entries = (await http.get(f"/invocations/{parent}/journal")).json()["entries"]
    assert [(one["index"], one["kind"], one["result"]) for one in entries] == [
        (0, "input", "done"),
        (1, "call", "success"),
        (2, "send", "done"),
        (3, "send", "done"),
        (4, "awakeable", "open"),
    ]
    assert entries[1]["value"] == {"json": "one bread"}

    # its tree
    tree = (await http.get(f"/invocations/{parent}/children")).json()
    assert tree["truncated"] is False
    assert tree["root"]["status"] == "suspended"
    assert [(one["kind"], one["target"], one["status"]) for one in tree["root"]["children"]] == [
        ("call", "Bakery/bake", "completed"),
        ("send", "Bakery/bake", "completed"),
        ("send", "Bakery/order_nothing", "completed"),
    ]
    tree = (await http.get(f"/invocations/{parent}/children", params={"limit": 2})).json()
    assert tree["truncated"] is True
    assert ["status" in one for one in tree["root"]["children"]] == [True, False, False]

    for path in (f"/invocations/{UNKNOWN}", f"/invocations/{UNKNOWN}/journal", f"/invocations/{UNKNOWN}/children"):
        assert (await http.get(path)).json()["message"] == f"The requested invocation '{UNKNOWN}' does not exist"
        assert (await http.get(path.replace(UNKNOWN, "nonsense"))).status_code == 400


def test_an_operator_finds_what_there_is_in_memory() -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        engine = Engine(
            services=[bake, order, order_nothing], store=MemoryStore(), clock=clock, inactivity_timeout=0
        )  # fmt: skip
        transport = httpx.ASGITransport(create_app(engine))
        async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            await a_day_at_the_bakery(engine, http)

    run(main)


def test_an_operator_finds_the_same_in_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        engine = Engine(
            tmp_path / "app.db", services=[bake, order, order_nothing], synchronous="NORMAL", inactivity_timeout=0
        )
        transport = httpx.ASGITransport(create_app(engine))
        async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            await a_day_at_the_bakery(engine, http)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=9223372036854775808", "limit"),
        ("cursor=-1", "cursor"),
        ("cursor=9223372036854775808", "cursor"),
        ("cursor=abc", "cursor"),
        ("status=explode", "status must be one of"),
        ("older_than=5", "older_than: expected a duration"),
        ("newer_than=1mo", "newer_than"),
        ("created_after=yesterday", "created_after: expected a moment"),
        ("created_after=2026-11-29T00:00:00", "add the time zone"),
        ("parent=nonsense", "parent"),
        ("colour=red", "colour"),
        ("limit=1&limit=2", "given twice"),
        ("key=" + "a" * 15_000 + "&failure=" + "b" * 2000, "path and query have"),
    ],
)
def test_a_filter_that_makes_no_sense_lists_nothing(query: str, message: str) -> None:
    async def tell(admin: Served) -> None:
        answer = await admin.http.get(f"/invocations?{query}")
        assert answer.status_code in (400, 414)
        assert message in answer.json()["message"]

    story(tell)


@pytest.mark.parametrize("moment", ["2029-12-31T23:59:59Z", "2029-12-31t23:59:59.5z", "2030-01-01T05:29:59+05:30"])
def test_a_moment_is_what_rfc_3339_says_and_a_plus_sign_may_be_a_space(moment: str) -> None:
    async def tell(admin: Served) -> None:
        id = await admin.completed("Greeter/greet", "you")
        for name, found in (("created_after", [id]), ("created_before", [])):
            answer = await admin.http.get(f"/invocations?{name}={moment}")
            assert [one["id"] for one in answer.json()["invocations"]] == found

    story(tell)


def test_a_listing_says_why_an_invocation_is_paused_and_what_to_do() -> None:
    @handler(service="Strange")
    async def thing(ctx: Context) -> object:
        return object()

    async def main() -> None:
        engine = Engine(services=[thing], store=MemoryStore(), clock=VirtualClock(asyncio.get_running_loop()))
        transport = httpx.ASGITransport(create_app(engine))
        async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            id = (await engine.send(thing)).id
            while (await engine.describe(id)).status != "paused":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            [one] = (await http.get("/invocations?status=paused&reason=result-not-storable")).json()["invocations"]
            assert one["reason"] == "result-not-storable"
            assert "Deploy code whose result can be stored" in one["advice"]
            described = (await http.get(f"/invocations/{id}")).json()
            assert (described["reason"], described["advice"]) == (one["reason"], one["advice"])
            failure = described["failure"]
            assert (failure["reason"], failure["advice"]) == (one["reason"], one["advice"])
            assert datetime.fromisoformat(failure["at"]) == datetime.fromisoformat(described["modified_at"])

    run(main)


def test_payloads_are_withheld_from_those_who_must_not_see_them() -> None:
    async def tell(admin: Served) -> None:
        handle = await admin.engine.send("Greeter/greet", "secret", headers={"x-user": "secret"})
        id = await admin.reaches(handle.id, "completed")
        added = await admin.completed("Cart/add", "secret", key="k")
        for one in (id, added):
            for path in ("", "/journal", "/children"):
                answer = await admin.http.get(f"/invocations/{one}{path}")
                assert answer.status_code == 200
                assert "secret" not in answer.text
        assert "secret" not in (await admin.http.get("/invocations")).text

    story(tell, show_payloads=False)


def test_bytes_are_base64_and_json_is_json() -> None:
    @handler(service="Bytes")
    async def reverse(ctx: Context, data: bytes) -> bytes:
        return bytes(reversed(data))

    async def main() -> None:
        engine = Engine(services=[reverse], store=MemoryStore(), clock=VirtualClock(asyncio.get_running_loop()))
        transport = httpx.ASGITransport(create_app(engine))
        async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            body = {"target": "Bytes/reverse", "input_base64": "/wA="}
            id = (await http.post("/invocations", json=body)).json()["invocation_id"]
            assert await engine.attach(id, bytes) == b"\x00\xff"
            answer = (await http.get(f"/invocations/{id}")).json()
            assert (answer["input"], answer["output"]) == ({"base64": "/wA="}, {"base64": "AP8="})

    run(main)


# ---- starting ----


def test_an_operator_starts_an_invocation() -> None:
    async def tell(admin: Served) -> None:
        body = {
            "target": "Greeter/greet",
            "input": "Ada",
            "idempotency_key": "once",
            "headers": {"x-ticket": "7"},
            "delay": "10m",
        }
        answer = await admin.http.post("/invocations", json=body)
        assert answer.status_code == 202
        id = answer.json()["invocation_id"]
        assert answer.json()["status"] == "Accepted"
        again = await admin.http.post("/invocations", json=body)
        assert again.json() == {"invocation_id": id, "status": "PreviouslyAccepted"}
        assert (await admin.engine.describe(id)).headers == {"x-ticket": "7"}
        assert await admin.engine.attach(id) == "Hello, Ada!"
        answer = await admin.http.post("/invocations", json={"target": "Cart/add", "key": "ké", "input": "hat"})
        assert await admin.engine.attach(answer.json()["invocation_id"]) == 1

    story(tell)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "target"),
        ({"target": "Greeter"}, 400, "service/handler"),
        ({"target": "Cart/lamp/add"}, 400, "a target is 'service/handler': 'Cart/add', and its key as `key`: 'lamp'"),
        ({"target": "Greeter/no"}, 404, "no handler Greeter/no; add it to Engine(services=[...]). It has: Cart/add,"),
        ({"target": "Greeter/greet", "input": 7}, 400, "str"),
        ({"target": "Greeter/greet", "input": "a", "key": "k"}, 400, "no key"),
        ({"target": "Cart/add", "input": "a"}, 400, "runs on a key"),
        ({"target": "Greeter/greet", "input": "a", "delay": "soon"}, 400, "delay"),
        ({"target": "Greeter/greet", "input": "a", "delya": "1h"}, 422, "delya"),
        ({"target": "Greeter/greet", "input": "a", "input_base64": "YQ=="}, 422, "not both"),
        ({"target": "Greeter/greet", "input": "a", "headers": {"a": "b" * 70_000}}, 413, "headers"),
        ({"target": "Greeter/greet", "input": "a", "headers": {str(n): "" for n in range(101)}}, 413, "headers"),
        ({"target": "Greeter/greet", "input": "a", "headers": {"a": 1}}, 422, "headers"),
        ({"target": "Greeter/greet", "input": "a", "headers": {"a": "b\r\nc: d"}}, 422, "line ends"),
        ({"target": "Greeter/greet", "input": "a", "headers": {"a\n": "b"}}, 422, "line ends"),
        ({"target": "Cart/$patch-state", "key": "k", "input": {"a": "MQ=="}}, 404, "no handler"),
    ],
)
def test_what_cannot_be_started_is_refused(body: dict[str, Any], status: int, message: str) -> None:
    async def tell(admin: Served) -> None:
        answer = await admin.http.post("/invocations", json=body)
        assert answer.status_code == status, answer.text
        assert message in answer.json()["message"]
        assert (await admin.http.get("/invocations")).json() == {"invocations": []}

    story(tell)


@handler(service="Bakery")
async def week(ctx: Context, days: int) -> int:
    return sum([await ctx.run(int, day) for day in range(1, days + 1)])


def test_a_journal_is_shown_a_page_at_a_time() -> None:
    async def tell(engine: Engine, http: httpx.AsyncClient) -> None:
        handle = await engine.send(week, 7)
        await handle.result()
        id = handle.id
        whole = (await http.get(f"/invocations/{id}/journal")).json()
        assert [one["kind"] for one in whole["entries"]] == ["input", *["run"] * 7, "output"]
        assert "next" not in whole
        pages: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": 3}
        while True:
            pages.append((await http.get(f"/invocations/{id}/journal", params=query)).json())
            if "next" not in pages[-1]:
                break
            query["after"] = pages[-1]["next"]
        assert [len(page["entries"]) for page in pages] == [4, 3, 2], "the input comes first, the output last"
        assert [one for page in pages for one in page["entries"]] == whole["entries"]
        page = await engine.journal(id, after=6, limit=1)
        assert ([(one.entry, one.kind) for one in page.entries], page.next) == ([(7, "run"), (8, "output")], None)
        beyond = (await http.get(f"/invocations/{id}/journal", params={"after": 99})).json()
        assert [one["kind"] for one in beyond["entries"]] == ["output"]
        for wrong in ({"limit": 0}, {"limit": 10_001}, {"after": -1}, {"after": "x"}, {"cursor": "1"}):
            assert (await http.get(f"/invocations/{id}/journal", params=wrong)).status_code == 400, wrong
        with pytest.raises(InvalidRequestError):
            await engine.journal(id, limit=0)
        with pytest.raises(NotFoundError):
            await engine.journal(UNKNOWN)

    async def main() -> None:
        engine = Engine(services=[week], store=MemoryStore(), clock=VirtualClock(asyncio.get_running_loop()))
        transport = httpx.ASGITransport(create_app(engine))
        async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            await tell(engine, http)

    run(main)


def test_large_values_are_shown_and_hold_up_nobody() -> None:
    """Of JSON that is larger than 1 MiB nobody looks whether it is: that would keep the process waiting."""

    async def tell(admin: Served) -> None:
        for size, form in ((2**20 - 2, "json"), (2**20 - 1, "base64")):
            id = await admin.completed("Greeter/greet", "x" * size)
            shown = (await admin.http.get(f"/invocations/{id}")).json()
            entries = (await admin.http.get(f"/invocations/{id}/journal")).json()["entries"]
            written = f'"{"x" * size}"'.encode()
            for value in (shown["input"], entries[0]["value"]):
                assert list(value) == [form]
                got = value["json"] if form == "json" else json.loads(base64.b64decode(value["base64"]))
                assert got == json.loads(written)

    story(tell)


def test_a_key_is_the_same_in_every_route() -> None:
    """R-19: every legal key comes back as it was given."""
    keys = [
        "",
        " a ",
        "a/b",
        "..",
        "%2F",
        "+",
        "\u00e9",
        "e\u0301",
        "\u202e",
        "\U0001f600",
        "a\tb",
        "k" * 1000,
    ]

    async def tell(admin: Served) -> None:
        for key in keys:
            answer = await admin.http.post("/invocations", json={"target": "Cart/add", "key": key, "input": "hat"})
            assert answer.status_code == 202, (key, answer.text)
            id = answer.json()["invocation_id"]
            assert await admin.engine.attach(id) == 1, "no other key has been mistaken for it"
            [found] = (await admin.http.get(f"/invocations?{urlencode({'key': key})}")).json()["invocations"]
            assert found["target_service_key"] == key
            change = {"object_key": key, "new_state": {}}
            assert (await admin.http.post("/services/Cart/state", json=change)).status_code == 202
            assert await admin.engine.get_state("Cart", key) == {}
        for key in ("NUL\x00", "k" * 70_000):
            answer = await admin.http.post("/invocations", json={"target": "Cart/add", "key": key, "input": "hat"})
            assert answer.status_code == 400, key

    story(tell)


def test_a_backup_is_written_where_the_application_allows_it(tmp_path: Path) -> None:
    async def main() -> None:
        desk = Desk()
        engine = Engine(tmp_path / "app.db", services=services(desk), synchronous="NORMAL")
        (tmp_path / "backups").mkdir()
        app = create_app(engine, backup_folder=tmp_path / "backups")
        transport = httpx.ASGITransport(app)
        async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            await engine.call("Greeter/greet", "you")
            answer = await http.post("/backup", json={"name": "monday.db"})
            assert answer.status_code == 201
            assert answer.json()["bytes"] == (tmp_path / "backups" / "monday.db").stat().st_size
            assert (await http.post("/backup", json={"name": "monday.db"})).status_code == 409
            for suffix in ("-journal", "-wal", "-shm", ".unfinished"):
                answer = await http.post("/backup", json={"name": f"monday.db{suffix}"})
                assert (answer.status_code, "belongs to another" in answer.text) == (409, True), suffix
            for name in (
                "../app.db",
                "/etc/passwd",
                "",
                ".",
                "..",
                ".hidden",
                "a/b",
                "a\x00",
                "a" * 101,
                "a\nb",
                "é",
            ):
                assert (await http.post("/backup", json={"name": name})).status_code == 422, name
        assert [file.name for file in (tmp_path / "backups").iterdir()] == ["monday.db"]
        with sqlite3.connect(tmp_path / "backups" / "monday.db") as copy:
            assert copy.execute("SELECT count(*) FROM invocations").fetchone() == (1,)
        copy.close()

    asyncio.run(main())


def test_no_backup_is_written_where_no_folder_is_named() -> None:
    async def tell(admin: Served) -> None:
        assert (await admin.http.post("/backup", json={"name": "monday.db"})).status_code == 501

    story(tell)


# ---- circles, and batches that are told of ----


class Lock(VirtualObject):
    @handler
    async def take(self, ctx: ObjectContext, other: str) -> None:
        await ctx.sleep("1s")
        await ctx.call(Lock.take, other, key=other)


def test_deadlocks_name_their_members() -> None:
    async def main() -> None:
        engine = Engine(services=[Lock()], store=MemoryStore(), clock=VirtualClock(asyncio.get_running_loop()))
        transport = httpx.ASGITransport(create_app(engine))
        async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            assert (await http.get("/deadlocks")).json() == {"deadlocks": []}
            a = await engine.send(Lock.take, "b", key="a")
            b = await engine.send(Lock.take, "a", key="b")
            await asyncio.sleep(5)
            [circle] = (await http.get("/deadlocks")).json()["deadlocks"]
            assert {a.id, b.id} <= {member["id"] for member in circle["members"]}
            assert "whose key is held by" in circle["description"]
            await engine.kill(a.id)
            await engine.kill(b.id)

    run(main)


def test_a_large_batch_is_told_of_line_by_line() -> None:
    async def tell(admin: Served) -> None:
        ids = [await admin.send("Greeter/wait") for _ in range(250)]
        path = "/internal/invocations_batch_operations/kill"
        body = {"invocation_ids": [*ids, UNKNOWN, *[UNKNOWN[:-4] + f"{n:04}" for n in range(1, 1000)]]}
        ask = admin.http.stream("POST", path, json=body, headers={"accept": "application/x-ndjson"})
        async with ask as answer:
            assert answer.headers["content-type"].startswith("application/x-ndjson")
            lines = [line async for line in answer.aiter_lines()]
        told = [httpx.Response(200, content=line).json() for line in lines]
        assert [one["invocation_id"] for one in told[:250]] == ids
        assert all(one["succeeded"] for one in told[:250])
        assert len(told) == 1250
        assert told[-1]["error"] == f"The requested invocation '{told[-1]['invocation_id']}' does not exist"

    story(tell)
