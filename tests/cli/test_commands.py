"""Commands in this process: what is not seen in a transcript."""

import asyncio
import io
import re
import shutil
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from durable import Engine, admin, ingress
from durable.cli import main
from durable.cli.output import cut, fit
from durable.cli.trees import durations
from durable.cli.words import ago, roughly, short
from durable.serving import Endpoint, serve
from tests.cli.program import make
from tests.cli.scene import Scene, scene
from tests.cli.typed import Typed, typed


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DURABLE_DB", "DURABLE_ADMIN_URL", "DURABLE_INGRESS_URL", "DURABLE_TOKEN"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("running") / "app.db") as one:
        yield one


def at_admin(folder: Path, ask: Callable[[str], list[Typed]], **options: Any) -> list[Typed]:
    """What is typed while an admin API with these options is served."""

    async def main() -> list[Typed]:
        engine = make(str(folder / "app.db"))
        urls: dict[str, str] = {}
        endpoint = Endpoint("admin", "127.0.0.1", 0, admin.create_app(engine, **options))
        serving = asyncio.ensure_future(serve(engine, [endpoint], grace_s=1, ready=urls.update))
        while not urls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            return await asyncio.to_thread(ask, urls["admin"])
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    return asyncio.run(main())


def sentence(result: Typed) -> str:
    """What went wrong: one line, and no traceback."""
    assert result.err.startswith("durable: ") and result.err.count("\n") == 1, result.err
    return result.err


class TestTyping:
    @pytest.mark.parametrize(
        "line", ["nonsense", "invocations nonsense", "invocations list --wrong", "attach", "completion tcsh",
                 "invocations list --status gone", "invocations list --limit 0", "call Shop/greet --header x",
                 "invocations list --json --jsonl", "invocations cancel ID --from 3",
                 "state patch Cart k [] --admin http://127.0.0.1:1", "awakeables resolve sign_1",
                 "promises resolve SignUp w answer", "signals reject ID go no --code 700"],
    )  # fmt: skip
    def test_what_makes_no_sense_is_one_sentence(self, line: str) -> None:
        result = typed(*line.split())
        assert (result.code, result.out) == (2, "")
        sentence(result)

    def test_what_is_no_text_is_one_sentence(self) -> None:
        for line in (
            ["invocations", "describe", "\udcff"],
            ["call", "Shop/greet", "\udcff"],
            ["signals", "send", "\udcff", "x"],
        ):
            result = typed(*line, "--admin", "http://127.0.0.1:1", "--ingress", "http://127.0.0.1:1")
            assert (result.code, result.out) == (2, "")
            assert "is no " in sentence(result)

    def test_a_group_alone_shows_what_there_is(self) -> None:
        for line in ("", "invocations", "services config"):
            result = typed(*line.split())
            assert (result.code, result.out) == (2, "")
            assert "Commands:" in result.err

    def test_the_environment_says_where_and_what_is_typed_beats_it(
        self, running: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = ["sql", "SELECT count(*) AS n FROM sys_invocation", "--jsonl"]
        monkeypatch.setenv("DURABLE_DB", str(running.path))
        [before] = typed(*count).lines
        assert typed(*count, "--admin", "http://127.0.0.1:1").code == 4
        monkeypatch.delenv("DURABLE_DB")
        monkeypatch.setenv("DURABLE_ADMIN_URL", running.admin)
        monkeypatch.setenv("DURABLE_INGRESS_URL", running.ingress)
        assert typed(*count).lines == [before]
        assert typed("call", "Shop/greet", '"Ada"').out == '"Hello, Ada!"\n'
        monkeypatch.setenv("DURABLE_ADMIN_URL", "http://127.0.0.1:1")
        assert typed(*count, "--db", running.path).lines == [{"n": before["n"] + 1}]

    def test_an_input_comes_from_a_file_or_from_stdin(
        self, running: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "name.json").write_text('"Bea"')
        greet = ["call", "Shop/greet", "--db", running.path]
        assert typed(*greet, f"@{tmp_path / 'name.json'}").out == '"Hello, Bea!"\n'
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"Cleo"')))
        assert typed(*greet, "-").out == '"Hello, Cleo!"\n'
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"SELECT 1 AS one")))
        assert typed("sql", "-", "--db", running.path, "--jsonl").lines == [{"one": 1}]
        assert typed(*greet, "@nowhere.json").code == 2

    def test_bytes_pass_through_a_pipe(self, running: Scene) -> None:
        result = typed("call", "Shop/double", "ä", "--content-type", "application/octet-stream", "--db", running.path)
        assert (result.code, result.out) == (0, "ää")


