"""Restate's introspection tables, as views over this engine's tables.

Columns that mean nothing inside one process are there and null. Times are text in RFC 3339, durations in ISO 8601, so
that rows read as they do from Restate's server.
"""

from typing import Final

from durable.admin.sql import entries
from durable.admin.sql.column import Column, Table, clear, shown, time
from durable.admin.sql.entries import OUTPUT


def _duration(ms: str) -> str:
    return f"'PT' || ({ms} / 1000) || iif({ms} % 1000, '.' || substr('00' || {ms} % 1000, -3), '') || 'S'"


def _json(text: str, path: str) -> str:
    return f"CASE WHEN json_valid({text}) THEN json_extract({text}, '{path}') END"


def _text(blob: str) -> str:
    return f"CAST({blob} AS TEXT)"


def _failure(ok: str, place: str, blob: str) -> str:
    """`[409] cancelled`, of a stored outcome that is a failure."""
    text = _text(clear(place, blob))
    code, message = _json(text, "$.code"), _json(text, "$.message")
    return f"CASE {ok} WHEN 0 THEN '[' || coalesce({code}, 500) || '] ' || coalesce({message}, '') END"


_TARGET: Final = "i.service || '/' || iif(i.key IS NULL, '', i.key || '/') || i.handler"
_KIND: Final = (
    "CASE i.flavor WHEN 'service' THEN 'service' WHEN 'exclusive' THEN 'virtual_object' WHEN 'shared'"
    " THEN 'virtual_object' ELSE 'workflow' END"
)
_INVOKED_BY: Final = (
    "CASE WHEN i.restarted_from IS NOT NULL THEN 'restart_as_new' WHEN substr(i.caller_id, 1, 4) = 'sub_'"
    " THEN 'subscription' WHEN i.caller_id IS NOT NULL THEN 'service' ELSE 'ingress' END"
)
_FROM_TOPIC: Final = "substr(i.caller_id, 1, 4) = 'sub_'"
_CALLER_SERVICE: Final = "substr(i.caller_target, 1, instr(i.caller_target, '/') - 1)"
_STORED_STATUS: Final = (
    "CASE i.status WHEN 'pending' THEN 'inboxed' WHEN 'ready' THEN 'invoked' WHEN 'running' THEN 'invoked'"
    " WHEN 'backing-off' THEN 'invoked' ELSE i.status END"
)
_PROBLEM: Final = "i.last_failure"
_MESSAGE: Final = clear("'message', i.seq, i.id", f"json_extract({_PROBLEM}, '$.message')")
_STACKTRACE: Final = clear("'stacktrace', i.seq, i.id", f"json_extract({_PROBLEM}, '$.stacktrace')")
_LAST_FAILURE: Final = (
    f"CASE WHEN json_valid({_PROBLEM}) THEN '[' || coalesce(json_extract({_PROBLEM}, '$.code'), 500) || '] '"
    f" || coalesce({_MESSAGE}, '') END"
)
_FAILED_ENTRY: Final = _json(_PROBLEM, "$.entry")
_FAILED_NAME: Final = _json(_PROBLEM, "$.name")
_FAILED_KIND: Final = f"CASE WHEN {_FAILED_ENTRY} > 0 THEN 'Run' END"
#: The code that runs is the only one there is: what has begun goes on with it.
_PINNED: Final = "CASE WHEN i.attempt > 0 THEN (SELECT id FROM temp._deployment) END"
#: What somebody's code works on, or will be tried on again: what else there is waits in the file alone.
_AT_WORK: Final = "i.attempt > 0 AND i.status IN ('ready', 'running', 'backing-off')"
_BEGUN: Final = "i.status NOT IN ('scheduled', 'pending')"
_JOURNAL: Final = "SELECT count(*) FROM {db}.journal j WHERE j.invocation = i.seq AND j.entry > 0"

