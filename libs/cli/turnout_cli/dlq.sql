-- name: list
SELECT dead_letter_id, dead_at, tenant_id, topic, partition, record_offset, reason, attempts, replayed_at,
       replay_requested_at
FROM {schema}.dead_letters
WHERE ($1::text IS NULL OR tenant_id = $1)
  AND ($2 OR replayed_at IS NULL)
ORDER BY dead_letter_id DESC LIMIT $3

-- name: show
SELECT dead_letter_id, record_id, tenant_id, topic, partition, record_offset, reason, attempts, key, header_names,
       header_values, value, dead_at, replay_requested_at, replayed_at
FROM {schema}.dead_letters WHERE dead_letter_id = $1

-- name: request_replay
-- $1 = some ids, or NULL for all that wait; $2 = a tenant or NULL. The service takes them within seconds.
UPDATE {schema}.dead_letters SET replay_requested_at = now()
WHERE replayed_at IS NULL
  AND ($1::bigint[] IS NULL OR dead_letter_id = ANY ($1))
  AND ($2::text IS NULL OR tenant_id = $2)
RETURNING dead_letter_id, attempts

-- name: replay_state
SELECT dead_letter_id, attempts, reason, replayed_at, replay_requested_at
FROM {schema}.dead_letters WHERE dead_letter_id = ANY ($1::bigint[]) ORDER BY dead_letter_id
