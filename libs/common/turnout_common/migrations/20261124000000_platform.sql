-- migrate:up
CREATE TABLE platform.tenants (
  tenant_id text PRIMARY KEY CHECK (tenant_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'deleted')),
  timezone text NOT NULL,
  currency text NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
  locale text NOT NULL DEFAULT 'en',
  settings jsonb NOT NULL DEFAULT '{}',
  demo boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN platform.tenants.settings IS 'overrides of turnout_common.tenants.TenantSettings, by field name';

CREATE TABLE platform.data_keys (
  tenant_id text NOT NULL REFERENCES platform.tenants,
  version smallint NOT NULL,
  wrapped bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, version)
);

-- Which master key wraps now: tenants are created under it, a rotation changes it and every data key in one transaction.
CREATE TABLE platform.master_key (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  key_id bytea NOT NULL,
  since timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN platform.master_key.key_id IS 'turnout_common.security.master_key_id: tells keys apart, nothing more';

CREATE TABLE platform.channels (
  tenant_id text NOT NULL REFERENCES platform.tenants,
  channel text NOT NULL,
  enabled boolean NOT NULL DEFAULT true,
  routing_id text,
  sealed_api_token bytea,
  sealed_handshake bytea,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, channel),
  UNIQUE (channel, routing_id)
);
COMMENT ON COLUMN platform.channels.sealed_api_token IS 'what the sender authenticates with, sealed under purpose api_token';
COMMENT ON COLUMN platform.channels.sealed_handshake IS 'Meta''s verify token or VK''s confirmation code, sealed under purpose handshake';

CREATE TABLE platform.channel_secrets (
  tenant_id text NOT NULL,
  channel text NOT NULL,
  secret_no smallint NOT NULL,
  sealed_secret bytea NOT NULL,
  expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, channel, secret_no),
  FOREIGN KEY (tenant_id, channel) REFERENCES platform.channels
);

CREATE TABLE platform.api_tokens (
  token_hash bytea PRIMARY KEY,
  token_id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  tenant_id text REFERENCES platform.tenants,
  scope text NOT NULL CHECK (scope IN ('owner', 'staff', 'operator')),
  staff_id text,
  label text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now(),
  last_used_at timestamptz,
  revoked_at timestamptz,
  CHECK ((scope = 'operator') = (tenant_id IS NULL)),
  CHECK ((scope = 'staff') = (staff_id IS NOT NULL))
);
COMMENT ON COLUMN platform.api_tokens.token_id IS 'what people name a token by: it opens nothing';

CREATE TABLE platform.audit_log (
  audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  tenant_id text,
  actor text NOT NULL,
  action text NOT NULL,
  details jsonb NOT NULL DEFAULT '{}'
);

-- Services hold configuration in memory and LISTEN. Repeated within a transaction, a tenant is told once.
CREATE FUNCTION platform.tell_of_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    PERFORM pg_notify('platform_changed', OLD.tenant_id);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    PERFORM pg_notify('platform_changed', NEW.tenant_id);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER tell_of_change AFTER INSERT OR UPDATE OR DELETE ON platform.tenants
  FOR EACH ROW EXECUTE FUNCTION platform.tell_of_change();
CREATE TRIGGER tell_of_change AFTER INSERT OR UPDATE OR DELETE ON platform.data_keys
  FOR EACH ROW EXECUTE FUNCTION platform.tell_of_change();
CREATE TRIGGER tell_of_change AFTER INSERT OR UPDATE OR DELETE ON platform.channels
  FOR EACH ROW EXECUTE FUNCTION platform.tell_of_change();
CREATE TRIGGER tell_of_change AFTER INSERT OR UPDATE OR DELETE ON platform.channel_secrets
  FOR EACH ROW EXECUTE FUNCTION platform.tell_of_change();

