-- What determines an id is unique, as the id is: so a request whose first invocation has a damaged id is not accepted a
-- second time. Where that has happened already, the later one gets a key that says so.
UPDATE invocations
SET idempotency_key = coalesce(idempotency_key, '') || ' (again: number ' || seq || ')', checksum = NULL
WHERE seq IN (
    SELECT seq FROM (
        SELECT seq, row_number() OVER (
            PARTITION BY idempotency_key, service, iif(flavor = 'workflow', '', handler), key ORDER BY seq
        ) AS place
        FROM invocations WHERE idempotency_key IS NOT NULL OR flavor = 'workflow'
    ) WHERE place > 1
);

CREATE UNIQUE INDEX invocations_of_claim
    ON invocations (idempotency_key, service, handler, coalesce(key, x'')) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX invocations_of_workflow
    ON invocations (service, key, coalesce(idempotency_key, '')) WHERE flavor = 'workflow';
