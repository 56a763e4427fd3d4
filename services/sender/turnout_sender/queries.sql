-- What the handlers write (plans, withdrawals, receipts). Locks are taken in key order: slots, then deliveries.

-- name: add_slots
INSERT INTO sender.slots (tenant_id, slot_key, booking_version)
SELECT t, s, 0 FROM unnest($1::text[], $2::text[]) AS k(t, s) ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: lock_slots
SELECT s.tenant_id, s.slot_key, s.booking_version, s.message_id
FROM sender.slots s JOIN unnest($1::text[], $2::text[]) AS k(t, s) ON s.tenant_id = k.t AND s.slot_key = k.s
ORDER BY 1, 2 FOR UPDATE OF s

-- name: lock_deliveries_of_slots
SELECT d.tenant_id, d.slot_key, d.message_id, d.status, d.booking_version, d.attempts
FROM sender.deliveries d JOIN unnest($1::text[], $2::text[]) AS k(t, s) ON d.tenant_id = k.t AND d.slot_key = k.s
ORDER BY d.message_id FOR UPDATE OF d

-- name: set_slots
UPDATE sender.slots s SET booking_version = w.version, message_id = w.message_id
FROM unnest($1::text[], $2::text[], $3::int[], $4::uuid[]) AS w(t, k, version, message_id)
WHERE s.tenant_id = w.t AND s.slot_key = w.k

-- name: add_deliveries
-- $15 = why a plan was out of date when it came; such a one is cancelled at once, and logged by the caller.
INSERT INTO sender.deliveries (message_id, tenant_id, slot_key, sent_key, queue, template, client_id, booking_id,
  booking_version, start_at, not_before, expires_at, locale, reason, next_attempt_at, status, version, created_at,
  changed_at)
SELECT n.message_id, n.tenant_id, n.slot_key, n.sent_key, n.queue, n.template, n.client_id, n.booking_id,
  n.booking_version, n.start_at, n.not_before, n.expires_at, n.locale, n.reason, n.not_before,
  CASE WHEN n.reason IS NULL THEN 'planned' ELSE 'cancelled' END, (n.reason IS NOT NULL)::int, $1, $1
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::uuid[], $9::uuid[], $10::int[],
  $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::text[], $15::text[])
  AS n(message_id, tenant_id, slot_key, sent_key, queue, template, client_id, booking_id, booking_version, start_at,
       not_before, expires_at, locale, reason)

-- name: take_newer_plans
-- $7 = revived: planned again, as if for the first time; the others keep their state.
UPDATE sender.deliveries d SET
  booking_version = n.booking_version, not_before = n.not_before, expires_at = n.expires_at,
  locale = n.locale,
  status = CASE WHEN n.revived THEN 'planned' ELSE d.status END,
  reason = CASE WHEN n.revived THEN NULL ELSE d.reason END,
  failures = CASE WHEN n.revived THEN 0 ELSE d.failures END,
  failed_at = CASE WHEN n.revived THEN NULL ELSE d.failed_at END,
  next_attempt_at = CASE WHEN n.revived OR d.failures = 0 THEN n.not_before ELSE greatest(d.next_attempt_at, n.not_before) END,
  version = d.version + n.revived::int, changed_at = CASE WHEN n.revived THEN $1 ELSE d.changed_at END
FROM unnest($2::uuid[], $3::int[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::boolean[])
  AS n(message_id, booking_version, not_before, expires_at, locale, revived)
WHERE d.message_id = n.message_id

-- name: lock_receipts
-- So that a receipt and the record of its message cannot pass each other unseen.
SELECT pg_advisory_xact_lock(h) FROM (
  SELECT DISTINCT hashtextextended('turnout:receipt:' || t || ':' || c || ':' || p, 0) AS h
  FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, c, p) ORDER BY 1) AS sorted

