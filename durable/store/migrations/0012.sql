-- A codec over every stored value (docs/encryption.md): which keys values are encoded with. `probe` is something small
-- that each has encoded: by that, another key under the same id is told.
CREATE TABLE codec_keys (
    key_id TEXT PRIMARY KEY,
    probe BLOB NOT NULL,
    checksum INTEGER
) WITHOUT ROWID;

-- The views say of an encoded value that it is one, and with which key. (It begins with ff 'durable' 01, the id of its
-- key, and 00; where it is text, with `encrypted, key ID: `.)
DROP VIEW IF EXISTS invocations;
DROP VIEW IF EXISTS steps;
DROP VIEW IF EXISTS timers;
DROP VIEW IF EXISTS state;
DROP VIEW IF EXISTS failures;

-- Every invocation.
CREATE VIEW IF NOT EXISTS invocations AS SELECT
    i.seq,
    i.id,
    i.service || '/' || iif(i.key IS NULL, '', i.key || '/') || i.handler AS target,
    i.service,
    i.handler,
    i.key,
    i.status,
    CASE i.ok WHEN 1 THEN 'success' WHEN 0 THEN 'failure' END AS result,
    strftime('%Y-%m-%dT%H:%M:%fZ', i.created_at / 1000.0, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', i.modified_at / 1000.0, 'unixepoch') AS modified_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', i.completed_at / 1000.0, 'unixepoch') AS completed_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', iif(i.completed_at IS NULL, i.due_at, NULL) / 1000.0, 'unixepoch') AS due_at,
    i.attempt AS attempts,
    i.failures,
    CASE
        WHEN i.ok = 0 AND substr(i.output, 1, 9) = x'ff64757261626c6501'
            THEN '(encrypted, key ' || CAST(substr(i.output, 10, instr(substr(i.output, 10, 65), x'00') - 1) AS TEXT) || ')'
        WHEN i.ok = 0 AND json_valid(CAST(i.output AS TEXT)) THEN json_extract(CAST(i.output AS TEXT), '$.message')
        WHEN json_valid(i.last_failure) AND json_extract(i.last_failure, '$.message') LIKE 'encrypted, key %: %'
            THEN '(' || substr(json_extract(i.last_failure, '$.message'), 1, instr(json_extract(i.last_failure, '$.message'), ': ') - 1) || ')'
        WHEN json_valid(i.last_failure) THEN json_extract(i.last_failure, '$.message')
    END AS failure,
    CASE WHEN json_valid(i.last_failure) THEN nullif(json_extract(i.last_failure, '$.reason'), '') END AS reason,
    CASE WHEN substr(i.input, 1, 9) = x'ff64757261626c6501'
            THEN '(encrypted, key ' || CAST(substr(i.input, 10, instr(substr(i.input, 10, 65), x'00') - 1) AS TEXT) || ')'
            ELSE iif(json_valid(CAST(i.input AS TEXT)), CAST(i.input AS TEXT), nullif(i.input, x''))
        END AS input,
    CASE WHEN substr(i.output, 1, 9) = x'ff64757261626c6501'
            THEN '(encrypted, key ' || CAST(substr(i.output, 10, instr(substr(i.output, 10, 65), x'00') - 1) AS TEXT) || ')'
            ELSE iif(json_valid(CAST(i.output AS TEXT)), CAST(i.output AS TEXT), nullif(i.output, x''))
        END AS output,
    CASE WHEN i.headers LIKE '{"(headers)":"encrypted, key %: %'
        THEN '(' || substr(i.headers, 15, instr(i.headers, ': ') - 15) || ')' ELSE i.headers END AS headers,
    i.idempotency_key,
    i.caller_id AS parent_id,
    i.caller_target AS parent_target,
    i.restarted_from,
    i.cancelling > 0 AS cancelling,
    i.pausing AND i.status = 'running' AS pausing,
    strftime('%Y-%m-%dT%H:%M:%fZ', i.expires_at / 1000.0, 'unixepoch') AS expires_at
FROM _invocations i;

-- What handlers did, an entry of a journal a row.
CREATE VIEW IF NOT EXISTS steps AS SELECT
    i.id AS invocation_id,
    j.entry,
    j.kind,
    j.name,
    CASE j.ended
        WHEN 1 THEN 'success'
        WHEN 0 THEN 'failure'
        ELSE iif(j.kind IN ('send', 'cancel', 'send-signal', 'complete-awakeable'), 'done', 'open')
    END AS result,
    CASE WHEN substr(j.outcome, 1, 9) = x'ff64757261626c6501'
            THEN '(encrypted, key ' || CAST(substr(j.outcome, 10, instr(substr(j.outcome, 10, 65), x'00') - 1) AS TEXT) || ')'
            ELSE iif(json_valid(CAST(j.outcome AS TEXT)), CAST(j.outcome AS TEXT), nullif(j.outcome, x''))
        END AS value,
    CASE j.kind
        WHEN 'sleep' THEN strftime('%Y-%m-%dT%H:%M:%fZ', CAST(j.detail AS INTEGER) / 1000.0, 'unixepoch')
        WHEN 'call' THEN iif(j.detail LIKE 'output/%', substr(j.detail, 8), j.detail)
        WHEN 'run' THEN NULL
        ELSE iif(j.detail LIKE 'encrypted, key %: %', NULL, j.detail)
    END AS detail,
    strftime('%Y-%m-%dT%H:%M:%fZ', j.at / 1000.0, 'unixepoch') AS recorded_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', j.ended_at / 1000.0, 'unixepoch') AS completed_at
