-- migrate:up
-- No foreign keys: their checks would take row locks outside the one order in which batches lock (store.py).

-- One appointment through all its reschedules; `state` is turnout_common.events.ChainState at `version`.
CREATE TABLE booking.chains (
  booking_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  version int NOT NULL CHECK (version >= 1),
  status text NOT NULL
    CHECK (status IN ('pending', 'confirmed', 'cancelled', 'completed', 'no_show', 'merged')),
  merged_into uuid,
  client_id uuid,
  intent_id uuid,
  pinned_intent_id uuid,
  staff_id text,
  first_source_at timestamptz NOT NULL,
  start_at timestamptz NOT NULL,
  fold_basis text NOT NULL,
  state jsonb NOT NULL,
  slots jsonb NOT NULL DEFAULT '{}',
  founded_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((status = 'merged') = (merged_into IS NOT NULL))
) WITH (fillfactor = 80);
COMMENT ON COLUMN booking.chains.pinned_intent_id IS 'the intent that the source itself names (Cal.com: metadata.intent)';
COMMENT ON COLUMN booking.chains.fold_basis IS 'digest of the rules'' revision and the tenant''s settings that made the state';
COMMENT ON COLUMN booking.chains.slots IS 'what is planned at the sender: template -> sent_key';
CREATE INDEX chains_client ON booking.chains (client_id, first_source_at) WHERE client_id IS NOT NULL;
CREATE INDEX chains_pinned ON booking.chains (pinned_intent_id) WHERE pinned_intent_id IS NOT NULL;
CREATE INDEX chains_tenant ON booking.chains (tenant_id, start_at);
CREATE INDEX chains_basis ON booking.chains (tenant_id, fold_basis, booking_id) WHERE status <> 'merged';

