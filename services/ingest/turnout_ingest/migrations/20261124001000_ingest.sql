-- migrate:up
-- Every item that was received, with its fate; `payload` is the event as it is published.
CREATE TABLE ingest.inbox (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  item_id uuid NOT NULL UNIQUE,
  request_id uuid NOT NULL,
  tenant_id text NOT NULL,
  channel text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('booking', 'message', 'receipt', 'consent', 'fact', 'none')),
  event_type text NOT NULL,
  fate text NOT NULL CHECK (fate IN (
    'published',    -- waits in the outbox or is on inbound_webhooks
    'ignored',      -- known and verified, but nothing that anybody here needs
    'duplicate',    -- the same item was received before
    'conflict',     -- an item of the same key but with other content was received before
    'stale',        -- older than the window in which its key is kept
    'wrong_tenant', -- addressed to a routing id of somebody else
    'quarantined'   -- not what the provider's schema allows
  )),
  reason text,
  kafka_key text NOT NULL,
  subject text NOT NULL,
  occurred_at timestamptz NOT NULL,
  received_at timestamptz NOT NULL,
  key_hash bytea NOT NULL,
  first_item_id uuid,
  payload text,
  stored_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  released_at timestamptz,
  erased_at timestamptz,
  CHECK ((fate = 'published') = (payload IS NOT NULL OR erased_at IS NOT NULL)),
  CHECK (erased_at IS NULL OR payload IS NULL),
  CHECK ((fate = 'published') = (reason IS NULL))
);
COMMENT ON COLUMN ingest.inbox.reason IS 'why it was not published, in words for a person; never a value out of the body';
COMMENT ON COLUMN ingest.inbox.first_item_id IS 'for a duplicate or a conflict: the item that holds the key';
COMMENT ON COLUMN ingest.inbox.stored_at IS
  'by the database''s clock: `received_at` may be hours before it, by the spool, by reconcile or by a wrong clock';
COMMENT ON COLUMN ingest.inbox.released_at IS 'when `inbox release` gave it the fate that it has; it took a new seq then';
COMMENT ON COLUMN ingest.inbox.erased_at IS 'when the payload went, with the raw bytes: it holds sealed contact data';
CREATE INDEX inbox_by_tenant ON ingest.inbox (tenant_id, seq DESC);
-- The recovery check walks receipts apart, and there may be none among millions of items.
CREATE INDEX inbox_receipts ON ingest.inbox (seq) WHERE kind = 'receipt' AND fate = 'published';
-- What `inbox release` looks through: next to nothing among millions of items.
CREATE INDEX inbox_not_taken_in ON ingest.inbox (item_id) WHERE fate IN ('quarantined', 'wrong_tenant');

-- The unique keys of the effect "received". A key is free once `kept_until` has passed (Telegram 7 days, the rest 14),
-- pruned or not. Without an index by age: `prune` walks the pages, and the hot path has one index less to write.
CREATE TABLE ingest.inbox_keys (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 16),
  content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 16),
  item_id uuid NOT NULL,
  kept_until timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, channel, key_hash)
);

-- The bytes as they came, sealed under the tenant's key (purpose `raw`), kept for the tenant's raw_days; of duplicates
-- only the first. Item ids grow with time: `prune` walks the primary key.
CREATE TABLE ingest.raw_items (
  item_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  sealed bytea NOT NULL,
  sealed_headers bytea,
  received_at timestamptz NOT NULL
);
COMMENT ON COLUMN ingest.raw_items.sealed_headers IS
  'of what was not taken in: the headers that its adapter reads, sealed under purpose `headers`, for `inbox release`';
ALTER TABLE ingest.raw_items ALTER COLUMN sealed SET STORAGE EXTERNAL; -- what is encrypted does not compress
-- A Cal.com body is about 2 kB: in a table of its own it would cost two chunks and two index entries more (measured: an
-- eighth of the CPU of storing an item).
ALTER TABLE ingest.raw_items SET (toast_tuple_target = 8160);

-- Per writer (`shard`), so that two of them never wait for each other's counter.
CREATE TABLE ingest.fate_counts (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  day date NOT NULL,
  fate text NOT NULL,
  shard smallint NOT NULL,
  items bigint NOT NULL,
  last_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, channel, day, fate, shard),
  CHECK (items > 0 OR shard = -1)
) WITH (fillfactor = 50);
COMMENT ON COLUMN ingest.fate_counts.day IS 'UTC day of receipt';
COMMENT ON COLUMN ingest.fate_counts.shard IS
  '-1: moves of `inbox release`, which takes an item from one fate to another; -2: what `reconcile` found, which nobody sent';