_PERSISTED: Final = (
    Column("id", "i.id"),
    Column("vqueue_id"),
    Column("target", _TARGET),
    Column("target_service_name", "i.service"),
    Column("target_service_key", "i.key"),
    Column("target_handler_name", "i.handler"),
    Column("target_service_ty", _KIND),
    Column("scope"),
    Column("limit_key"),
    Column("idempotency_key", "i.idempotency_key"),
    Column("invoked_by", _INVOKED_BY),
    Column("invoked_by_service_name", f"iif({_FROM_TOPIC}, NULL, {_CALLER_SERVICE})"),
    Column("invoked_by_id", "i.caller_id"),  # of a subscription, too: as it is, so that its index is used
    Column("invoked_by_subscription_id", f"iif({_FROM_TOPIC}, i.caller_id, NULL)"),
    Column("invoked_by_target", "i.caller_target"),
    Column("restarted_from", "i.restarted_from"),
    Column("pinned_deployment_id", _PINNED),
    Column("pinned_service_protocol_version", kind="int"),
    Column("trace_id"),
    Column("journal_size", f"CASE WHEN {_BEGUN} THEN iif(i.journal_until IS 0, 0, 1 + ({_JOURNAL})) END", "int"),
    Column(
        "journal_commands_size",
        f"CASE WHEN {_BEGUN} THEN iif(i.journal_until IS 0, 0, 1 + ({_JOURNAL} AND j.part = 0)) END",
        "int",
    ),
    Column("created_at", time("i.created_at")),
    Column("created_using_restate_version"),
    Column("modified_at", time("i.modified_at")),
    Column("inboxed_at", f"CASE i.status WHEN 'pending' THEN {time('i.modified_at')} END"),
    Column("scheduled_at", f"CASE i.status WHEN 'scheduled' THEN {time('i.created_at')} END"),
    Column("scheduled_start_at", f"CASE i.status WHEN 'scheduled' THEN {time('i.due_at')} END"),
    Column("running_at"),
    Column("completed_at", time("i.completed_at")),
    Column("completion_retention", _duration("i.completion_retention_ms")),
    Column("journal_retention", _duration("i.journal_retention_ms")),
    Column("suspended_waiting_for_completions"),
    Column("suspended_waiting_for_signals"),
    Column("suspended_waiting_future_json", "i.waiting_for"),
)
_ATTEMPTS: Final = (
    Column("retry_count", f"CASE WHEN {_AT_WORK} THEN i.failures END", "int"),
    Column("last_start_at", f"CASE i.status WHEN 'running' THEN {time('i.modified_at')} END"),
    Column("next_retry_at", f"CASE i.status WHEN 'backing-off' THEN {time('i.due_at')} END"),
    Column("last_attempt_deployment_id", f"CASE WHEN {_AT_WORK} THEN (SELECT id FROM temp._deployment) END"),
    Column("last_attempt_server", f"CASE WHEN {_AT_WORK} THEN (SELECT server FROM temp._deployment) END"),
    Column("last_failure", _LAST_FAILURE),
    Column("last_failure_error_code"),
    Column("last_failure_related_entry_index", _FAILED_ENTRY, "int"),
    Column("last_failure_related_entry_name", _FAILED_NAME),
    Column("last_failure_related_entry_type", _FAILED_KIND),
    Column("last_failure_related_command_index", _FAILED_ENTRY, "int"),
    Column("last_failure_related_command_name", _FAILED_NAME),
    Column("last_failure_related_command_type", _FAILED_KIND),
    Column("last_awaiting_on_future_json"),
)
_RESULT: Final = (
    Column("completion_result", "CASE i.ok WHEN 1 THEN 'success' WHEN 0 THEN 'failure' END"),
    Column("completion_failure", _failure("i.ok", OUTPUT, "i.output")),
)
#: What begins with an underscore is for rewritten statements, and in no result.
_HIDDEN: Final = (Column("_created", "i.created_at", "int"), Column("_status", "i.status"))
_PARTITION: Final = Column("partition_key", "0", "int")
_INVOCATIONS: Final = "{db}._invocations i"

_EVENT: Final = (
    f"json_object('ty', 'TransientError', 'error_code', coalesce(json_extract({_PROBLEM}, '$.code'), 500),"
    f" 'error_message', {_MESSAGE}, 'error_stacktrace', {_STACKTRACE}, 'related_command_index', {_FAILED_ENTRY},"
    f" 'related_command_name', {_FAILED_NAME}, 'related_command_type', {_FAILED_KIND})"
)
_PROMISE: Final = "'promise', p.service, p.key, p.name, p.ok"
_PROMISED: Final = f"CASE p.ok WHEN 1 THEN {shown(_PROMISE, 'p.value')} END"
_STATE: Final = shown("'state', s.service, s.key, s.name", "s.value")
_NOTHING: Final = "(SELECT 1) WHERE 0"


def _empty(name: str, *columns: str) -> Table:
    """A table that is always empty here."""
    return Table(name, tuple(map(Column, columns)), _NOTHING)