-- What each tenant's chains were last folded by; another basis in force makes booking fold them again.
CREATE TABLE booking.tenant_folds (
  tenant_id text PRIMARY KEY,
  fold_basis text NOT NULL,
  adopted_at timestamptz NOT NULL DEFAULT now(),
  settled boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN booking.tenant_folds.settled IS
  'a second pass was made after every transaction that may have used the former basis had ended';

-- The set that a chain is folded from. `item` is turnout_booking.domain.items.Item as JSON: ids, enums, numbers, times.
CREATE TABLE booking.chain_items (
  booking_id uuid NOT NULL,
  item_key uuid NOT NULL,
  item text NOT NULL,
  PRIMARY KEY (booking_id, item_key)
);

-- Which chain a source's own uid (and seat) belongs to. A merge moves rows to the chain that stays.
CREATE TABLE booking.source_refs (
  tenant_id text NOT NULL,
  source text NOT NULL,
  uid text NOT NULL,
  seat text NOT NULL DEFAULT '',
  booking_id uuid NOT NULL,
  PRIMARY KEY (tenant_id, source, uid, seat)
);
CREATE INDEX source_refs_booking ON booking.source_refs (booking_id);

-- Items that name a uid nobody founded yet; `quarantined_at` is set after 72 h, with reason `unlinked`.
CREATE TABLE booking.parked (
  tenant_id text NOT NULL,
  source text NOT NULL,
  uid text NOT NULL,
  seat text NOT NULL DEFAULT '',
  item_key uuid NOT NULL,
  record_id uuid NOT NULL,
  item text NOT NULL,
  parked_at timestamptz NOT NULL,
  quarantined_at timestamptz,
  reason text,
  PRIMARY KEY (tenant_id, source, uid, seat, item_key)
);
CREATE INDEX parked_waiting ON booking.parked (parked_at) WHERE quarantined_at IS NULL;

-- The truth: append-only, one row a version, with the whole state after it.
CREATE TABLE booking.booking_events (
  seq bigint GENERATED ALWAYS AS IDENTITY,
  event_id uuid NOT NULL,
  tenant_id text NOT NULL,
  entity_kind text NOT NULL CHECK (entity_kind IN ('chain', 'intent', 'fact')),
  entity_id uuid NOT NULL,
  version int NOT NULL CHECK (version >= 1),
  event_type text NOT NULL,
  source text NOT NULL,
  occurred_at timestamptz NOT NULL,
  payload jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (event_id, created_at)
) PARTITION BY RANGE (created_at);
CREATE UNIQUE INDEX booking_events_version ON booking.booking_events (tenant_id, entity_id, version, created_at);
CREATE INDEX booking_events_seq ON booking.booking_events (seq);

CREATE TABLE booking.booking_events_default PARTITION OF booking.booking_events DEFAULT;
ALTER TABLE booking.booking_events_default ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

-- Only the deletion of a whole tenant (design 6) may remove rows, and only the maintenance role does that.
CREATE FUNCTION booking.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' AND current_user = 'turnout_maintenance' THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'booking.booking_events is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON booking.booking_events
  FOR EACH ROW EXECUTE FUNCTION booking.refuse_change();
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON booking.booking_events
  FOR EACH STATEMENT EXECUTE FUNCTION booking.refuse_change();
-- Partitions inherit triggers of rows, not of statements.
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON booking.booking_events_default
  FOR EACH STATEMENT EXECUTE FUNCTION booking.refuse_change();

-- Partitions of this month and the next ones; what has none goes to the default partition, and stays there.
CREATE FUNCTION booking.add_event_partitions(months_ahead int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET timezone = 'UTC' AS $$
DECLARE
  first_day timestamptz;
  table_name text;
  made int := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('turnout:booking:partitions', 0));
  FOR n IN 0 .. least(months_ahead, 24) LOOP
    first_day := date_trunc('month', now()) + make_interval(months => n);
    table_name := 'booking_events_' || to_char(first_day, 'YYYYMM');
    CONTINUE WHEN to_regclass('booking.' || table_name) IS NOT NULL;
    BEGIN
      EXECUTE format('CREATE TABLE booking.%I PARTITION OF booking.booking_events FOR VALUES FROM (%L) TO (%L)',
        table_name, first_day, first_day + interval '1 month');
      EXECUTE format('ALTER TABLE booking.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', table_name);
      EXECUTE format('CREATE TRIGGER append_only_all BEFORE TRUNCATE ON booking.%I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION booking.refuse_change()', table_name);
      made := made + 1;
    EXCEPTION WHEN check_violation THEN
      RAISE NOTICE 'the default partition holds rows of %; they stay there', table_name;
    END;
  END LOOP;
  RETURN made;
END $$;
REVOKE ALL ON FUNCTION booking.add_event_partitions(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION booking.add_event_partitions(int) TO turnout_booking, turnout_maintenance;
SELECT booking.add_event_partitions(3);

-- A wish to book; `state` is turnout_common.events.IntentState at `version`.
CREATE TABLE booking.intents (
  intent_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  version int NOT NULL CHECK (version >= 1),
  client_id uuid,
  booking_id uuid,
  implicit boolean NOT NULL,
  withdrawn boolean NOT NULL DEFAULT false,
  opened_at timestamptz NOT NULL,
  opening_key uuid,
  state jsonb NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
COMMENT ON COLUMN booking.intents.opening_key IS 'item key of the message that opened it; NULL for an implicit one';
CREATE INDEX intents_client ON booking.intents (client_id, opened_at) WHERE NOT implicit;
CREATE INDEX intents_booking ON booking.intents (booking_id) WHERE booking_id IS NOT NULL;

-- What intents are derived from: when a client wrote, and when a human answered. No text.
CREATE TABLE booking.chat_items (
  client_id uuid NOT NULL,
  item_key uuid NOT NULL,
  tenant_id text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('message', 'reply')),
  channel text NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (client_id, item_key)
);
CREATE INDEX chat_items_at ON booking.chat_items (client_id, at);

-- Business facts that are entities of their own. `base` is FactState as the fact itself tells it, `state` is it joined
-- with its booking, at `version`. Of a shift that is planned again the newest (at, item_key) counts.
CREATE TABLE booking.facts (
  fact_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  version int NOT NULL CHECK (version >= 1),
  booking_id uuid,
  item_key uuid NOT NULL,
  base text NOT NULL,
  state jsonb NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX facts_booking ON booking.facts (booking_id) WHERE booking_id IS NOT NULL;

-- People. Contact data stands here only, as keyed hashes and sealed.
CREATE TABLE booking.clients (
  client_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  merged_into uuid,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE booking.client_contacts (
  tenant_id text NOT NULL,
  kind text NOT NULL,
  hash text NOT NULL,
  client_id uuid NOT NULL,
  sealed text,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, kind, hash)
);
COMMENT ON COLUMN booking.client_contacts.kind IS 'phone, email or chat (whose hash covers its channel)';
CREATE INDEX client_contacts_client ON booking.client_contacts (client_id);

-- Where a client can be written to; `opted_out` is by the newest of client_consents about all messages,
-- `promotions_opted_out` by that and the newest about marketing.
CREATE TABLE booking.client_chats (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  chat_hash text NOT NULL,
  client_id uuid NOT NULL,
  chat_sealed text NOT NULL,
  opted_out boolean NOT NULL DEFAULT false,
  promotions_opted_out boolean NOT NULL DEFAULT false CHECK (promotions_opted_out OR NOT opted_out),
  locale text,
  first_seen_at timestamptz NOT NULL,
  last_seen_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, channel, chat_hash)
);
CREATE INDEX client_chats_client ON booking.client_chats (client_id);
CREATE TABLE booking.client_consents (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  chat_hash text NOT NULL,
  item_key uuid NOT NULL,
  at timestamptz NOT NULL,
  opted_in boolean NOT NULL,
  scope text NOT NULL CHECK (scope IN ('all', 'marketing')),
  PRIMARY KEY (tenant_id, channel, chat_hash, item_key)
);

-- Free text of bookings, sealed under the tenant's key, erasable.
CREATE TABLE booking.notes (
  booking_id uuid NOT NULL,
  item_key uuid NOT NULL,
  tenant_id text NOT NULL,
  sealed text NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (booking_id, item_key)
);

-- What was published to outbound_messages, so that the recovery check can publish it again.
CREATE TABLE booking.outbound (
  seq bigint GENERATED ALWAYS AS IDENTITY,
  record_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  type text NOT NULL CHECK (type IN ('message.planned', 'message.withdrawn')),
  client_id uuid NOT NULL,
  booking_id uuid NOT NULL,
  booking_version int NOT NULL,
  occurred_at timestamptz NOT NULL,
  payload text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX outbound_seq ON booking.outbound (seq);
CREATE INDEX outbound_booking ON booking.outbound (booking_id);

SELECT platform.protect(format('booking.%I', name), 'turnout_booking') FROM unnest(ARRAY[
  'chains', 'tenant_folds', 'chain_items', 'source_refs', 'parked', 'intents', 'chat_items', 'facts', 'clients', 'client_contacts',
  'client_chats', 'client_consents', 'notes', 'outbound']) AS tables(name);

-- booking_events: the writer reads and appends; grants and policies on the parent only.
ALTER TABLE booking.booking_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY writer ON booking.booking_events TO turnout_booking USING (true) WITH CHECK (true);
CREATE POLICY maintenance ON booking.booking_events TO turnout_maintenance USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON booking.booking_events TO turnout_booking;
GRANT SELECT, INSERT, DELETE ON booking.booking_events TO turnout_maintenance;

SELECT platform.add_outbox('booking', 'turnout_booking');
SELECT platform.add_consumer('booking', 'turnout_booking', 'turnout_ingest', 'turnout_sender');
SELECT platform.add_recovery('booking', 'turnout_booking');

-- Contracts with the other services.
-- For the sender: where a client can be written to, one row a channel, the newest chat that is not opted out first.
CREATE VIEW booking.contactable WITH (security_invoker = true) AS
  SELECT DISTINCT ON (tenant_id, client_id, channel)
         tenant_id, client_id, channel, chat_sealed, opted_out, promotions_opted_out, locale
  FROM booking.client_chats
  ORDER BY tenant_id, client_id, channel, opted_out, last_seen_at DESC, chat_hash;
SELECT platform.let_read('booking.client_chats',
  'tenant_id, client_id, channel, chat_hash, chat_sealed, opted_out, promotions_opted_out, locale, last_seen_at',
  'turnout_sender');
GRANT SELECT ON booking.contactable TO turnout_sender;

-- For the sender: how a booking stands now, checked before a send.
CREATE VIEW booking.heads WITH (security_invoker = true) AS
  SELECT tenant_id, booking_id, version, status, start_at FROM booking.chains;
SELECT platform.let_read('booking.chains', 'tenant_id, booking_id, version, status, start_at', 'turnout_sender');
GRANT SELECT ON booking.heads TO turnout_sender;

-- For `turnout reconcile`: how each booking of a source stands now, by the source's own name of it.
CREATE VIEW booking.known_bookings WITH (security_invoker = true) AS
  SELECT r.tenant_id, r.source, r.uid, r.seat, c.booking_id, c.state ->> 'uid' AS last_uid, c.status,
         c.first_source_at AS created_at, c.start_at, (c.state ->> 'no_show')::boolean AS no_show, (c.state ->> 'admin_actions')::int AS admin_actions
  FROM booking.source_refs r JOIN booking.chains c USING (booking_id);
GRANT SELECT ON booking.known_bookings TO turnout_maintenance;

-- For rollup's verify and rebuild: the truth itself.
CREATE VIEW booking.truth WITH (security_invoker = true) AS
  SELECT seq, event_id, tenant_id, entity_kind, entity_id, version, event_type, source, occurred_at, payload, created_at
  FROM booking.booking_events;
SELECT platform.let_read('booking.booking_events',
  'seq, event_id, tenant_id, entity_kind, entity_id, version, event_type, source, occurred_at, payload, created_at',
  'turnout_rollup');
GRANT SELECT ON booking.truth TO turnout_rollup, turnout_maintenance;

-- For kpi-api: the bookings of the one tenant (and member of staff) that the transaction is set to. Not a
-- security_invoker view: kpi-api has no right on the table, and the owner's policy below confines what it answers.
CREATE POLICY tenant_read ON booking.chains FOR SELECT TO turnout_owner
  USING (tenant_id = current_setting('turnout.tenant_id', true)
         AND (coalesce(current_setting('turnout.staff_id', true), '') IN ('', staff_id)));
CREATE VIEW booking.read_bookings AS
  SELECT tenant_id, booking_id, version, status, client_id, intent_id, staff_id, start_at, first_source_at, state,
         updated_at
  FROM booking.chains WHERE status <> 'merged';
GRANT SELECT ON booking.read_bookings TO turnout_kpi;

-- For kpi-api's asOf: how far this service's events are published and its input is read.
CREATE POLICY owner_read ON booking.outbox FOR SELECT TO turnout_owner USING (true);
CREATE VIEW booking.oldest_unpublished AS
  SELECT created_at AS oldest_at FROM booking.outbox ORDER BY outbox_id LIMIT 1;
GRANT SELECT ON booking.oldest_unpublished TO turnout_kpi;
SELECT platform.let_read('booking.read_marks', 'topic, partition, read_until, partitions, written_at', 'turnout_kpi');

-- migrate:down
DROP VIEW booking.oldest_unpublished, booking.read_bookings, booking.truth, booking.known_bookings, booking.heads,
  booking.contactable;
DROP TABLE booking.outbound, booking.notes, booking.client_consents, booking.client_chats, booking.client_contacts,
  booking.clients, booking.facts, booking.chat_items, booking.intents, booking.booking_events, booking.parked,
  booking.source_refs, booking.chain_items, booking.tenant_folds, booking.chains, booking.missing, booking.recovery_marks,
  booking.dead_letters, booking.read_marks, booking.applied, booking.outbox;
DROP FUNCTION booking.add_event_partitions(int), booking.refuse_change();
