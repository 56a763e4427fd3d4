-- Lists come as arrays and are sorted by key where rows are locked or inserted: two consumers lock in one order.
-- The order of locks within a transaction: contacts, refs, chains, clients. Everything else stands under one of these.

-- name: read_contacts
SELECT c.tenant_id, c.kind, c.hash, c.client_id
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(tenant_id, kind, hash)
JOIN booking.client_contacts c USING (tenant_id, kind, hash)

-- name: insert_clients
INSERT INTO booking.clients (client_id, tenant_id)
SELECT * FROM unnest($1::uuid[], $2::text[])

-- name: insert_contacts
INSERT INTO booking.client_contacts (tenant_id, kind, hash, client_id, sealed)
SELECT tenant_id, kind, hash, client_id, sealed
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[]) AS k(tenant_id, kind, hash, client_id, sealed)
ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING

-- name: read_refs
SELECT r.tenant_id, r.source, r.uid, r.seat, r.booking_id
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k(tenant_id, source, uid, seat)
JOIN booking.source_refs r USING (tenant_id, source, uid, seat)

-- name: insert_refs
INSERT INTO booking.source_refs (tenant_id, source, uid, seat, booking_id)
SELECT tenant_id, source, uid, seat, booking_id
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[]) AS k(tenant_id, source, uid, seat, booking_id)
ORDER BY 1, 2, 3, 4
ON CONFLICT DO NOTHING

-- name: lock_seats
-- Whether a uid has seats is settled by one transaction at a time: no unique key stands for it.
SELECT pg_advisory_xact_lock(hashtextextended('turnout:booking:seats:' || tenant_id, 0))
FROM unnest($1::text[]) WITH ORDINALITY AS t(tenant_id, n) ORDER BY n

-- name: uids_with_seats
SELECT DISTINCT r.tenant_id, r.source, r.uid
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(tenant_id, source, uid)
JOIN booking.source_refs r USING (tenant_id, source, uid) WHERE r.seat <> ''

-- name: drop_items
DELETE FROM booking.chain_items i USING unnest($1::uuid[], $2::uuid[]) AS k(booking_id, item_key)
WHERE i.booking_id = k.booking_id AND i.item_key = k.item_key

-- name: drop_wholes
DELETE FROM booking.source_refs WHERE booking_id = ANY ($1::uuid[]) AND seat = ''

-- name: move_refs
UPDATE booking.source_refs r SET booking_id = m.survivor
FROM unnest($1::uuid[], $2::uuid[]) AS m(absorbed, survivor) WHERE r.booking_id = m.absorbed

-- name: read_heads
-- Without locks, to learn whose clients and intents a batch touches.
SELECT booking_id, client_id, first_source_at, pinned_intent_id FROM booking.chains WHERE booking_id = ANY ($1::uuid[])

-- name: read_survivors
-- Where the items of a merged chain went.
WITH RECURSIVE way AS (
  SELECT booking_id AS asked, booking_id, merged_into FROM booking.chains WHERE booking_id = ANY ($1::uuid[])
  UNION ALL
  SELECT w.asked, c.booking_id, c.merged_into FROM way w JOIN booking.chains c ON c.booking_id = w.merged_into
)
SELECT asked, booking_id FROM way WHERE merged_into IS NULL

-- name: owners_of_intents
SELECT intent_id, client_id, opened_at FROM booking.intents
WHERE intent_id = ANY ($1::uuid[]) AND NOT implicit AND client_id IS NOT NULL

-- name: clients_with_chats
SELECT client_id, max(first_seen_at) AS newest_chat_at FROM booking.client_chats
WHERE client_id = ANY ($1::uuid[]) GROUP BY client_id

-- name: derive_since
-- From where a client's intents are derived again: what opened before depends on nothing that changed.
SELECT c.client_id, coalesce((
  SELECT max(i.opened_at) FROM booking.intents i
  WHERE i.client_id = c.client_id AND NOT i.implicit AND NOT i.withdrawn AND i.opened_at <= c.changed_at
), c.changed_at) AS since
FROM unnest($1::uuid[], $2::timestamptz[]) AS c(client_id, changed_at)

-- name: chains_starting_after
SELECT c.booking_id, c.client_id, c.first_source_at, c.pinned_intent_id
FROM unnest($1::uuid[], $2::timestamptz[]) AS k(client_id, start_after)
JOIN booking.chains c ON c.client_id = k.client_id AND c.start_at > k.start_after
WHERE c.status <> 'merged'

