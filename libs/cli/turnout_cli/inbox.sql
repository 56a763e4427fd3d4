-- name: list
SELECT received_at, tenant_id, channel, event_type, kind, fate, reason, occurred_at, item_id, request_id,
       first_item_id, seq
FROM ingest.inbox_list
WHERE ($1::text IS NULL OR tenant_id = $1)
  AND ($2::text IS NULL OR channel = $2)
  AND ($3::text IS NULL OR fate = $3)
  AND ($4::timestamptz IS NULL OR received_at >= $4)
ORDER BY seq DESC LIMIT $5

-- name: show
SELECT l.*, encode(i.key_hash, 'hex') AS key_hash, i.kafka_key, i.subject, i.payload::jsonb AS payload,
       r.item_id IS NOT NULL AS has_raw
FROM ingest.inbox_list l
JOIN ingest.inbox i USING (item_id)
LEFT JOIN ingest.raw_items r USING (item_id)
WHERE l.item_id = $1

-- name: raw
SELECT tenant_id, sealed FROM ingest.raw_items WHERE item_id = $1

-- name: fates
SELECT tenant_id, channel, fate, sum(items)::bigint AS items
FROM ingest.fates
WHERE $1::text IS NULL OR tenant_id = $1
GROUP BY tenant_id, channel, fate ORDER BY tenant_id, channel, fate
