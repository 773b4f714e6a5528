-- What operators look for, so that a listing reads what it shows and not everything there is. All but one are written
-- once for an invocation, where it is accepted; `open` is left by what has completed, and is small.
CREATE INDEX invocations_of_handler ON invocations (service, handler);
CREATE INDEX invocations_of_key ON invocations (key) WHERE key IS NOT NULL;
CREATE INDEX invocations_of_caller ON invocations (caller_id) WHERE caller_id IS NOT NULL;
CREATE INDEX invocations_of_idempotency_key ON invocations (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX invocations_created ON invocations (created_at);
CREATE INDEX invocations_open ON invocations (status) WHERE completed_at IS NULL;
CREATE INDEX invocations_failed ON invocations (seq) WHERE ok = 0 OR last_failure IS NOT NULL;
