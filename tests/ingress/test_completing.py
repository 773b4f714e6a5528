"""Awakeables, promises and signals, completed over HTTP."""

import asyncio

import pytest

from durable import ConflictError, Context, Engine, NotFoundError, Workflow, WorkflowContext, handler
from durable.testing import MemoryStore, VirtualClock, run
from tests.ingress.support import JSON, UNKNOWN, Served, served, story


def test_an_awakeable_is_resolved_with_what_was_sent() -> None:
    """C-051."""

    async def tell(ingress: Served) -> None:
        for way in ("awakeables", "a"):
            waiting = asyncio.ensure_future(ingress.post("/Echo/waiter"))
            id = await ingress.awakeable()
            assert (await ingress.post(f"/restate/{way}/{id}/resolve", "solved!")).status_code == 202
            assert (await waiting).json() == "solved!"
            for verb in ("resolve", "reject"):
                again = await ingress.post(f"/restate/{way}/{id}/{verb}", "again")
                assert (again.status_code, again.content) == (202, b""), "ignored"
            await ingress.post("/Cart/id/put", "")
        waiting = asyncio.ensure_future(ingress.post("/Echo/raw_waiter"))
        id = await ingress.awakeable()
        await ingress.http.post(f"/restate/a/{id}/resolve", content=b"\0\x01")
        assert (await waiting).json() == repr(b"\0\x01")

    story(tell)


def test_an_awakeable_is_rejected_with_a_message() -> None:
    """C-051."""

    async def tell(ingress: Served) -> None:
        waiting = asyncio.ensure_future(ingress.post("/Echo/waiter"))
        id = await ingress.awakeable()
        assert (await ingress.http.post(f"/restate/a/{id}/reject", content=b"my bad! \xff")).status_code == 202
        answer = await waiting
        assert (answer.status_code, answer.json()["message"]) == (500, "my bad! \ufffd")

    story(tell)


def test_who_rejects_may_choose_the_code_of_the_error() -> None:
    async def tell(ingress: Served) -> None:
        for query, code in (("", 500), ("?code=418", 418), ("?Code=400&x=1", 400), ("?code=599", 599)):
            waiting = asyncio.ensure_future(ingress.post("/Echo/waiter"))
            id = await ingress.awakeable()
            for bad in (
                "?code=",
                "?code=200",
                "?code=600",
                "?code=4180",
                "?code=04090",
                "?code=-1",
                "?code=x",
                "?code=400&code=401",
            ):
                refused = await ingress.http.post(f"/restate/a/{id}/reject{bad}", content=b"no")
                assert (refused.status_code, "400 to 599" in refused.json()["message"]) == (400, True), bad
            assert (await ingress.http.post(f"/restate/a/{id}/reject{query}", content=b"no")).status_code == 202
            answer = await waiting
            assert (answer.status_code, answer.json()["message"]) == (code, "no")
            await ingress.post("/Cart/id/put", "")

    story(tell)


