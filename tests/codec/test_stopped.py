"""Who looks at a file without its codec sees that values are encoded, and with which key; never garbage."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from durable.admin.sql.reader import Facts, QueryLimits, query
from durable.codec import Keyless, Sealing
from durable.testing import run
from tests.cli.typed import Typed, typed
from tests.codec.support import keyed
from tests.codec.test_keys import SERVICES, Box, Flow, listen, quick, stuck, work
from tests.runtime.support import engine_on, settled

SEALED = '{"encrypted":"k1"}'
TOLD = "(encrypted, key k1)"
#: What tests name as `--codec`.
K1, K2, WRONG, NOTHING = keyed("k1"), keyed("k1", "k2"), keyed("k1", wrong=True), object()


def codec() -> Any:
    """A function that makes one."""
    return K2


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with some of everything, whose engine is stopped."""
    found = tmp_path_factory.mktemp("stopped") / "app.db"

    async def story() -> None:
        async with engine_on(found, *SERVICES, codec=K1) as engine:
            await engine.call(quick, "for-no-eyes", headers={"h": "for-no-eyes"})
            await settled(engine, (await engine.send(stuck, "for-no-eyes")).id)
            await engine.send(quick, "bad")
            await engine.call(Box.put, "for-no-eyes", key="a")
            await engine.call(Box.look, key="a")
            listening = await engine.send(listen)
            await engine.send_signal(listening.id, "word", "for-no-eyes")
            await engine.send(Flow.run, key="f")
            await engine.resolve_promise("Flow", "f", "word", "for-no-eyes")
            await engine.send(work, "for-no-eyes")
            await asyncio.sleep(1)

    run(story)
    return found


def at(path: Path, *words: str, codec: str = "") -> Typed:
    """A command on the file."""
    group, name, *rest = words
    named = ["--codec", f"tests.codec.test_stopped:{codec}"] if codec else []
    return typed(group, name, "--db", str(path), *named, *rest)


def test_listings_and_descriptions_say_that_values_are_encrypted(path: Path) -> None:
    before = path.read_bytes()
    listed = json.loads(at(path, "invocations", "list", "--json").out)["invocations"]
    assert len(listed) == 8
    shown = "".join(at(path, "invocations", "describe", "--json", one["id"]).out for one in listed)
    assert "for-no-eyes" not in shown and "\\ufffd" not in shown and "durable\\u0001" not in shown
    assert TOLD in shown
    assert '{"encrypted": "k1"}' in at(path, "state", "get", "Box", "a").out
    told = at(path, "invocations", "describe", next(one["id"] for one in listed if one["target"] == "S/quick"))
    assert told.code == 0 and "encrypted" in told.out
    assert path.read_bytes() == before


@pytest.mark.parametrize("codec", ["K1", "codec"])
def test_with_a_codec_a_stopped_file_shows_its_values(path: Path, codec: str) -> None:
    listed = json.loads(at(path, "invocations", "list", "--json", codec=codec).out)["invocations"]
    paused = next(one["id"] for one in listed if one["target"] == "S/stuck")
    assert "it failed for for-no-eyes" in at(path, "invocations", "describe", paused, codec=codec).out
    assert "for-no-eyes" in at(path, "state", "get", "Box", "a", codec=codec).out


def test_without_a_codec_nothing_can_be_changed_and_with_it_everything(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "app.db"
    copy.write_bytes(path.read_bytes())
    [id] = [
        one["id"]
        for one in json.loads(at(copy, "invocations", "list", "--json").out)["invocations"]
        if one["target"] == "S/listen"
    ]
    refused = at(copy, "invocations", "cancel", id)
    assert refused.code == 4 and "'k1'" in refused.err and "--codec MODULE:CODEC" in refused.err
    wrong = at(copy, "invocations", "cancel", id, codec="WRONG")
    assert wrong.code == 4 and "'k1'" in wrong.err
    assert at(copy, "signals", "send", id, "word", '"x"').code == 4
    assert at(copy, "promises", "peek", "Flow", "f", "word").out == '{\n  "encrypted": "k1"\n}\n'
    assert at(copy, "promises", "peek", "Flow", "f", "word", codec="K1").out == '"for-no-eyes"\n'
    assert at(copy, "signals", "send", id, "word", '"x"', codec="K1").code == 0
    assert at(copy, "invocations", "cancel", id, codec="K1").code == 0
    assert at(copy, "invocations", "list", codec="NOTHING").code == 2
    assert at(copy, "invocations", "list", codec="missing").code == 2


def test_a_stopped_file_is_encoded_anew(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "app.db"
    copy.write_bytes(path.read_bytes())
    before = json.loads(typed("codec-keys", str(copy), "--json").out)
    assert before["keys"].keys() == {"k1"} and before["in_clear"] == 0
    told = typed("encode-again", "--db", str(copy), "--codec", "tests.codec.test_stopped:codec")
    assert told.code == 0 and f"{before['keys']['k1']} rows encoded with the key k2" in told.out
    assert typed("codec-keys", str(copy)).out == f"k2: {before['keys']['k1']} rows\n"
    assert typed("check-file", str(copy)).code == 0
    left = typed("encode-again", "--db", str(copy), "--codec", "tests.codec.test_stopped:WRONG")
    assert left.code == 1 and "0 rows encoded" in left.out and "k2 (15 rows)" in left.err


def test_the_views_for_people_say_it_too(path: Path) -> None:
    with sqlite3.connect(path) as database:
        for view, column in (
            ("invocations", "input"), ("invocations", "output"), ("invocations", "headers"),
            ("invocations", "failure"),
            ("steps", "value"), ("state", "value"), ("failures", "message"), ("failures", "stacktrace"),
        ):  # fmt: skip
            shown = {value for (value,) in database.execute(f"SELECT {column} FROM {view}")}
            assert shown - {None} == {TOLD}, f"{view}.{column} is {shown}"
    database.close()


def test_sql_for_operators_decodes_with_the_key_and_says_so_without(path: Path) -> None:
    """What `restate` and `durable state get` are answered from; conditions and orders are over what is in clear."""
    facts = Facts(services=[], deployment=None, now=1_893_456_000_000)

    def ask(column: str, table: str, codec: Any) -> set[Any]:
        sql = f"SELECT {column} AS it FROM {table} WHERE {column} IS NOT NULL ORDER BY 1"
        found = query(str(path), sql, facts, QueryLimits(), show_payloads=True, sealing=Sealing(codec))
        return {row[0] for row in found.rows}

    for column, table, clear in (
        ("value_utf8", "state", {'"for-no-eyes"'}),
        ("completion_success_value_utf8", "sys_promise", {'"for-no-eyes"'}),
    ):
        assert ask(column, table, Keyless()) == {SEALED}
        assert ask(column, table, K2) == clear
    assert ask("raw", "sys_journal", Keyless()) == {SEALED.encode()}
    assert b'"noted for-no-eyes"' in ask("raw", "sys_journal", K2)
    assert ask("completion_failure", "sys_invocation", K1) == {"[409] no bad"}
    assert {text.partition("] ")[2] for text in ask("last_failure", "sys_invocation", Keyless())} == {TOLD}
    assert ask("last_failure", "sys_invocation", K1) == {"[500] ValueError: it failed for for-no-eyes"}
