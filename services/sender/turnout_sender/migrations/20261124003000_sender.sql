-- migrate:up

-- What booking said last about a slot (tenant:booking:template): the highest booking version wins, whatever came first.
CREATE TABLE sender.slots (
  tenant_id text NOT NULL,
  slot_key text NOT NULL,
  booking_version int NOT NULL,
  message_id uuid,
  PRIMARY KEY (tenant_id, slot_key)
);
COMMENT ON COLUMN sender.slots.message_id IS
  'the one message that may be sent for the slot; NULL = withdrawn: the tombstone that an older plan cannot pass';

CREATE TABLE sender.deliveries (
  message_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  slot_key text NOT NULL,
  sent_key text NOT NULL,
  queue text NOT NULL CHECK (queue IN ('tx', 'mk')),
  template text NOT NULL,
  client_id uuid NOT NULL,
  booking_id uuid NOT NULL,
  booking_version int NOT NULL,
  start_at timestamptz NOT NULL,
  not_before timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  locale text,
  status text NOT NULL CHECK (status IN (
    'planned',   -- waits for next_attempt_at -> sending, cancelled, failed, limited
    'sending',   -- claimed, a request may be on its way -> accepted, planned (retry), failed, dead, unknown
    'accepted',  -- the provider took it -> delivered, read, failed by a receipt
    'delivered', -- -> read
    'read',
    'failed',    -- the provider refused for good, or it expired
    'dead',      -- a fault of ours
    'cancelled', -- superseded, withdrawn, or its booking moved -> planned under a higher booking version
    'limited',   -- over the tenant's day limit for as long as it was worth sending
    'unknown'    -- the provider's answer was lost: never sent again -> what a late answer says
  )),
  reason text,
  next_attempt_at timestamptz NOT NULL,
  attempts int NOT NULL DEFAULT 0,
  failures int NOT NULL DEFAULT 0,
  claim_id uuid,
  claimed_at timestamptz,
  counted_on date,
  channel text,
  gives_receipts boolean NOT NULL DEFAULT false,
  provider_message_id text,
  version int NOT NULL DEFAULT 0,
  first_attempt_at timestamptz,
  accepted_at timestamptz,
  delivered_at timestamptz,
  read_at timestamptz,
  failed_at timestamptz,
  created_at timestamptz NOT NULL,
  changed_at timestamptz NOT NULL,
  -- sent at most once: two messages can never share a sent key
  UNIQUE (tenant_id, sent_key)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX deliveries_due ON sender.deliveries (next_attempt_at) WHERE status = 'planned';
CREATE INDEX deliveries_claimed ON sender.deliveries (claimed_at) WHERE status = 'sending';
CREATE INDEX deliveries_slot ON sender.deliveries (tenant_id, slot_key);
CREATE INDEX deliveries_receipt ON sender.deliveries (tenant_id, channel, provider_message_id) WHERE gives_receipts;
COMMENT ON COLUMN sender.deliveries.attempts IS 'requests begun';
COMMENT ON COLUMN sender.deliveries.failures IS 'attempts that count towards the maximum: throttling and a refused token do not';
COMMENT ON COLUMN sender.deliveries.counted_on IS 'the local day under which it counts towards the tenant''s day limit; counted once';
COMMENT ON COLUMN sender.deliveries.version IS 'of the last row in message_log; 0 = nothing has happened yet';

-- One row for each request that was begun. No bodies.
CREATE TABLE sender.attempts (
  message_id uuid NOT NULL,
  attempt_no int NOT NULL,
  tenant_id text NOT NULL,
  channel text NOT NULL,
  claim_id uuid NOT NULL,
  started_at timestamptz NOT NULL,
  outcome text,
  reason text,
  http_status int,
  duration_ms int,
  PRIMARY KEY (message_id, attempt_no)
);
COMMENT ON COLUMN sender.attempts.outcome IS 'NULL while the request is under way, and for ever when the sender died in it';

-- The truth of the message KPIs: the whole state of a message at each of its versions.
CREATE TABLE sender.message_log (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  record_id uuid NOT NULL UNIQUE DEFAULT uuidv7(),
  tenant_id text NOT NULL,
  message_id uuid NOT NULL,
  version int NOT NULL,
  occurred_at timestamptz NOT NULL,
  status text NOT NULL,
  queue text NOT NULL,
  template text NOT NULL,
  channel text,
  gives_receipts boolean NOT NULL,
  booking_id uuid,
  client_id uuid,
  start_at timestamptz,
  first_attempt_at timestamptz,
  accepted_at timestamptz,
  delivered_at timestamptz,
  read_at timestamptz,
  failed_at timestamptz,
  attempts int NOT NULL,
  reason text,
  written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, message_id, version)
);
COMMENT ON COLUMN sender.message_log.record_id IS 'ce_id of the event on message_events that carries this row';