-- name: lock_receipted
SELECT d.message_id, d.tenant_id, d.channel, d.provider_message_id, d.status, d.delivered_at, d.read_at, d.failed_at, d.reason
FROM sender.deliveries d JOIN unnest($1::text[], $2::text[], $3::text[]) AS k(t, c, p)
  ON d.tenant_id = k.t AND d.channel = k.c AND d.provider_message_id = k.p
WHERE d.gives_receipts
ORDER BY d.message_id FOR UPDATE OF d

-- name: set_receipted
UPDATE sender.deliveries d SET status = r.status, delivered_at = r.delivered_at, read_at = r.read_at,
  failed_at = r.failed_at, reason = r.reason, version = d.version + 1, changed_at = $1
FROM unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::text[])
  AS r(message_id, status, delivered_at, read_at, failed_at, reason)
WHERE d.message_id = r.message_id

-- name: keep_early_receipts
INSERT INTO sender.early_receipts (tenant_id, channel, provider_message_id, status, occurred_at, reason, arrived_at)
SELECT *, $1 FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
ON CONFLICT DO NOTHING

-- name: take_early_receipts
DELETE FROM sender.early_receipts e USING unnest($1::text[], $2::text[], $3::text[]) AS k(t, c, p)
WHERE e.tenant_id = k.t AND e.channel = k.c AND e.provider_message_id = k.p
RETURNING e.tenant_id, e.channel, e.provider_message_id, e.status, e.occurred_at, e.reason

-- What the send loop reads and writes.

-- name: due
-- Left out: tenants in $2 (enough in flight), and messages whose bot has no slot within $3 or whose circuit is open,
-- once their channel is known; the expired ones come in any case. booking.heads is read again before every attempt.
-- The limit is no parameter: a generic plan would take it for a tenth of the table, and sort that.
SELECT d.message_id, d.tenant_id, d.queue, d.template, d.client_id, d.booking_version, d.start_at, d.expires_at, d.locale,
  d.channel, d.failures, d.counted_on IS NOT NULL AS counted, s.message_id AS slot_message_id,
  h.version AS head_version, h.status AS head_status, h.start_at AS head_start_at
FROM sender.deliveries d
JOIN sender.slots s ON s.tenant_id = d.tenant_id AND s.slot_key = d.slot_key
LEFT JOIN booking.heads h ON h.tenant_id = d.tenant_id AND h.booking_id = d.booking_id
WHERE d.status = 'planned' AND d.next_attempt_at <= $1 AND d.tenant_id <> ALL ($2::text[])
  AND (d.channel IS NULL OR d.expires_at <= $1 OR NOT (
    EXISTS (SELECT FROM sender.rate_slots r WHERE r.tenant_id = d.tenant_id AND r.channel = d.channel AND r.chat = ''
            AND r.next_at > clock_timestamp() + $3::interval)
    OR EXISTS (SELECT FROM sender.circuits c WHERE c.tenant_id = d.tenant_id AND c.channel = d.channel
               AND c.open_until > $1)))
ORDER BY d.next_attempt_at LIMIT 200
FOR UPDATE OF d SKIP LOCKED

-- name: contacts
-- LATERAL and OFFSET 0: so that the view is asked for one client at a time, by its index. Without, the planner makes
-- the whole view first, of all clients of all tenants.
SELECT c.tenant_id, c.client_id, c.channel, c.chat_sealed, c.opted_out, c.promotions_opted_out, c.locale
FROM (SELECT DISTINCT t, i FROM unnest($1::text[], $2::uuid[]) AS u(t, i)) AS k
CROSS JOIN LATERAL (SELECT * FROM booking.contactable v WHERE v.tenant_id = k.t AND v.client_id = k.i
                    OFFSET 0) AS c

-- name: lock_circuits
SELECT c.tenant_id, c.channel, c.open_until
FROM sender.circuits c JOIN unnest($1::text[], $2::text[]) AS k(t, c) ON c.tenant_id = k.t AND c.channel = k.c
WHERE c.open_until IS NOT NULL ORDER BY 1, 2 FOR UPDATE OF c