-- name: chains_since
-- Whose intents may change with those of the clients: made since then, or naming an intent that opened since then.
SELECT c.booking_id FROM unnest($1::uuid[], $2::timestamptz[]) AS k(client_id, since)
JOIN booking.chains c ON c.client_id = k.client_id AND c.first_source_at >= k.since
WHERE c.status <> 'merged'
UNION
SELECT c.booking_id FROM unnest($1::uuid[], $2::timestamptz[]) AS k(client_id, since)
JOIN booking.intents i ON i.client_id = k.client_id AND NOT i.implicit AND i.opened_at >= k.since
JOIN booking.chains c ON c.pinned_intent_id = i.intent_id
WHERE c.status <> 'merged'

-- name: lock_chains
SELECT booking_id, tenant_id, version, status, client_id, intent_id, pinned_intent_id, first_source_at, fold_basis,
       state, slots
FROM booking.chains WHERE booking_id = ANY ($1::uuid[]) ORDER BY booking_id FOR UPDATE

-- name: lock_clients
SELECT client_id, tenant_id, merged_into FROM booking.clients WHERE client_id = ANY ($1::uuid[]) ORDER BY client_id FOR UPDATE

-- name: read_items
SELECT booking_id, item FROM booking.chain_items WHERE booking_id = ANY ($1::uuid[])

-- name: unpark
-- What waits for an attendee's seat belongs to the booking as a whole when that is founded without seats.
WITH due AS (
  SELECT p.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k(tenant_id, source, uid, seat)
  JOIN booking.parked p ON p.tenant_id = k.tenant_id AND p.source = k.source AND p.uid = k.uid
    AND (p.seat = k.seat OR k.seat = '')
  WHERE p.quarantined_at IS NULL
)
DELETE FROM booking.parked p USING due d
WHERE (p.tenant_id, p.source, p.uid, p.seat, p.item_key) = (d.tenant_id, d.source, d.uid, d.seat, d.item_key)
RETURNING p.tenant_id, p.source, p.uid, p.seat, p.record_id, p.item

-- name: mark_unparked
UPDATE booking.applied SET outcome = 'applied' WHERE record_id = ANY ($1::uuid[])

-- name: insert_parked
INSERT INTO booking.parked (tenant_id, source, uid, seat, item_key, record_id, item, parked_at)
SELECT tenant_id, source, uid, seat, item_key, record_id, item, $8
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::uuid[], $7::text[])
  AS p(tenant_id, source, uid, seat, item_key, record_id, item)
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT DO NOTHING

-- name: linkable_parked
-- What was parked while its uid was being founded elsewhere.
SELECT p.tenant_id, p.source, p.uid, p.seat FROM booking.parked p
JOIN booking.source_refs r ON r.tenant_id = p.tenant_id AND r.source = p.source AND r.uid = p.uid
  AND r.seat IN (p.seat, '')
WHERE p.quarantined_at IS NULL ORDER BY 1, 2, 3, 4 LIMIT $1

-- name: quarantine_parked
UPDATE booking.parked SET quarantined_at = $2, reason = 'unlinked'
WHERE quarantined_at IS NULL AND parked_at <= $1 RETURNING tenant_id

-- name: quarantine_ref
UPDATE booking.parked SET quarantined_at = $5, reason = 'chain_too_long'
WHERE (tenant_id, source, uid, seat) = ($1, $2, $3, $4) AND quarantined_at IS NULL

-- name: intents_of_chains
SELECT intent_id, tenant_id, version, client_id, booking_id, implicit, opening_key, state
FROM booking.intents WHERE booking_id = ANY ($1::uuid[])

-- name: intents_of_clients
SELECT i.intent_id, i.tenant_id, i.version, i.client_id, i.booking_id, i.implicit, i.opening_key, i.state
FROM unnest($1::uuid[], $2::timestamptz[]) AS k(client_id, since)
JOIN booking.intents i ON i.client_id = k.client_id AND NOT i.implicit AND i.opened_at >= k.since

-- name: chat_items_of_clients
SELECT i.client_id, i.item_key, i.kind, i.channel, i.at
FROM unnest($1::uuid[], $2::timestamptz[]) AS k(client_id, since)
JOIN booking.chat_items i ON i.client_id = k.client_id AND i.at >= k.since

-- name: chats_of_clients
-- Of two consents at one time the refusal is the last.
SELECT h.client_id, h.channel, h.chat_hash, h.first_seen_at, h.last_seen_at, h.locale,
       coalesce(array_agg(s.at ORDER BY s.at, s.opted_in DESC, s.item_key) FILTER (WHERE s.at IS NOT NULL), '{}') AS consent_at,
       coalesce(array_agg(s.opted_in ORDER BY s.at, s.opted_in DESC, s.item_key) FILTER (WHERE s.at IS NOT NULL), '{}') AS opted_in
