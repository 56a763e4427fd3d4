-- For pgbench: a transaction of :batch rows as wide as ours (1,140 bytes of event, 2,165 sealed), made in the server.
WITH item AS (
  SELECT uuidv7() AS item_id, gen_random_uuid() AS request_id, 'bench' || lpad((n % 20)::text, 2, '0') AS tenant_id,
         uuid_send(gen_random_uuid()) AS key_hash, now() AS at
  FROM generate_series(1, :batch) AS n
), claimed AS (
  INSERT INTO bare.inbox_keys (tenant_id, channel, key_hash, content_hash, item_id, kept_until)
  SELECT tenant_id, 'calcom', key_hash, key_hash, item_id, at + interval '14 days' FROM item ON CONFLICT DO NOTHING
), stored AS (
  INSERT INTO bare.inbox (item_id, request_id, tenant_id, channel, kind, event_type, fate, kafka_key, subject,
                          occurred_at, received_at, key_hash, payload)
  SELECT item_id, request_id, tenant_id, 'calcom', 'booking', 'BOOKING_CREATED', 'published', tenant_id,
         'bench000000000', at, at, key_hash, repeat('p', 1140)
  FROM item
  RETURNING item_id
), kept AS (
  INSERT INTO bare.raw_items (item_id, tenant_id, sealed, received_at)
  SELECT item_id, tenant_id, convert_to(repeat('s', 2165), 'UTF8'), at FROM item
), queued AS (
  INSERT INTO bare.outbox (item_id) SELECT item_id FROM stored
)
INSERT INTO bare.fate_counts AS c (tenant_id, channel, day, fate, shard, items, last_at)
SELECT tenant_id, 'calcom', now()::date, 'published', pg_backend_pid() % 8, count(*), now() FROM item
GROUP BY tenant_id ORDER BY tenant_id
ON CONFLICT (tenant_id, channel, day, fate, shard) DO UPDATE SET items = c.items + excluded.items
