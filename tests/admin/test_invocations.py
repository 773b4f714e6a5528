"""Steering invocations over HTTP: status codes and messages, as Restate's clients know them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from durable import ConflictError, TerminalError
from tests.admin.support import JSON, UNKNOWN, Served, story

Make = Callable[[Served], Awaitable[str]]


async def scheduled(admin: Served) -> str:
    return await admin.send("Greeter/greet", "you", delay="1h")


async def pending(admin: Served) -> str:
    await admin.reaches(await admin.send("Cart/hold", key="k"), "running")
    return await admin.send("Cart/add", "shoe", key="k")


async def running(admin: Served) -> str:
    return await admin.reaches(await admin.send("Greeter/work"), "running")


async def suspended(admin: Served) -> str:
    return await admin.reaches(await admin.send("Greeter/wait"), "suspended")


async def backing_off(admin: Served) -> str:
    return await admin.reaches(await admin.send("Greeter/fail"), "backing-off")


async def paused(admin: Served) -> str:
    return await admin.reaches(await admin.send("Greeter/stop"), "paused")


async def completed(admin: Served) -> str:
    return await admin.completed("Greeter/greet", "you")


async def forgotten_journal(admin: Served) -> str:
    return await admin.completed("Greeter/forget", idempotency_key="once")


async def workflow(admin: Served) -> str:
    id = await admin.send("SignUp/run", key="w")
    await admin.engine.kill(id)
    return id


async def unknown(admin: Served) -> str:
    return UNKNOWN


async def malformed(admin: Served) -> str:
    return "inv_nonsense"


GONE = "The requested invocation '{id}' does not exist"
COMPLETED = "The invocation '{id}' was already completed."
NOT_YET = "The invocation '{id}' is not yet completed."
NOT_RUNNING = "The invocation '{id}' is not running, cannot be paused."
TOO_EARLY = "The invocation '{id}' is either inboxed or scheduled, cannot be resumed."
NO_RESTART = "The invocation '{id}' is still running."
RESTART_EARLY = "The invocation '{id}' cannot be restarted because it's not running yet."
BAD = "The request field 'invocation_id' is invalid. Reason: bad format"

#: Verb, what it is done to, status, message.
TABLE: list[tuple[str, Make, int, str]] = [
    ("cancel", scheduled, 200, ""),  # C-057
    ("cancel", pending, 200, ""),
    ("cancel", running, 202, ""),  # C-058
    ("cancel", suspended, 202, ""),
    ("cancel", backing_off, 202, ""),
    ("cancel", paused, 202, ""),
    ("cancel", completed, 409, COMPLETED),
    ("cancel", unknown, 404, GONE),
    ("kill", scheduled, 200, ""),  # C-063
    ("kill", pending, 200, ""),
    ("kill", running, 200, ""),
    ("kill", suspended, 200, ""),
    ("kill", backing_off, 200, ""),
    ("kill", paused, 200, ""),
    ("kill", completed, 409, COMPLETED),
    ("kill", unknown, 404, GONE),
    ("pause", running, 202, ""),  # C-065
    ("pause", suspended, 202, ""),
    ("pause", backing_off, 202, ""),
    ("pause", paused, 200, ""),
    ("pause", pending, 409, NOT_RUNNING),
    ("pause", scheduled, 409, NOT_RUNNING),
    ("pause", completed, 409, NOT_RUNNING),
    ("pause", unknown, 404, GONE),
    ("resume", paused, 200, ""),  # C-066
    ("resume", suspended, 200, ""),
    ("resume", backing_off, 200, ""),
    ("resume", running, 200, ""),
    ("resume", pending, 425, TOO_EARLY),
    ("resume", scheduled, 425, TOO_EARLY),
    ("resume", completed, 409, "The invocation '{id}' is completed, cannot be resumed."),
    ("resume", unknown, 404, GONE),
    ("resume?deployment=latest", paused, 200, ""),
    ("resume?deployment=dp_14LsPzGz9HBxXIeBoH5wYUh", paused, 400, "The deployment 'dp_14LsPzGz9HBxXIeBoH5wYUh'"),
    ("restart-as-new", running, 409, NO_RESTART),  # C-070
    ("restart-as-new", suspended, 409, NO_RESTART),
    ("restart-as-new", backing_off, 409, NO_RESTART),
    ("restart-as-new", paused, 409, NO_RESTART),
    ("restart-as-new", pending, 425, RESTART_EARLY),
    ("restart-as-new", scheduled, 425, RESTART_EARLY),
    (
        "restart-as-new",
        forgotten_journal,
        410,
        "restarted because its journal is gone.",
    ),
    ("restart-as-new", workflow, 422, "belongs to a workflow"),
    ("restart-as-new", unknown, 404, GONE),
    ("restart-as-new?from=7", completed, 400, "has no entry 7"),
    ("restart-as-new?from=-1", completed, 400, "from"),
    ("restart-as-new?from=9223372036854775808", completed, 400, "from"),
    ("restart-as-new?from=x", completed, 400, "from"),
    ("purge", completed, 200, ""),  # C-077
    *[("purge", make, 409, NOT_YET) for make in (scheduled, pending, running, suspended, backing_off, paused)],
    ("purge", unknown, 404, GONE),
    ("purge-journal", completed, 200, ""),
    ("purge-journal", running, 409, NOT_YET),
    ("purge-journal", suspended, 409, NOT_YET),
    ("purge-journal", unknown, 404, GONE),
    *[(verb, malformed, 400, BAD) for verb in ("cancel", "kill", "pause", "resume", "purge", "restart-as-new")],
]


@pytest.mark.parametrize(("verb", "make", "status", "message"), TABLE)
def test_a_verb_answers_by_the_invocations_status(verb: str, make: Make, status: int, message: str) -> None:
    async def tell(admin: Served) -> None:
        id = await make(admin)
        verb_, question, query = verb.partition("?")
        answer = await admin.patch(f"/invocations/{id}/{verb_}{question}{query}")
        assert answer.status_code == status, answer.text
        if message:
            assert message.format(id=id) in answer.json()["message"]
            assert answer.json()["restate_code"] is None
        else:
            assert answer.content == b""

    story(tell)


def test_a_restart_names_the_new_invocation() -> None:
    async def tell(admin: Served) -> None:
        old = await completed(admin)
        answer = await admin.patch(f"/v4/invocations/{old}/restart-as-new?from=0&deployment=latest")
        assert answer.status_code == 200
        new = answer.json()["new_invocation_id"]
        assert await admin.engine.attach(new) == "Hello, you!"
        assert (await admin.engine.describe(new)).restarted_from == old

    story(tell)


def test_what_is_asked_twice_with_an_idempotency_key_is_done_once() -> None:
    async def tell(admin: Served) -> None:
        async def asked(method: str, path: str, key: str, body: Any = None) -> httpx.Response:
            headers = {"idempotency-key": key}
            return await admin.http.request(method, path, headers=headers, **({} if body is None else {"json": body}))

        old, keys = await completed(admin), ("k", "k", "l")
        path = f"/invocations/{old}/restart-as-new"
        first, again, other = [(await asked("PATCH", path, key)).json()["new_invocation_id"] for key in keys]
        assert first == again != other
        for verb in ("purge-journal", "purge"):
            found = [await asked("PATCH", f"/invocations/{old}/{verb}", key) for key in keys]
            assert [one.status_code for one in found] == [200, 200, 200 if verb == "purge-journal" else 404]
        batch = {"invocation_ids": [await pending(admin), await scheduled(admin)]}
        for key, done in zip(keys, (2, 2, 0), strict=True):
            answer = await asked("POST", "/internal/invocations_batch_operations/kill", key, batch)
            assert len(answer.json()["succeeded"]) == done
        body = {"target": "Greeter/greet", "input": "Ada"}
        start = [await asked("POST", "/invocations", key, {**body, "input": key + "!"}) for key in keys]
        assert [one.json()["status"] for one in start] == ["Accepted", "PreviouslyAccepted", "Accepted"]
        differs = await asked("POST", "/invocations", "k", body)
        assert differs.headers["idempotency-input-differs"] == "true"
        await admin.completed("Cart/add", "shoe", key="other")
        version = (await admin.engine.get_state("Cart", "other")).version
        change = {"object_key": "other", "new_state": {"n": [49]}, "version": version}
        states = [(await asked("POST", "/services/Cart/state", key, change)).status_code for key in keys]
        assert states == [202, 202, 409], "its own success is no stale version"
        assert (await asked("PATCH", path, "\t")).status_code == 400

    story(tell)


async def seen(admin: Served, id: str) -> dict[str, Any]:
    """What the API shows of it."""
    answer = await admin.http.get(f"/invocations/{id}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


@pytest.mark.parametrize(("verb", "word"), [("cancel", "cancelled"), ("kill", "killed")])
@pytest.mark.parametrize("make", [scheduled, pending])
def test_what_has_not_begun_ends_at_once_and_never_begins(verb: str, word: str, make: Make) -> None:
    """C-057, C-063."""

    async def tell(admin: Served) -> None:
        id = await make(admin)
        attached = asyncio.ensure_future(admin.engine.attach(id))
        await asyncio.sleep(0)
        assert (await admin.patch(f"/invocations/{id}/{verb}")).status_code == 200
        ended = await seen(admin, id)
        assert (ended["status"], ended["completion_result"]) == ("completed", "failure")
        assert (ended["output"]["json"]["code"], ended["output"]["json"]["message"]) == (409, word)
        with pytest.raises(TerminalError, match=word) as caught:
            await attached
        assert caught.value.code == 409
        admin.desk.gate.set()
        await asyncio.sleep(2 * 3600)  # its time comes, and goes
        assert await seen(admin, id) == ended
        assert "attempts" not in ended, "its handler was never started"
        assert (await admin.patch(f"/invocations/{id}/{verb}")).status_code == 409

    story(tell)


@pytest.mark.parametrize(("make", "ends"), [(running, 1), (suspended, {"code": 409, "message": "cancelled"})])
def test_a_second_cancel_does_no_harm(make: Make, ends: object) -> None:
    """C-058; a step that runs has its outcome."""

    async def tell(admin: Served) -> None:
        id = await make(admin)
        answers = await asyncio.gather(*(admin.patch(f"/invocations/{id}/cancel") for _ in range(3)))
        assert [answer.status_code for answer in answers] == [202, 202, 202]
        admin.desk.gate.set()
        await admin.reaches(id, "completed")
        output = (await seen(admin, id))["output"]["json"]
        assert (output | ends == output) if isinstance(ends, dict) else (output == ends)

    story(tell)


def test_a_pause_lets_the_step_end_and_a_resume_goes_on_behind_it() -> None:
    """C-065, C-066."""

    async def tell(admin: Served) -> None:
        id = await running(admin)
        assert (await admin.patch(f"/invocations/{id}/pause")).status_code == 202
        assert (await seen(admin, id))["pausing"] is True
        admin.desk.gate.set()
        await admin.reaches(id, "paused")
        assert (await admin.patch(f"/invocations/{id}/pause")).status_code == 200
        assert (await admin.patch(f"/invocations/{id}/resume")).status_code == 200
        await admin.reaches(id, "completed")
        assert ((await seen(admin, id))["output"], admin.desk.steps) == ({"json": 1}, 1)

    story(tell)


def test_a_resume_retries_at_once_what_backs_off() -> None:
    """C-066: its next retry would be an hour later."""

    async def tell(admin: Served) -> None:
        id = await backing_off(admin)
        before = admin.engine.now_ms()
        assert (await seen(admin, id))["attempts"] == 1
        assert (await admin.patch(f"/invocations/{id}/resume")).status_code == 200
        while (await seen(admin, id))["attempts"] < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert admin.engine.now_ms() - before < 60_000

    story(tell)


def test_a_journal_is_purged_and_its_result_stays_and_a_purge_forgets_both() -> None:
    """C-077."""

    async def tell(admin: Served) -> None:
        start = {"target": "Greeter/greet", "input": "you", "idempotency_key": "once"}
        id = (await admin.http.post("/invocations", json=start)).json()["invocation_id"]
        await admin.reaches(id, "completed")
        assert (await admin.http.get(f"/invocations/{id}/journal")).json()["entries"]
        for _ in range(2):
            assert (await admin.patch(f"/invocations/{id}/purge-journal")).status_code == 200
            assert (await admin.http.get(f"/invocations/{id}/journal")).json()["entries"] == []
        assert (await seen(admin, id))["output"] == {"json": "Hello, you!"}
        assert (await admin.patch(f"/invocations/{id}/restart-as-new")).status_code == 410
        again = await admin.http.post("/invocations", json=start)
        assert again.json() == {"invocation_id": id, "status": "PreviouslyAccepted"}
        assert (await admin.patch(f"/invocations/{id}/purge")).status_code == 200
        for path in ("", "/journal", "/children"):
            assert (await admin.http.get(f"/invocations/{id}{path}")).status_code == 404
        assert (await admin.patch(f"/invocations/{id}/purge")).status_code == 404
        assert (await admin.http.post("/invocations", json=start)).json()["status"] == "Accepted"

    story(tell)


def test_a_failure_is_shown_with_its_code_message_and_metadata() -> None:
    """C-031, as operators see it."""

    async def tell(admin: Served) -> None:
        id = await admin.completed("Greeter/refuse", headers={"trace": "1"})
        ended = await seen(admin, id)
        assert ended["completion_result"] == "failure"
        assert ended["output"]["json"] == {
            "code": 400, "message": "bad apples", "metadata": {"key1": "a", "key2": "b"},
        }  # fmt: skip

    story(tell)


def test_delete_by_mode_is_accepted_whatever_becomes_of_it() -> None:
    async def tell(admin: Served) -> None:
        modes = {"?mode=kill": "killed", "?mode=Kill": "killed", "": "cancelled", "?mode=Cancel": "cancelled"}
        for mode, ended in modes.items():
            id = await suspended(admin)
            assert (await admin.http.delete(f"/invocations/{id}{mode}")).status_code == 202
            await admin.reaches(id, "completed")
            output = (await admin.engine.describe(id)).output or b""
            assert ended in output.decode()
            assert (await admin.http.delete(f"/invocations/{id}{mode}")).status_code == 202, "it has ended already"
            assert (await admin.http.delete(f"/invocations/{id}?mode=purge")).status_code == 202
            assert (await admin.http.delete(f"/invocations/{id}?mode=Purge")).status_code == 202, "it is gone"
            assert (await admin.patch(f"/invocations/{id}/purge")).status_code == 404
        assert (await admin.http.delete(f"/invocations/{UNKNOWN}")).status_code == 202
        assert (await admin.http.delete("/invocations/nonsense")).status_code == 400
        assert (await admin.http.delete(f"/invocations/{UNKNOWN}?mode=explode")).status_code == 400

    story(tell)


def test_the_oldest_form_kills_by_sid() -> None:
    async def tell(admin: Served) -> None:
        id = await suspended(admin)
        answer = await admin.http.request("DELETE", "/invocations", json={"sid": id})
        assert answer.status_code == 202
        await admin.reaches(id, "completed")
        assert "killed" in ((await admin.engine.describe(id)).output or b"").decode()
        for body, status in ((b'{"sid": "x"}', 400), (b"{}", 422), (b"", 400), (b"no JSON", 400)):
            answer = await admin.http.request("DELETE", "/invocations", content=body, headers=JSON)
            assert answer.status_code == status, body

    story(tell)


def test_a_dry_batch_says_what_would_become_of_each_and_does_nothing() -> None:
    async def tell(admin: Served) -> None:
        batch = "/internal/invocations_batch_operations"
        waiting, done = await suspended(admin), await completed(admin)
        later = await admin.send("Greeter/greet", "later", delay="1h")
        ids = [waiting, done, later, UNKNOWN]
        would: dict[str, dict[str, str]] = {}
        for verb in ("cancel", "kill", "pause", "resume", "purge", "purge-journal"):
            answer = await admin.http.post(f"{batch}/{verb}?dry_run=true", json={"invocation_ids": ids})
            told = answer.json()
            assert told["dry_run"] is True
            assert [*told["outcomes"]] == told["succeeded"]
            assert {*told["succeeded"], *(one["invocation_id"] for one in told["failed"])} == {*ids}
            would[verb] = told["outcomes"]
        assert would == {
            "cancel": {waiting: "accepted", later: "done"},
            "kill": {waiting: "done", later: "done"},
            "pause": {waiting: "accepted"},
            "resume": {waiting: "done"},
            "purge": {done: "done"},
            "purge-journal": {done: "done"},
        }
        answer = await admin.http.post(f"{batch}/restart-as-new?dry_run=true", json={"invocation_ids": ids})
        assert answer.json()["succeeded"] == [{"old_invocation_id": done}]
        refused = [one["error"] for one in told["failed"]]
        assert refused == [NOT_YET.format(id=waiting), NOT_YET.format(id=later), GONE.format(id=UNKNOWN)]
        ask = admin.http.stream(
            "POST",
            f"{batch}/kill?dry_run=1",
            json={"invocation_ids": ids},
            headers={"accept": "application/x-ndjson"},
        )
        async with ask as answer:
            lines = [msgspec.json.decode(line) async for line in answer.aiter_lines()]
        assert {line["invocation_id"]: line.get("outcome") for line in lines} == {
            waiting: "done", done: None, later: "done", UNKNOWN: None,
        }  # fmt: skip
        statuses = [(await admin.engine.describe(id)).status for id in (waiting, done, later)]
        assert statuses == ["suspended", "completed", "scheduled"]
        assert len(await admin.engine.invocations()) == 3

    story(tell)


def test_a_batch_says_what_became_of_each() -> None:
    async def tell(admin: Served) -> None:
        batch = "/internal/invocations_batch_operations"
        one, other, done = await suspended(admin), await suspended(admin), await completed(admin)
        ids = [one, done, UNKNOWN, "nonsense", other, one]
        answer = await admin.http.post(f"/v4{batch}/pause", json={"invocation_ids": ids})
        assert answer.status_code == 200
        assert answer.json() == {
            "succeeded": [one, other],
            "failed": [
                {"invocation_id": done, "error": NOT_RUNNING.format(id=done)},
                {"invocation_id": UNKNOWN, "error": GONE.format(id=UNKNOWN)},
                {"invocation_id": "nonsense", "error": BAD},
            ],
        }
        for verb in ("resume", "cancel", "kill"):
            answer = await admin.http.post(f"{batch}/{verb}", json={"invocation_ids": [other]})
            assert [*answer.json()["succeeded"], *answer.json()["failed"]] != [], verb
        await admin.reaches(other, "completed")
        answer = await admin.http.post(f"{batch}/restart-as-new", json={"invocation_ids": [done, one]})
        [again] = answer.json()["succeeded"]
        assert again["old_invocation_id"] == done
        assert await admin.engine.attach(again["new_invocation_id"]) == "Hello, you!"
        for verb in ("purge-journal", "purge"):
            answer = await admin.http.post(f"{batch}/{verb}", json={"invocation_ids": [done]})
            assert answer.json() == {"succeeded": [done], "failed": []}
        too_many = [UNKNOWN[:-4] + f"{number:04}" for number in range(1001)]
        answer = await admin.http.post(f"{batch}/kill", json={"invocation_ids": too_many})
        assert answer.status_code == 400
        assert "at most 1000" in answer.json()["message"]
        assert (await admin.http.post(f"{batch}/kill", json={})).status_code == 422

    story(tell)


def test_the_engine_says_conflict_where_the_route_says_409() -> None:
    """The messages are Restate's over HTTP, and the engine's own in Python."""

    async def tell(admin: Served) -> None:
        id = await completed(admin)
        with pytest.raises(ConflictError, match="was already completed"):
            await admin.engine.cancel(id)

    story(tell)