-- name: hold_circuits
-- While one message tries, the circuit stays open for all others.
UPDATE sender.circuits c SET open_until = $3
FROM unnest($1::text[], $2::text[]) AS k(t, c) WHERE c.tenant_id = k.t AND c.channel = k.c

-- name: add_day_counts
INSERT INTO sender.day_counts (tenant_id, day, queue, used)
SELECT t, d, q, 0 FROM unnest($1::text[], $2::date[], $3::text[]) AS k(t, d, q) ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING

-- name: lock_day_counts
SELECT c.tenant_id, c.day, c.queue, c.used
FROM sender.day_counts c JOIN unnest($1::text[], $2::date[], $3::text[]) AS k(t, d, q)
  ON c.tenant_id = k.t AND c.day = k.d AND c.queue = k.q
ORDER BY 1, 2, 3 FOR UPDATE OF c

-- name: set_day_counts
UPDATE sender.day_counts c SET used = k.used
FROM unnest($1::text[], $2::date[], $3::text[], $4::int[]) AS k(t, d, q, used)
WHERE c.tenant_id = k.t AND c.day = k.d AND c.queue = k.q

-- name: add_rate_slots
INSERT INTO sender.rate_slots (tenant_id, channel, chat, next_at)
SELECT t, c, i, clock_timestamp() FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, c, i) ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING

-- name: lock_rate_slots
SELECT r.tenant_id, r.channel, r.chat, r.next_at
FROM sender.rate_slots r JOIN unnest($1::text[], $2::text[], $3::text[]) AS k(t, c, i)
  ON r.tenant_id = k.t AND r.channel = k.c AND r.chat = k.i
ORDER BY 1, 2, 3 FOR UPDATE OF r

-- name: clock
-- One clock for all replicas, read once the slots are locked.
SELECT clock_timestamp()

-- name: set_rate_slots
UPDATE sender.rate_slots r SET next_at = k.next_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, c, i, next_at)
WHERE r.tenant_id = k.t AND r.channel = k.c AND r.chat = k.i

-- name: pause_bot
INSERT INTO sender.rate_slots AS r (tenant_id, channel, chat, next_at) VALUES ($1, $2, '', clock_timestamp() + $3::interval)
ON CONFLICT (tenant_id, channel, chat) DO UPDATE SET next_at = greatest(r.next_at, excluded.next_at)

-- name: begin_attempts
-- From here on a request may be on its way: without an outcome it ends as `unknown`.
WITH begun AS (
  UPDATE sender.deliveries d SET status = 'sending', reason = NULL, attempts = d.attempts + 1, claim_id = $1,
    claimed_at = $2, channel = b.channel, gives_receipts = b.gives_receipts,
    counted_on = coalesce(d.counted_on, b.day), first_attempt_at = coalesce(d.first_attempt_at, $2),
    version = d.version + 1, changed_at = $2
  FROM unnest($3::uuid[], $4::text[], $5::boolean[], $6::date[]) AS b(message_id, channel, gives_receipts, day)
  WHERE d.message_id = b.message_id
  RETURNING d.message_id, d.attempts, d.tenant_id, d.channel
)
INSERT INTO sender.attempts (message_id, attempt_no, tenant_id, channel, claim_id, started_at)
SELECT message_id, attempts, tenant_id, channel, $1, $2 FROM begun

-- name: end_deliveries
-- Ends that need no request. A fault of ours counts as an attempt, so that it shows in the dead-letter rate.
UPDATE sender.deliveries d SET status = e.status, reason = e.reason, version = d.version + 1, changed_at = $1,
  failed_at = CASE WHEN e.status = 'failed' THEN $1 ELSE d.failed_at END,
  first_attempt_at = CASE WHEN e.status = 'dead' THEN coalesce(d.first_attempt_at, $1) ELSE d.first_attempt_at END
FROM unnest($2::uuid[], $3::text[], $4::text[]) AS e(message_id, status, reason) WHERE d.message_id = e.message_id

