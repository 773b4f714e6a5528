-- What operators do: pauses that wait for a step, invocations that do another one again, journals that go before the
-- result does.
ALTER TABLE invocations ADD COLUMN restarted_from TEXT;
ALTER TABLE invocations ADD COLUMN seed TEXT;
ALTER TABLE invocations ADD COLUMN pausing INTEGER NOT NULL DEFAULT 0;
ALTER TABLE invocations ADD COLUMN journal_until INTEGER;

UPDATE invocations SET journal_until = completed_at + journal_retention_ms WHERE completed_at IS NOT NULL;

-- Whose journal clean-up may forget while the result stays; 0 is a journal that is gone.
CREATE INDEX invocations_journal_expiry ON invocations (journal_until)
    WHERE journal_until > 0 AND journal_until < expires_at;

-- How often the declaration of a service has changed, and a digest of what it was last.
CREATE TABLE services (
    name TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    declaration TEXT NOT NULL
) WITHOUT ROWID;
