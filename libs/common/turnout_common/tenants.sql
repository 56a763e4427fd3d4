-- name: readable
-- Which configuration this role may read: roles differ, the code is one.
SELECT has_table_privilege('platform.data_keys', 'SELECT') AS data_keys,
       has_any_column_privilege('platform.channels', 'SELECT') AS channels,
       has_column_privilege('platform.channels', 'sealed_api_token', 'SELECT') AS api_tokens,
       has_column_privilege('platform.channels', 'sealed_handshake', 'SELECT') AS handshakes,
       has_table_privilege('platform.channel_secrets', 'SELECT') AS channel_secrets

-- name: read_tenants
-- $1 = tenant ids, NULL for all, here and in what follows.
SELECT tenant_id, status, timezone, currency, locale, settings, demo FROM platform.tenants
WHERE status <> 'deleted' AND ($1::text[] IS NULL OR tenant_id = ANY ($1))

-- name: read_data_keys
SELECT tenant_id, version, wrapped, created_at FROM platform.data_keys
WHERE $1::text[] IS NULL OR tenant_id = ANY ($1)
ORDER BY tenant_id, version

-- name: read_data_keys_of
SELECT tenant_id, version, wrapped FROM platform.data_keys WHERE tenant_id = $1

-- name: read_channels
SELECT tenant_id, channel, enabled, routing_id FROM platform.channels
WHERE $1::text[] IS NULL OR tenant_id = ANY ($1)
ORDER BY tenant_id, channel

-- name: read_api_tokens
SELECT tenant_id, channel, sealed_api_token AS sealed FROM platform.channels
WHERE sealed_api_token IS NOT NULL AND ($1::text[] IS NULL OR tenant_id = ANY ($1))
ORDER BY tenant_id, channel

-- name: read_handshakes
SELECT tenant_id, channel, sealed_handshake AS sealed FROM platform.channels
WHERE sealed_handshake IS NOT NULL AND ($1::text[] IS NULL OR tenant_id = ANY ($1))
ORDER BY tenant_id, channel

-- name: read_channel_secrets
-- Newest first, the expired ones left out: during a rotation two are valid. Only the newest never expires.
SELECT tenant_id, channel, sealed_secret, expires_at FROM platform.channel_secrets
WHERE (expires_at IS NULL OR expires_at > now()) AND ($1::text[] IS NULL OR tenant_id = ANY ($1))
ORDER BY tenant_id, channel, expires_at DESC NULLS FIRST, secret_no DESC

-- name: found_master_key
-- $1 = its id; the first one stays until it is rotated.
INSERT INTO platform.master_key (key_id) VALUES ($1) ON CONFLICT DO NOTHING

-- name: share_master_key
SELECT key_id FROM platform.master_key FOR SHARE

-- name: change_master_key
-- Whoever makes a tenant meanwhile waits for us, and then makes it under this key.
INSERT INTO platform.master_key (key_id) VALUES ($1)
ON CONFLICT (one) DO UPDATE SET key_id = excluded.key_id, since = now()

-- name: begin_rotation
-- One operator rotates at a time, for as long as the session lasts: two would put two new keys into one store, and the
-- one that wraps could be the one that was overwritten.
SELECT pg_try_advisory_lock(hashtextextended('turnout:master-key rotate', 0))

-- name: present_master_key
SELECT key_id FROM platform.master_key

-- name: update_wrapped
-- $1 = tenant ids, $2 = versions, $3 = the data keys as they are wrapped now.
UPDATE platform.data_keys AS d SET wrapped = n.wrapped
FROM unnest($1::text[], $2::smallint[], $3::bytea[]) AS n (tenant_id, version, wrapped)
WHERE d.tenant_id = n.tenant_id AND d.version = n.version

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

-- name: lock_channel
-- Rotations of one secret take turns.
SELECT channel FROM platform.channels WHERE tenant_id = $1 AND channel = $2 FOR UPDATE