-- name: put_off
-- To a later time, or only noting the channel, by which `due` can leave it out while that channel is blocked.
UPDATE sender.deliveries d SET next_attempt_at = coalesce(p.at, d.next_attempt_at), channel = coalesce(p.channel, d.channel)
FROM unnest($1::uuid[], $2::timestamptz[], $3::text[]) AS p(message_id, at, channel) WHERE d.message_id = p.message_id

-- name: lock_deliveries
SELECT message_id FROM sender.deliveries WHERE message_id = ANY ($1::uuid[]) ORDER BY message_id FOR UPDATE

-- name: settle_attempts
-- The outcome of a claim. A sender that was thought dead may still tell the truth about an `unknown` message.
UPDATE sender.deliveries d SET status = o.status, reason = o.reason, failures = o.failures,
  claim_id = NULL, claimed_at = NULL, provider_message_id = coalesce(o.provider_message_id, d.provider_message_id),
  accepted_at = CASE WHEN o.status = 'accepted' THEN o.at ELSE d.accepted_at END,
  failed_at = CASE WHEN o.status = 'failed' THEN o.at ELSE d.failed_at END,
  next_attempt_at = CASE WHEN o.status = 'planned' THEN least(o.at + o.retry_in, d.expires_at) ELSE d.next_attempt_at END,
  version = d.version + (o.status <> 'planned' OR d.status = 'unknown')::int, changed_at = o.at
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int[], $6::text[], $7::interval[], $8::timestamptz[])
  AS o(message_id, claim_id, status, reason, failures, provider_message_id, retry_in, at)
WHERE d.message_id = o.message_id AND d.claim_id = o.claim_id AND d.status IN ('sending', 'unknown')
RETURNING d.message_id, new.version > old.version AS changed

-- name: note_attempts
UPDATE sender.attempts a SET outcome = o.outcome, reason = o.reason, http_status = o.http_status,
  duration_ms = o.duration_ms
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int[], $6::int[])
  AS o(message_id, claim_id, outcome, reason, http_status, duration_ms)
WHERE a.message_id = o.message_id AND a.claim_id = o.claim_id

-- name: release_attempts
-- No request was begun: as if the claim had never been.
WITH released AS (
  UPDATE sender.deliveries d SET status = 'planned', reason = NULL, attempts = d.attempts - 1, claim_id = NULL,
    claimed_at = NULL, first_attempt_at = CASE WHEN d.attempts > 1 THEN d.first_attempt_at END, next_attempt_at = $3,
    version = d.version + 1, changed_at = $3
  FROM unnest($1::uuid[], $2::uuid[]) AS r(message_id, claim_id)
  WHERE d.message_id = r.message_id AND d.claim_id = r.claim_id AND d.status IN ('sending', 'unknown')
  RETURNING d.message_id, r.claim_id
), gone AS (
  DELETE FROM sender.attempts a USING released r WHERE a.message_id = r.message_id AND a.claim_id = r.claim_id
)
SELECT message_id FROM released

-- name: count_failures
INSERT INTO sender.circuits AS c (tenant_id, channel, failures, open_until, reason)
SELECT t, n, f, CASE WHEN f >= $2 THEN $1::timestamptz + $3::interval END, r
FROM unnest($4::text[], $5::text[], $6::int[], $7::text[]) AS k(t, n, f, r) ORDER BY 1, 2
ON CONFLICT (tenant_id, channel) DO UPDATE SET failures = c.failures + excluded.failures, reason = excluded.reason,
  open_until = CASE WHEN c.failures + excluded.failures >= $2 THEN $1::timestamptz + $3::interval END

-- name: open_circuit
INSERT INTO sender.circuits AS c (tenant_id, channel, failures, open_until, reason) VALUES ($1, $2, 1, $3, $4)
ON CONFLICT (tenant_id, channel) DO UPDATE SET failures = c.failures + 1, open_until = excluded.open_until,
  reason = excluded.reason