FROM booking.client_chats h LEFT JOIN booking.client_consents s
  ON (s.tenant_id, s.channel, s.chat_hash, s.scope) = (h.tenant_id, h.channel, h.chat_hash, 'all')
WHERE h.client_id = ANY ($1::uuid[])
GROUP BY h.tenant_id, h.channel, h.chat_hash

-- name: upsert_chats
INSERT INTO booking.client_chats AS h (tenant_id, channel, chat_hash, client_id, chat_sealed, locale, first_seen_at, last_seen_at)
SELECT tenant_id, channel, chat_hash, client_id, chat_sealed, locale, first_seen_at, last_seen_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[])
  AS k(tenant_id, channel, chat_hash, client_id, chat_sealed, locale, first_seen_at, last_seen_at)
ORDER BY 1, 2, 3
ON CONFLICT (tenant_id, channel, chat_hash) DO UPDATE
SET chat_sealed = CASE WHEN excluded.last_seen_at >= h.last_seen_at THEN excluded.chat_sealed ELSE h.chat_sealed END,
    locale = CASE WHEN excluded.last_seen_at >= h.last_seen_at OR h.locale IS NULL
                  THEN coalesce(excluded.locale, h.locale) ELSE h.locale END,
    first_seen_at = least(h.first_seen_at, excluded.first_seen_at),
    last_seen_at = greatest(h.last_seen_at, excluded.last_seen_at)

-- name: insert_consents
INSERT INTO booking.client_consents (tenant_id, channel, chat_hash, item_key, at, opted_in, scope)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[], $6::boolean[], $7::text[])
ORDER BY 1, 2, 3, 4
ON CONFLICT DO NOTHING

-- name: refresh_opted_out
-- Of each scope the newest consent counts, whichever came last, and of two at one time the refusal; who wants no messages wants no promotions either.
WITH newest AS (
  SELECT DISTINCT ON (tenant_id, channel, chat_hash, c.scope) tenant_id, channel, chat_hash, c.scope, c.opted_in
  FROM unnest($1::text[], $2::text[], $3::text[]) AS k(tenant_id, channel, chat_hash)
  JOIN booking.client_consents c USING (tenant_id, channel, chat_hash)
  ORDER BY tenant_id, channel, chat_hash, c.scope, c.at DESC, c.opted_in, c.item_key DESC
), said AS (
  SELECT tenant_id, channel, chat_hash, bool_or(scope = 'all' AND NOT opted_in) AS opted_out,
         bool_or(NOT opted_in) AS promotions_opted_out
  FROM newest GROUP BY tenant_id, channel, chat_hash
)
UPDATE booking.client_chats h SET opted_out = s.opted_out, promotions_opted_out = s.promotions_opted_out
FROM said s
WHERE (h.tenant_id, h.channel, h.chat_hash) = (s.tenant_id, s.channel, s.chat_hash)
  AND (h.opted_out, h.promotions_opted_out) IS DISTINCT FROM (s.opted_out, s.promotions_opted_out)

-- name: insert_chat_items
INSERT INTO booking.chat_items (client_id, item_key, tenant_id, kind, channel, at)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: merge_clients
UPDATE booking.clients c SET merged_into = m.survivor
FROM unnest($1::uuid[], $2::uuid[]) AS m(absorbed, survivor) WHERE c.client_id = m.absorbed

-- name: move_contacts
UPDATE booking.client_contacts c SET client_id = m.survivor
FROM unnest($1::uuid[], $2::uuid[]) AS m(absorbed, survivor) WHERE c.client_id = m.absorbed

-- name: move_chats
UPDATE booking.client_chats c SET client_id = m.survivor
FROM unnest($1::uuid[], $2::uuid[]) AS m(absorbed, survivor) WHERE c.client_id = m.absorbed

-- name: move_chat_items
UPDATE booking.chat_items c SET client_id = m.survivor
FROM unnest($1::uuid[], $2::uuid[]) AS m(absorbed, survivor) WHERE c.client_id = m.absorbed

-- name: move_intents
UPDATE booking.intents c SET client_id = m.survivor
FROM unnest($1::uuid[], $2::uuid[]) AS m(absorbed, survivor) WHERE c.client_id = m.absorbed

