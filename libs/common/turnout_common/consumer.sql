-- name: claim
-- The unique key of each record's effect, in the transaction of that effect; sorted, so that two consumers never deadlock.
INSERT INTO {schema}.applied (record_id)
SELECT record_id FROM unnest($1::uuid[]) WITH ORDINALITY AS r(record_id, n) ORDER BY n
ON CONFLICT DO NOTHING
RETURNING record_id

-- name: set_outcomes
UPDATE {schema}.applied a SET outcome = o.outcome
FROM unnest($1::uuid[], $2::text[]) AS o(record_id, outcome) WHERE a.record_id = o.record_id

-- name: claim_as
INSERT INTO {schema}.applied (record_id, outcome)
SELECT record_id, $2 FROM unnest($1::uuid[]) WITH ORDINALITY AS r(record_id, n) ORDER BY n
ON CONFLICT DO NOTHING

-- name: insert_dead_letter
INSERT INTO {schema}.dead_letters AS d (record_id, tenant_id, topic, partition, record_offset, reason, key,
                                   header_names, header_values, value)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (topic, partition, record_offset) DO UPDATE
SET attempts = d.attempts + 1, reason = excluded.reason, dead_at = now(), replay_requested_at = NULL, replayed_at = NULL

-- name: requested_replays
SELECT dead_letter_id, topic, partition, record_offset, key, header_names, header_values, value, dead_at
FROM {schema}.dead_letters WHERE replay_requested_at IS NOT NULL AND topic = $1 ORDER BY dead_letter_id LIMIT 500

-- name: take_replays
-- The `applied` rows go in the same transaction, so that the records can take effect now.
WITH taken AS (
  UPDATE {schema}.dead_letters SET replay_requested_at = NULL, replayed_at = now()
  WHERE dead_letter_id = ANY ($1::bigint[]) RETURNING record_id
)
DELETE FROM {schema}.applied a USING taken t WHERE a.record_id = t.record_id AND a.outcome = 'dead'

-- name: write_marks
-- $4 = how many partitions the topic has: the recovery check concludes nothing before all of them have a mark.
INSERT INTO {schema}.read_marks AS m (topic, partition, read_until, partitions)
SELECT $1, p, u, $4 FROM unnest($2::int[], $3::timestamptz[]) AS r(p, u) ORDER BY p
ON CONFLICT (topic, partition) DO UPDATE
SET read_until = greatest(m.read_until, excluded.read_until), partitions = excluded.partitions, written_at = now()