def test_of_a_long_journal_both_ends_are_shown(running: Scene) -> None:
    buy = running.names()["BUY"]
    shown = typed("invocations", "describe", buy, "--entries", "3", "--db", running.path).out
    assert "├── (1 more: --entries shows them)" in shown
    assert [word for word in ("input", "run pay", "sleep", "Shop/pack", "output") if word not in shown] == ["sleep"]


class TestPlaces:
    def test_nobody_at_a_url(self) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
            result = typed("invocations", "list", "--admin", f"http://127.0.0.1:{port}")
        assert result.code == 4
        assert f"nothing answers at http://127.0.0.1:{port}" in sentence(result)

    def test_something_else_at_a_url(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def answer() -> None:
                connected, _ = listening.accept()
                connected.recv(4096)
                connected.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
                connected.close()

            threading.Thread(target=answer, daemon=True).start()
            result = typed("invocations", "list", "--admin", f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert result.code == 4
        assert "what answers is no engine" in sentence(result)

    def test_an_engine_that_cannot_be_asked_is_named(self, tmp_path: Path) -> None:
        async def main() -> list[Typed]:
            path = tmp_path / "app.db"
            async with Engine(path, control_socket=False):
                lines = (["invocations", "list"], ["invocations", "kill", "inv_1" + "0" * 33], ["services", "list"])
                return [await asyncio.to_thread(typed, *line, "--db", path) for line in lines]

        for result in asyncio.run(main()):
            assert result.code == 4
            assert "control socket" in sentence(result)

    def test_an_engine_that_does_not_answer_is_not_waited_for(
        self, running: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("durable.cli.places.PATIENCE_S", 0.2)
        running.loop.call_soon_threadsafe(time.sleep, 0.8)
        result = typed("invocations", "list", "--db", running.path)
        assert result.code == 4
        assert "has not answered within 0.2 s" in sentence(result)

    def test_a_token_is_asked_for_and_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "token").write_text("s3cret\n")

        def ask(url: str) -> list[Typed]:
            line = ["services", "list", "--admin", url]
            found = [typed(*line), typed(*line, "--token-file", tmp_path / "token")]
            monkeypatch.setenv("DURABLE_TOKEN", "wrong")
            found.append(typed(*line))
            monkeypatch.setenv("DURABLE_TOKEN", "s3cret")
            return [*found, typed(*line)]

        none, file, wrong, variable = at_admin(tmp_path, ask, token="s3cret")
        assert [one.code for one in (none, file, wrong, variable)] == [4, 0, 4, 0]
        assert "a bearer token is needed" in sentence(none)
        assert "the bearer token is wrong" in sentence(wrong)

    def test_a_backup_at_a_url_goes_where_the_engine_says(self, tmp_path: Path) -> None:
        def ask(url: str) -> list[Typed]:
            line = ["backup", "monday.db", "--admin", url]
            return [typed(*line, "--json"), typed(*line)]

        first, second = at_admin(tmp_path, ask, backup_folder=tmp_path)
        assert first.json["path"] == str(tmp_path / "monday.db")
        assert (second.code, "exists" in sentence(second)) == (1, True)
        assert typed("check-file", tmp_path / "monday.db").code == 0


class TestStoppedFiles:
    @pytest.mark.parametrize("killed", [False, True])
    def test_looking_leaves_them_as_they_are(self, tmp_path: Path, killed: bool) -> None:
        path = tmp_path / "app.db"

        async def begin() -> str:
            engine = await make(str(path)).start()
            id = (await engine.send("Shop/wait")).id
            await engine.call("Cart/add", "lamp", key="k")
            if killed:
                engine.abandon()
            else:
                await engine.close()
            return id

        id = asyncio.run(begin())
        kept = tmp_path / "kept"
        kept.mkdir()
        for file in tmp_path.glob("app.db*"):
            if not file.name.endswith("-shm") and file.is_file():
                shutil.copy(file, kept)
        assert (kept / "app.db-wal").exists() is killed
        for line in (
            ["invocations", "list"], ["invocations", "describe", id], ["services", "status"], ["deadlocks"],
            ["state", "get", "Cart", "k"], ["sql", "SELECT * FROM state"], ["attach", id, "--no-wait"],
            ["backup", tmp_path / f"copy-{killed}.db"],
        ):  # fmt: skip
            result = typed(*line, "--db", path)
            assert result.code == (1 if line[0] == "attach" else 0), result
        assert typed("check-file", path).code == 0
        for file in kept.iterdir():
            assert (tmp_path / file.name).read_bytes() == file.read_bytes()

    def test_damage_is_found_and_shown(self, tmp_path: Path) -> None:
        path = tmp_path / "app.db"

        async def begin() -> str:
            async with make(str(path)) as engine:
                await engine.call("Cart/add", "umbrella", key="k")
                return (await engine.send("Shop/greet", "a name that is looked for", delay="1h")).id

        id = asyncio.run(begin())
        data = path.read_bytes()
        for word, other in ((b"looked", b"cooked"), (b"umbrella", b"umbrelli")):
            assert word in data
            data = data.replace(word, other)
        path.write_bytes(data)
        result = typed("check-file", path, "--json")
        assert result.code == 1
        assert not result.json["sound"]
        troubles = "\n".join(result.json["troubles"])
        assert id in troubles and "Cart/k" in troubles
        assert "restore" in sentence(result)
        shown = typed("invocations", "describe", id, "--db", path)
        assert shown.code == 0 and "damaged" in shown.out


def test_damage_of_what_is_read_from_topics_is_found(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def begin() -> None:
        async with make(str(path)):
            pass

    asyncio.run(begin())
    assert typed("check-file", path).code == 0
    id = f"sub_1{'0' * 22}"
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO subscriptions VALUES (?, '{}', 1)", (id,))
        database.execute("INSERT INTO clusters VALUES ('main', '{}', 1)")
        database.execute("INSERT INTO positions VALUES ('main', 'g', 't', 0, 5, 0, 5, 0, 0, 0, 1)")
    database.close()
    result = typed("check-file", path, "--json")
    assert result.code == 1
    troubles = "\n".join(result.json["troubles"])
    for named in (f"subscription {id}", "Kafka cluster main", "how far a partition of a topic was taken"):
        assert named in troubles


def test_a_page_of_nonsense_is_found_whichever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def begin() -> None:
        async with make(str(path)) as engine:
            await asyncio.gather(*(engine.call("Shop/buy", number) for number in range(5)))
            await engine.call("Cart/add", "hat", key="k")

    asyncio.run(begin())
    sound = path.read_bytes()
    codes = []
    for page in range(1, len(sound) // 4096):
        path.write_bytes(sound[: page * 4096] + b"\xff" * 4096 + sound[(page + 1) * 4096 :])
        result = typed("check-file", path)
        codes.append(result.code)
        sentence(result)
    assert len(codes) > 20
    assert set(codes) <= {1, 4}, "each page is in use"
    assert codes.count(1) > len(codes) / 2, codes


def test_many_at_once_are_summed_up(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def begin() -> None:
        async with make(str(path)) as engine:
            await asyncio.gather(*(engine.send("Shop/greet", "x", delay="1h") for _ in range(1200)))

    asyncio.run(begin())
    kill = ["invocations", "kill", "--db", path, "--service", "Shop"]
    assert typed(*kill, "--dry-run").out == "1,200 would be killed\n"
    result = typed(*kill, "--yes")
    assert (result.code, result.out) == (0, "1,200 killed\n")
    assert "… and 1,195 more" in result.err
    assert typed("services", "status", "--db", path, "--json").json == [{"service": "Shop", "completed": 1200}]
    assert len(typed("invocations", "list", "--db", path, "--all", "--jsonl").lines) == 1200
    assert (
        typed("invocations", "purge", "--db", path, "--status", "completed", "--yes", "--json").json["succeeded"]
        == 1200
    )
    assert typed(*kill, "--yes").err == "there is nothing to kill\n"


def test_what_is_typed_twice_with_the_same_key_is_done_once(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def begin() -> str:
        async with make(str(path)) as engine:
            return (await engine.send("Shop/greet", "x", delay="1h")).id

    id = asyncio.run(begin())
    kill = ["invocations", "kill", id, "--db", path]
    results = [typed(*kill, "--once", key) for key in ("k", "k", "l")]
    assert [one.code for one in results] == [0, 0, 1]
    assert "completed" in results[-1].err
    restart = ["invocations", "restart", id, "--db", path, "--once"]
    made = [typed(*restart, key, "--json").json["invocations"][0]["new_id"] for key in ("k", "k", "l")]
    assert (made[0] == made[1], made[1] == made[2]) == (True, False)
    purge = ["invocations", "purge", "--db", path, "--status", "completed", "--yes", "--once", "k"]
    assert typed(*purge).out == f"{id} purged\n"
    assert typed("invocations", "purge", id, "--db", path, "--once", "k").out == f"{id} purged\n", "it was"
    assert typed(*kill, "--once", "\u00fc").code == 2
    for line in ([*kill, "--once", ""], ["send", "Shop/greet", '"x"', "--idempotency-key", ""]):
        assert "is empty: give a key, or leave it out" in sentence(typed(*line))


def test_what_handlers_of_a_stopped_file_wait_for_is_given_to_them_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "app.db"

    async def begin() -> tuple[list[str], list[str]]:
        async with make(str(path)) as engine:
            waiting = [(await engine.send("Shop/wait")).id for _ in range(2)]
            waiting += [(await engine.send("Shop/word")).id for _ in range(2)]
            runs = [(await engine.send("SignUp/run", key=key)).id for key in "ab"]
            for id in (*waiting, *runs):
                while not (await engine.describe(id)).waits_for:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            return waiting, runs

    async def end(ids: list[str]) -> list[str]:
        async with make(str(path)) as engine:
            return [str((await asyncio.gather(engine.attach(id), return_exceptions=True))[0]) for id in ids]

    (one, other, third, fourth), runs = asyncio.run(begin())
    (tmp_path / "value.json").write_text('"from a file"')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"from a pipe"')))
    first, second = (f"sign_1{id.removeprefix('inv_1')}1" for id in (one, other))
    for line in (
        ["awakeables", "resolve", first, f"@{tmp_path / 'value.json'}"],
        ["awakeables", "reject", second, "no", "--code", "418"],
        ["promises", "resolve", "SignUp", "a", "answer", "-"],
        ["promises", "reject", "SignUp", "b", "answer", "never"],
        ["signals", "send", third, "go", '"ready"', "--once", "k"],
        ["signals", "send", third, "go", '"ready"', "--once", "k"],
        ["signals", "reject", fourth, "go", "stop"],
    ):
        assert typed(*line, "--db", path).code == 0
    assert typed("promises", "resolve", "SignUp", "a", "answer", "1", "--db", path).code == 1
    assert typed("promises", "resolve", "Shop", "a", "answer", "1", "--db", path).code == 3
    assert typed("promises", "peek", "SignUp", "a", "answer", "--db", path).json == "from a pipe"
    found = asyncio.run(end([one, other, third, fourth, *runs]))
    assert found == ["from a file", "no", "ready", "stop", "from a pipe", "never"]


def test_an_ingress_at_a_url_may_settle_promises_and_take_signals_or_says_who_allows_it(tmp_path: Path) -> None:
    def ask(urls: dict[str, str]) -> None:
        waiting = typed("send", "Shop/word", "--ingress", urls["closed"]).out.strip()
        for allowed in (False, True):
            at = ["--ingress", urls["open" if allowed else "closed"]]
            sent = typed("signals", "send", waiting, "go", '"ready"', *at)
            settled = typed("promises", "resolve", "SignUp", "w", "answer", '"yes"', *at)
            assert [one.code for one in (sent, settled)] == [0 if allowed else 3] * 2
            for one, what in () if allowed else ((sent, "signals"), (settled, "promises")):
                assert f"create_app({what}=True), or 'durable serve --{what}', allows it" in sentence(one)
        assert typed("attach", waiting, "--ingress", urls["closed"]).json == "ready"
        asked = typed("send", "Shop/wait", "--ingress", urls["open"]).out.strip()
        awakeable = f"sign_1{asked.removeprefix('inv_1')}1"
        at = ["--ingress", urls["closed"]]
        assert typed("awakeables", "reject", awakeable, "no", "--code", "418", *at).code == 0, (
            "their ids cannot be guessed"
        )
        assert "failed (418): no" in typed("attach", asked, *at).err

    async def main() -> None:
        engine = make(str(tmp_path / "app.db"))
        urls: dict[str, str] = {}
        apps = {"closed": ingress.create_app(engine), "open": ingress.create_app(engine, promises=True, signals=True)}
        endpoints = [Endpoint(name, "127.0.0.1", 0, app) for name, app in apps.items()]
        serving = asyncio.ensure_future(serve(engine, endpoints, grace_s=1, ready=urls.update))
        while not urls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            await asyncio.to_thread(ask, urls)
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    asyncio.run(main())


@pytest.mark.parametrize("where", ["running", "stopped", "withheld"])
def test_a_note_about_a_value_is_never_printed_as_the_value(tmp_path: Path, where: str) -> None:
    """What is long, what is no JSON, what an admin API withholds."""
    path, long, raw = tmp_path / "app.db", "x" * 200_000, b"\xff\0"
    state, peek = ["state", "get", "Cart", "k"], ["promises", "peek", "SignUp", "w"]
    lines = [
        [*state, "--jsonl"], [*state, "--json"], [*state, "long"], [*state, "none", "--json"], state,
        [*peek, "--json"], [*peek, "long"], peek,
    ]  # fmt: skip
    if where == "stopped":
        lines.append([*state, "raw"])  # last, so that what is no text is not read by this test

    def ask(*at: object) -> list[Typed]:
        return [typed(*line, *at) for line in lines[:8]]

    async def begin() -> list[Typed]:
        async with make(str(path)) as engine:
            await engine.patch_state("Cart", "k", {"long": long, "raw": raw, "none": None, "note": "(2 bytes)"})
            for name, value in (("long", long), ("none", None), ("raw", raw)):
                await engine.resolve_promise("SignUp", "w", name, value)
            await engine.send("SignUp/run", key="w")
            return await asyncio.to_thread(ask, "--db", path)

    found = asyncio.run(begin())
    if where == "stopped":
        found = ask("--db", path)
    if where == "withheld":
        found = at_admin(tmp_path, lambda url: ask("--admin", url), show_payloads=False)
    rows, flat, one, none, table, promises, promise, peeked = found
    if where == "withheld":
        reason = "its admin API withholds values (show_payloads=False)"
        for row in rows.lines:
            assert row == {"name": row["name"], "value": None, "omitted": reason}
        for result in (flat, one, none):
            assert (result.code, result.out, reason in sentence(result)) == (1, "", True)
        assert f"long  ({reason})" in table.out.replace("    ", "  ")
    else:
        assert rows.lines == [
            {"name": "long", "value": long}, {"name": "none", "value": None}, {"name": "note", "value": "(2 bytes)"},
            {"name": "raw", "base64": "/wA="},
        ]  # fmt: skip
        assert (flat.code, flat.out) == (1, "") and "'raw' of Cart/k is no JSON" in sentence(flat)
        assert (one.json, none.json) == (long, None)
        assert re.search(r"raw +\(2 bytes\)", table.out) and re.search(r'note +"\(2 bytes\)"', table.out)
    omitted = "longer than 128 KiB, or withheld by the admin API"
    assert promises.json[0] == {"name": "long", "result": "success", "value": None, "omitted": omitted}
    assert (promise.code, promise.out, omitted in sentence(promise)) == (1, "", True)
    assert re.search(r"long +success +\(longer than 128 KiB", peeked.out)
    if where != "withheld":
        assert promises.json[1:] == [
            {"name": "none", "result": "success", "value": None},
            {"name": "raw", "result": "success", "base64": "/wA="},
        ]


def test_state_is_changed_beside_a_value_that_is_long(tmp_path: Path) -> None:
    path, long, raw = tmp_path / "app.db", "x" * 200_000, b"\xff\0"

    async def story() -> tuple[Typed, Any]:
        async with make(str(path)) as engine:
            await engine.patch_state("Cart", "k", {"long": long, "raw": raw})
            told = await asyncio.to_thread(typed, "state", "set", "Cart", "k", "n", "1", "--json", "--db", path)
            await engine.call("Cart/add", "lamp", key="k")
            return told, dict(await engine.get_state("Cart", "k"))

    told, state = asyncio.run(story())
    assert told.json == {
        "service": "Cart", "key": "k", "state": {"long": long, "n": 1}, "base64": {"raw": "/wA="},
    }  # fmt: skip
    assert state == {"long": long, "raw": raw, "n": 1, "items": ["lamp"]}


# ---- words ----


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (999, "999ms"), (1000, "1s"), (1250, "1.25s"), (9_990, "9.99s"), (61_000, "1m 1s"),
     (3_600_000, "1h"), (90_061_000, "1d 1h"), (-5, "0ms")],
)  # fmt: skip
def test_durations_have_two_units(ms: int, text: str) -> None:
    assert roughly(ms) == text


def test_moments_are_told_from_now() -> None:
    assert ago("2026-01-01T00:00:00.000Z", 1_767_225_602_000) == "2s ago"
    assert ago("2026-01-01T01:00:00.000Z", 1_767_225_600_000) == "in 1h"
    assert ago(None, 0) == ago("nonsense", 0) == ""


def test_ids_are_shortened_in_the_middle() -> None:
    assert short("inv_108h4uXtrPay6uIXiCTbA0j2tBLTzDOwFN") == "inv_108h4uXt…zDOwFN"
    assert short("k") == "k"


def test_columns_that_yield_are_cut_first_and_then_the_widest() -> None:
    rows = [["ID", "NOTE"], ["a" * 10, "b" * 50]]
    assert fit(rows, 100, [False, True]) == [10, 50]
    assert fit(rows, 42, [False, True]) == [10, 30]
    assert fit(rows, 9, [False, True]) == [4, 4]
    assert fit([["a" * 30, "b" * 20, "c"]], 45, [False, False, False]) == [20, 20, 1]
    assert fit([["a" * 30, "b" * 10, "c"]], 45, [False, False, False]) == [30, 10, 1]
    assert (cut("word", 4), cut("words", 4), cell_len(cut("日本語", 4))) == ("word", "wor…", 4)


def test_what_was_recorded_once_took_the_time_since_what_came_before() -> None:
    def entry(index: int, kind: str, result: str, appended: int, completed: int | None = None) -> dict[str, object]:
        at = "2026-01-01T00:00:{:06.3f}Z"
        ended = {} if completed is None else {"completed_at": at.format(completed / 1000)}
        return {"index": index, "kind": kind, "result": result, "appended_at": at.format(appended / 1000), **ended}

    entries = [
        entry(0, "input", "done", 0), entry(1, "run", "success", 50, 50), entry(2, "sleep", "success", 50, 1050),
        entry(3, "send", "done", 1060), entry(4, "call", "open", 1060),
    ]  # fmt: skip
    assert durations(entries, 1_767_225_603_060) == [None, 50, 1000, None, 2000]
    cancel = entry(0, "cancel", "done", 1060)
    assert durations([*entries[:3], cancel, {**entries[1], "index": 3}], 0)[-1] is not None
    assert durations([entries[0], entries[2], {**entries[1], "index": 9}], 0)[2] is None, "something is left out"


@pytest.mark.parametrize(
    ("closed", "line", "code"),
    [
        ("stdin", ["awakeables", "resolve", "sign_1", "-"], 2),  # the value is empty
        ("stdin", ["invocations", "kill", "--service", "Shop"], 2),  # nobody can be asked
        ("stdout", ["invocations", "list"], 0),
        ("stderr", ["invocations", "describe", f"inv_1{'0' * 33}"], 3),
    ],
)
def test_what_the_shell_has_closed_is_empty_or_goes_nowhere(
    running: Scene, monkeypatch: pytest.MonkeyPatch, closed: str, line: list[str], code: int
) -> None:
    """`<&-`, `>&-`: Python has nothing in its place then."""
    monkeypatch.setattr(sys, closed, None)
    monkeypatch.setattr(sys, "argv", ["durable", *line, "--db", str(running.path)])
    with pytest.raises(SystemExit) as ended:
        main()
    getattr(sys, closed).close()
    assert ended.value.code == code