-- name: insert_items
INSERT INTO booking.chain_items (booking_id, item_key, item)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[]) ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: move_items
-- To the chain that stays; what it has already (one client merge seen by both) goes.
WITH gone AS (
  DELETE FROM booking.chain_items i USING unnest($1::uuid[], $2::uuid[]) AS m(absorbed, survivor)
  WHERE i.booking_id = m.absorbed RETURNING m.survivor, i.item_key, i.item
)
INSERT INTO booking.chain_items (booking_id, item_key, item)
SELECT survivor, item_key, item FROM gone ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: move_notes
UPDATE booking.notes n SET booking_id = m.survivor
FROM unnest($1::uuid[], $2::uuid[]) AS m(absorbed, survivor) WHERE n.booking_id = m.absorbed

-- name: insert_notes
INSERT INTO booking.notes (booking_id, item_key, tenant_id, sealed, at)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: upsert_chains
INSERT INTO booking.chains AS c (booking_id, tenant_id, version, status, merged_into, client_id, intent_id,
  pinned_intent_id, staff_id, first_source_at, start_at, fold_basis, state, slots)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::uuid[], $6::uuid[], $7::uuid[], $8::uuid[],
  $9::text[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::jsonb[], $14::jsonb[])
ORDER BY 1
ON CONFLICT (booking_id) DO UPDATE SET
  version = excluded.version, status = excluded.status, merged_into = excluded.merged_into,
  client_id = excluded.client_id, intent_id = excluded.intent_id, pinned_intent_id = excluded.pinned_intent_id,
  staff_id = excluded.staff_id, first_source_at = excluded.first_source_at, start_at = excluded.start_at,
  fold_basis = excluded.fold_basis, state = excluded.state,
  slots = excluded.slots, updated_at = now()

-- name: upsert_intents
INSERT INTO booking.intents AS i (intent_id, tenant_id, version, client_id, booking_id, implicit, withdrawn, opened_at,
  opening_key, state)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::uuid[], $5::uuid[], $6::boolean[], $7::boolean[],
  $8::timestamptz[], $9::uuid[], $10::jsonb[])
ORDER BY 1
ON CONFLICT (intent_id) DO UPDATE SET
  version = excluded.version, client_id = excluded.client_id, booking_id = excluded.booking_id,
  implicit = excluded.implicit, withdrawn = excluded.withdrawn, opened_at = excluded.opened_at,
  opening_key = excluded.opening_key, state = excluded.state, updated_at = now()

-- name: read_facts
-- By id, and those of the given chains.
SELECT fact_id, tenant_id, version, booking_id, item_key, base, state FROM booking.facts
WHERE fact_id = ANY ($1::uuid[]) OR booking_id = ANY ($2::uuid[])

-- name: claim_facts
-- A fact may come twice (a shift planned again, a copy of a rating) and from two consumers at once: inserted or found,
-- the row is ours until commit.
INSERT INTO booking.facts AS f (fact_id, tenant_id, version, item_key, base, state)
SELECT fact_id, tenant_id, 1, item_key, base, base::jsonb
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS k(fact_id, tenant_id, item_key, base)
ORDER BY 1
ON CONFLICT (fact_id) DO UPDATE SET fact_id = excluded.fact_id
RETURNING f.fact_id, old.version AS known_version

-- name: upsert_facts
INSERT INTO booking.facts AS f (fact_id, tenant_id, version, booking_id, item_key, base, state)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::uuid[], $5::uuid[], $6::text[], $7::jsonb[]) ORDER BY 1
ON CONFLICT (fact_id) DO UPDATE SET
  version = excluded.version, booking_id = excluded.booking_id, item_key = excluded.item_key, base = excluded.base,
  state = excluded.state, updated_at = now()

-- name: insert_events
-- The row of the truth and the outbox row come from one text: they cannot differ.
WITH told AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::int[], $6::text[], $7::text[],
    $8::timestamptz[], $9::text[]) WITH ORDINALITY
    AS e(event_id, tenant_id, entity_kind, entity_id, version, event_type, source, occurred_at, body, n)
), kept AS (
  INSERT INTO booking.booking_events (event_id, tenant_id, entity_kind, entity_id, version, event_type, source,
    occurred_at, payload)
  SELECT event_id, tenant_id, entity_kind, entity_id, version, event_type, source, occurred_at, body::jsonb -> 'payload'
  FROM told ORDER BY n
)
INSERT INTO booking.outbox (record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload)
SELECT event_id, 'booking_events', tenant_id || ':' || entity_id, event_type, 'turnout/booking',
       entity_kind || '/' || entity_id, tenant_id, occurred_at, body
