"""One statement, read-only and bounded: on a connection of its own, in a thread, by somebody who may write anything.

What keeps it harmless, each enough by itself against most of what could be tried:

- The file is attached read-only, and nothing but temporary views was ever written by this connection.
- An authorizer lets through SELECT, reads and a list of functions: no PRAGMA, ATTACH or recursion, no writes.
- The engine's tables cannot be named: the file is attached under a random name, and every name in it is hidden behind
  an empty temporary view.
- Time, rows, bytes, temporary files, lengths, the size of the statement and what it can grow to are limited.
- What cannot be interrupted does not take long: neither the making of a plan (`growth`), nor any function
  (`searching`).
"""

import re
import secrets
import sqlite3
import time
from collections.abc import Sequence, Set
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from durable.admin.sql import arrow, searching
from durable.admin.sql.column import in_clear
from durable.admin.sql.dialect import SqlError, to_sqlite, tokens
from durable.admin.sql.growth import check_growth
from durable.admin.sql.tables import BOOLEANS, DOCUMENTS, KINDS, NAMES, TABLES, information_schema
from durable.admin.sql.watch import Watch
from durable.codec import Sealing
from durable.core.duration import parse
from durable.store.sealing import decoded

_READABLE = NAMES | {"information_schema_columns", "information_schema_tables", "_service", "_deployment"}
#: Functions that compute something from their arguments, in bounded time and space. (How much json_group_array has in
#: memory is limited by nothing.)
_FUNCTIONS = frozenset(
    re.findall(
        r"\S+",
        """
        abs avg ceil ceiling char coalesce concat concat_ws count cume_dist date datetime dense_rank exp first_value
        floor group_concat hex ifnull iif instr json json_array json_array_length json_each json_extract
        json_object json_quote json_tree json_type json_valid julianday lag
        last_value lead length like ln log lower ltrim max min mod now now_and nth_value ntile nullif percent_rank pow
        power rank replace round row_number rtrim sign sqrt strftime substr substring sum time total trim trunc
        typeof unicode unixepoch upper -> ->>
        """,
    )
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: searching.LENGTH_MAX,  # of a value, and of a row that is sorted
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 128 * 1024,
    sqlite3.SQLITE_LIMIT_COLUMN: 128,  # with that, of how much is in memory at once
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 32,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 1,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


#: How many steps of SQLite's machine lie between two looks at the time.
_STEPS = 1000


class QueryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one statement may take."""

    seconds: float = 5.0
    rows: int = 50_000
    #: Of the result, about.
    bytes: int = 32 * 1024 * 1024
    #: Of the statement.
    length: int = 64 * 1024
    #: Of temporary files, for sorting: about, and together with whatever else fills that disk meanwhile.
    temporary_bytes: int = 256 * 1024 * 1024


class TooMuch(SqlError):
    """A statement that ran into a limit. `status` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the file does not say."""

    #: Name, revision, public, type, deployment's id.
    services: Sequence[tuple[str, int, bool, str, str]]
    #: Id, endpoint, when it was deployed, what runs it.
    deployment: tuple[str, str, str, str] | None
    now: int


class Result(msgspec.Struct, frozen=True):
    """Columns and rows, each row a tuple."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def kinds(self) -> list[tuple[str, arrow.Kind]]:
        """Columns with their types, which SQLite does not know: those of the values."""
        return [(name, _kind(name, [row[at] for row in self.rows])) for at, name in enumerate(self.columns)]

    def json(self) -> bytes:
        """`{"rows": [{…}]}`; what is null is left out, bytes are hexadecimal."""
        kinds = self.kinds()
        pieces = [msgspec.json.encode(_object(kinds, row)) for row in self.rows]  # in pieces: others want to run, too
        return b'{"rows":[' + b",".join(pieces) + b"]}"

    def arrow(self) -> bytes:
        """An Arrow stream."""
        return b"".join(arrow.stream(self.kinds(), self.rows))


def query(
    path: str, sql: str, facts: Facts, limits: QueryLimits, *, show_payloads: bool, sealing: Sealing | None = None
) -> Result:
    """Run one statement. Raises `SqlError`, `TooMuch`, and `sqlite3.Error` where the file cannot be read.

    `sealing` decodes values.
    """
    if len(sql) > limits.length:
        raise TooMuch(413, f"the statement is longer than {limits.length} characters")
    if "\0" in sql or sql.encode("utf-8", "replace").decode() != sql:
        raise SqlError("the statement has a NUL character, or is not valid Unicode")
    text = to_sqlite(sql).rstrip("; ")
    words = tokens(text)
    if not words or words[0].lower() not in ("select", "with", "values"):
        raise SqlError("only SELECT can be asked")
    named = check_growth(words, _sizes())
    connection = sqlite3.connect("file::memory:", uri=True, isolation_level=None, timeout=limits.seconds)
    connection.text_factory = _text  # a value may be bytes of any kind, and a statement may cast it
    try:
        denied: list[str] = []
        decode = None if sealing is None else f"_{secrets.token_hex(16)}"
        database = _prepare(connection, path, facts, show_payloads, decode)
        if sealing is not None and decode is not None:
            connection.create_function(decode, -1, partial(decoded, sealing), deterministic=True)
        connection.set_authorizer(_authorizer(database, named, denied, decode))
        return _run(connection, text, limits, denied)
    finally:
        connection.close()


@cache
def _sizes() -> dict[str, int]:
    """How many words columns of views are: of one name, the longest; of "*", all of the longest view."""
    sizes = {"*": 0}
    for table in TABLES:
        words = {column.name: len(tokens(in_clear(column.value))) for column in table.columns}
        sizes["*"] = max(sizes["*"], sum(words.values()))
        sizes |= {name: max(size, sizes.get(name, 0)) for name, size in words.items()}
    return sizes


def _text(found: bytes) -> str:
    return found.decode("utf-8", "replace")


def _prepare(
    connection: sqlite3.Connection, path: str, facts: Facts, show_payloads: bool, decode: str | None = None
) -> str:
    """Make everything that can be asked; returns the name of the engine's database."""
    database = f"_{secrets.token_hex(16)}"
    connection.execute(f"ATTACH ? AS {database}", (f"{Path(path).as_uri()}?mode=ro",))
    connection.execute("PRAGMA temp_store = FILE")  # what is sorted goes to an unlinked file, not to memory
    connection.execute("CREATE TEMP TABLE _service (name, revision, public, ty, deployment_id)")
    connection.executemany("INSERT INTO _service VALUES (?, ?, ?, ?, ?)", facts.services)
    connection.execute("CREATE TEMP TABLE _deployment (id, endpoint, created_at, server, services)")
    if facts.deployment is not None:
        services = msgspec.json.encode([name for name, *_ in facts.services]).decode()
        connection.execute("INSERT INTO _deployment VALUES (?, ?, ?, ?, ?)", (*facts.deployment, services))
    for statement in information_schema():
        connection.execute(statement)
    for table in TABLES:
        connection.execute(table.view(database, show_payloads=show_payloads, decode=decode))
    own = connection.execute(f"SELECT name FROM {database}.sqlite_master WHERE type IN ('table', 'view')")
    for (name,) in own.fetchall():
        if name not in _READABLE and not name.startswith("sqlite_"):
            quoted = name.replace('"', '""')
            connection.execute(f'CREATE TEMP VIEW "{quoted}" AS SELECT NULL AS hidden WHERE 0')
    for function, arguments, work in searching.FUNCTIONS:
        connection.create_function(function, arguments, work, deterministic=True)
    connection.create_function("now", 0, lambda: _instant(facts.now))
    connection.create_function("now_and", 2, lambda sign, text: _instant(facts.now, sign, text))
    connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")  # made here: not allowed later
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.execute("PRAGMA query_only = ON")
    return database


def _authorizer(database: str, named: Set[str], denied: list[str], decode: str | None) -> Any:
    """`named` are the queries of WITH, of which SQLite says where only their rows are counted.

    `denied` gets the names of tables that are there and cannot be asked, which reads the same as what is not there.
    """
    own = frozenset(name for name in named if not name.startswith(("sqlite_", "pragma_")))

    def allow(action: int, one: str | None, two: str | None, where: str | None, view: str | None) -> int:
        match action:
            case sqlite3.SQLITE_SELECT:
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_READ if where == database or one in _READABLE or one in ("json_each", "json_tree"):
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_READ if one is not None and one.lower() in own and where is None and two == "":
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_FUNCTION if two in _FUNCTIONS or (decode is not None and two == decode):
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_READ if one:
                denied.append(one)
        return sqlite3.SQLITE_DENY

    return allow


def _run(connection: sqlite3.Connection, text: str, limits: QueryLimits, denied: Sequence[str]) -> Result:
    watch = Watch(limits.seconds, limits.temporary_bytes)
    connection.set_progress_handler(watch, _STEPS)
    rows: list[tuple[Any, ...]] = []
    size = 0
    try:
        cursor = connection.execute(text)
        columns = tuple(name for name, *_ in cursor.description)
        shown = [at for at, name in enumerate(columns) if not name.startswith("_")]
        for row in cursor:  # one at a time: each may have megabytes
            if len(shown) < len(columns):
                row = tuple(row[at] for at in shown)
            rows.append(row)
            size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
            if len(rows) > limits.rows:
                raise TooMuch(422, f"more than {limits.rows} rows: add a LIMIT, or a narrower WHERE")
            if size > limits.bytes:
                raise TooMuch(422, f"the result has more than {limits.bytes} bytes: select fewer rows or columns")
    except MemoryError:  # one of SQLite's own limits, as a rule
        raise TooMuch(422, "the statement takes too much memory: ask for less at once") from None
    except sqlite3.Error as error:
        if watch.late:
            raise TooMuch(408, f"the statement took longer than {limits.seconds:g} seconds") from None
        if watch.greedy:
            most = limits.temporary_bytes // 2**20
            raise TooMuch(422, f"what is sorted took more than {most} MiB on disk, or somebody else did") from None
        raise _explained(error, denied) from None
    return Result(tuple(columns[at] for at in shown), rows)


def _explained(error: sqlite3.Error, denied: Sequence[str]) -> Exception:
    """A fault of the statement as `SqlError`; a fault of the file as it is."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN")):
        return error
    missing = _NO_TABLE.fullmatch(str(error))
    table = denied[-1] if denied else missing and missing[1]
    if table:
        [like] = get_close_matches(table, sorted(NAMES), 1) or [""]
        return SqlError(
            f"no such table: {table}{f' ({like}?)' if like else ''}; "
            "SELECT table_name FROM information_schema.tables lists them"
        )
    return SqlError(str(error))


_NO_TABLE = re.compile(r"no such table: (.*)", re.DOTALL)


def _kind(name: str, values: Sequence[Any]) -> arrow.Kind:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return KINDS.get(name, "text")
    if kinds == {int}:
        return "bool" if name in BOOLEANS and {*values} <= {0, 1, None} else "int"
    if kinds <= {int, float}:
        return "float"
    return "binary" if kinds == {bytes} else "text"


def _object(kinds: Sequence[tuple[str, arrow.Kind]], row: tuple[Any, ...]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for (name, kind), value in zip(kinds, row, strict=True):
        if value is None:
            continue
        if isinstance(value, bytes):
            shown[name] = value.hex()
        elif kind == "bool":
            shown[name] = bool(value)
        else:
            shown[name] = msgspec.Raw(value.encode()) if name in DOCUMENTS and isinstance(value, str) else value
    return shown


def _instant(now: int, sign: str = "+", duration: str = "0") -> str:
    ms = now + (-1 if sign == "-" else 1) * parse(duration.strip())
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03}Z"
