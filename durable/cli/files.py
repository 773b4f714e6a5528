"""`durable backup`, `restore`, `check-file`: database files, whether an engine runs on them or not."""

import os
from typing import Any

import click
import msgspec
from anyio import to_thread

from durable.cli.asking import agreed
from durable.cli.commands import ADMIN, DB, JSON, TOKEN, Desk, command, where_of
from durable.cli.exits import Failed, unreachable
from durable.cli.places import Need, codec_named, file_of, reach
from durable.cli.sessions import json_of
from durable.cli.words import many
from durable.errors import EngineLockedError, StorageCorruptError, StorageError, StorageVersionError
from durable.store.checking import check_file
from durable.store.encoded import EncodedStore
from durable.store.paths import database_path, unlike_a_file
from durable.store.recoding import keys_in_use
from durable.store.restore import restore as put_back
from durable.store.stopped import ReadOnlyStore, StoppedStore

_group = click.Group("files")


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    for one in (backup, restore, check, keys, again):
        root.add_command(one)


def somewhere(work: Any) -> Any:
    """Give a command what says where an engine is, for one that opens files itself."""
    work.__click_params__ = [TOKEN, ADMIN, DB, *getattr(work, "__click_params__", [])]
    return work


@command(_group, "backup", Need.NOTHING)
@click.argument("target")
@somewhere
async def backup(desk: Desk, target: str, **typed: str | None) -> None:
    """Write a consistent copy of a database to a new file, whether its engine runs or not.

    The copy is complete or does not exist, even after a power cut. 'durable restore' puts it back. At a URL, TARGET
    is a name in the folder that the admin API writes to ('durable serve --backup-folder').
    """
    where = where_of(typed)
    if where.db is None:
        async with reach(where, Need.ENGINE) as place:
            body = msgspec.json.encode({"name": target})
            written = json_of(await place.admin.ask("POST", "/backup", body=body, headers=JSON))
        _told(desk, f"{place.name} is copied to {written['path']}", written)
        return
    path = file_of(where.db)
    store = ReadOnlyStore(path, beside=True)
    try:
        await store.open()
    except StorageError as error:
        raise unreachable(str(error)) from None
    try:
        await store.backup(target)
    finally:
        await store.close()
    written_to = database_path(target)
    _told(desk, f"{path} is copied to {written_to}", {"path": written_to, "bytes": size_of(written_to)})


@command(_group, "restore", Need.NOTHING)
@click.argument("source", metavar="BACKUP")
@click.option(
    "--db", metavar="FILE", envvar="DURABLE_DB", show_envvar=True, required=True, help="The database to replace."
)
@click.option("--yes", "-y", is_flag=True, help="Replace the database without asking.")
async def restore(desk: Desk, source: str, db: str, yes: bool) -> None:
    """Replace a database whose service is stopped by a backup. The replaced file is kept beside it."""
    file_of(source, "the backup")
    if wrong := unlike_a_file(database_path(db)):
        raise unreachable(wrong)
    if size_of(database_path(db)) and not yes:
        agreed(desk.out, f"replace {db} by {source}? What was done since is forgotten, and may be done again.")
    try:
        replaced = await to_thread.run_sync(put_back, source, db)
    except (EngineLockedError, StorageCorruptError, StorageVersionError) as error:
        raise unreachable(str(error)) from None
    then = "" if replaced is None else f"; what was there is {replaced} now"
    _told(desk, f"{source} is restored as {db}{then}", {"path": db, "replaced": replaced and str(replaced)})


@command(_group, "check-file", Need.NOTHING)
@click.argument("file")
async def check(desk: Desk, file: str) -> None:
    """Read all of a database and report what is damaged: pages, and rows whose checksum is wrong.

    The file is not changed, and its engine may run meanwhile.
    """
    path = file_of(file)
    try:
        found = await check_file(path)
    except StorageError as error:
        raise unreachable(str(error)) from None
    if desk.out.form == "text":
        for trouble in found.troubles:
            desk.out.text(trouble)
        desk.out.text(
            f"{path}: {many(found.invocations, 'invocation')}, {many(found.keys, 'key')} with state; {found.verdict}"
        )
    elif desk.out.form == "json":
        desk.out.value(
            {"path": path, "sound": not found.troubles, "invocations": found.invocations, "keys": found.keys,
             "troubles": found.troubles}
        )  # fmt: skip
    else:
        for trouble in found.troubles:
            desk.out.value({"trouble": trouble})
    if found.troubles:
        raise Failed(f"{path} is damaged: 'durable restore' puts a backup in its place")


@command(_group, "codec-keys", Need.NOTHING)
@click.argument("file")
async def keys(desk: Desk, file: str) -> None:
    """Count the rows of a database that need each key of its codec. This reads all of it.

    The file is not changed, and its engine may run meanwhile. A key that is not listed can be removed.
    """
    path = file_of(file)
    store = ReadOnlyStore(path, beside=True)
    try:
        await store.open()
        try:
            found = await store.survey(keys_in_use)
        finally:
            await store.close()
    except StorageError as error:
        raise unreachable(str(error)) from None
    if desk.out.form == "text":
        for id, rows in sorted(found.items()):
            desk.out.text(f"{id or 'in clear'}: {many(rows, 'row')}")
    else:
        desk.out.value({"path": path, "in_clear": found.pop("", 0), "keys": found})


@command(_group, "encode-again", Need.NOTHING)
@click.option("--db", metavar="FILE", envvar="DURABLE_DB", show_envvar=True, required=True, help="A stopped file.")
@click.option("--codec", metavar="MODULE:CODEC", envvar="DURABLE_CODEC", show_envvar=True, required=True,
              help="The codec with all keys; the newest one encodes.")  # fmt: skip
async def again(desk: Desk, db: str, codec: str) -> None:
    """Encode all values of a stopped file that have an older key, or are in clear, with the newest key of a codec.

    If it is cut short, run it again. A running engine can do it, too: engine.encode_again().
    """
    path, found = file_of(db), codec_named(codec)
    assert found is not None
    store = EncodedStore(StoppedStore(path), found)
    try:
        await store.open()
        try:
            rows = await store.encode_again()
            left = {id: count for id, count in (await store.keys_in_use()).items() if id != found.key_id}
        finally:
            await store.close()
    except StorageError as error:
        raise unreachable(str(error)) from None
    _told(desk, f"{path}: {many(rows, 'row')} encoded with the key {found.key_id}", {"path": path, "rows": rows})
    if left:
        named = ", ".join(f"{id or 'in clear'} ({many(count, 'row')})" for id, count in sorted(left.items()))
        raise Failed(f"left as they are, because the codec lacks the key, or they are damaged: {named}")


def size_of(path: str) -> int:
    """In bytes; 0 where there is no file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _told(desk: Desk, text: str, value: Any) -> None:
    if desk.out.form == "text":
        desk.out.text(text)
    else:
        desk.out.value(value)
