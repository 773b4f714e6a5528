"""Statements that nobody may run, one a line; and some that are too long to be written down."""

#: Tables that are there, and not for operators.
HIDDEN = """
invocations
journal
timers
signals
listeners
settings
meta
services
main.invocations
temp.invocations
main.sqlite_master
sqlite_master
sqlite_schema
sqlite_temp_master
temp.sqlite_master
pragma_table_list
pragma_database_list
pragma_table_info('state')
dbstat
sqlite_stmt
sqlite_dbpage
fsdir('/')
generate_series(1, 10)
main.state
bytecode('select 1')
""".strip().splitlines()

STATEMENTS = """
WITH sys_invocation AS (SELECT * FROM invocations) SELECT * FROM sys_invocation
WITH state AS (SELECT * FROM journal) SELECT * FROM state
WITH sqlite_master AS (SELECT count(*) FROM main.sqlite_master) SELECT count(*) FROM sqlite_master a, sqlite_master b
WITH sys_promise AS (SELECT name FROM sqlite_master) SELECT * FROM sys_promise
ATTACH '/tmp/evil.db' AS evil
ATTACH 'file:/etc/passwd?mode=rw' AS evil
DETACH main
VACUUM
VACUUM INTO '/tmp/evil.db'
PRAGMA writable_schema = 1
PRAGMA journal_mode = DELETE
PRAGMA query_only = 0
PRAGMA database_list
PRAGMA temp_store_directory = '/tmp'
CREATE TABLE evil (a)
CREATE TEMP TABLE evil (a)
CREATE VIEW evil AS SELECT 1
CREATE TEMP VIEW sys_invocation AS SELECT 1
CREATE TRIGGER evil AFTER INSERT ON state BEGIN SELECT 1; END
DROP TABLE invocations
DROP VIEW sys_invocation
DELETE FROM state
UPDATE state SET value = 1
INSERT INTO state VALUES (1)
REPLACE INTO state VALUES (1)
WITH a AS (SELECT 1) DELETE FROM state
WITH a AS (SELECT 1) INSERT INTO _service SELECT 1, 2, 3, 4, 5
WITH a AS (SELECT 1) UPDATE _deployment SET id = 1
ALTER TABLE state RENAME TO s
REINDEX
ANALYZE
BEGIN
BEGIN IMMEDIATE
COMMIT
ROLLBACK
SAVEPOINT a
RELEASE a
EXPLAIN SELECT 1
EXPLAIN QUERY PLAN SELECT 1
SELECT load_extension('/tmp/evil.so')
SELECT readfile('/etc/passwd')
SELECT writefile('/tmp/evil', 'x')
SELECT edit('x')
SELECT fts3_tokenizer('simple')
SELECT randomblob(1000000000)
SELECT zeroblob(1000000000)
SELECT hex(randomblob(1000))
SELECT sqlite_version()
SELECT sqlite_compileoption_get(1)
SELECT changes()
SELECT last_insert_rowid()
SELECT 'a' GLOB '*'
SELECT 'a' REGEXP 'a'
SELECT 'a' MATCH 'a'
SELECT printf('%.*c', 1000000000, 'x')
SELECT printf('%1000000000d', 1)
SELECT format('%.*c', 1000000000, 'x')
WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c
WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c LIMIT 10
SELECT 1; SELECT 2
SELECT 1; DROP TABLE state
;
;;
--
/* */
(SELECT 1)
SELECT
SELECT * FROM
SELECT 'a
SELECT "
SELECT )
SELECT (
SELECT ?
SELECT :a
SELECT @a
SELECT $a
SELECT ?99999
SELECT x'0'
SELECT * FROM no_such_table
SELECT no_such_column FROM state
SELECT no_such_function(1)
COPY state TO '/tmp/x'
SET a = 1
SHOW TABLES
DESCRIBE state
CALL x()
SELECT now_and('-', 'nonsense')
SELECT now_and(1, 2, 3)
SELECT * FROM json_each('{')
""".strip().splitlines()

MADE = [
    "",
    "   ",
    "\x00",
    "SELECT \x00",
    "SELECT 1 -- \n; DELETE FROM state",
    "SELECT '\udcff'",
    "SELECT \ufffe",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "SELECT " + "-" * 2000 + "1",
    "SELECT " + "NOT " * 2000 + "1",
    "SELECT " + "1+" * 30_000 + "1",
    "SELECT " + ",".join(["1"] * 2000),
    "SELECT 1" + " UNION SELECT 1" * 500,
    "SELECT coalesce(" + ",".join(["1"] * 200) + ")",
    "SELECT 1 WHERE 1 IN (" + ",".join(["1"] * 60_000) + ")",
    "SELECT '" + "a" * 200_000 + "'",
    "SELECT 'a' LIKE '" + "%a" * 500 + "'",
    "SELECT * FROM " + ", ".join(["sys_invocation"] * 65),
    "SELECT * FROM json_each('" + "[" * 5000 + "]" * 5000 + "')",
    "VALUES " + ",".join(["(1)"] * 20_000),
]


