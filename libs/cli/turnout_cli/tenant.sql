-- name: has_secret
SELECT EXISTS (SELECT FROM platform.channel_secrets WHERE tenant_id = $1 AND channel = $2)

-- name: has_routing_id
SELECT EXISTS (SELECT FROM platform.channels WHERE tenant_id = $1 AND channel = $2 AND routing_id IS NOT NULL)

-- name: token_id
SELECT token_id FROM platform.api_tokens WHERE token_hash = $1