TABLES: Final = (
    Table(
        "sys_invocation",
        (*_PERSISTED, *_ATTEMPTS, Column("status", "i.status"), *_RESULT, *_HIDDEN),
        _INVOCATIONS,
    ),
    Table(
        "sys_invocation_status",
        (_PARTITION, *_PERSISTED, Column("status", _STORED_STATUS), *_RESULT, *_HIDDEN),
        _INVOCATIONS,
    ),
    Table(
        "sys_invocation_state",
        (_PARTITION, Column("id", "i.id"), Column("in_flight", "i.status = 'running'", "bool"), *_ATTEMPTS),
        f"{_INVOCATIONS} WHERE {_AT_WORK}",
    ),
    Table("sys_journal", (_PARTITION, *entries.COLUMNS), entries.SOURCE),
    Table(
        "sys_journal_events",
        (
            _PARTITION,
            Column("id", "i.id"),
            Column("after_journal_entry_index", f"coalesce({_FAILED_ENTRY}, 0)", "int"),
            Column("appended_at", time(f"({_json(_PROBLEM, '$.at')})")),
            Column("event_type", "'TransientError'"),
            Column("event_json", _EVENT),
        ),
        f"{_INVOCATIONS} WHERE json_valid(i.last_failure)",
    ),
    Table(
        "sys_inbox",
        (
            _PARTITION,
            Column("service_name", "i.service"),
            Column("service_key", "i.key"),
            Column("id", "i.id"),
            Column("sequence_number", "i.queued", "int"),
            Column("created_at", time("i.created_at")),
        ),
        f"{_INVOCATIONS} WHERE i.queued IS NOT NULL AND i.status = 'pending'",
    ),
    Table(
        "sys_keyed_service_status",
        (
            _PARTITION,
            Column("service_name", "i.service"),
            Column("service_key", "i.key"),
            Column("invocation_id", "i.id"),
        ),
        f"{_INVOCATIONS} WHERE i.queued IS NOT NULL AND i.status NOT IN ('pending', 'scheduled', 'completed')",
    ),
    Table(
        "sys_promise",
        (
            _PARTITION,
            Column("scope"),
            Column("service_name", "p.service"),
            Column("service_key", "p.key"),
            Column("key", "p.name"),
            Column("completed", "1", "bool"),
            Column("completion_success_value", _PROMISED, "binary", payload=True),
            Column("completion_success_value_utf8", _text(_PROMISED), payload=True),
            Column("completion_failure", _failure("p.ok", _PROMISE, "p.value")),
        ),
        "{db}.promises p",
    ),
    Table(
        "state",
        (
            _PARTITION,
            Column("scope"),
            Column("service_name", "s.service"),
            Column("service_key", "s.key"),
            Column("key", "s.name"),
            Column("key_length", "length(s.name)", "int"),
            Column("value_utf8", _text(_STATE), payload=True),
            Column("value", _STATE, "binary", payload=True),
            Column("value_length", "length(s.value)", "int"),
        ),
        "{db}._state s",
    ),
    Table(
        "sys_service",
        (
            Column("name", "name"),
            Column("revision", "revision", "int"),
            Column("public", "public", "bool"),
            Column("ty", "ty"),
            Column("deployment_id", "deployment_id"),
        ),
        "temp._service",
    ),
    Table(
        "sys_deployment",
        (
            Column("id", "id"),
            Column("ty", "'http'"),
            Column("endpoint", "endpoint"),
            Column("created_at", "created_at"),
            Column("min_service_protocol_version", kind="int"),
            Column("max_service_protocol_version", kind="int"),
            Column("services", "services"),
        ),
        "temp._deployment",
    ),
    _empty("sys_locks", "partition_key", "scope", "lock_name", "acquired_at", "acquired_by"),
    _empty("sys_rules", "pattern", "concurrency", "description", "disabled", "version", "last_modified"),
    _empty(
        "sys_user_limits", "partition_key", "scope", "l1", "l2", "level", "usage", "concurrency_limit",
        "rule_pattern", "available", "num_waiters",
    ),
)  # fmt: skip

NAMES: Final = frozenset(table.name for table in TABLES)
BOOLEANS: Final = frozenset(
    {column.name for table in TABLES for column in table.columns if column.kind == "bool"}
    | {"pinned_deployment_exists", "disabled"}
)
KINDS: Final = {column.name: column.kind for table in TABLES for column in table.columns}
#: Columns that hold JSON, and are JSON in JSON.
DOCUMENTS: Final = frozenset({"services"})


def information_schema() -> list[str]:
    """What `information_schema.tables` and `information_schema.columns` show, as statements for one connection."""
    types = {"text": "Utf8", "int": "Int64", "bool": "Boolean", "binary": "Binary"}
    columns = ", ".join(
        f"('restate', 'public', '{table.name}', '{column.name}', {position}, '{types[column.kind]}')"
        for table in TABLES
        for position, column in enumerate(table.shown, 1)
    )
    tables = ", ".join(f"('restate', 'public', '{table.name}', 'VIEW')" for table in TABLES)
    return [
        f"CREATE TEMP TABLE information_schema_columns ({_OF_COLUMNS})",
        f"INSERT INTO information_schema_columns VALUES {columns}",
        "CREATE TEMP TABLE information_schema_tables (table_catalog, table_schema, table_name, table_type)",
        f"INSERT INTO information_schema_tables VALUES {tables}",
    ]


_OF_COLUMNS: Final = "table_catalog, table_schema, table_name, column_name, ordinal_position, data_type"