-- The only way from a token to its tenant: a caller that does not hold the token learns nothing.
CREATE FUNCTION platform.authenticate(hash bytea)
RETURNS TABLE (tenant_id text, scope text, staff_id text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
  UPDATE platform.api_tokens AS t SET last_used_at = now()
  WHERE t.token_hash = hash AND t.revoked_at IS NULL
  RETURNING t.tenant_id, t.scope, t.staff_id;
END;
REVOKE ALL ON FUNCTION platform.authenticate(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.authenticate(bytea)
  TO turnout_ingest, turnout_booking, turnout_sender, turnout_rollup, turnout_kpi;

ALTER TABLE platform.tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE platform.data_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE platform.master_key ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE platform.channels ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE platform.channel_secrets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE platform.api_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE platform.audit_log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

-- Foreign keys and `authenticate` are checked as the owner, which FORCE binds too.
CREATE POLICY owner_all ON platform.tenants TO turnout_owner USING (true) WITH CHECK (true);
CREATE POLICY owner_all ON platform.channels TO turnout_owner USING (true) WITH CHECK (true);
CREATE POLICY owner_all ON platform.api_tokens TO turnout_owner USING (true) WITH CHECK (true);

CREATE POLICY platform_all ON platform.tenants TO turnout_platform USING (true) WITH CHECK (true);
CREATE POLICY platform_all ON platform.data_keys TO turnout_platform USING (true) WITH CHECK (true);
CREATE POLICY platform_all ON platform.master_key TO turnout_platform USING (true) WITH CHECK (true);
CREATE POLICY platform_all ON platform.channels TO turnout_platform USING (true) WITH CHECK (true);
CREATE POLICY platform_all ON platform.channel_secrets TO turnout_platform USING (true) WITH CHECK (true);
CREATE POLICY platform_all ON platform.api_tokens TO turnout_platform USING (true) WITH CHECK (true);
CREATE POLICY platform_all ON platform.audit_log TO turnout_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON platform.tenants, platform.data_keys, platform.master_key,
  platform.channels, platform.channel_secrets, platform.api_tokens TO turnout_platform;
GRANT SELECT, INSERT ON platform.audit_log TO turnout_platform;

-- Configuration that the batch services hold in memory.
CREATE POLICY services_read ON platform.tenants FOR SELECT
  TO turnout_ingest, turnout_booking, turnout_sender, turnout_rollup, turnout_maintenance USING (true);
CREATE POLICY services_read ON platform.data_keys FOR SELECT
  TO turnout_ingest, turnout_sender, turnout_maintenance USING (true);
CREATE POLICY services_read ON platform.channels FOR SELECT
  TO turnout_ingest, turnout_sender, turnout_maintenance USING (true);
CREATE POLICY services_read ON platform.channel_secrets FOR SELECT TO turnout_ingest USING (true);
CREATE POLICY tenant_read ON platform.tenants FOR SELECT TO turnout_kpi
  USING (tenant_id = current_setting('turnout.tenant_id', true));
GRANT SELECT ON platform.tenants
  TO turnout_ingest, turnout_booking, turnout_sender, turnout_rollup, turnout_kpi, turnout_maintenance;
GRANT SELECT ON platform.data_keys TO turnout_ingest, turnout_sender, turnout_maintenance;
-- Who sends has the token, who takes in (maintenance: `inbox release`) the handshake; nobody else needs either.
GRANT SELECT (tenant_id, channel, enabled, routing_id) ON platform.channels
  TO turnout_ingest, turnout_sender, turnout_maintenance;
GRANT SELECT (sealed_api_token) ON platform.channels TO turnout_sender;
GRANT SELECT (sealed_handshake) ON platform.channels TO turnout_ingest, turnout_maintenance;
GRANT SELECT ON platform.channel_secrets TO turnout_ingest;


-- What every producing and consuming service has, made in one way. Called by the services' own migrations.
CREATE FUNCTION platform.protect(target text, role_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', target);
  EXECUTE format('CREATE POLICY writer ON %s TO %I USING (true) WITH CHECK (true)', target, role_name);
  EXECUTE format('CREATE POLICY maintenance ON %s TO turnout_maintenance USING (true) WITH CHECK (true)', target);
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', target, role_name);
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO turnout_maintenance', target);
END $$;
COMMENT ON FUNCTION platform.protect IS 'row-level security with the one writer of a table and the maintenance role';

CREATE FUNCTION platform.let_read(target text, columns text, role_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE POLICY %I ON %s FOR SELECT TO %I USING (true)', 'read_by_' || role_name, target, role_name);
  EXECUTE format('GRANT SELECT (%s) ON %s TO %I', columns, target, role_name);
END $$;
COMMENT ON FUNCTION platform.let_read IS 'lets a batch reader of another service see some columns, for a security_invoker view';

CREATE FUNCTION platform.let_tenant_read(target text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format($f$CREATE POLICY tenant_read ON %s FOR SELECT TO turnout_kpi
    USING (tenant_id = current_setting('turnout.tenant_id', true))$f$, target);
  EXECUTE format('GRANT SELECT ON %s TO turnout_kpi', target);
END $$;
COMMENT ON FUNCTION platform.let_tenant_read IS 'lets kpi-api see the rows of the tenant that its transaction is set to';

CREATE FUNCTION platform.add_outbox(schema_name text, role_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format($f$CREATE TABLE %I.outbox (
    outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    record_id uuid NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    type text NOT NULL,
    source text NOT NULL,
    subject text NOT NULL,
    tenant_id text NOT NULL,
    occurred_at timestamptz NOT NULL,
    payload text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
  ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)$f$, schema_name);
  PERFORM platform.protect(format('%I.outbox', schema_name), role_name);
END $$;

CREATE FUNCTION platform.add_consumer(schema_name text, role_name text, VARIADIC publishers text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  publisher text;
BEGIN
  EXECUTE format($f$CREATE TABLE %I.applied (
    record_id uuid PRIMARY KEY,
    outcome text NOT NULL DEFAULT 'applied' CHECK (outcome IN ('applied', 'ignored', 'parked', 'dead')),
    applied_at timestamptz NOT NULL DEFAULT now()
  )$f$, schema_name);
  EXECUTE format($f$CREATE TABLE %I.read_marks (
    topic text NOT NULL,
    partition int NOT NULL,
    read_until timestamptz NOT NULL,
    partitions int NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
  )$f$, schema_name);
  EXECUTE format($f$CREATE TABLE %I.dead_letters (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    record_id uuid,
    tenant_id text NOT NULL,
    topic text NOT NULL,
    partition int NOT NULL,
    record_offset bigint NOT NULL,
    reason text NOT NULL,
    attempts int NOT NULL DEFAULT 1,
    key bytea,
    header_names text[] NOT NULL,
    header_values bytea[] NOT NULL,
    value bytea,
    dead_at timestamptz NOT NULL DEFAULT now(),
    replay_requested_at timestamptz,
    replayed_at timestamptz,
    UNIQUE (topic, partition, record_offset)
  )$f$, schema_name);
  PERFORM platform.protect(format('%I.applied', schema_name), role_name);
  PERFORM platform.protect(format('%I.read_marks', schema_name), role_name);
  PERFORM platform.protect(format('%I.dead_letters', schema_name), role_name);
  FOREACH publisher IN ARRAY publishers LOOP
    PERFORM platform.let_read(format('%I.applied', schema_name), 'record_id, outcome', publisher);
    PERFORM platform.let_read(format('%I.read_marks', schema_name), 'topic, partition, read_until, partitions', publisher);
  END LOOP;
END $$;
COMMENT ON FUNCTION platform.add_consumer IS
  'applied, read_marks and dead_letters of a consuming service; publishers may read the first two (recovery check)';

CREATE FUNCTION platform.add_recovery(schema_name text, role_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format($f$CREATE TABLE %I.recovery_marks (watch text PRIMARY KEY, seq bigint NOT NULL)$f$, schema_name);
  EXECUTE format($f$CREATE TABLE %I.missing (
    watch text NOT NULL,
    record_id uuid NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    republished_at timestamptz,
    attempts int NOT NULL DEFAULT 0,
    PRIMARY KEY (watch, record_id)
  )$f$, schema_name);
  PERFORM platform.protect(format('%I.recovery_marks', schema_name), role_name);
  PERFORM platform.protect(format('%I.missing', schema_name), role_name);
END $$;
COMMENT ON FUNCTION platform.add_recovery IS 'what the recovery check of a publishing service keeps (design 2.6)';

-- migrate:down
DROP FUNCTION platform.add_recovery, platform.add_consumer, platform.add_outbox, platform.let_tenant_read,
  platform.let_read, platform.protect;
DROP FUNCTION platform.authenticate(bytea);
DROP TABLE platform.audit_log, platform.api_tokens, platform.channel_secrets, platform.channels, platform.master_key,
  platform.data_keys, platform.tenants;
DROP FUNCTION platform.tell_of_change();
