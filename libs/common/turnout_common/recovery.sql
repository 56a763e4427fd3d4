-- name: relay_is_behind
-- While old rows wait for publishing nothing can be said about what was published.
SELECT EXISTS (SELECT FROM {schema}.outbox WHERE created_at < now() - $2::interval AND $1::text IS NOT NULL)

-- name: read_mark
SELECT seq FROM {schema}.recovery_marks WHERE watch = $1

-- name: set_mark
INSERT INTO {schema}.recovery_marks (watch, seq) VALUES ($1, $2)
ON CONFLICT (watch) DO UPDATE SET seq = excluded.seq

-- name: note_missing
INSERT INTO {schema}.missing (watch, record_id)
SELECT $1, r FROM unnest($2::uuid[]) AS ids(r)
WHERE NOT EXISTS (SELECT FROM {reader}.applied a WHERE a.record_id = r)
ON CONFLICT DO NOTHING

-- name: forget_applied
DELETE FROM {schema}.missing m
WHERE m.watch = $1 AND EXISTS (SELECT FROM {reader}.applied a WHERE a.record_id = m.record_id)

-- name: count_missing
SELECT count(*) FROM {schema}.missing WHERE watch = $1

-- name: due
-- Due once the reader has read, on every partition, past the time at which the record was certainly published.
UPDATE {schema}.missing m SET republished_at = now(), attempts = m.attempts + 1
WHERE m.watch = $1
  AND (m.republished_at IS NULL OR m.republished_at < now() - $4::interval)
  AND m.record_id IN (SELECT record_id FROM {schema}.missing WHERE watch = $1 ORDER BY found_at LIMIT 5000)
  AND (SELECT CASE WHEN count(*) >= max(partitions) THEN min(read_until) END FROM {reader}.read_marks WHERE topic = $2)
      >= greatest(m.found_at, m.republished_at) + $3::interval
RETURNING m.record_id
