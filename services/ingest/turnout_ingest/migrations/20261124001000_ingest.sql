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
  CHECK ((fate = 'published') = (payload IS NOT NULL)),
  CHECK ((fate = 'published') = (reason IS NULL))
);
COMMENT ON COLUMN ingest.inbox.reason IS 'why it was not published, in words for a person; never a value out of the body';
COMMENT ON COLUMN ingest.inbox.first_item_id IS 'for a duplicate or a conflict: the item that holds the key';
CREATE INDEX inbox_by_tenant ON ingest.inbox (tenant_id, seq DESC);
-- The recovery check walks receipts apart, and there may be none among millions of items.
CREATE INDEX inbox_receipts ON ingest.inbox (seq) WHERE kind = 'receipt' AND fate = 'published';

-- The unique keys of the effect "received": rows are pruned by age (Telegram 7 days, the rest 14).
CREATE TABLE ingest.inbox_keys (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 16),
  content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 16),
  item_id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, channel, key_hash)
);
CREATE INDEX inbox_keys_by_age ON ingest.inbox_keys USING brin (created_at);

-- The bytes as they came, sealed under the tenant's key (purpose `raw`), kept 30 days; of duplicates only the first.
CREATE TABLE ingest.raw_items (
  item_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  sealed bytea NOT NULL,
  received_at timestamptz NOT NULL
);
ALTER TABLE ingest.raw_items ALTER COLUMN sealed SET STORAGE EXTERNAL; -- what is encrypted does not compress
CREATE INDEX raw_items_by_age ON ingest.raw_items USING brin (received_at);

-- Per writer (`shard`), so that two of them never wait for each other's counter.
CREATE TABLE ingest.fate_counts (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  day date NOT NULL,
  fate text NOT NULL,
  shard smallint NOT NULL,
  items bigint NOT NULL CHECK (items > 0),
  PRIMARY KEY (tenant_id, channel, day, fate, shard)
) WITH (fillfactor = 50);
COMMENT ON COLUMN ingest.fate_counts.day IS 'UTC day of receipt';

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
         i.occurred_at, i.item_id, i.request_id, i.first_item_id, o.item_id IS NOT NULL AS waiting
  FROM ingest.inbox i
  LEFT JOIN LATERAL (SELECT item_id FROM ingest.outbox o WHERE o.item_id = i.item_id LIMIT 1) o ON true;
CREATE VIEW ingest.fates WITH (security_invoker = true) AS
  SELECT tenant_id, channel, day, fate, sum(items)::bigint AS items
  FROM ingest.fate_counts GROUP BY tenant_id, channel, day, fate;
GRANT SELECT ON ingest.inbox_list, ingest.fates TO turnout_maintenance;

-- migrate:down
DROP VIEW ingest.fates, ingest.inbox_list, ingest.oldest_unpublished;
DROP TABLE ingest.missing, ingest.recovery_marks, ingest.outbox, ingest.fate_counts, ingest.raw_items,
  ingest.inbox_keys, ingest.inbox;