COMMENT ON COLUMN ingest.fate_counts.last_at IS 'receipt of the youngest of them';

CREATE TABLE ingest.outbox (
  outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  item_id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

SELECT platform.protect('ingest.inbox', 'turnout_ingest');
SELECT platform.protect('ingest.inbox_keys', 'turnout_ingest');
SELECT platform.protect('ingest.raw_items', 'turnout_ingest');
SELECT platform.protect('ingest.fate_counts', 'turnout_ingest');
SELECT platform.protect('ingest.outbox', 'turnout_ingest');
SELECT platform.add_recovery('ingest', 'turnout_ingest');

-- For asOf of kpi-api. It tells a time and nothing of a tenant, so it is the owner who reads: one index entry.
CREATE POLICY owner_read ON ingest.outbox FOR SELECT TO turnout_owner USING (true);
CREATE VIEW ingest.oldest_unpublished AS
  SELECT created_at AS oldest_at FROM ingest.outbox ORDER BY outbox_id LIMIT 1;
GRANT SELECT ON ingest.oldest_unpublished TO turnout_kpi, turnout_maintenance;

-- For the CLI.
CREATE VIEW ingest.inbox_list WITH (security_invoker = true) AS
  SELECT i.seq, i.received_at, i.tenant_id, i.channel, i.kind, i.event_type, i.fate,
         coalesce(i.reason, CASE WHEN o.item_id IS NULL THEN 'published to inbound_webhooks'
                                 ELSE 'accepted, waits for publishing' END) AS reason,
         i.occurred_at, i.item_id, i.request_id, i.first_item_id, i.released_at, i.erased_at,
         o.item_id IS NOT NULL AS waiting
  FROM ingest.inbox i
  LEFT JOIN LATERAL (SELECT item_id FROM ingest.outbox o WHERE o.item_id = i.item_id LIMIT 1) o ON true;
CREATE VIEW ingest.fates WITH (security_invoker = true) AS
  SELECT tenant_id, channel, day, fate, sum(items)::bigint AS items
  FROM ingest.fate_counts GROUP BY tenant_id, channel, day, fate HAVING sum(items) <> 0;
GRANT SELECT ON ingest.inbox_list, ingest.fates TO turnout_maintenance;

-- When each channel that is on last brought an item, whatever became of it. One look into the index a channel.
CREATE VIEW ingest.last_seen WITH (security_invoker = true) AS
  SELECT c.tenant_id, c.channel, l.last_at
  FROM platform.channels c
  JOIN platform.tenants t ON t.tenant_id = c.tenant_id AND t.status = 'active'
  LEFT JOIN LATERAL (
    SELECT max(f.last_at) AS last_at FROM ingest.fate_counts f
    WHERE f.tenant_id = c.tenant_id AND f.channel = c.channel AND f.shard <> -2
    GROUP BY f.day ORDER BY f.day DESC LIMIT 1
  ) l ON true
  WHERE c.enabled;
-- The rule of silence. A channel that used to speak brought something on at least 8 of the 14 days up to its last item,
-- so that its closed days are known; it is silent once its longest way from one such day to the next and half a day have
-- passed: after 36 hours where it spoke daily, after 84 where the salon is closed on Sundays and Mondays. For 30 days:
-- what says nothing for longer does not speak any more. Days are UTC days.
CREATE VIEW ingest.silent_channels WITH (security_invoker = true) AS
  SELECT s.tenant_id, s.channel, s.last_at, make_interval(hours => 24 * u.longest + 12) AS usual
  FROM ingest.last_seen s
  CROSS JOIN LATERAL (
    SELECT count(*) AS days, max(day - before) AS longest FROM (
      SELECT f.day, lag(f.day) OVER (ORDER BY f.day) AS before FROM ingest.fate_counts f
      WHERE f.tenant_id = s.tenant_id AND f.channel = s.channel AND f.shard <> -2
        AND f.day > (s.last_at AT TIME ZONE 'UTC')::date - 14
      GROUP BY f.day) AS spoken
  ) u
  WHERE s.last_at < now() - interval '36 hours' AND s.last_at > now() - interval '30 days'
    AND u.days >= 8 AND s.last_at < now() - make_interval(hours => 24 * u.longest + 12);
GRANT SELECT ON ingest.last_seen, ingest.silent_channels TO turnout_ingest, turnout_maintenance;

-- migrate:down
DROP VIEW ingest.silent_channels, ingest.last_seen, ingest.fates, ingest.inbox_list, ingest.oldest_unpublished;
DROP TABLE ingest.missing, ingest.recovery_marks, ingest.outbox, ingest.fate_counts, ingest.raw_items,
  ingest.inbox_keys, ingest.inbox;
