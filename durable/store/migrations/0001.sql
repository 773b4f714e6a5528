-- Every accepted invocation: what was asked (fixed), and where it stands (the second half, rewritten as it moves on).
CREATE TABLE invocations (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    service TEXT NOT NULL,
    handler TEXT NOT NULL,
    key TEXT,
    flavor TEXT NOT NULL,
    input BLOB NOT NULL,
    headers TEXT,
    idempotency_key TEXT,
    caller_seq INTEGER,
    caller_id TEXT,
    caller_entry INTEGER,
    caller_target TEXT,
    caller_waits INTEGER,
    completion_retention_ms INTEGER NOT NULL,
    journal_retention_ms INTEGER NOT NULL,
    created_at INTEGER NOT NULL,

    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    step_failures TEXT,
    last_failure TEXT,
    due_at INTEGER,
    queued INTEGER,
    waiting_for TEXT,
    cancelling INTEGER NOT NULL,
    listened INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    completed_at INTEGER,
    ok INTEGER,
    output BLOB,
    expires_at INTEGER
);

-- What a start of the engine has to give an attempt.
CREATE INDEX invocations_running ON invocations (seq) WHERE status = 'running';

-- A key's queue: the first one holds the key.
CREATE INDEX invocations_queue ON invocations (service, key, queued) WHERE queued IS NOT NULL;

-- What clean-up may forget.
CREATE INDEX invocations_expiry ON invocations (expires_at) WHERE expires_at IS NOT NULL;

-- What each handler did, in its order. A row is a command (part 0, with its outcome where that came with it), a
-- completion (part 1), or something addressed to the invocation as a whole (entry 0). Clustered by invocation, so
-- that a replay reads one range. `ordinal` is the order in which outcomes reached the handler.
CREATE TABLE journal (
    invocation INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    part INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT,
    detail TEXT,
    seen INTEGER NOT NULL,
    ordinal INTEGER,
    ok INTEGER,
    value BLOB,
    at INTEGER NOT NULL,
    PRIMARY KEY (invocation, entry, part)
) WITHOUT ROWID;

-- Durable state of virtual objects and workflows.
CREATE TABLE state (
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (service, key, name)
) WITHOUT ROWID;

-- Settled promises of workflows.
CREATE TABLE promises (
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    ok INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (service, key, name)
) WITHOUT ROWID;

-- When to do what: entry 0 is the invocation's own start or retry, any other a sleep of its handler.
CREATE TABLE timers (
    due_at INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    PRIMARY KEY (due_at, seq, entry)
) WITHOUT ROWID;

-- Entries that wait for news of a promise or of another invocation's outcome.
CREATE TABLE listeners (
    topic TEXT NOT NULL,
    seq INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    PRIMARY KEY (topic, seq, entry)
) WITHOUT ROWID;

-- Signals that arrived before anybody waited for them.
CREATE TABLE signals (
    seq INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    name TEXT NOT NULL,
    ok INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (seq, ordinal)
) WITHOUT ROWID;

-- Options set at run time, as JSON, one row a service.
CREATE TABLE settings (
    service TEXT PRIMARY KEY,
    options TEXT NOT NULL
) WITHOUT ROWID;

-- One row a name. `ordinals` is the number up to which ordinals are taken.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO meta VALUES ('ordinals', 16);
