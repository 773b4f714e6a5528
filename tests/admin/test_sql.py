"""SQL for operators: the queries of Restate's command line, and what somebody hostile could write instead."""

import asyncio
import itertools
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa  # type: ignore[import-untyped]
import pytest

from durable import Engine, ObjectContext, VirtualObject, handler
from durable.admin import QueryLimits, create_app
from durable.admin.sql import arrow, reader
from durable.admin.sql.column import SHOWN_BYTES
from durable.admin.sql.dialect import SqlError, to_sqlite
from durable.admin.sql.reader import _READABLE, Facts, Result, TooMuch, query
from durable.admin.sql.searching import FUNCTIONS
from durable.admin.sql.tables import TABLES
from tests.admin.hostile import GREEDY, HIDDEN, LONG, MADE, STATEMENTS
from tests.admin.support import Desk, Served, services, story

FACTS = Facts(
    services=[("Cart", 1, True, "virtual_object", "dp_1"), ("Greeter", 2, False, "service", "dp_1")],
    deployment=("dp_1", "http://embedded.invalid/", "2026-11-29T00:00:00.000Z", "durable/1 python/3"),
    now=1_796_000_000_123,
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file with some of everything, as an engine left it that is still there."""
    path = tmp_path_factory.mktemp("sql") / "app.db"

    async def fill() -> None:
        desk = Desk()
        async with Engine(path, services=services(desk), synchronous="NORMAL", inactivity_timeout=0) as engine:
            admin = Served(engine, desk, None)  # type: ignore[arg-type]
            await admin.completed("Greeter/greet", "you", idempotency_key="one")
            await admin.reaches(await admin.send("Greeter/fail"), "backing-off")
            await admin.reaches(await admin.send("Greeter/stop"), "paused")
            await admin.reaches(await admin.send("Greeter/wait"), "suspended")
            await admin.send("Greeter/greet", "later", delay="1h")
            await admin.completed("Cart/add", "shoe", key="k")
            await admin.reaches(await admin.send("Cart/hold", key="k"), "running")
            await admin.send("Cart/add", "hat", key="k")
            killed = await admin.send("SignUp/run", key="w")
            await engine.kill(killed)
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", path.parent / f"copy.db{suffix}")
            desk.gate.set()

    asyncio.run(fill())
    yield path.parent / "copy.db"


def ask(path: Path, sql: str, show_payloads: bool = True, **limits: Any) -> Result:
    return query(str(path), sql, FACTS, QueryLimits(**limits), show_payloads=show_payloads)


def rows(path: Path, sql: str) -> list[dict[str, Any]]:
    result = ask(path, sql)
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


# ---- what Restate's command line asks ----


def test_every_table_can_be_read_and_has_restates_columns(database: Path) -> None:
    for table in TABLES:
        assert ask(database, f"SELECT * FROM {table.name}").columns == tuple(column.name for column in table.shown)
        listed = rows(
            database,
            f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table.name}'"
            " ORDER BY ordinal_position",
        )
        assert [row["column_name"] for row in listed] == [column.name for column in table.shown]


def test_an_invocation_reads_as_it_does_from_restates_server(database: Path) -> None:
    found = {row["target"]: row for row in rows(database, "select * from sys_invocation order by created_at desc")}
    statuses = {row["status"] for row in rows(database, "SELECT status FROM sys_invocation")}
    assert statuses == {"completed", "backing-off", "paused", "suspended", "scheduled", "running", "pending"}
    stopped, failing, killed = found["Greeter/stop"], found["Greeter/fail"], found["SignUp/w/run"]
    assert stopped["target_service_ty"] == "service"
    assert stopped["invoked_by"] == "ingress"
    assert stopped["last_failure"] == "[500] ValueError: paused"
    assert stopped["completion_retention"] == "PT86400S"
    assert failing["next_retry_at"] > failing["created_at"]
    assert (killed["completion_result"], killed["completion_failure"]) == ("failure", "[409] killed")
    assert killed["target_service_key"] == "w"


CLI = [
    """SELECT target_service_name, target_handler_name, 'pending' as status, COUNT(1) as num_invocations,
       MIN(created_at) as oldest_at, FIRST_VALUE(id ORDER BY created_at ASC) as oldest_invocation
       FROM sys_invocation_status WHERE status == 'inboxed' AND target_service_name IN ('Cart','Greeter')
       GROUP BY target_service_name, target_handler_name""",
    """SELECT service_name, service_key, COUNT(1) as num_pending FROM sys_inbox WHERE service_name IN ('Cart')
       GROUP BY service_name, service_key ORDER BY num_pending DESC""",
    """SELECT target_service_name as service_name, target_service_key as service_key, status as invocation_status,
       first_value(id) as invocation_holding_lock, first_value(target_handler_name) as handler,
       first_value(last_failure) as last_failure_message, 0 as num_pending, sum(retry_count) as num_retries
       FROM sys_invocation WHERE status != 'pending' AND target_service_name IN ('Cart')
       GROUP BY target_service_name, target_service_key, status""",
    """SELECT inv.id, inv.target, dp.id IS NOT NULL as pinned_deployment_exists FROM sys_invocation inv
       LEFT JOIN sys_deployment dp ON dp.id = inv.pinned_deployment_id WHERE inv.target_service_name = 'Cart'
       ORDER BY inv.created_at DESC, inv.id""",
    "SELECT COUNT(1) FROM (SELECT * FROM sys_invocation inv LIMIT 50000 ) WHERE status != 'completed'",
    """SELECT COUNT(1) FROM (SELECT * FROM sys_invocation inv LIMIT 50000 )
       WHERE inv.target_service_name IN ('Greeter') AND status IN ('running','suspended','backing-off')""",
    "SELECT COUNT(*) FROM information_schema.columns WHERE table_name = 'sys_journal' AND column_name IN ('name')",
    """SELECT sj.index, sj.entry_type, sj.completed, sj.sleep_wakeup_at, sj.version, sj.entry_json, sj.appended_at
       FROM sys_journal sj ORDER BY index DESC LIMIT 100""",
    "select key, value from state where service_name = 'Cart' and service_key = 'k' ;",
    """SELECT id, target FROM sys_invocation_status WHERE ((target = 'Greeter/boom' AND target_service_ty = 'service')
       OR (target LIKE 'Greeter/boom/%' AND target_service_ty != 'service')) AND status != 'completed' LIMIT 500""",
]


def test_the_queries_of_the_command_line_are_answered(database: Path) -> None:
    pending, inbox, locks, joined, open_, active, columns, journal, state, none = (rows(database, sql) for sql in CLI)
    [waiting] = rows(database, "SELECT id FROM sys_invocation WHERE status = 'pending'")
    assert [(row["num_invocations"], row["oldest_invocation"]) for row in pending] == [(1, waiting["id"])]
    assert inbox == [{"service_name": "Cart", "service_key": "k", "num_pending": 1}]
    [running] = [row for row in locks if row["invocation_status"] == "running"]
    assert (running["handler"], running["num_retries"]) == ("hold", 0)
    assert {row["pinned_deployment_exists"] for row in joined} == {0, 1}
    assert ask(database, CLI[3]).kinds()[2] == ("pinned_deployment_exists", "bool")
    assert open_ == [{"COUNT(1)": 6}] or list(open_[0].values()) == [6]
    assert list(active[0].values()) == [2]
    assert list(columns[0].values()) == [1]
    assert {row["index"] for row in journal} >= {0, 1}
    assert state == [{"key": "items", "value": b'["shoe"]'}]
    assert none == []


def plans(path: Path, sql: str) -> list[str]:
    """How SQLite reads the file for a statement."""
    connection = sqlite3.connect("file::memory:", uri=True, isolation_level=None)
    try:
        reader._prepare(connection, str(path), FACTS, True)
        connection.set_authorizer(None)
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {to_sqlite(sql)}")]
    finally:
        connection.close()


def test_what_the_command_line_asks_of_all_invocations_is_answered_by_indexes(database: Path) -> None:
    """Statements of `restate services status` and `invocations list`: no row is read to be counted or sorted."""
    service = "target_service_name IN ('Cart', 'Greeter')"
    listed = "ORDER BY inv.created_at DESC, inv.id LIMIT 100"
    for sql, index in (
        (CLI[0], "USING INDEX invocations_by_handler (service=?)"),
        (BY_HANDLER, "USING INDEX invocations_by_handler (service=?)"),
        (f"SELECT count(1) FROM sys_invocation WHERE {service}", "COVERING INDEX invocations_by_handler (service=?)"),
        (f"SELECT id FROM sys_invocation inv {listed}", "SCAN i USING INDEX invocations_created"),
        (
            f"SELECT id FROM sys_invocation inv WHERE status != 'completed' {listed}",
            "SCAN i USING INDEX invocations_open",
        ),
        (
            f"SELECT id FROM sys_invocation inv WHERE inv.status IN ('running', 'paused') {listed}",
            "SCAN i USING INDEX invocations_open",
        ),
        ("SELECT id FROM sys_invocation_status WHERE status = 'inboxed'", "invocations_open"),
    ):
        steps = plans(database, sql)
        assert index in steps[0], steps
        sorted_ = [step for step in steps if "USE TEMP B-TREE" in step]
        assert [step for step in sorted_ if "RIGHT PART" not in step] in ([], ["USE TEMP B-TREE FOR ORDER BY"]), steps


BY_HANDLER = """SELECT target_service_name, target_handler_name, status, COUNT(1) as num_invocations,
    MIN(created_at) as oldest_at, FIRST_VALUE(id ORDER BY created_at ASC) as oldest_invocation FROM sys_invocation
    WHERE target_service_name IN ('Cart','Greeter','SignUp')
    GROUP BY target_service_name, target_handler_name, status ORDER BY target_handler_name"""


def test_the_oldest_of_each_group_is_the_oldest(database: Path) -> None:
    everything = rows(database, "SELECT * FROM sys_invocation")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in everything:
        groups.setdefault((one["target_service_name"], one["target_handler_name"], one["status"]), []).append(one)
    for sql, pick in (
        (BY_HANDLER, min),
        (BY_HANDLER.replace("MIN(created_at) as oldest_at, ", ""), min),
        (BY_HANDLER.replace("MIN(created_at)", "max(modified_at)"), min),
        (BY_HANDLER.replace("MIN(", "MAX(").replace("created_at ASC", "created_at DESC"), max),
        (BY_HANDLER.replace("MIN(", "MAX("), min),
    ):
        found = rows(database, sql)
        assert len(found) == len(groups)
        for row in found:
            group = groups[row["target_service_name"], row["target_handler_name"], row["status"]]
            assert row["num_invocations"] == len(group)
            assert row["oldest_invocation"] in {
                one["id"] for one in group if one["created_at"] == pick(other["created_at"] for other in group)
            }
            assert row.get("oldest_at") in (
                None,
                *(one["created_at"] for one in group),
                *(one["modified_at"] for one in group),
            )


def test_a_status_is_the_same_condition_whatever_index_it_is_given(database: Path) -> None:
    everything = rows(database, "SELECT id, status FROM sys_invocation")
    for condition, statuses in (
        ("status != 'completed'", {one["status"] for one in everything} - {"completed"}),
        ("inv.status IN ('running','paused')", {"running", "paused"}),
        ("status IN ('running','completed')", {"running", "completed"}),
        ("NOT status = 'running' AND status <> 'nonsense'", {one["status"] for one in everything} - {"running"}),
        ("(status = 'paused' OR inv.status == 'pending')", {"paused", "pending"}),
        ("status = 'completed'", {"completed"}),
        ("status IN (SELECT 'paused')", {"paused"}),
    ):
        found = rows(database, f"SELECT id FROM sys_invocation inv WHERE {condition}")
        assert {row["id"] for row in found} == {one["id"] for one in everything if one["status"] in statuses}, (
            condition
        )
    stored = rows(database, "SELECT id FROM sys_invocation_status WHERE status = 'invoked'")
    assert {row["id"] for row in stored} == {
        one["id"] for one in everything if one["status"] in ("ready", "running", "backing-off")
    }


def test_a_subquery_computes_the_columns_that_are_asked_for() -> None:
    inner = "SELECT * FROM sys_invocation inv LIMIT 50000"
    assert to_sqlite(f"SELECT COUNT(1) FROM ({inner}) WHERE inv.status = 'x' AND target_service_name = 'y'") == (
        'SELECT COUNT(1) FROM(SELECT "target_service_name", "status" FROM sys_invocation inv LIMIT 50000)'
        " AS inv WHERE inv.status = 'x' AND target_service_name = 'y'"
    )
    assert "SELECT 1 FROM sys_invocation" in to_sqlite(f"SELECT COUNT(*) FROM ({inner})")
    for whole in (f"SELECT * FROM ({inner})", f"SELECT inv.* FROM ({inner})", f'SELECT "id" FROM ({inner})'):
        assert "SELECT * FROM sys_invocation inv LIMIT" in to_sqlite(whole)


def test_a_journal_is_commands_and_notifications(database: Path) -> None:
    [held] = rows(
        database, "SELECT id FROM sys_invocation WHERE target_handler_name = 'add' AND status = 'completed'"
    )
    entries = rows(
        database, f"SELECT index, entry_type, raw FROM sys_journal WHERE id = '{held['id']}' ORDER BY index"
    )
    assert [(row["index"], row["entry_type"]) for row in entries] == [
        (0, "Command: Input"),
        (1, "Command: GetEagerState"),
        (2, "Command: SetState"),
        (3, "Command: Output"),
    ]
    assert [row["raw"] for row in entries] == [b'"shoe"', None, b'["shoe"]', b"1"]


def test_text_that_is_no_dialect_is_left_alone() -> None:
    assert to_sqlite("select 'index ilike ::', \"index\" -- now() index\n from t /* :: */") == (
        "select 'index ilike ::', \"index\" from t"
    )
    assert to_sqlite("x ILIKE 'a%' and sj.index = 1") == "x LIKE 'a%' and sj.\"index\" = 1"
    assert to_sqlite("first_value(x) over (order by y)") == "first_value(x) over(order by y)"
    assert to_sqlite("cast(null AS STRING)") == "cast(null AS TEXT)"
    for wrong in ("x::text", "first_value(a ORDER BY b)", "x - interval '1 day'", "first_value((a)"):
        with pytest.raises(SqlError):
            to_sqlite(wrong)


def test_rows_come_in_order_of_time_whatever_it_is_written_as(database: Path) -> None:
    for direction in ("ASC", "DESC"):
        plain = rows(database, f"SELECT id, created_at FROM sys_invocation ORDER BY created_at {direction}, id")
        same = rows(
            database, f"SELECT id, created_at c FROM (SELECT * FROM sys_invocation) ORDER BY c {direction}, id"
        )
        assert [row["id"] for row in plain] == [row["id"] for row in same]
    assert to_sqlite("SELECT id FROM sys_invocation i ORDER BY i.created_at") == (
        "SELECT id FROM sys_invocation i ORDER BY i._created"
    )
    for left_alone in (
        "SELECT id AS created_at FROM sys_invocation ORDER BY created_at",
        "SELECT created_at FROM sys_inbox ORDER BY created_at",
        "SELECT DISTINCT created_at FROM sys_invocation ORDER BY created_at",
        "SELECT created_at FROM(SELECT created_at FROM sys_invocation) ORDER BY created_at",
    ):
        assert to_sqlite(left_alone) == left_alone


def test_time_is_compared_as_text(database: Path) -> None:
    [row] = rows(database, "SELECT now() AS a, now() - INTERVAL '1 hour' AS b, now() + interval '30 minutes' AS c")
    assert row == {"a": "2026-11-30T00:53:20.123Z", "b": "2026-11-29T23:53:20.123Z", "c": "2026-11-30T01:23:20.123Z"}


# ---- what is hostile ----


def listing(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


SECRETS = ["SELECT * FROM {}", "SELECT count(*) FROM {}", "SELECT 1 WHERE EXISTS (SELECT 1 FROM {})"]


def test_hostile_statements_are_refused_and_leave_no_trace(database: Path) -> None:
    """R-15: about two hundred, each with an error of its own; afterwards the folder is what it was, to the byte."""
    before, took = listing(database.parent), 0.0
    outside = {file for file in Path("/tmp").iterdir() if file.name.startswith("evil")}
    hidden = [form.format(name) for form in SECRETS for name in HIDDEN]
    for sql in (*hidden, *STATEMENTS, *MADE):
        began = time.perf_counter()
        with pytest.raises(SqlError):
            shown = ask(database, sql)
            raise AssertionError(f"{sql[:100]} was answered: {shown.rows[:3]}")
        took = max(took, time.perf_counter() - began)
    assert len(hidden) + len(STATEMENTS) + len(MADE) > 180
    assert took < 30
    assert listing(database.parent) == before
    assert {file for file in Path("/tmp").iterdir() if file.name.startswith("evil")} == outside


CUBE = "FROM json_each({n}) a, json_each({n}) b, json_each({n}) c"
BOMBS = {
    "a cross join": f"SELECT count(*) {CUBE}, json_each({{n}}) d",
    "sorting": f"SELECT a.value {CUBE} ORDER BY a.value || b.value DESC",
    "grouping": f"SELECT a.value || b.value || c.value, count(*) {CUBE} GROUP BY 1",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_statement_that_takes_long_is_interrupted(database: Path, bomb: str) -> None:
    numbers = "'[" + ",".join(map(str, range(1000))) + "]'"
    began = time.perf_counter()
    with pytest.raises(TooMuch, match=r"longer than 0.2 seconds") as caught:
        ask(database, BOMBS[bomb].format(n=numbers), seconds=0.2)
    assert caught.value.status == 408
    assert time.perf_counter() - began < 30, "not the minutes that it would take"


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


@pytest.mark.parametrize("name", GREEDY)
def test_a_statement_that_nothing_could_interrupt_is_refused_or_cheap(database: Path, name: str) -> None:
    """R-15: the most that one takes is about 150 MiB, for rows of 128 columns with 500 KB each."""
    Path("/proc/self/clear_refs").write_text("5")  # begin to measure the peak anew
    before, began = peak_bytes(), time.process_time()
    with suppress(SqlError):
        ask(database, GREEDY[name])
    assert time.process_time() - began < 2
    assert peak_bytes() - before < 200 * 2**20


def test_a_statement_that_fills_the_disk_is_stopped(database: Path) -> None:
    wide = f"SELECT substr(a, 1, 60000) || x.key AS b FROM {LONG}, json_each('[{','.join('1' * 5000)}]') x"
    with pytest.raises(TooMuch, match="what is sorted took more than 20 MiB on disk") as caught:
        ask(database, f"SELECT length(b) FROM ({wide} ORDER BY b DESC) LIMIT 1", temporary_bytes=20 * 2**20)
    assert caught.value.status == 422


def test_queries_may_use_each_other_as_people_do(database: Path) -> None:
    report = """
        WITH recent AS (SELECT id, target_service_name AS service, status, created_at, retry_count FROM sys_invocation
            WHERE created_at > now() - INTERVAL '1 day'),
        done AS (SELECT service, count(*) AS n, max(created_at) AS last FROM recent WHERE status = 'completed'
            GROUP BY service),
        open AS (SELECT service, status, count(*) AS n, sum(retry_count) AS retries FROM recent
            WHERE status <> 'completed' GROUP BY service, status),
        worst AS (SELECT service, retries, row_number() OVER (PARTITION BY service ORDER BY retries DESC) AS place
            FROM open),
        entries AS (SELECT id, count(*) AS n FROM sys_journal GROUP BY id)
        SELECT r.service, d.n, o.n, w.retries, e.n FROM recent r JOIN done d ON d.service = r.service
            LEFT JOIN open o ON o.service = r.service LEFT JOIN worst w ON w.service = r.service AND w.place = 1
            LEFT JOIN entries e ON e.id = r.id ORDER BY r.created_at DESC LIMIT 100
        """
    assert rows(database, report)
    assert rows(
        database, "WITH Mine AS (SELECT value FROM json_each('[1,2,3]')) SELECT count(*) AS n FROM mine a, mine b"
    ) == [{"n": 9}]
    with pytest.raises(SqlError, match="two queries of WITH have the name a"):
        ask(database, "WITH a AS (SELECT 1), a AS (SELECT 2) SELECT * FROM a")
    with pytest.raises(SqlError, match="refers to itself"):
        ask(database, "WITH a(x) AS (SELECT x FROM a) SELECT * FROM a")


def test_functions_that_search_answer_as_sqlite_does() -> None:
    plain, ours = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    for name, arguments, work in FUNCTIONS:
        ours.create_function(name, arguments, work, deterministic=True)
    values = ["NULL", "''", "'a'", "'abcabc'", "'é€𝄞é'", "x'616263'", "x''", "7", "-12.5", "' a '"]
    for one, other in itertools.product(values, values):
        for call in (
            f"instr({one}, {other})",
            f"trim({one}, {other})",
            f"ltrim({one}, {other})",
            f"rtrim({one}, {other})",
            f"replace({one}, {other}, 'xy')",
            f"replace('aba', {one}, {other})",
        ):
            sql = f"SELECT {call}, typeof({call})"
            assert ours.execute(sql).fetchall() == plain.execute(sql).fetchall(), call
    plain.close()
    ours.close()


def test_a_value_that_is_too_long_is_null_and_its_length_is_told(tmp_path: Path) -> None:
    async def tell(http: httpx.AsyncClient, engine: Engine) -> None:
        for size in (SHOWN_BYTES - 2, SHOWN_BYTES - 1):
            await engine.call("Greeter/greet", "x" * size)
        await engine.patch_state("Cart", "k", {"long": "x" * SHOWN_BYTES, "short": 1})
        journal = (
            "SELECT raw, raw_length FROM sys_journal WHERE entry_type = 'Command: Input' ORDER BY raw_length DESC"
        )
        found = (await post(http, f"{journal} LIMIT 2")).json()["rows"]
        assert [(len(row.get("raw", "")), row["raw_length"]) for row in found] == [
            (0, SHOWN_BYTES + 1), (2 * SHOWN_BYTES, SHOWN_BYTES),
        ]  # fmt: skip
        found = (await post(http, "SELECT * FROM state ORDER BY key")).json()["rows"]
        assert [(row["key"], "value" in row, "value_utf8" in row) for row in found] == [
            ("long", False, False), ("short", True, True),
        ]  # fmt: skip

    over_http(tmp_path / "app.db", tell)


def test_results_have_limits(database: Path) -> None:
    numbers = "'[" + ",".join(map(str, range(101))) + "]'"
    assert len(ask(database, f"SELECT value FROM json_each({numbers}) LIMIT 100", rows=100).rows) == 100
    with pytest.raises(TooMuch, match="more than 100 rows"):
        ask(database, f"SELECT value FROM json_each({numbers})", rows=100)
    wide = f"SELECT '{'x' * 1000}' FROM json_each({numbers})"
    with pytest.raises(TooMuch, match="more than 100000 bytes"):
        ask(database, wide, bytes=100_000)
    assert ask(database, wide, bytes=101_000).rows
    with pytest.raises(TooMuch, match="longer than 10 characters"):
        ask(database, "SELECT 1234", length=10)


def test_payloads_can_be_withheld(database: Path) -> None:
    for sql in (
        "SELECT raw FROM sys_journal",
        "SELECT value, value_utf8 FROM state",
        "SELECT completion_success_value, completion_success_value_utf8 FROM sys_promise",
    ):
        assert all(value is None for row in ask(database, sql, show_payloads=False).rows for value in row)
    assert rows(database, "SELECT value_utf8 FROM state") == [{"value_utf8": '["shoe"]'}]


def test_the_engines_tables_are_all_hidden(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    connection.close()
    for name in {*names} - _READABLE:
        with pytest.raises(SqlError):
            ask(database, f"SELECT * FROM {name}")


# ---- Arrow ----


def test_an_arrow_stream_is_what_arrow_reads() -> None:
    columns: list[tuple[str, arrow.Kind]] = [
        ("COUNT(1)", "int"), ("näme", "text"), ("f", "float"), ("b", "bool"), ("raw", "binary"),
    ]  # fmt: skip
    rows: list[tuple[Any, ...]] = [
        (
            number if number % 3 else None,
            f"{number}é" if number % 5 else None,
            number / 7,
            bool(number % 2) if number % 4 else None,
            bytes([number % 256]) * (number % 9) if number % 2 else None,
        )
        for number in range(arrow.BATCH_ROWS * 2 + 5)
    ]
    for some in (rows, rows[:1], []):
        table = pa.ipc.open_stream(b"".join(arrow.stream(columns, some))).read_all()
        table.validate(full=True)
        assert table.schema.types == [pa.int64(), pa.string(), pa.float64(), pa.bool_(), pa.binary()]
        assert [tuple(row.values()) for row in table.to_pylist()] == some
    for width in range(1, 20):
        names: list[tuple[str, arrow.Kind]] = [("c" * at, "text") for at in range(1, width + 1)]
        table = pa.ipc.open_stream(b"".join(arrow.stream(names, [["x" * at for at in range(width)]]))).read_all()
        table.validate(full=True)
        assert table.column_names == [name for name, _ in names]


# ---- over HTTP ----


def over_http(path: Path, tell: Callable[[httpx.AsyncClient, Engine], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        desk = Desk()
        engine = Engine(path, services=services(desk), synchronous="NORMAL", inactivity_timeout=0)
        transport = httpx.ASGITransport(create_app(engine, **options))
        async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            await engine.call("Greeter/greet", "you")
            await engine.call("Cart/add", "shoe", key="k")
            await tell(http, engine)
            desk.gate.set()

    asyncio.run(main())


async def post(http: httpx.AsyncClient, sql: str, accept: str = "application/json") -> httpx.Response:
    return await http.post("/v4/query", json={"query": sql}, headers={"accept": accept})


def test_json_for_those_who_ask_for_it_and_arrow_for_others(tmp_path: Path) -> None:
    async def tell(http: httpx.AsyncClient, engine: Engine) -> None:
        sql = "SELECT key, value, value_length, scope FROM state"
        answer = await post(http, sql)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"rows": [{"key": "items", "value": b'["shoe"]'.hex(), "value_length": 8}]}
        answer = await post(http, sql, "*/*")
        assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
        [row] = pa.ipc.open_stream(answer.content).read_all().to_pylist()
        assert row == {"key": "items", "value": b'["shoe"]', "value_length": 8, "scope": None}
        [service] = (await post(http, "SELECT * FROM sys_service WHERE name = 'Cart'")).json()["rows"]
        deployment = service.pop("deployment_id")
        assert service == {"name": "Cart", "revision": 1, "public": True, "ty": "virtual_object"}
        [found] = (await post(http, "SELECT id, services FROM sys_deployment")).json()["rows"]
        assert found == {"id": deployment, "services": ["Cart", "Greeter", "SignUp"]}

    over_http(tmp_path / "app.db", tell)


def test_a_column_without_a_name_is_called_what_was_asked(database: Path) -> None:
    [row] = rows(database, "SELECT count( * ), max(target) || '!', 3 * (1 + 2) FROM sys_invocation")
    assert [*row] == ["count(*)", "max(target) || '!'", "3 * (1 + 2)"]
    assert rows(database, "SELECT(1)") == [{"(1)": 1}]


def test_what_cannot_be_asked_is_told_why(tmp_path: Path) -> None:
    async def tell(http: httpx.AsyncClient, engine: Engine) -> None:
        for sql, status, message in (
            ("SELECT * FROM y", 400, "no such table: y; SELECT table_name FROM information_schema.tables lists them"),
            ("SELECT * FROM invocations", 400, "no such table: invocations (sys_invocation?); SELECT table_name"),
            ("SELECT count(*) FROM invocations", 400, "no such table: invocations (sys_invocation?)"),
            ("SELECT name FROM sqlite_master", 400, "no such table: sqlite_master; SELECT table_name"),
            ("SELECT now() - interval 1 day", 400, "quote what INTERVAL has: INTERVAL '1 day'"),
            ("DELETE FROM state", 400, "only SELECT can be asked"),
            ("SELECT * FROM sys_invocation", 422, "more than 1 rows: add a LIMIT"),
            ("SELECT " + "1" * 300, 413, "longer than 200 characters"),
        ):
            answer = await post(http, sql)
            assert (answer.status_code, message in answer.json()["message"]) == (status, True), answer.text
        assert (await http.post("/query", json={"sql": "SELECT 1"})).status_code == 422

    over_http(tmp_path / "app.db", tell, query_limits=QueryLimits(rows=1, length=200))


def test_a_long_statement_holds_up_neither_loop_nor_writer(tmp_path: Path) -> None:
    async def tell(http: httpx.AsyncClient, engine: Engine) -> None:
        numbers = "'[" + ",".join(map(str, range(1000))) + "]'"
        long = asyncio.create_task(post(http, BOMBS["a cross join"].format(n=numbers)))
        done = 0
        while not long.done():
            await engine.call("Greeter/greet", "you")
            done += 1
        assert (await long).status_code == 408
        assert done > 20, "handlers went on meanwhile"

    over_http(tmp_path / "app.db", tell, query_limits=QueryLimits(seconds=0.7))


def test_an_engine_without_a_file_has_nothing_to_query() -> None:
    async def tell(admin: Served) -> None:
        answer = await post(admin.http, "SELECT 1")
        assert answer.status_code == 501
        assert "not a file" in answer.json()["message"]

    story(tell)


def test_values_that_are_no_text_do_not_stop_a_statement(tmp_path: Path) -> None:
    """They are shown as far as they are text; the bytes are in the column beside it."""

    class Box(VirtualObject):
        @handler
        async def put(self, ctx: ObjectContext) -> None:
            ctx.set("raw", b"\xff\xfe")

    async def story() -> None:
        async with Engine(tmp_path / "app.db", services=[Box()]) as engine:
            await engine.call(Box.put, key="a")

    asyncio.run(story())
    rows = query(
        str(tmp_path / "app.db"), "SELECT value_utf8, hex(value) FROM state", FACTS, QueryLimits(), show_payloads=True
    ).rows
    ((text, data),) = rows
    assert text.endswith("\ufffd\ufffd") and data.endswith("FFFE")
