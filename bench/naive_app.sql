-- name: claim_key
INSERT INTO naive.inbox_keys (tenant_id, channel, key_hash, content_hash, item_id, kept_until)
VALUES ($1, $2, $3, $4, $5, now() + interval '14 days')
ON CONFLICT DO NOTHING
RETURNING item_id

-- name: read_key
SELECT item_id, content_hash FROM naive.inbox_keys WHERE tenant_id = $1 AND channel = $2 AND key_hash = $3

-- name: insert_item
INSERT INTO naive.inbox (item_id, request_id, tenant_id, channel, kind, event_type, fate, reason, kafka_key, subject,
                         occurred_at, received_at, key_hash, first_item_id, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

-- name: insert_raw
INSERT INTO naive.raw_items (item_id, tenant_id, sealed, received_at) VALUES ($1, $2, $3, $4)

-- name: insert_outbox
INSERT INTO naive.outbox (item_id) VALUES ($1)

-- name: count_item
INSERT INTO naive.fate_counts AS c (tenant_id, channel, day, fate, shard, items, last_at)
VALUES ($1, $2, ($3::timestamptz AT TIME ZONE 'UTC')::date, $4, $5, 1, $3)
ON CONFLICT (tenant_id, channel, day, fate, shard)
DO UPDATE SET items = c.items + 1, last_at = greatest(c.last_at, excluded.last_at)

-- name: insert_at_once
-- All of the above at once; gives nothing where the key is held already.
WITH claimed AS (
  INSERT INTO naive.inbox_keys (tenant_id, channel, key_hash, content_hash, item_id, kept_until)
  VALUES ($1, $2, $3, $4, $5, now() + interval '14 days')
  ON CONFLICT DO NOTHING
  RETURNING item_id
), stored AS (
  INSERT INTO naive.inbox (item_id, request_id, tenant_id, channel, kind, event_type, fate, reason, kafka_key, subject,
                           occurred_at, received_at, key_hash, payload)
  SELECT item_id, $6, $1, $2, $7, $8, $9, $10, $11, $12, $13, $14, $3, $15 FROM claimed
), kept AS (
  INSERT INTO naive.raw_items (item_id, tenant_id, sealed, received_at) SELECT item_id, $1, $16, $14 FROM claimed
), queued AS (
  INSERT INTO naive.outbox (item_id) SELECT item_id FROM claimed WHERE $9 = 'published'
)
INSERT INTO naive.fate_counts AS c (tenant_id, channel, day, fate, shard, items, last_at)
SELECT $1, $2, ($14::timestamptz AT TIME ZONE 'UTC')::date, $9, $17, 1, $14 FROM claimed
ON CONFLICT (tenant_id, channel, day, fate, shard)
DO UPDATE SET items = c.items + 1, last_at = greatest(c.last_at, excluded.last_at)
RETURNING 1