def letters(count: int) -> str:
    """An expression for that many letters a, about: a text that no limit of a statement's length keeps out."""
    text = f"'{'a' * round(count ** (1 / 3))}'"
    return f"replace(replace({text}, 'a', {text}), 'a', {text})"


def chain(first: str, rest: str, length: int) -> str:
    """Queries of WITH that each use the one before."""
    bodies = [first, *(rest.format(before=f"c{index}") for index in range(length))]
    named = ", ".join(f"c{index}(a) AS ({body})" for index, body in enumerate(bodies))
    return f"WITH {named} SELECT count(*) FROM c{length}"


def nested(start: str, end: str, levels: int) -> str:
    """Queries that each use what is inside."""
    return f"SELECT a FROM {start * levels}(SELECT index AS a FROM sys_journal){end * levels}"


LONG = f"(SELECT {letters(500_000)} AS a)"
BIG = "+".join(["entry_json"] * 100)
TEN = "+".join(["a"] * 10)
#: What would take minutes, or all memory, in one step that SQLite cannot be interrupted in.
GREEDY = {
    "a chain of sums": chain("SELECT 1", "SELECT a + a FROM {before}", 30),
    "a chain of texts": chain("SELECT index FROM sys_journal", "SELECT a || a FROM {before}", 30),
    "a chain of joins": chain("SELECT 1", "SELECT x.a FROM {before} x, {before} y", 25),
    "a chain of unions": chain("SELECT 1", "SELECT a FROM {before} UNION ALL SELECT a FROM {before}", 25),
    "a chain of subqueries": chain("SELECT 1", "SELECT (SELECT a FROM {before}) + (SELECT a FROM {before})", 25),
    "a chain of quoted names": chain("SELECT 1", 'SELECT "a" + [a] FROM "{before}"', 30),
    "a hidden chain": chain("SELECT 1", "SELECT a + a FROM (SELECT a FROM {before})", 30),
    "nested sums": nested(f"(SELECT {TEN} AS a FROM ", ")", 9),
    "nested sums behind commas": nested(f"(SELECT index) x, (SELECT {TEN} AS a FROM ", ")", 9),
    "nested sums in parentheses": nested(f"((SELECT {TEN} AS a FROM ", "))", 9),
    "a search": f"SELECT instr(a, substr(a, 1, length(a) / 2) || 'b') FROM {LONG}",
    "a replacement": f"SELECT length(replace(a, substr(a, 1, length(a) / 2) || 'b', '')) FROM {LONG}",
    "a growing replacement": f"SELECT length(replace(a, 'a', a)) FROM {LONG}",
    "trimming": f"SELECT length(trim(replace(a, 'a', 'b'), a || 'b')) FROM {LONG}",
    "trimming from the left": f"SELECT ltrim(replace(a, 'a', 'b'), a || 'b') FROM {LONG}",
    "trimming from the right": f"SELECT rtrim(replace(a, 'a', 'b'), a || 'b') FROM {LONG}",
    "LIKE with many wildcards": f"SELECT a LIKE '{'%a' * 90}b', a LIKE '{'%_a' * 60}b' FROM {LONG}",
    "LIKE with a long text": f"SELECT a LIKE '%{'a' * 190}b' FROM {LONG}",
    "wide rows": "SELECT " + ", ".join(f"a || {index}" for index in range(128)) + f" FROM {LONG}",
    "many wide rows": "SELECT " + ", ".join(["a || value"] * 100) + f" FROM {LONG}, json_each('[1,2,3,4,5]')",
    "more columns": "SELECT " + ", ".join(["a"] * 500) + f" FROM {LONG}",
    "wide groups": "SELECT " + ", ".join(f"group_concat(a || {index})" for index in range(100)) + f" FROM {LONG}",
    "long groups": f"SELECT group_concat(a) FROM {LONG}, json_each('[{','.join('1' * 1000)}]')",
    "JSON groups": f"SELECT json_group_array(a) FROM {LONG}, json_each('[{','.join('1' * 1000)}]')",
    "hexadecimal": f"SELECT hex(hex(hex(a))) FROM {LONG}",
    "formats of time": f"SELECT strftime(replace(a, 'a', '%J'), 'now') FROM {LONG}",
    "large columns": "SELECT " + ", ".join("+".join(["entry_json"] * 40) for _ in range(120)) + " FROM sys_journal",
    "many JSON documents": f"WITH l(j) AS (SELECT '[' || replace(substr(a, 1, 200000), 'a', '1,') || '1]' FROM"
    f" {LONG}) SELECT count(*) FROM l, " + ", ".join(f"json_each(j) j{index}" for index in range(60)),
    "the same column by number": f"SELECT {BIG} FROM sys_journal GROUP BY {', '.join(['1'] * 120)}",
    "the same column by name": f"SELECT {BIG} AS z FROM sys_journal ORDER BY {', '.join(['z || 1'] * 120)}",
    "the same column by a quoted name": f"SELECT {BIG} [z] FROM sys_journal WHERE {' OR '.join(['`z`'] * 150)}",
    "deep JSON": f"SELECT max(length(fullkey)) FROM json_tree('{'[' * 990}{'1,' * 5000}1{']' * 990}')",
}