FROM _invocations i JOIN (
    SELECT
        a.invocation, a.entry, a.kind, a.name, a.detail, a.at,
        coalesce(c.ok, a.ok) AS ended,
        coalesce(c.at, iif(a.ok IS NULL, NULL, a.at)) AS ended_at,
        CASE
            WHEN a.kind IN ('get', 'peek-promise', 'output') AND coalesce(c.ok, a.ok) = 1
                AND substr(iif(a.ok IS NULL, c.value, a.value), 1, 9) <> x'ff64757261626c6501'
                THEN substr(iif(a.ok IS NULL, c.value, a.value), 2)  -- behind a digit: whether there was anything
            ELSE iif(a.ok IS NULL, c.value, a.value)
        END AS outcome
    FROM journal a
    LEFT JOIN journal c ON c.invocation = a.invocation AND c.entry = a.entry AND c.part = 1 AND c.ordinal IS NOT NULL
    WHERE a.part = 0 AND a.entry > 0
) j ON j.invocation = i.seq
WHERE i.journal_until IS NOT 0;

-- What is due.
CREATE VIEW IF NOT EXISTS timers AS SELECT
    i.id AS invocation_id,
    i.service || '/' || iif(i.key IS NULL, '', i.key || '/') || i.handler AS target,
    strftime('%Y-%m-%dT%H:%M:%fZ', t.due_at / 1000.0, 'unixepoch') AS due_at,
    CASE WHEN t.entry > 0 THEN 'sleep' WHEN i.status = 'scheduled' THEN 'start' ELSE 'retry' END AS kind,
    t.entry
FROM _timers t JOIN _invocations i ON i.seq = t.seq;

-- State of virtual objects and workflows.
CREATE VIEW IF NOT EXISTS state AS SELECT
    service,
    key,
    name,
    CASE WHEN substr(value, 1, 9) = x'ff64757261626c6501'
            THEN '(encrypted, key ' || CAST(substr(value, 10, instr(substr(value, 10, 65), x'00') - 1) AS TEXT) || ')'
            ELSE iif(json_valid(CAST(value AS TEXT)), CAST(value AS TEXT), value)
        END AS value
FROM _state;

-- Whose last attempt failed, and who ended with a failure.
CREATE VIEW IF NOT EXISTS failures AS SELECT
    i.id AS invocation_id,
    i.service || '/' || iif(i.key IS NULL, '', i.key || '/') || i.handler AS target,
    i.status,
    strftime('%Y-%m-%dT%H:%M:%fZ', coalesce(i.completed_at,
        CASE WHEN json_valid(i.last_failure) THEN json_extract(i.last_failure, '$.at') END, i.modified_at) / 1000.0,
        'unixepoch') AS failed_at,
    coalesce(CASE
        WHEN i.ok = 0 AND json_valid(CAST(i.output AS TEXT)) THEN json_extract(CAST(i.output AS TEXT), '$.code')
        WHEN i.ok IS NULL AND json_valid(i.last_failure) THEN json_extract(i.last_failure, '$.code')
    END, 500) AS code,
    CASE
        WHEN i.ok = 0 AND substr(i.output, 1, 9) = x'ff64757261626c6501'
            THEN '(encrypted, key ' || CAST(substr(i.output, 10, instr(substr(i.output, 10, 65), x'00') - 1) AS TEXT) || ')'
        WHEN i.ok = 0 AND json_valid(CAST(i.output AS TEXT)) THEN json_extract(CAST(i.output AS TEXT), '$.message')
        WHEN json_valid(i.last_failure) AND json_extract(i.last_failure, '$.message') LIKE 'encrypted, key %: %'
            THEN '(' || substr(json_extract(i.last_failure, '$.message'), 1, instr(json_extract(i.last_failure, '$.message'), ': ') - 1) || ')'
        WHEN json_valid(i.last_failure) THEN json_extract(i.last_failure, '$.message')
    END AS message,
    CASE WHEN i.ok IS NULL AND json_valid(i.last_failure) THEN json_extract(i.last_failure, '$.type') END AS type,
    CASE WHEN json_valid(i.last_failure) THEN nullif(json_extract(i.last_failure, '$.reason'), '') END AS reason,
    CASE WHEN json_valid(i.last_failure) THEN json_extract(i.last_failure, '$.entry') END AS entry,
    CASE WHEN json_valid(i.last_failure) THEN nullif(json_extract(i.last_failure, '$.name'), '') END AS step,
    CASE
        WHEN json_valid(i.last_failure) AND json_extract(i.last_failure, '$.stacktrace') LIKE 'encrypted, key %: %'
            THEN '(' || substr(json_extract(i.last_failure, '$.stacktrace'), 1, instr(json_extract(i.last_failure, '$.stacktrace'), ': ') - 1) || ')'
        WHEN json_valid(i.last_failure) THEN json_extract(i.last_failure, '$.stacktrace')
    END AS stacktrace,
    i.failures
FROM _invocations i WHERE (i.ok = 0 OR i.last_failure IS NOT NULL) AND i.ok IS NOT 1;
