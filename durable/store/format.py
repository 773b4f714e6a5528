"""The format of a database: whether it is ours, its schema version, and how to bring an old one up to date."""

import sqlite3

from durable.errors import StorageCorruptError, StorageVersionError

#: "durabl" and a version of the format as a whole, in SQLite's application id.
APPLICATION_ID = 0x64757201


def migrations() -> list[tuple[int, str]]:
    """Every schema version and its script, in order."""
    from importlib import resources  # it brings archives and temporary files along: only once an engine starts

    folder = resources.files("durable.store.migrations")
    scripts = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted((int(file.name.removesuffix(".sql")), file.read_text("utf-8")) for file in scripts)


def check_version(database: sqlite3.Connection, path: str) -> int:
    """The version of the schema, 0 in an empty file.

    Raises `StorageCorruptError` for another program's database, `StorageVersionError` for one of a newer version.
    """
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    application = int(database.execute("PRAGMA application_id").fetchone()[0])
    tables = int(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if application != APPLICATION_ID and (tables or application):
        raise StorageCorruptError(
            f"{path} is an SQLite database of another program. Give the engine a file of its own. (If it is one of "
            f"ours, its header is damaged: durable.restore(backup, {path!r}).)"
        )
    newest = max(number for number, _ in migrations())
    if version > newest:
        raise StorageVersionError(
            f"{path} has schema version {version}, written by a newer durable; this one knows up to "
            f"{newest}. Upgrade the package (the file was not touched). If no newer one ever had it, it is damaged: "
            f"durable.restore(backup, {path!r})."
        )
    return version


def check_soundness(database: sqlite3.Connection, path: str) -> None:
    """Raise a `StorageError` unless this is a whole database of this package. Reads all of it."""
    if check_version(database, path) < 1:
        raise StorageCorruptError(f"{path} is not a database of durable: it is empty")
    found = [row[0] for row in database.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise StorageCorruptError(f"{path} is damaged: {'; '.join(map(str, found))}")


def migrate(database: sqlite3.Connection, version: int) -> None:
    """Bring the schema up to date, each step in one transaction."""
    for number, script in migrations():
        if number > version:
            database.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID};\n{script}\n"
                f"PRAGMA user_version = {number}; COMMIT;"
            )
