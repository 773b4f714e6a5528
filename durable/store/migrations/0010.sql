-- Where records come from, as JSON; a secret is named in it, never contained.
CREATE TABLE subscriptions (
    id TEXT PRIMARY KEY,
    subscription TEXT NOT NULL,
    checksum INTEGER
) WITHOUT ROWID;

-- How far each partition was taken. Written in the same transaction as what its records became, so that a record is taken
-- once. `fingerprint` is of the record before `next`: where another one stands there, the topic was created again.
CREATE TABLE positions (
    cluster TEXT NOT NULL,
    group_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next INTEGER NOT NULL,
    fingerprint INTEGER NOT NULL,
    taken INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    taken_at INTEGER NOT NULL,
    checksum INTEGER,
    PRIMARY KEY (cluster, group_id, topic, partition)
) WITHOUT ROWID;

-- Kafka clusters that were named at run time, as JSON; a secret is named in it, never contained.
CREATE TABLE clusters (
    name TEXT PRIMARY KEY,
    cluster TEXT NOT NULL,
    checksum INTEGER
) WITHOUT ROWID;
