-- name: one_at_a_time
-- Two operators' batches take turns: their corrections of counts would lock each other out otherwise.
-- Gives the time by which keys expire.
SELECT now() FROM pg_advisory_xact_lock(hashtextextended('turnout:inbox release', 0))

-- name: count
SELECT count(*) FROM ingest.inbox i
WHERE i.fate IN ('quarantined', 'wrong_tenant') AND i.fate = $1
  AND ($2::uuid[] IS NULL OR i.item_id = ANY ($2)) AND ($3::text IS NULL OR i.tenant_id = $3)
  AND ($4::text IS NULL OR i.channel = $4) AND ($5::text IS NULL OR i.event_type = $5)
  AND ($6::timestamptz IS NULL OR i.received_at >= $6) AND ($7::timestamptz IS NULL OR i.received_at < $7)

-- name: pick
-- As count, the next ones after $8 in the order of their ids. What another hand holds just now is passed over.
SELECT i.item_id, i.request_id, i.tenant_id, i.channel, i.event_type, i.fate, i.reason, i.received_at,
       r.sealed, r.sealed_headers
FROM ingest.inbox i LEFT JOIN ingest.raw_items r USING (item_id)
WHERE i.fate IN ('quarantined', 'wrong_tenant') AND i.fate = $1
  AND ($2::uuid[] IS NULL OR i.item_id = ANY ($2)) AND ($3::text IS NULL OR i.tenant_id = $3)
  AND ($4::text IS NULL OR i.channel = $4) AND ($5::text IS NULL OR i.event_type = $5)
  AND ($6::timestamptz IS NULL OR i.received_at >= $6) AND ($7::timestamptz IS NULL OR i.received_at < $7)
  AND i.item_id > $8
ORDER BY i.item_id LIMIT $9
FOR UPDATE OF i SKIP LOCKED

-- name: take_out
-- Makes room for what the items are now. Their old fate is counted down in the shard of corrections.
WITH gone AS (
  DELETE FROM ingest.inbox WHERE item_id = ANY ($1::uuid[]) RETURNING item_id, tenant_id, channel, fate, received_at
), raw AS (
  DELETE FROM ingest.raw_items r USING gone g WHERE r.item_id = g.item_id
)
INSERT INTO ingest.fate_counts AS c (tenant_id, channel, day, fate, shard, items, last_at)
SELECT tenant_id, channel, (received_at AT TIME ZONE 'UTC')::date AS day, fate, $2::smallint, -count(*), max(received_at)
FROM gone GROUP BY tenant_id, channel, day, fate
ON CONFLICT (tenant_id, channel, day, fate, shard) DO UPDATE SET items = c.items + excluded.items

-- name: mark_released
UPDATE ingest.inbox SET released_at = clock_timestamp() WHERE item_id = ANY ($1::uuid[])

-- name: set_reasons
UPDATE ingest.inbox i SET reason = w.reason
FROM unnest($1::uuid[], $2::text[]) AS w(item_id, reason)
WHERE i.item_id = w.item_id AND i.reason IS DISTINCT FROM w.reason

-- name: account
SELECT routing_id, sealed_handshake FROM platform.channels WHERE tenant_id = $1 AND channel = $2
