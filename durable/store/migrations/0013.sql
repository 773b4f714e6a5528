-- What was asked from outside with an idempotency key, and how it was answered: asked again, it gets that answer, and
-- nothing is done. Gone with its owner: an invocation (its seq), or the promises of a workflow's key. What has none (its
-- owner is ''), because it was purged say, is kept until a moment.
CREATE TABLE answered (
    owner TEXT NOT NULL,
    about TEXT NOT NULL,
    key TEXT NOT NULL,
    result TEXT NOT NULL,
    id TEXT NOT NULL,
    print BLOB NOT NULL,
    until INTEGER NOT NULL,
    checksum INTEGER,
    PRIMARY KEY (owner, about, key)
) WITHOUT ROWID;

CREATE INDEX answered_until ON answered (until) WHERE owner = '';
