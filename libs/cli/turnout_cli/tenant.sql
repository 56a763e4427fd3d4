-- name: has_secret
SELECT EXISTS (SELECT FROM platform.channel_secrets WHERE tenant_id = $1 AND channel = $2)
