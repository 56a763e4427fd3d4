-- name: claim_keys
-- Sorted by the caller, so that two writers never deadlock. Gives the items whose key is theirs now.
INSERT INTO ingest.inbox_keys (tenant_id, channel, key_hash, content_hash, item_id, kept_until)
SELECT tenant_id, channel, key_hash, content_hash, item_id, now() + make_interval(hours => hours)
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::uuid[], $6::int[])
     WITH ORDINALITY AS k(tenant_id, channel, key_hash, content_hash, item_id, hours, n)
ORDER BY n
ON CONFLICT DO NOTHING
RETURNING item_id

-- name: read_keys
-- Who holds the keys that could not be claimed; in a statement of its own, which sees what others committed meanwhile.
SELECT k.tenant_id, k.channel, k.key_hash, k.content_hash, k.item_id, k.kept_until < now() AS expired
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS wanted(tenant_id, channel, key_hash)
JOIN ingest.inbox_keys k USING (tenant_id, channel, key_hash)

-- name: take_over_keys
-- Keys whose window has passed and that nobody pruned yet. A statement apart, since hardly any commit has one, and an
-- ON CONFLICT DO UPDATE would lock the row of every duplicate. Gives the items whose key is theirs now.
WITH free AS (
  SELECT k.tenant_id, k.channel, k.key_hash, w.content_hash, w.item_id, w.hours
  FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::uuid[], $6::int[])
         AS w(tenant_id, channel, key_hash, content_hash, item_id, hours)
  JOIN ingest.inbox_keys k USING (tenant_id, channel, key_hash)
  WHERE k.kept_until < now()
  ORDER BY k.tenant_id, k.channel, k.key_hash
  FOR UPDATE OF k
)
UPDATE ingest.inbox_keys k
SET content_hash = free.content_hash, item_id = free.item_id, kept_until = now() + make_interval(hours => free.hours)
FROM free
WHERE k.tenant_id = free.tenant_id AND k.channel = free.channel AND k.key_hash = free.key_hash
RETURNING k.item_id

-- name: store_items
-- Items, raw bytes, outbox rows and counts at once. An item that is stored already (the answer to an earlier commit of
-- the same batch was lost) is passed over whole: it is in the outbox and counted.
WITH item AS (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                       $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::bytea[], $14::uuid[],
                       $15::text[], $16::bytea[], $17::bytea[])
    WITH ORDINALITY AS i(item_id, request_id, tenant_id, channel, kind, event_type, fate, reason,
                         kafka_key, subject, occurred_at, received_at, key_hash, first_item_id,
                         payload, sealed, sealed_headers, n)
), stored AS (
  INSERT INTO ingest.inbox (item_id, request_id, tenant_id, channel, kind, event_type, fate, reason, kafka_key, subject,
                            occurred_at, received_at, key_hash, first_item_id, payload)
  SELECT item_id, request_id, tenant_id, channel, kind, event_type, fate, reason, kafka_key, subject,
         occurred_at, received_at, key_hash, first_item_id, payload
  FROM item ORDER BY n
  ON CONFLICT (item_id) DO NOTHING
  RETURNING seq, item_id, tenant_id, channel, fate, received_at
), kept AS (
  INSERT INTO ingest.raw_items (item_id, tenant_id, sealed, sealed_headers, received_at)
  SELECT i.item_id, i.tenant_id, i.sealed, i.sealed_headers, i.received_at
  FROM item i JOIN stored USING (item_id) WHERE i.sealed IS NOT NULL
), queued AS (
  INSERT INTO ingest.outbox (item_id) SELECT item_id FROM stored WHERE fate = 'published' ORDER BY seq
)
INSERT INTO ingest.fate_counts AS c (tenant_id, channel, day, fate, shard, items, last_at)
SELECT tenant_id, channel, (received_at AT TIME ZONE 'UTC')::date AS day, fate, $18::smallint, count(*), max(received_at)
FROM stored GROUP BY tenant_id, channel, day, fate ORDER BY tenant_id, channel, day, fate
ON CONFLICT (tenant_id, channel, day, fate, shard)
DO UPDATE SET items = c.items + excluded.items, last_at = greatest(c.last_at, excluded.last_at)

