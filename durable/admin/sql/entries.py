"""The table `sys_journal`: entries in Restate's words, each as its command and, apart from that, what came of it."""

from typing import Final

from durable.admin.sql.column import Column, clear, shown, time
from durable.core.topics import JOINED

#: Kinds of entries in Restate's words.
_COMMANDS: Final = {
    "run": "Run", "sleep": "Sleep", "call": "Call", "send": "OneWayCall", "awakeable": "Awakeable",
    "complete-awakeable": "CompleteAwakeable", "signal": "Signal", "send-signal": "SendSignal",
    "promise": "GetPromise", "peek-promise": "PeekPromise", "complete-promise": "CompletePromise",
    "attach": "AttachInvocation", "output": "GetInvocationOutput", "get": "GetEagerState", "set": "SetState",
    "clear": "ClearState", "clear-all": "ClearAllState", "state-keys": "GetEagerStateKeys", "now": "Now",
    "cancel": "Signal",
}  # fmt: skip
_WORDS: Final = " ".join(f"WHEN '{kind}' THEN '{word}'" for kind, word in _COMMANDS.items())
_WORD: Final = f"CASE j.kind {_WORDS} ELSE j.kind END"
_IS_CALL: Final = "j.half = 'Command' AND j.kind IN ('call', 'send')"
_CALLEE: Final = f"replace(j.detail, '{JOINED}', '')"

#: `service/handler` and `service/key/handler`, taken apart: a key may have slashes, the others have none.
_SERVICE: Final = "substr(j.name, 1, instr(j.name, '/') - 1)"
_BEFORE_HANDLER: Final = "length(rtrim(j.name, replace(j.name, '/', '')))"
_HANDLER: Final = f"substr(j.name, {_BEFORE_HANDLER} + 1)"
_KEY: Final = f"substr(j.name, instr(j.name, '/') + 1, {_BEFORE_HANDLER} - instr(j.name, '/') - 1)"
#: How a callee runs, as far as it is known: what is forgotten is taken for the first kind of its service.
_FLAVOR: Final = f"(SELECT c.flavor FROM {{db}}._invocations c WHERE c.id = {_CALLEE})"
_TARGET: Final = f"""CASE
    WHEN j.name NOT LIKE '%/%/%' THEN json_object('Service', json_object(
        'name', {_SERVICE}, 'handler', {_HANDLER}, 'scope', NULL))
    WHEN (SELECT ty FROM temp._service WHERE name = {_SERVICE}) = 'workflow' THEN json_object(
        'Workflow', json_object('name', {_SERVICE}, 'key', {_KEY}, 'handler', {_HANDLER},
        'handler_ty', iif({_HANDLER} = 'run', 'Workflow', 'Shared'), 'scope', NULL))
    ELSE json_object('VirtualObject', json_object('name', {_SERVICE}, 'key', {_KEY}, 'handler', {_HANDLER},
        'handler_ty', iif({_FLAVOR} = 'shared', 'Shared', 'Exclusive'), 'scope', NULL))
    END"""
#: When a delayed send is due; 0 for what is sent at once.
_DUE: Final = (
    f"coalesce((SELECT c.due_at FROM {{db}}._invocations c WHERE c.id = {_CALLEE} AND c.status = 'scheduled'), 0)"
)
_NO_SPAN: Final = (
    '{"span_context":{"trace_id":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"span_id":[0,0,0,0,0,0,0,0],"trace_flags":0,'
    '"is_remote":false,"trace_state":""},"cause":null}'
)
_NO_TIME: Final = '{"secs":0,"nanos":0}'


def _case(of: str, *branches: tuple[str, str]) -> str:
    """One JSON object, by kind of entry: {of: {kind: fields}}."""
    whens = " ".join(
        f"WHEN j.kind = '{kind}' THEN json_object('{of}', json_object('{_COMMANDS.get(kind, kind)}', "
        f"json_object({fields})))"
        for kind, fields in branches
    )
    return f"CASE {whens} END"