-- name: close_circuits
WITH answered AS (
  SELECT c.tenant_id, c.channel FROM sender.circuits c JOIN unnest($1::text[], $2::text[]) AS k(t, n)
    ON c.tenant_id = k.t AND c.channel = k.n ORDER BY 1, 2 FOR UPDATE OF c)
DELETE FROM sender.circuits c USING answered a WHERE c.tenant_id = a.tenant_id AND c.channel = a.channel

-- name: find_orphans
-- Claims whose sender died between claim and outcome: the provider may have the message.
UPDATE sender.deliveries d SET status = 'unknown', reason = 'sender_stopped', version = d.version + 1, changed_at = $1
WHERE d.message_id IN (
  SELECT o.message_id FROM sender.deliveries o WHERE o.status = 'sending' AND o.claimed_at < $1::timestamptz - $2::interval
  ORDER BY o.message_id LIMIT 500 FOR UPDATE SKIP LOCKED)
RETURNING d.message_id

-- name: prune
-- What nobody asks for any more: receipts of messages that others sent, slots and counts of days gone by.
WITH early AS (DELETE FROM sender.early_receipts WHERE arrived_at < $1::timestamptz - interval '14 days'),
     slots AS (DELETE FROM sender.rate_slots WHERE next_at < $1::timestamptz - interval '1 day')
DELETE FROM sender.day_counts WHERE day < ($1::timestamptz - interval '7 days')::date

-- name: backlog
SELECT count(*) FROM sender.deliveries WHERE status = 'planned' AND next_attempt_at <= $1

-- The log and what is published of it.

-- name: log
-- The whole state of each message, at the version that it has now.
INSERT INTO sender.message_log (tenant_id, message_id, version, occurred_at, status, queue, template, channel,
  gives_receipts, booking_id, client_id, start_at, first_attempt_at, accepted_at, delivered_at, read_at, failed_at,
  attempts, reason)
SELECT tenant_id, message_id, version, changed_at,
  CASE WHEN status = 'sending' OR (status = 'planned' AND attempts > 0) THEN 'attempted' ELSE status END,
  queue, template, channel, gives_receipts, booking_id, client_id, start_at, first_attempt_at, accepted_at, delivered_at,
  read_at, failed_at, attempts, reason
FROM sender.deliveries WHERE message_id = ANY ($1::uuid[]) ORDER BY message_id
RETURNING record_id, status

-- name: publish
-- MessageEvent (turnout_common.events.message) out of its row in the log; the recovery check publishes by it again.
INSERT INTO sender.outbox (record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload)
SELECT record_id, 'message_events', tenant_id || ':' || message_id, 'message.changed', 'turnout/sender', message_id::text,
  tenant_id, occurred_at, json_strip_nulls(json_build_object(
    'type', 'message.changed', 'event_id', record_id, 'tenant_id', tenant_id, 'message_id', message_id,
    'version', version, 'occurred_at', occurred_at, 'status', status, 'queue', queue, 'template', template,
    'channel', channel, 'gives_receipts', gives_receipts, 'booking_id', booking_id, 'client_id', client_id,
    'start_at', start_at, 'first_attempt_at', first_attempt_at, 'accepted_at', accepted_at,
    'delivered_at', delivered_at, 'read_at', read_at, 'failed_at', failed_at, 'attempts', attempts,
    'reason', reason))::text
FROM sender.message_log WHERE record_id = ANY ($1::uuid[]) ORDER BY seq

-- name: walk
-- Ends before the first version that is too young: two writers' rows may be younger and older than their seq says, and
-- a row that the mark has passed is never looked at again.
WITH ahead AS MATERIALIZED (
  SELECT seq, record_id, written_at FROM sender.message_log WHERE seq > $1 ORDER BY seq LIMIT $3
)
SELECT seq, record_id FROM ahead
WHERE seq < coalesce((SELECT min(seq) FROM ahead WHERE written_at >= now() - $2::interval), 9223372036854775807)
ORDER BY seq
