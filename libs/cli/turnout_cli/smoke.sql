-- name: fates
SELECT fate, sum(items)::int AS items FROM ingest.fates WHERE tenant_id = $1 GROUP BY fate

-- name: chats
SELECT count(*) FROM booking.client_chats WHERE tenant_id = $1

-- name: event_types
-- By the uid that stands now; types of all events of the chain.
SELECT c.state ->> 'uid' AS uid, array_agg(DISTINCT e.event_type) AS event_types
FROM booking.chains c
JOIN booking.booking_events e ON e.tenant_id = c.tenant_id AND e.entity_id = c.booking_id
WHERE c.tenant_id = $1 GROUP BY 1

-- name: version_gaps
SELECT entity_kind, entity_id FROM booking.booking_events WHERE tenant_id = $1
GROUP BY entity_kind, entity_id HAVING count(*) <> max(version) OR min(version) <> 1
UNION ALL
SELECT 'message', message_id FROM sender.message_log WHERE tenant_id = $1
GROUP BY message_id HAVING count(*) <> max(version) OR min(version) <> 1

-- name: deliveries
SELECT template, status FROM sender.deliveries WHERE tenant_id = $1

-- name: dead_letters
SELECT count(*) FROM {schema}.dead_letters WHERE tenant_id = $1