_SLEEP: Final = "'wake_up_time', CAST(j.detail AS INTEGER), 'completion_id', j.entry"
_PROMISE: Final = "'key', j.name, 'completion_id', j.entry"
_CALLED: Final = f"'invocation_id', {_CALLEE}, 'invocation_target', json({_TARGET})"
_REQUEST: Final = (
    f"'request', json_object({_CALLED}, 'span_context', json('{_NO_SPAN}'), 'parameter', json('[]'),"
    f" 'headers', json('[]'), 'idempotency_key', NULL, 'completion_retention_duration', json('{_NO_TIME}'),"
    f" 'journal_retention_duration', json('{_NO_TIME}'))"
)
_ANSWERED: Final = "'invocation_id_completion_id', 2 * j.entry, 'result_completion_id', 2 * j.entry + 1"
_SENT: Final = f"'invoke_time', {_DUE}, 'invocation_id_completion_id', 2 * j.entry"
_RESULT: Final = (
    "CASE WHEN j.ok IS 0 THEN 'Failure' WHEN j.kind IN ('sleep', 'complete-promise') THEN 'Void' ELSE 'Success' END"
)
#: Kinds whose name is in their `entry_json`: the command line shows that.
_TOLD: Final = "'sleep', 'call', 'send', 'promise', 'peek-promise'"
#: What Restate's command line reads of a command: when a sleep ends, what is called, which promise is asked.
_ENTRY_JSON: Final = "CASE j.half WHEN 'Command' THEN " + _case(
    "Command",
    ("run", "'completion_id', j.entry, 'name', coalesce(j.name, '')"),
    ("sleep", f"{_SLEEP}, 'name', ''"),
    ("call", f"{_REQUEST}, {_ANSWERED}, 'name', ''"),
    ("send", f"{_REQUEST}, {_SENT}, 'name', ''"),
    ("promise", f"{_PROMISE}, 'name', ''"),
    ("peek-promise", f"{_PROMISE}, 'name', ''"),
) + " END"  # fmt: skip
#: The same without payloads, so that it can be told of more.
_LITE_COMMAND: Final = _case(
    "Command",
    ("Input", ""),
    ("Output", f"'result', {_RESULT}"),
    ("run", "'completion_id', j.entry, 'name', coalesce(j.name, '')"),
    ("sleep", _SLEEP),
    ("call", f"{_CALLED}, {_ANSWERED}"),
    ("send", f"{_CALLED}, {_SENT}"),
    ("promise", _PROMISE),
    ("peek-promise", _PROMISE),
    ("complete-promise", _PROMISE),
    ("get", "'key', j.name, 'result', iif(j.value = X'30', 'Void', 'Success')"),
    ("set", "'key', j.name"),
    ("clear", "'key', j.name"),
    ("clear-all", ""),
)  # fmt: skip
_LITE_NOTIFICATION: Final = (
    "iif(j.kind = 'cancel', json_object('ty', 'Signal', 'id', json_object('SignalIndex', 1), 'result', 'Void'),"
    f" json_object('ty', json_object('Completion', {_WORD}), 'id', json_object('CompletionId', j.entry),"
    f" 'result', {_RESULT}))"
)
_LITE_JSON: Final = (
    f"CASE j.half WHEN 'Command' THEN {_LITE_COMMAND} ELSE json_object('Notification', {_LITE_NOTIFICATION}) END"
)
#: What may find nothing has a digit before its value (or is an object that says that it cannot be decoded); what a
#: command hands on is kept as a fingerprint, for replays to compare.
_VALUE: Final = """CASE
    WHEN j.half = 'Command' AND j.kind NOT IN ('Input', 'Output', 'run', 'get', 'set') THEN NULL
    WHEN j.kind IN ('get', 'peek-promise', 'output') AND j.ok = 1 AND substr(j.value, 1, 1) <> X'7B'
        THEN nullif(substr(j.value, 2), X'')
    ELSE j.value END"""