FROM told ORDER BY n

-- name: insert_outbound
WITH told AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::int[], $7::timestamptz[],
    $8::text[]) WITH ORDINALITY
    AS m(record_id, tenant_id, type, client_id, booking_id, booking_version, occurred_at, payload, n)
), kept AS (
  INSERT INTO booking.outbound (record_id, tenant_id, type, client_id, booking_id, booking_version, occurred_at, payload)
  SELECT record_id, tenant_id, type, client_id, booking_id, booking_version, occurred_at, payload FROM told ORDER BY n
)
INSERT INTO booking.outbox (record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload)
SELECT record_id, 'outbound_messages', tenant_id || ':' || client_id, type, 'turnout/booking',
       'chain/' || booking_id, tenant_id, occurred_at, payload
FROM told ORDER BY n

-- name: walk_events
-- For the recovery check (turnout_common.recovery.Watch). Ends before the first event that is too young: `created_at` is
-- its transaction's start, so of two writers one may have the later number and the earlier time, and an event that the
-- mark has passed is never looked at again.
WITH ahead AS MATERIALIZED (
  SELECT seq, event_id, created_at FROM booking.booking_events WHERE seq > $1 ORDER BY seq LIMIT $3
)
SELECT seq, event_id AS record_id FROM ahead
WHERE seq < coalesce((SELECT min(seq) FROM ahead WHERE created_at >= now() - $2::interval), 9223372036854775807)
ORDER BY seq

-- name: republish_events
INSERT INTO booking.outbox (record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload)
SELECT event_id, 'booking_events', tenant_id || ':' || entity_id, event_type, 'turnout/booking',
       entity_kind || '/' || entity_id, tenant_id, occurred_at,
       jsonb_build_object('event_id', event_id, 'tenant_id', tenant_id, 'entity_kind', entity_kind,
         'entity_id', entity_id, 'version', version, 'event_type', event_type, 'source', source,
         'occurred_at', occurred_at, 'payload', payload)::text
FROM booking.booking_events WHERE event_id = ANY ($1::uuid[]) ORDER BY seq

-- name: walk_outbound
-- As walk_events.
WITH ahead AS MATERIALIZED (
  SELECT seq, record_id, created_at FROM booking.outbound WHERE seq > $1 ORDER BY seq LIMIT $3
)
SELECT seq, record_id FROM ahead
WHERE seq < coalesce((SELECT min(seq) FROM ahead WHERE created_at >= now() - $2::interval), 9223372036854775807)
ORDER BY seq

-- name: republish_outbound
INSERT INTO booking.outbox (record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload)
SELECT record_id, 'outbound_messages', tenant_id || ':' || client_id, type, 'turnout/booking',
       'chain/' || booking_id, tenant_id, occurred_at, payload
FROM booking.outbound WHERE record_id = ANY ($1::uuid[]) ORDER BY seq

-- name: add_partitions
SELECT booking.add_event_partitions(3)

-- name: read_tenants
SELECT tenant_id, status, timezone, currency, locale, settings FROM platform.tenants
WHERE $1::text[] IS NULL OR tenant_id = ANY ($1::text[]) ORDER BY tenant_id

-- name: read_tenant_folds
SELECT tenant_id, fold_basis, settled, adopted_at < now() - interval '60 seconds' AS may_settle
FROM booking.tenant_folds

-- name: write_tenant_fold
INSERT INTO booking.tenant_folds AS f (tenant_id, fold_basis, settled) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id) DO UPDATE SET fold_basis = excluded.fold_basis, settled = excluded.settled,
  adopted_at = CASE WHEN f.fold_basis = excluded.fold_basis THEN f.adopted_at ELSE now() END

-- name: next_to_refold
-- Chains of a tenant that were folded by something else than its basis now ($3); all of them when $4.
SELECT booking_id FROM booking.chains
WHERE tenant_id = $1 AND booking_id > $2 AND status <> 'merged' AND ($4 OR fold_basis <> $3)
ORDER BY booking_id LIMIT $5

-- name: count_to_refold
SELECT count(*) FROM booking.chains WHERE tenant_id = $1 AND status <> 'merged' AND ($3 OR fold_basis <> $2)

-- name: status_figures
SELECT (SELECT count(*) FROM booking.parked WHERE quarantined_at IS NULL) AS parked,
       (SELECT count(*) FROM booking.parked WHERE quarantined_at IS NOT NULL) AS unlinked,
       (SELECT count(*) FROM booking.dead_letters WHERE replayed_at IS NULL) AS dead_letters