def test_who_completes_with_an_idempotency_key_can_tell_its_own_success() -> None:
    @handler(service="Signals")
    async def wait(ctx: Context) -> str:
        return await ctx.signal("go", str) + await ctx.signal("go", str)

    @handler(service="Signals")
    async def ask(ctx: Context) -> str:
        return await ctx.awakeable(str)

    class Approval(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> str:
            return await ctx.promise("answer", str)

    async def opened() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        engine = Engine(services=[wait, ask, Approval()], store=MemoryStore(), clock=clock)
        async with served(engine=engine, promises=True, signals=True) as ingress:

            async def post(path: str, key: str, *, value: str = "x", verb: str = "resolve") -> int:
                headers = {**JSON, "idempotency-key": key}
                answer = await ingress.http.post(f"/restate/{path}/{verb}", json=value, headers=headers)
                return answer.status_code

            promise = "promises/Approval/w/answer"
            assert [await post(promise, key) for key in ("mine", "mine", "theirs")] == [202, 202, 409]
            sent = (await ingress.post("/Signals/wait/send")).json()["invocationId"]
            for value in "aab":
                assert await post(f"signals/{sent}/go", value, value=value) == 202
            assert await engine.attach(sent) == "ab"
            assert [await post(f"signals/{sent}/go", key) for key in ("a", "late")] == [202, 409]
            assert (await ingress.post(f"/restate/signals/{sent}/go/resolve", "late")).status_code == 202, "ignored"
            asked = await engine.send(ask)
            await asyncio.sleep(1)
            [id] = [one.detail for one in (await asked.describe()).journal if one.kind == "awakeable"]
            assert [await post(f"a/{id}", key) for key in ("mine", "mine", "theirs")] == [202, 202, 409]
            assert await post(f"a/{id}", "mine", verb="reject") == 202, (
                "the first one's answer, and a line in the log"
            )
            assert (await ingress.post(f"/restate/a/{id}/resolve", "ignored")).status_code == 202
            twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
            answer = await ingress.http.post(f"/restate/a/{id}/reject", content=b"x", headers=twice)
            assert (answer.status_code, "bad header idempotency-key" in answer.text) == (400, True)

    run(opened)


def test_what_is_no_awakeable_is_refused() -> None:
    """C-053: malformed 400, unknown 404; and what says it is JSON has to be."""

    async def tell(ingress: Served) -> None:
        for bad in ("sign_1", "prom_1x", "inv_1" + "0" * 33, "%00", "sign_nope"):
            answer = await ingress.post(f"/restate/awakeables/{bad}/resolve", 1)
            assert (answer.status_code, "bad awakeable id" in answer.text) == (400, True)
        unknown = f"sign_1{'0' * 33}1"
        assert (await ingress.post(f"/restate/a/{unknown}/resolve", 1)).status_code == 404
        assert (await ingress.get(f"/restate/a/{unknown}/resolve")).status_code == 405
        waiting = asyncio.ensure_future(ingress.post("/Echo/waiter"))
        id = await ingress.awakeable()
        for body in (b"nojson", b"", b"\0a", b"[" * 1000):
            answer = await ingress.http.post(f"/restate/a/{id}/resolve", content=body, headers=JSON)
            assert (answer.status_code, answer.json()["source"]) == (400, "ingress")
        await ingress.post(f"/restate/a/{id}/resolve", "x")
        assert (await waiting).json() == "x"

    story(tell)


def test_promises_and_signals_are_taken_where_that_was_asked_for() -> None:
    async def closed(ingress: Served) -> None:
        id = (await ingress.post("/SignUp/w/run/send", "you ")).json()["invocationId"]
        for path in ("promises/SignUp/w/answer", f"signals/{id}/go"):
            answer = await ingress.post(f"/restate/{path}/resolve", "no")
            assert (answer.status_code, "=True), or 'durable serve --" in answer.text) == (404, True)

    class Secret(Workflow, public=False):
        @handler
        async def run(self, ctx: WorkflowContext) -> str:
            answer: str = await ctx.promise("answer", str)
            return answer

    @handler(service="Signals")
    async def wait(ctx: Context) -> str:
        first, second = ctx.signal("go", str), ctx.signal("go", str)
        return await first + await second

    async def opened() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        engine = Engine(services=[Secret(), wait], store=MemoryStore(), clock=clock)
        async with served(engine=engine, promises=True, signals=True) as ingress:
            answer = await ingress.post("/restate/promises/Secret/w/answer/resolve", "x")
            assert (answer.status_code, "not public" in answer.text) == (400, True)
            await engine.configure("Secret", public=True)
            assert (await ingress.post("/restate/promises/Secret/w/answer/resolve", "x")).status_code == 202
            assert (await ingress.post("/restate/promises/Secret/w/answer/reject")).status_code == 409
            with pytest.raises(ConflictError):
                await engine.resolve_promise("Secret", "w", "answer", "y")
            assert (await ingress.post("/Secret/w/run")).json() == "x"
            for path in ("promises/Nope/w/p", "promises/Signals/w/p", f"signals/{UNKNOWN}/go"):
                assert (await ingress.post(f"/restate/{path}/resolve", 1)).status_code == 404
            sent = (await ingress.post("/Signals/wait/send")).json()["invocationId"]
            for letter in "ab":
                assert (await ingress.post(f"/restate/signals/{sent}/go/resolve", letter)).status_code == 202
            assert await engine.attach(sent) == "ab"
            sent = (await ingress.post("/Signals/wait/send")).json()["invocationId"]
            await ingress.http.post(f"/restate/signals/{sent}/go/reject", content=b"stop")
            assert (await ingress.get(f"/restate/attach/{sent}")).json()["message"] == "stop"
            with pytest.raises(NotFoundError):
                await engine.send_signal(UNKNOWN, "go")

    story(closed)
    run(opened)


def test_a_promise_of_another_type_counts_and_pauses_the_workflow_that_reads_it() -> None:
    """Nobody but the handler's code knows the type; `docs/ingress.md` says so."""

    async def tell(ingress: Served) -> None:
        id = (await ingress.post("/SignUp/w/run/send", "you ")).json()["invocationId"]
        for value, status in ((7, 202), ("yes", 409)):
            answer = await ingress.post("/restate/promises/SignUp/w/answer/resolve", value)
            assert answer.status_code == status, answer.text
        while (view := await ingress.engine.describe(id)).status != "paused":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert view.last_failure is not None
        assert view.last_failure.reason == "value-not-readable"

    story(tell, promises=True)