_LENGTH: Final = """CASE
    WHEN j.half = 'Command' AND j.kind NOT IN ('Input', 'Output', 'run', 'get', 'set') THEN NULL
    WHEN j.kind = 'get' THEN nullif(j.length - 1, 0)
    ELSE j.length END"""

COLUMNS: Final = (
    Column("id", "j.id"),
    Column("index", "j.entry", "int"),
    Column("entry_type", f"j.half || ': ' || {_WORD}"),
    Column("name", f"iif(j.half = 'Command' AND j.kind IN ({_TOLD}), '', j.name)"),
    Column("completed", "j.completed", "bool"),
    Column("invoked_id", f"CASE WHEN {_IS_CALL} THEN {_CALLEE} END"),
    Column("invoked_target", f"CASE WHEN {_IS_CALL} THEN j.name END"),
    Column("sleep_wakeup_at", f"CASE WHEN j.kind = 'sleep' AND j.half = 'Command' THEN {time('j.detail')} END"),
    Column("promise_name", "CASE WHEN j.kind LIKE '%promise' AND j.half = 'Command' THEN j.name END"),
    Column("raw", " ".join(_VALUE.split()), "binary", payload=True),
    Column("raw_length", " ".join(_LENGTH.split()), "int"),
    Column("version", "2", "int"),
    Column("entry_json", " ".join(_ENTRY_JSON.split())),
    Column("entry_lite_json", " ".join(_LITE_JSON.split())),
    Column("appended_at", time("j.at")),
)
#: Where values belong that may be encoded.
OUTPUT: Final = "'output', i.seq, i.id, i.ok"
_ENTRY: Final = "'entry', j.invocation, j.entry, j.part, j.ok"
_VALUE_SHOWN: Final = shown(_ENTRY, "j.value")
_INPUT_SHOWN: Final = shown("'input', i.seq, i.id", "i.input")
_OUTPUT_TEXT: Final = f"CAST({clear(OUTPUT, 'i.output')} AS TEXT)"
#: A journal with its input and output, which are stored with the invocation. Who was killed wrote no output. A
#: completion has the number of its command, and comes before it: clients ask for the last ones first, and turn them
#: round.
SOURCE: Final = f"""(
    SELECT i.id, 1 + coalesce((SELECT max(j.entry) FROM {{db}}.journal j WHERE j.invocation = i.seq), 0) AS entry,
        0 AS part, 'Output' AS kind, '' AS name, NULL AS detail, {shown(OUTPUT, "i.output")} AS value,
        length(i.output) AS length, i.ok, 1 AS completed, i.completed_at AS at, 'Command' AS half
    FROM {{db}}._invocations i WHERE i.completed_at IS NOT NULL AND i.journal_until IS NOT 0
        AND NOT (i.ok = 0 AND json_valid({_OUTPUT_TEXT}) AND json_extract({_OUTPUT_TEXT}, '$.kind') IS 'killed')
    UNION ALL
    SELECT i.id, j.entry, j.part, j.kind, j.name, j.detail, {_VALUE_SHOWN}, length(j.value), j.ok, 1, j.at,
        'Notification'
    FROM {{db}}._invocations i JOIN {{db}}.journal j ON j.invocation = i.seq WHERE j.part = 1 OR j.entry = 0
    UNION ALL
    SELECT i.id, j.entry, j.part, j.kind, j.name, j.detail, {_VALUE_SHOWN}, length(j.value), j.ok,
        j.ok IS NOT NULL OR j.kind = 'send' OR EXISTS (
            SELECT 1 FROM {{db}}.journal c WHERE c.invocation = i.seq AND c.entry = j.entry AND c.part = 1
        ), j.at, 'Command'
    FROM {{db}}._invocations i JOIN {{db}}.journal j ON j.invocation = i.seq WHERE j.part = 0 AND j.entry > 0
    UNION ALL
    SELECT i.id, 0, 0, 'Input', '', NULL, {_INPUT_SHOWN}, length(i.input), 1, 1, i.created_at, 'Command'
    FROM {{db}}._invocations i WHERE i.journal_until IS NOT 0
) j"""