CREATE FUNCTION sender.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Only the deletion of a whole tenant takes rows away.
  IF TG_OP = 'DELETE' AND current_user = 'turnout_maintenance' THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'sender.message_log is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON sender.message_log
  FOR EACH ROW EXECUTE FUNCTION sender.refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON sender.message_log
  FOR EACH STATEMENT EXECUTE FUNCTION sender.refuse_change();

-- Receipts that outran the record of their message.
CREATE TABLE sender.early_receipts (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  provider_message_id text NOT NULL,
  status text NOT NULL,
  occurred_at timestamptz NOT NULL,
  reason text,
  arrived_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, channel, provider_message_id, status)
);
CREATE INDEX early_receipts_age ON sender.early_receipts (arrived_at);

-- The time from which the next message of a bot (chat = '') or to a chat may go out; shared by all replicas.
CREATE TABLE sender.rate_slots (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  chat text NOT NULL,
  next_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, channel, chat)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON COLUMN sender.rate_slots.chat IS 'the client id: a client has one chat on a channel; no contact data here';

CREATE TABLE sender.day_counts (
  tenant_id text NOT NULL,
  day date NOT NULL,
  queue text NOT NULL,
  used int NOT NULL,
  PRIMARY KEY (tenant_id, day, queue)
) WITH (fillfactor = 50);

-- Providers that fail or refuse a tenant's token are left alone until open_until; then one message tries.
CREATE TABLE sender.circuits (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  failures int NOT NULL,
  open_until timestamptz,
  reason text,
  PRIMARY KEY (tenant_id, channel)
) WITH (fillfactor = 50);

SELECT platform.add_outbox('sender', 'turnout_sender');
SELECT platform.add_consumer('sender', 'turnout_sender', 'turnout_ingest', 'turnout_booking');
SELECT platform.add_recovery('sender', 'turnout_sender');
SELECT platform.protect('sender.' || name, 'turnout_sender')
FROM unnest(ARRAY['slots', 'deliveries', 'attempts', 'message_log', 'early_receipts', 'rate_slots', 'day_counts',
  'circuits']) AS name;
REVOKE UPDATE, DELETE ON sender.message_log FROM turnout_sender;
REVOKE UPDATE ON sender.message_log FROM turnout_maintenance;

-- For verify and rebuild: what rollup's message facts must equal.
CREATE VIEW sender.truth WITH (security_invoker = true) AS
SELECT seq, record_id, tenant_id, message_id, version, occurred_at, status, queue, template, channel, gives_receipts,
       booking_id, client_id, start_at, first_attempt_at, accepted_at, delivered_at, read_at, failed_at, attempts,
       reason, written_at
FROM sender.message_log;
SELECT platform.let_read('sender.message_log', 'seq, record_id, tenant_id, message_id, version, occurred_at, status, '
  'queue, template, channel, gives_receipts, booking_id, client_id, start_at, first_attempt_at, accepted_at, '
  'delivered_at, read_at, failed_at, attempts, reason, written_at', 'turnout_rollup');
GRANT SELECT ON sender.truth TO turnout_rollup, turnout_maintenance;

-- For the API's asOf: when the oldest event was written that is not on Kafka yet; NULL when all are.
CREATE VIEW sender.oldest_unpublished WITH (security_invoker = true) AS
SELECT min(created_at) AS oldest_at FROM sender.outbox;
SELECT platform.let_read('sender.outbox', 'created_at', 'turnout_kpi');
SELECT platform.let_read('sender.read_marks', 'topic, partition, read_until, partitions', 'turnout_kpi');
GRANT SELECT ON sender.oldest_unpublished TO turnout_kpi;

-- migrate:down
DROP VIEW sender.oldest_unpublished, sender.truth;
DROP TABLE sender.missing, sender.recovery_marks, sender.dead_letters, sender.read_marks, sender.applied, sender.outbox,
  sender.circuits, sender.day_counts, sender.rate_slots, sender.early_receipts, sender.message_log, sender.attempts,
  sender.deliveries, sender.slots;
DROP FUNCTION sender.refuse_change();