-- name: store_new_items
-- `claim_keys` and `store_items` at once for items whose keys nobody holds: one way to Postgres and back, and it is
-- committed when it answers. Gives the items whose key is theirs now; of the others nothing is written. Sorted as the
-- callers of `claim_keys` sort, in whatever language the database is, so that two writers never deadlock.
WITH item AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                       $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::bytea[], $14::uuid[],
                       $15::text[], $16::bytea[], $17::bytea[], $19::bytea[], $20::int[])
    WITH ORDINALITY AS i(item_id, request_id, tenant_id, channel, kind, event_type, fate, reason,
                         kafka_key, subject, occurred_at, received_at, key_hash, first_item_id,
                         payload, sealed, sealed_headers, content_hash, hours, n)
), claimed AS (
  INSERT INTO ingest.inbox_keys (tenant_id, channel, key_hash, content_hash, item_id, kept_until)
  SELECT tenant_id, channel, key_hash, content_hash, item_id, now() + make_interval(hours => hours)
  FROM item ORDER BY tenant_id COLLATE "C", channel COLLATE "C", key_hash, n
  ON CONFLICT DO NOTHING
  RETURNING item_id
), stored AS (
  INSERT INTO ingest.inbox (item_id, request_id, tenant_id, channel, kind, event_type, fate, reason, kafka_key, subject,
                            occurred_at, received_at, key_hash, payload)
  SELECT item_id, request_id, tenant_id, channel, kind, event_type, fate, reason, kafka_key, subject,
         occurred_at, received_at, key_hash, payload
  FROM item JOIN claimed USING (item_id) ORDER BY n
  ON CONFLICT (item_id) DO NOTHING
  RETURNING seq, item_id, tenant_id, channel, fate, received_at
), kept AS (
  INSERT INTO ingest.raw_items (item_id, tenant_id, sealed, sealed_headers, received_at)
  SELECT i.item_id, i.tenant_id, i.sealed, i.sealed_headers, i.received_at
  FROM item i JOIN stored USING (item_id) WHERE i.sealed IS NOT NULL
), queued AS (
  INSERT INTO ingest.outbox (item_id) SELECT item_id FROM stored WHERE fate = 'published' ORDER BY seq
), counted AS (
  INSERT INTO ingest.fate_counts AS c (tenant_id, channel, day, fate, shard, items, last_at)
  SELECT tenant_id, channel, (received_at AT TIME ZONE 'UTC')::date AS day, fate, $18::smallint, count(*), max(received_at)
  FROM stored GROUP BY tenant_id, channel, day, fate ORDER BY tenant_id, channel, day, fate
  ON CONFLICT (tenant_id, channel, day, fate, shard)
  DO UPDATE SET items = c.items + excluded.items, last_at = greatest(c.last_at, excluded.last_at)
)
SELECT item_id FROM claimed

-- name: erase_words
-- What its client took back: the bytes as they came, and the sealed words of the event. The event itself stays, since
-- its reader may not have it yet, and its key, so that it cannot come again. Locked in the order of their ids.
WITH meant AS MATERIALIZED (
  SELECT i.item_id FROM unnest($1::text[], $2::text[], $3::bytea[]) AS w(tenant_id, channel, key_hash)
  JOIN ingest.inbox_keys k USING (tenant_id, channel, key_hash)
  JOIN ingest.inbox i ON i.item_id = k.item_id
  ORDER BY i.item_id FOR UPDATE OF i
), gone AS (
  DELETE FROM ingest.raw_items r USING meant m WHERE r.item_id = m.item_id
)
UPDATE ingest.inbox i SET payload = (i.payload::jsonb - 'text_sealed')::text
FROM meant m WHERE i.item_id = m.item_id AND i.payload IS NOT NULL

-- name: fetch_outbox
-- LATERAL with a limit keeps to one look into the index a row, whatever the planner believes of an outbox that is
-- empty one second and long the next. Rows whose item is gone come without a payload, for the relay to drop.
SELECT o.outbox_id, i.item_id AS record_id, 'inbound_webhooks' AS topic, i.kafka_key AS key,
       'inbound.' || i.kind AS type, 'turnout/ingest/' || i.channel AS source, i.subject, i.tenant_id, i.occurred_at,
       i.payload, extract(epoch FROM clock_timestamp() - o.created_at)::float8 AS age_seconds
FROM ingest.outbox o
LEFT JOIN LATERAL (SELECT * FROM ingest.inbox WHERE item_id = o.item_id AND payload IS NOT NULL LIMIT 1) i ON true
ORDER BY o.outbox_id LIMIT $1

-- name: walk_published
-- Ends before the first item that is too young: items of two writers may become visible in another order than their seq.
-- By the time of storing: `received_at` may be long before it, and a released item has the seq of its release.
WITH ahead AS MATERIALIZED (
  SELECT seq, item_id, stored_at FROM ingest.inbox
  WHERE seq > $1 AND fate = 'published' ORDER BY seq LIMIT $3
)
SELECT seq, item_id AS record_id FROM ahead
WHERE seq < coalesce((SELECT min(seq) FROM ahead WHERE stored_at >= now() - $2::interval), 9223372036854775807)
ORDER BY seq

-- name: walk_receipts
-- As walk_published, for the reader that is owed the receipts only.
WITH ahead AS MATERIALIZED (
  SELECT seq, item_id, stored_at FROM ingest.inbox
  WHERE seq > $1 AND kind = 'receipt' AND fate = 'published' ORDER BY seq LIMIT $3
)
SELECT seq, item_id AS record_id FROM ahead
WHERE seq < coalesce((SELECT min(seq) FROM ahead WHERE stored_at >= now() - $2::interval), 9223372036854775807)
ORDER BY seq

-- name: republish
INSERT INTO ingest.outbox (item_id)
SELECT item_id FROM ingest.inbox WHERE item_id = ANY ($1::uuid[]) AND payload IS NOT NULL ORDER BY seq

-- name: alive
SELECT 1

-- name: backlog
SELECT (SELECT count(*) FROM ingest.outbox) AS waiting,
       (SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 FROM ingest.outbox ORDER BY outbox_id LIMIT 1)
         AS oldest_seconds

-- name: make_durable
-- Whether the server writes through. A success answer means fsync: a role's or database's weaker setting is overruled.
SELECT current_setting('fsync') = 'on' AS durable,
       CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
            THEN set_config('synchronous_commit', 'on', false) END

-- name: silent_channels
SELECT tenant_id, channel, last_at FROM ingest.silent_channels ORDER BY tenant_id, channel
