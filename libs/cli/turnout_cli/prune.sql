-- name: unchecked_since
-- For each reader: when the oldest record was written that its publisher's recovery check has not looked at yet; NULL
-- where it looked at all. Whatever a reader applied before that lies behind the mark, and nobody asks for it again.
SELECT 'booking' AS reader, (
  SELECT received_at FROM ingest.inbox
  WHERE fate = 'published' AND seq > coalesce((SELECT seq FROM ingest.recovery_marks WHERE watch = 'inbound_webhooks>booking'), 0)
  ORDER BY seq LIMIT 1) AS since, 'ingest' AS publisher
UNION ALL SELECT 'sender', (
  SELECT received_at FROM ingest.inbox
  WHERE kind = 'receipt' AND fate = 'published'
    AND seq > coalesce((SELECT seq FROM ingest.recovery_marks WHERE watch = 'inbound_webhooks>sender'), 0)
  ORDER BY seq LIMIT 1), 'ingest'
UNION ALL SELECT 'rollup', (
  SELECT created_at FROM booking.booking_events
  WHERE seq > coalesce((SELECT seq FROM booking.recovery_marks WHERE watch = 'booking_events>rollup'), 0)
  ORDER BY seq LIMIT 1), 'booking'
UNION ALL SELECT 'sender', (
  SELECT created_at FROM booking.outbound
  WHERE seq > coalesce((SELECT seq FROM booking.recovery_marks WHERE watch = 'outbound_messages>sender'), 0)
  ORDER BY seq LIMIT 1), 'booking'
UNION ALL SELECT w.reader, (
  SELECT written_at FROM sender.message_log
  WHERE seq > coalesce((SELECT seq FROM sender.recovery_marks WHERE watch = 'message_events>' || w.reader), 0)
  ORDER BY seq LIMIT 1), 'sender'
FROM unnest('{rollup,booking}'::text[]) AS w(reader)

-- name: settings
SELECT tenant_id, settings FROM platform.tenants

-- name: pages
SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint

-- name: keys
-- A walk over the pages: the table has no index by age, which each webhook would have to pay for.
-- What a webhook takes over just now is passed over: each would wait for the other.
{act} ingest.inbox_keys WHERE ctid IN (
  SELECT ctid FROM ingest.inbox_keys WHERE ctid >= $1::tid AND ctid < $2::tid AND kept_until < $3 FOR UPDATE SKIP LOCKED)

-- name: applied
{act} {reader}.applied a
WHERE a.ctid >= $1::tid AND a.ctid < $2::tid AND a.applied_at < $3
  AND NOT EXISTS (SELECT FROM {one}.missing m WHERE m.record_id = a.record_id)
  AND NOT EXISTS (SELECT FROM {other}.missing m WHERE m.record_id = a.record_id)

-- name: aged_bytes
-- The next $3 bytes after id $1, and whether their time is over: by their tenant's days, and never before the recovery
-- check has looked at the item ($7).
SELECT r.item_id, r.received_at < least(now() - make_interval(days => coalesce(d.days, $6)), $7::timestamptz) AS over
FROM (SELECT item_id, tenant_id, received_at FROM ingest.raw_items
      WHERE item_id > $1 AND item_id < $2 ORDER BY item_id LIMIT $3) r
LEFT JOIN unnest($4::text[], $5::int[]) AS d(tenant_id, days) USING (tenant_id)
ORDER BY r.item_id

-- name: lock_items
-- A replay that has them goes first; one that comes later finds no payload.
SELECT FROM ingest.inbox WHERE item_id = ANY ($1::uuid[]) ORDER BY item_id FOR UPDATE

-- name: erase_bytes
-- In a statement after the lock, so that it sees what was queued until then.
WITH free AS (
  SELECT id FROM unnest($1::uuid[]) AS ids(id)
  WHERE NOT EXISTS (SELECT FROM ingest.outbox o WHERE o.item_id = id)
    AND NOT EXISTS (SELECT FROM ingest.missing m WHERE m.record_id = id)
), erased AS (
  UPDATE ingest.inbox i SET payload = NULL, erased_at = now() FROM free WHERE i.item_id = free.id AND i.payload IS NOT NULL
)
DELETE FROM ingest.raw_items r USING free WHERE r.item_id = free.id

-- name: items
-- Of the next $3 after seq $1. What still has its payload stays.
WITH looked AS (
  SELECT seq, received_at < $2 AND payload IS NULL AS over FROM ingest.inbox WHERE seq > $1 ORDER BY seq LIMIT $3
), gone AS (
  {act} ingest.inbox i WHERE i.seq IN (SELECT seq FROM looked WHERE over) {counted}
)
SELECT (SELECT {sum} FROM gone)::int AS items, (SELECT max(seq) FROM looked WHERE over) AS last_seq

-- name: outbound
-- As items; behind the recovery check's mark only.
WITH looked AS (
  SELECT seq, created_at < $2 AND NOT EXISTS (SELECT FROM booking.missing m WHERE m.record_id = o.record_id)
    AND seq <= (SELECT seq FROM booking.recovery_marks WHERE watch = 'outbound_messages>sender') AS over
  FROM booking.outbound o WHERE seq > $1 ORDER BY seq LIMIT $3
), gone AS (
  {act} booking.outbound o WHERE o.seq IN (SELECT seq FROM looked WHERE over) {counted}
)
SELECT (SELECT {sum} FROM gone)::int AS items, (SELECT max(seq) FROM looked WHERE over) AS last_seq

-- name: dead_letters
{act} {schema}.dead_letters WHERE replayed_at < $1
