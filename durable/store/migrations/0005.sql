-- Who waits for a slot, in what order; and in how many processes that crashed, one after the other, an attempt was
-- running.
ALTER TABLE invocations ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
ALTER TABLE invocations ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;

CREATE INDEX invocations_ready ON invocations (place) WHERE status = 'ready';
