-- name: readable_tables
-- Which configuration this role may read: roles differ, the code is one.
SELECT has_table_privilege('platform.data_keys', 'SELECT') AS data_keys,
       has_table_privilege('platform.channels', 'SELECT') AS channels,
       has_table_privilege('platform.channel_secrets', 'SELECT') AS channel_secrets

-- name: read_tenants
SELECT tenant_id, status, timezone, currency, locale, settings, demo FROM platform.tenants WHERE status <> 'deleted'

-- name: read_data_keys
SELECT tenant_id, version, wrapped FROM platform.data_keys

-- name: read_data_keys_of
SELECT tenant_id, version, wrapped FROM platform.data_keys WHERE tenant_id = $1

-- name: read_channels
SELECT tenant_id, channel, enabled, routing_id, sealed_api_token, sealed_handshake FROM platform.channels

-- name: read_channel_secrets
-- Newest first, the expired ones left out: during a rotation two are valid.
SELECT tenant_id, channel, sealed_secret FROM platform.channel_secrets
WHERE expires_at IS NULL OR expires_at > now()
ORDER BY tenant_id, channel, secret_no DESC

-- name: insert_tenant
INSERT INTO platform.tenants (tenant_id, timezone, currency, locale, settings, demo) VALUES ($1, $2, $3, $4, $5, $6)

-- name: insert_data_key
INSERT INTO platform.data_keys (tenant_id, version, wrapped) VALUES ($1, $2, $3)

-- name: upsert_channel
INSERT INTO platform.channels AS c (tenant_id, channel, routing_id, sealed_api_token, sealed_handshake)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, channel) DO UPDATE SET
  enabled = true,
  routing_id = coalesce(excluded.routing_id, c.routing_id),
  sealed_api_token = coalesce(excluded.sealed_api_token, c.sealed_api_token),
  sealed_handshake = coalesce(excluded.sealed_handshake, c.sealed_handshake),
  updated_at = now()

-- name: delete_channel_secrets
DELETE FROM platform.channel_secrets WHERE tenant_id = $1 AND channel = $2

-- name: insert_channel_secret
INSERT INTO platform.channel_secrets (tenant_id, channel, secret_no, sealed_secret, expires_at)
VALUES ($1, $2, $3, $4, $5)

-- name: update_tenant_status
UPDATE platform.tenants SET status = $2, updated_at = now() WHERE tenant_id = $1

-- name: insert_api_token
INSERT INTO platform.api_tokens (token_hash, tenant_id, scope, staff_id, label) VALUES ($1, $2, $3, $4, $5)

-- name: authenticate
SELECT tenant_id, scope, staff_id FROM platform.authenticate($1)

-- name: list_tenants
SELECT t.tenant_id, t.status, t.timezone, t.currency, t.locale, t.demo,
       coalesce(array_agg(c.channel ORDER BY c.channel) FILTER (WHERE c.enabled), '{}') AS channels
FROM platform.tenants t LEFT JOIN platform.channels c USING (tenant_id)
GROUP BY t.tenant_id ORDER BY t.tenant_id

-- name: insert_audit
INSERT INTO platform.audit_log (tenant_id, actor, action, details) VALUES ($1, $2, $3, $4)

-- name: update_settings
-- $2 = overrides by field name; a field that is not given stays.
UPDATE platform.tenants SET settings = settings || $2::jsonb, updated_at = now() WHERE tenant_id = $1
