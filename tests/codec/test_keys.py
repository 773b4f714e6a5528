"""Keys come and go: what is encoded with one that is missing waits for it, and nobody else is disturbed."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from durable import (
    CodecError,
    Context,
    Engine,
    KeyMissingError,
    ObjectContext,
    SharedWorkflowContext,
    TerminalError,
    UsageError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.reasons import Reason
from durable.encryption import AesGcm
from durable.testing import run
from tests.codec.support import Picky, forge, forge_input, forge_state, keyed, one
from tests.runtime.support import engine_on, settled

DONE: list[str] = []


async def note(text: str) -> str:
    DONE.append(text)
    return f"noted {text}"


@handler(service="S")
async def work(ctx: Context, text: str) -> str:
    noted = await ctx.run(note, text)
    await ctx.sleep("1h")
    return noted


@handler(service="S")
async def quick(ctx: Context, text: str) -> str:
    if text == "bad":
        raise TerminalError(f"no {text}", 409, {"text": text})
    return await ctx.run(note, text)


@handler(service="S")
async def stuck(ctx: Context, text: str) -> str:
    raise ValueError(f"it failed for {text}")


@handler(service="S")
async def follow(ctx: Context, id: str) -> str:
    return await ctx.attach(id, str)


@handler(service="S")
async def listen(ctx: Context) -> str:
    await ctx.sleep("1h")
    return await ctx.signal("word", str)


class Box(VirtualObject):
    @handler
    async def put(self, ctx: ObjectContext, text: str) -> None:
        ctx.set("text", text)

    @handler
    async def look(self, ctx: ObjectContext) -> str:
        return str(await ctx.get("text", str))

    @handler
    async def count(self, ctx: ObjectContext) -> int:
        return 7


class Flow(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        await ctx.sleep("1h")
        return await ctx.promise("word", str)

    @handler
    async def look(self, ctx: SharedWorkflowContext) -> None: ...


SERVICES: tuple[Any, ...] = (work, quick, stuck, follow, listen, Box(), Flow())


def test_a_key_is_rotated_and_what_the_old_one_encoded_goes_on(tmp_path: Path) -> None:
    path, DONE[:] = tmp_path / "app.db", []

    async def before() -> str:
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            handle = await engine.send(work, "a", headers={"h": "x"})
            await asyncio.sleep(1)
            return handle.id

    async def after(id: str) -> None:
        async with engine_on(path, *SERVICES, codec=keyed("k1", "k2")) as engine:
            assert await engine.attach(id) == "noted a"
            assert await engine.call(quick, "b") == "noted b"

    id = run(before)
    run(lambda: after(id))
    assert DONE == ["a", "b"]
    with sqlite3.connect(path) as database:
        keys = "SELECT CAST(substr(value, 10, 2) AS TEXT) FROM journal WHERE value IS NOT NULL"
        assert [key for (key,) in database.execute(keys)] == ["k1", "k2", "k2"]  # two steps, and a sleep
    database.close()


def test_what_needs_a_key_that_is_not_there_is_paused_and_goes_on_when_it_is(tmp_path: Path) -> None:
    path, DONE[:] = tmp_path / "app.db", []

    async def before() -> list[str]:
        async with engine_on(path, *SERVICES, codec=keyed("k1"), inactivity_timeout=0) as engine:
            begun = await engine.send(work, "a", headers={"h": "x"})
            delayed = await engine.send(quick, "b", delay="2h")
            ended = await engine.send(quick, "c", idempotency_key="c")
            assert await ended.result() == "noted c"
            await engine.call(Box.put, "kept", key="a")
            listening = await engine.send(listen)
            await engine.send_signal(listening.id, "word", "hello")
            flow = await engine.send(Flow.run, key="f")
            await engine.resolve_promise("Flow", "f", "word", "said")
            await asyncio.sleep(1)
            return [begun.id, delayed.id, listening.id, flow.id, ended.id]

    ids = run(before)

    async def without() -> None:
        async with engine_on(path, *SERVICES, codec=keyed("k2")) as engine:
            await asyncio.sleep(3 * 3600)
            for id in ids[:4]:
                view = await engine.describe(id)
                assert view.status == "paused" and view.last_failure is not None
                assert view.last_failure.reason == Reason.KEY_MISSING and "Nothing is lost" in view.advice
                assert "'k1'" in view.last_failure.message
            shown = await engine.describe(ids[4])
            assert shown.input == shown.output == b'{"encrypted":"k1"}'
            assert {entry.value for entry in shown.journal} == {b'{"encrypted":"k1"}'}
            for ask in (engine.attach(ids[4]), engine.output(ids[4]), engine.call(quick, "c", idempotency_key="c")):
                with pytest.raises(KeyMissingError, match="'k1'"):
                    await ask
            following = await settled(engine, (await engine.send(follow, ids[4])).id)
            assert following.last_failure is not None and following.last_failure.reason == Reason.KEY_MISSING
            ids.append(following.id)
            with pytest.raises(KeyMissingError, match="'k1'"):
                await engine.get_state("Box", "a")
            looking = await settled(engine, (await engine.send(Box.look, key="a")).id)
            assert looking.last_failure is not None and looking.last_failure.reason == Reason.KEY_MISSING
            ids.append(looking.id)
            with pytest.raises(KeyMissingError, match="'k1'"):
                await engine.resolve_promise("Flow", "f", "word", "again")
            with pytest.raises(KeyMissingError, match="'k1'"):
                await engine.restart_as_new(ids[4])
            assert await engine.call(quick, "d") == "noted d"  # nobody else is disturbed
            assert await engine.call(Box.count, key="b") == 7
            assert await engine.resume_all(reason=Reason.KEY_MISSING) != []  # too early: they are paused again
            assert (await settled(engine, ids[0])).status == "paused"

    async def after() -> None:
        async with engine_on(path, *SERVICES, codec=keyed("k1", "k2")) as engine:
            assert len(await engine.resume_all(reason=Reason.KEY_MISSING)) == 6
            expected = ["noted a", "noted b", "hello", "said", "noted c", "noted c", "kept"]
            assert [await engine.attach(id) for id in ids] == expected

    run(without)
    run(after)
    assert sorted(DONE) == ["a", "b", "c", "d"]  # each of them once


def test_another_key_by_the_id_of_one_that_was_used_is_refused_at_the_start(tmp_path: Path) -> None:
    """What would be encoded with it were lost when the right one is back."""
    path = tmp_path / "app.db"

    async def story() -> None:
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            handle = await engine.send(work, "a")
            await asyncio.sleep(1)
        for codec in (keyed("k1", wrong=True), AesGcm({"k1": bytes(32), "k2": bytes(32)})):
            with pytest.raises(KeyMissingError, match="'k1' is not the one") as refused:
                await engine_on(path, *SERVICES, codec=codec).start()
            assert refused.value.key_ids == ("k1",)
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            assert await handle.asked_of(engine).result() == "noted a"

    run(story)


def test_without_a_codec_an_encoded_file_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def story() -> None:
        for key in ("k1", "k2"):
            async with engine_on(path, *SERVICES, codec=keyed("k1", key)) as engine:
                await engine.call(quick, "a")
        with pytest.raises(KeyMissingError, match=r"'k1', 'k2'.*codec") as refused:
            await engine_on(path, *SERVICES).start()
        assert refused.value.key_ids == ("k1", "k2")
        async with engine_on(path, *SERVICES, codec=keyed("k1", "k2")) as engine:  # its lock was let go
            assert len(await engine.invocations()) == 2

    run(story)


def test_a_codec_can_be_turned_on_for_a_file_in_clear(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def story() -> None:
        async with engine_on(path, *SERVICES) as engine:
            await engine.call(quick, "a", idempotency_key="a", headers={"h": "x"})
            await engine.call(Box.put, "kept", key="a")
            begun = await engine.send(work, "b")
            await asyncio.sleep(1)
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            again = await engine.send(quick, "a", idempotency_key="a")
            assert (again.accepted, again.input_differs, await again.result()) == (False, False, "noted a")
            assert (await again.describe()).headers == {"h": "x"}
            assert await engine.call(Box.look, key="a") == "kept"
            assert await begun.asked_of(engine).result() == "noted b"

    run(story)


def test_the_same_input_is_told_from_another_one_though_each_is_encoded_anew(tmp_path: Path) -> None:
    """An idempotency key that comes again compares what is in clear."""

    async def story() -> None:
        async with engine_on(tmp_path / "app.db", *SERVICES, codec=keyed("k1")) as engine:
            await engine.call(quick, "a", idempotency_key="key")
            same, other = [await engine.send(quick, text, idempotency_key="key") for text in ("a", "b")]
            assert (same.input_differs, other.input_differs) == (False, True)

    run(story)


def test_a_text_in_failures_is_found_although_it_is_encoded(tmp_path: Path) -> None:
    async def story(codec: Any) -> list[Any]:
        path = tmp_path / f"{codec}.db"
        async with engine_on(path, *SERVICES, codec=codec) as engine:
            for text in ("good", "bad", "bad", "good"):
                await engine.send(quick, text)
            paused = await engine.send(stuck, "bad")
            await settled(engine, paused.id)
            await engine.call(quick, "last")
            asked: list[Any] = []
            page = await engine.page(failure="bad", limit=2, counts=True)
            asked.append([one.handler for one in page.invocations])
            page = await engine.page(failure="bad", limit=2, cursor=page.next)
            asked += [[one.handler for one in page.invocations], page.next]
            asked.append([len(await engine.invocations(failure=text)) for text in ("no bad", "it failed", "good")])
            asked.append(await engine.count_invocations(failure="bad"))
            return asked

    clear, encoded = run(lambda: story(None)), run(lambda: story(keyed("k1")))
    assert clear == encoded
    assert clear[-1] == {"completed": 2, "paused": 1}


def test_what_the_codec_cannot_encode_is_refused_where_it_goes_in(tmp_path: Path) -> None:
    async def story() -> None:
        async with engine_on(tmp_path / "app.db", *SERVICES, codec=Picky(b"secret")) as engine:
            with pytest.raises(CodecError, match=r"could not encode the input of invocation .*it says no"):
                await engine.call(quick, "secret")
            handle = await engine.send(work, "s")
            with pytest.raises(CodecError, match="it says no"):
                await engine.send_signal(handle.id, "word", "secret")
            assert await engine.call(quick, "a") == "noted a"

    run(story)


def test_a_result_that_the_codec_cannot_encode_pauses_its_invocation_and_no_other(tmp_path: Path) -> None:
    """Its own failure has the same word: that text is left out, and the pause is stored all the same."""
    codec, DONE[:] = Picky(b"noted"), []

    async def story() -> None:
        async with engine_on(tmp_path / "app.db", *SERVICES, codec=codec) as engine:
            view = await settled(engine, (await engine.send(quick, "a")).id)
            assert view.status == "paused" and view.last_failure is not None
            assert view.last_failure.reason == Reason.NOT_ENCODABLE and "resume it" in view.advice
            assert await engine.call(Box.count, key="b") == 7
            codec.word = b"-"
            await engine.resume(view.id)
            assert await engine.attach(view.id) == "noted a"

    run(story)
    assert DONE == ["a", "a"]  # as where a result cannot be stored: resumed, the step runs again


def test_a_codec_that_does_not_decode_what_it_encodes_is_refused_at_the_start(tmp_path: Path) -> None:
    class Lossy(Picky):
        def decode(self, data: bytes, key_id: str, place: bytes) -> bytes:
            return data

    class Nameless(Picky):
        key_id = "a key"

    class Forgetful(Picky):
        key_ids = ("p0",)

    async def story() -> None:
        for codec in (Lossy(b"-"), Nameless(b"-"), Forgetful(b"-"), Picky(b"durable")):
            with pytest.raises(CodecError):
                await engine_on(tmp_path / "app.db", *SERVICES, codec=codec).start()
        for nothing in ("AesGcm", Picky, object()):
            with pytest.raises(UsageError, match="codec takes an object with key_id"):
                Engine(":memory:", codec=nothing)  # type: ignore[arg-type]
        async with engine_on(tmp_path / "app.db", *SERVICES) as engine:  # nothing was written with them
            assert await engine.call(quick, "a") == "noted a"

    run(story)


def test_a_flipped_bit_is_damage_and_a_forged_value_is_no_value(tmp_path: Path) -> None:
    """A checksum tells damage; who computes a new one, or exchanges two values, fails at the place they belong to."""
    path = tmp_path / "app.db"

    async def before() -> list[str]:
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            ids = [(await engine.send(quick, text, delay="1h")).id for text in "abcd"]
            for key in "ab":
                await engine.call(Box.put, f"kept {key}", key=key)
            return ids

    def change(database: sqlite3.Connection) -> None:
        first, second, third = (
            one(database, "SELECT input FROM _invocations WHERE seq = ?", seq) for seq in (1, 2, 3)
        )
        database.execute("UPDATE _invocations SET input = ? WHERE seq = 1", (_flipped(first),))
        forge_input(database, 2, _flipped(second))
        forge_input(database, 3, second)
        forge_state(database, ("Box", "a", "text"), one(database, "SELECT value FROM _state WHERE key = 'b'"))
        assert third

    async def after(ids: list[str]) -> None:
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            await asyncio.sleep(3700)
            views = [await engine.describe(id) for id in ids]
            reasons = [view.last_failure.reason for view in views if view.last_failure is not None]
            assert reasons == [Reason.DAMAGED, Reason.KEY_MISSING, Reason.KEY_MISSING]
            assert views[1].last_failure is not None and "was changed since" in views[1].last_failure.message
            assert await engine.attach(ids[3]) == "noted d"
            with pytest.raises(KeyMissingError, match="state Box a text"):
                await engine.get_state("Box", "a")

    ids = run(before)
    forge(path, change)
    run(lambda: after(ids))


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_another_process_goes_on_with_what_this_one_encoded(tmp_path: Path) -> None:
    path, DONE[:] = tmp_path / "app.db", []

    async def before() -> str:
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            return (await engine.send(work, "b")).id

    id = run(before)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from durable.testing import run\n"
        "from tests.codec.support import keyed\n"
        "from tests.codec.test_keys import SERVICES\n"
        "from tests.runtime.support import engine_on\n"
        "async def main():\n"
        "    async with engine_on(Path(sys.argv[1]), *SERVICES, codec=keyed('k1')) as engine:\n"
        "        return await engine.attach(sys.argv[2])\n"
        "print(run(main))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    arguments = [sys.executable, "-c", program, str(path), id]
    told = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (told.stdout.strip(), told.returncode) == ("noted b", 0), told.stderr