-- name: read_active_secrets
SELECT secret_no, sealed_secret FROM platform.channel_secrets
WHERE tenant_id = $1 AND channel = $2 AND (expires_at IS NULL OR expires_at > now())
ORDER BY expires_at DESC NULLS FIRST, secret_no DESC

-- name: let_secret_expire
-- $4 = interval from now.
UPDATE platform.channel_secrets SET expires_at = clock_timestamp() + $4
WHERE tenant_id = $1 AND channel = $2 AND secret_no = $3
RETURNING expires_at

-- name: delete_secrets_but
-- $3 = the one that stays for its overlap, or NULL.
DELETE FROM platform.channel_secrets WHERE tenant_id = $1 AND channel = $2 AND secret_no IS DISTINCT FROM $3::smallint

-- name: enable_channel
UPDATE platform.channels SET enabled = $3, updated_at = now() WHERE tenant_id = $1 AND channel = $2

-- name: update_tenant_status
-- A deleted one stays deleted.
UPDATE platform.tenants SET status = $2, updated_at = now() WHERE tenant_id = $1 AND status <> 'deleted'

-- name: insert_api_token
INSERT INTO platform.api_tokens (token_hash, tenant_id, scope, staff_id, label) VALUES ($1, $2, $3, $4, $5)
RETURNING token_id

-- name: list_api_tokens
-- $1 = tenant id, NULL for all. Never the hash: nobody who reads a list needs it.
SELECT token_id, tenant_id, scope, staff_id, label, created_at, last_used_at, revoked_at
FROM platform.api_tokens WHERE $1::text IS NULL OR tenant_id = $1
ORDER BY token_id

-- name: lock_api_token
-- Who revokes one second is told so, instead of moving the time at which it was.
SELECT tenant_id, scope, staff_id, label, revoked_at FROM platform.api_tokens WHERE token_id = $1 FOR UPDATE

-- name: revoke_api_token
UPDATE platform.api_tokens SET revoked_at = clock_timestamp() WHERE token_id = $1

-- name: authenticate
SELECT tenant_id, scope, staff_id FROM platform.authenticate($1)

-- name: list_tenants
-- channels = JSON; of secrets their number and when the older one dies, never the secret.
SELECT t.tenant_id, t.status, t.timezone, t.currency, t.locale, t.demo,
       coalesce(jsonb_agg(jsonb_build_object(
         'channel', c.channel, 'enabled', c.enabled, 'routing_id', c.routing_id,
         'secrets', (SELECT count(*) FROM platform.channel_secrets s WHERE (s.expires_at IS NULL OR s.expires_at > now()) AND s.tenant_id = c.tenant_id AND s.channel = c.channel),
         'old_secret_until', (SELECT max(s.expires_at) FROM platform.channel_secrets s WHERE (s.expires_at IS NULL OR s.expires_at > now()) AND s.tenant_id = c.tenant_id AND s.channel = c.channel)
       ) ORDER BY c.channel) FILTER (WHERE c.channel IS NOT NULL), '[]')::text AS channels
FROM platform.tenants t LEFT JOIN platform.channels c USING (tenant_id)
GROUP BY t.tenant_id ORDER BY t.tenant_id

-- name: insert_audit
INSERT INTO platform.audit_log (tenant_id, actor, action, details) VALUES ($1, $2, $3, $4)

-- name: read_settings
SELECT settings FROM platform.tenants WHERE tenant_id = $1 AND status <> 'deleted'

-- name: lock_settings
-- Two who each set an entry of one map take turns: neither loses the other's.
SELECT settings FROM platform.tenants WHERE tenant_id = $1 AND status <> 'deleted' FOR UPDATE

-- name: write_settings
-- $2 = all overrides by field name.
UPDATE platform.tenants SET settings = $2::jsonb, updated_at = now() WHERE tenant_id = $1
