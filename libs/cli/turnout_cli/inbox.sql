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

-- name: check_fates
-- One statement, so one moment. $2 = the first day, $3 = an id from shortly before it.
WITH counted AS (
  SELECT tenant_id, channel, day, fate, items FROM ingest.fates
  WHERE day >= $2::date AND ($1::text IS NULL OR tenant_id = $1)
), stored AS (
  SELECT tenant_id, channel, (received_at AT TIME ZONE 'UTC')::date AS day, fate, count(*) AS items FROM ingest.inbox
  WHERE item_id >= $3 AND (received_at AT TIME ZONE 'UTC')::date >= $2 AND ($1::text IS NULL OR tenant_id = $1)
  GROUP BY 1, 2, 3, 4
)
SELECT tenant_id, channel, day, fate, coalesce(counted.items, 0) AS counted, coalesce(stored.items, 0) AS stored
FROM counted FULL JOIN stored USING (tenant_id, channel, day, fate)
WHERE counted.items IS DISTINCT FROM stored.items
ORDER BY tenant_id, channel, day, fate

-- name: channels
SELECT s.tenant_id, s.channel, s.last_at AS last_seen, coalesce(w.items, 0)::bigint AS items_7_days,
       q.tenant_id IS NOT NULL AS silent
FROM ingest.last_seen s
LEFT JOIN ingest.silent_channels q USING (tenant_id, channel)
LEFT JOIN LATERAL (
  SELECT sum(f.items) AS items FROM ingest.fate_counts f
  WHERE f.tenant_id = s.tenant_id AND f.channel = s.channel AND f.day > (now() AT TIME ZONE 'UTC')::date - 7
) w ON true
WHERE ($1::text IS NULL OR s.tenant_id = $1) AND (NOT $2 OR q.tenant_id IS NOT NULL)
ORDER BY s.tenant_id, s.channel

-- name: waiting
-- At most $1: nobody needs to know how far beyond it.
SELECT count(*) FROM (SELECT FROM ingest.outbox LIMIT $1) AS o

-- name: seq_before
SELECT seq - 1 FROM ingest.inbox WHERE item_id >= $1 AND released_at IS NULL ORDER BY item_id LIMIT 1

-- name: count_replay
SELECT count(*) FROM ingest.inbox
WHERE seq > $1 AND payload IS NOT NULL
  AND ($2::uuid[] IS NULL OR item_id = ANY ($2)) AND ($3::text IS NULL OR tenant_id = $3)
  AND ($4::text IS NULL OR channel = $4) AND ($5::text IS NULL OR event_type = $5)
  AND ($6::timestamptz IS NULL OR received_at >= $6) AND ($7::timestamptz IS NULL OR received_at < $7)

-- name: queue_replay
-- As count_replay, the next $8 after seq $1. The row lock keeps `prune` from erasing what is about to be published.
WITH picked AS (
  SELECT seq, item_id FROM ingest.inbox
  WHERE seq > $1 AND payload IS NOT NULL
    AND ($2::uuid[] IS NULL OR item_id = ANY ($2)) AND ($3::text IS NULL OR tenant_id = $3)
    AND ($4::text IS NULL OR channel = $4) AND ($5::text IS NULL OR event_type = $5)
    AND ($6::timestamptz IS NULL OR received_at >= $6) AND ($7::timestamptz IS NULL OR received_at < $7)
  ORDER BY seq LIMIT $8
  FOR SHARE
), queued AS (
  INSERT INTO ingest.outbox (item_id) SELECT item_id FROM picked ORDER BY seq
)
SELECT count(*) AS items, max(seq) AS last_seq FROM picked
