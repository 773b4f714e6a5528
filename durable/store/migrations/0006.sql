-- Listings come in the order of acceptance, and each index has the moment behind what it is about: an age is a range of
-- it, whatever else is asked. `by_handler` answers service, handler, status and age in every combination, and counts
-- them without reading a row; `open` is small and for SQL that asks for what has not ended.
DROP INDEX IF EXISTS invocations_of_handler;
DROP INDEX IF EXISTS invocations_of_key;
DROP INDEX IF EXISTS invocations_of_caller;
DROP INDEX IF EXISTS invocations_of_idempotency_key;
DROP INDEX IF EXISTS invocations_open;
DROP INDEX IF EXISTS invocations_failed;

CREATE INDEX invocations_by_handler ON invocations (service, handler, status, created_at);
CREATE INDEX invocations_of_key ON invocations (key, created_at) WHERE key IS NOT NULL;
CREATE INDEX invocations_of_caller ON invocations (caller_id, created_at) WHERE caller_id IS NOT NULL;
CREATE INDEX invocations_of_idempotency_key ON invocations (idempotency_key, created_at)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX invocations_open ON invocations (created_at, status) WHERE status <> 'completed';
CREATE INDEX invocations_failed ON invocations (created_at) WHERE ok = 0 OR last_failure IS NOT NULL;
