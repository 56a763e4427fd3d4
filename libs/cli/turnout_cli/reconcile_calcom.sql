-- name: shown
SELECT uid, seat, booking_id, last_uid, status, created_at, start_at, no_show, admin_actions
FROM booking.known_bookings WHERE tenant_id = $1 AND source = 'calcom' AND uid = ANY ($2::text[])

-- name: settled_until
-- Until when our chains show what arrived: $1 at the latest, else as far as ingest has published and booking has read.
SELECT least($1, (SELECT oldest_at FROM ingest.oldest_unpublished),
             (SELECT min(read_until) FROM booking.read_marks WHERE topic LIKE '%inbound_webhooks'))
