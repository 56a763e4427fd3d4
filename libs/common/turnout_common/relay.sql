-- name: try_lock
-- One replica publishes; the lock goes with the session, so a dead replica frees it.
SELECT pg_try_advisory_lock(hashtextextended('turnout:relay:' || $1::text, 0))

-- name: fetch_outbox
SELECT outbox_id, record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload,
       extract(epoch FROM clock_timestamp() - created_at)::float8 AS age_seconds
FROM {schema}.outbox ORDER BY outbox_id LIMIT $1

-- name: delete_outbox
DELETE FROM {schema}.outbox WHERE outbox_id = ANY ($1::bigint[])

-- name: insert_outbox
-- Writers of an outbox call this in the transaction of their effect.
INSERT INTO {schema}.outbox (record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::text[])
