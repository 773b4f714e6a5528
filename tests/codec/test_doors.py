"""What no file may show: every value, through whatever door it came."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durable import Engine
from durable.codec import Sealing, key_id_of
from durable.core.effects import Writes
from durable.core.journal import Kind
from durable.encryption import AesGcm, new_key
from durable.store.rows import fixed
from durable.store.sealing import sealed_writes
from tests.codec.program import MARK, OTHERS, Said, ask_for_everything, doors, services
from tests.store.test_contract import in_line

#: Columns of text and bytes that hold values, each of which is encoded, and those that hold names and the like.
SEALED = {
    "_invocations.input", "_invocations.headers", "_invocations.output", "_invocations.last_failure",
    "journal.value", "journal.detail", "_state.value", "promises.value", "signals.value", "codec_keys.probe",
    "answered.print",
}  # fmt: skip
IN_CLEAR = {
    "_invocations": {
        "id", "service", "handler", "key", "flavor", "idempotency_key", "caller_id", "caller_target",
        "restarted_from", "seed", "origin", "status", "step_failures", "waiting_for",
    },
    "journal": {"kind", "name"},
    "_state": {"service", "key", "name"},
    "promises": {"service", "key", "name"},
    "signals": {"name"},
    "listeners": {"topic"},
    "settings": {"service", "options"},
    "services": {"name", "declaration"},
    "meta": {"name"},
    "subscriptions": {"id", "subscription"},
    "positions": {"cluster", "group_id", "topic"},
    "clusters": {"name", "cluster"},
    "codec_keys": {"key_id"},
    "answered": {"owner", "about", "key", "result", "id"},
    "_timers": set(),
}  # fmt: skip


def everything(path: Path, codec: AesGcm | None) -> tuple[dict[str, Any], Said, bytes]:
    """What came of it, what was said, and all bytes of the file, its log and a backup before the engine closed."""
    said = Said()

    async def main() -> tuple[dict[str, Any], bytes]:
        async with Engine(path, services=services(said), codec=codec, synchronous="NORMAL") as engine:
            got = await ask_for_everything(engine, said)
            await engine.backup(path.with_suffix(".backup"))
            found = bytes_of(path, path.with_name(f"{path.name}-wal"), path.with_suffix(".backup"))
        return got, found

    got, found = asyncio.run(main())
    return got, said, found + bytes_of(path)


def bytes_of(*files: Path) -> bytes:
    """All that is in some files, of which none is empty."""
    found = [file.read_bytes() for file in files]
    assert all(found)
    return b"".join(found)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Said, bytes]:
    path = tmp_path_factory.mktemp("encoded") / "app.db"
    return path, *everything(path, AesGcm({"k1": new_key()}))


def test_what_comes_through_any_door_is_in_the_clear_file_and_in_no_byte_of_the_encoded_one(
    tmp_path: Path, encoded: tuple[Path, dict[str, Any], Said, bytes]
) -> None:
    """File, log and backup; each text is in the file that has no codec, so none was forgotten on the way."""
    _, got, said, found = encoded
    clear, clear_said, clear_found = everything(tmp_path / "clear.db", None)
    assert said.doors == clear_said.doors == doors() | OTHERS
    assert {text for text in said.texts() if text.encode() not in clear_found} == set()
    assert MARK.encode() not in found
    for one in (got, clear):
        one.pop("retried")  # it has a time
    assert got == clear


def test_every_kind_of_entry_was_written(encoded: tuple[Path, dict[str, Any], Said, bytes]) -> None:
    with sqlite3.connect(encoded[0]) as database:
        kinds = {kind for (kind,) in database.execute("SELECT DISTINCT kind FROM journal")}
    database.close()
    assert kinds == {str(kind) for kind in Kind}


def test_every_column_is_one_of_names_or_is_encoded(encoded: tuple[Path, dict[str, Any], Said, bytes]) -> None:
    """A column that is added is one or the other, or this fails."""
    with sqlite3.connect(encoded[0]) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert set(tables) == IN_CLEAR.keys()
        for table in tables:
            layout = database.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall()
            for column, kind in layout:
                if kind == "INTEGER" or column in IN_CLEAR[table]:
                    continue
                assert f"{table}.{column}" in SEALED, f"does {table}.{column} hold values?"
                sql = f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"
                stored = [value for (value,) in database.execute(sql)]
                assert any("k1" in (key_id_of(value), *_inside(value)) for value in stored), f"{table}.{column}"
                if kind == "BLOB":
                    assert {key_id_of(value) for value in stored} == {"k1"}
    database.close()


def _inside(value: Any) -> list[str]:
    """The keys of texts in JSON."""
    return ["k1"] if isinstance(value, str) and '"encrypted, key k1: ' in value else []


def test_records_that_are_stored_as_rows_are_encoded_like_any_other() -> None:
    secret, some = b'"a secret"', in_line(3)
    hidden = msgspec.structs.replace(some.records, inputs=[secret] * 3, headers=['{"h":"a secret"}'] * 3)
    writes = Writes(in_line=[msgspec.structs.replace(some, records=hidden)])
    out = sealed_writes(Sealing(AesGcm({"k": new_key()})), writes)
    assert out.rows == writes.rows == 3
    assert not [row for row in map(fixed, out.with_all().created.values()) if b"secret" in str(row).encode()]
