-- A checksum of each row that carries a value: a flipped bit is a damaged row, never another value. NULL in rows that
-- were written before. (`moving_checksum` is over what changes; `expires_at` and `journal_until` follow from others and
-- are covered by none.)
ALTER TABLE invocations ADD COLUMN checksum INTEGER;
ALTER TABLE invocations ADD COLUMN moving_checksum INTEGER;
ALTER TABLE journal ADD COLUMN checksum INTEGER;
ALTER TABLE state ADD COLUMN checksum INTEGER;
ALTER TABLE promises ADD COLUMN checksum INTEGER;
ALTER TABLE signals ADD COLUMN checksum INTEGER;
ALTER TABLE settings ADD COLUMN checksum INTEGER;
ALTER TABLE services ADD COLUMN checksum INTEGER;
ALTER TABLE meta ADD COLUMN checksum INTEGER;
