-- The statements of facts and day cells. In each table of facts the columns stand in the order of its class in facts.py.

-- name: share_rules
-- Held by whoever makes facts; who changes a tenant's rules waits for it, and later makers see the new rules.
SELECT pg_advisory_xact_lock_shared(hashtextextended('turnout.rollup.rules', 0))

-- name: lock_rules
SELECT pg_advisory_xact_lock(hashtextextended('turnout.rollup.rules', 0))

-- name: read_tenants
-- What is configured now (`wanted_*`) beside the rules that the tenant's facts were made by.
SELECT t.tenant_id, t.status, t.timezone AS wanted_timezone, t.currency AS wanted_currency,
       t.settings AS wanted_settings,
       s.timezone, s.currency, s.notice_hours, s.off_peak_before, s.off_peak_after, s.grid_minutes, s.rules_revision
FROM platform.tenants t LEFT JOIN rollup.tenant_settings s USING (tenant_id)
WHERE t.tenant_id = ANY ($1::text[])
ORDER BY t.tenant_id

-- name: tenant_ids
SELECT tenant_id FROM platform.tenants WHERE status <> 'deleted' ORDER BY tenant_id

-- name: insert_rules
-- Gives the rules in force, also when another consumer was first with them.
INSERT INTO rollup.tenant_settings AS s (tenant_id, timezone, currency, notice_hours, off_peak_before, off_peak_after,
  grid_minutes, rules_revision)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id) DO UPDATE SET tenant_id = excluded.tenant_id
RETURNING s.timezone, s.currency, s.notice_hours, s.off_peak_before, s.off_peak_after, s.grid_minutes, s.rules_revision

-- name: update_rules
UPDATE rollup.tenant_settings SET timezone = $2, currency = $3, notice_hours = $4, off_peak_before = $5,
  off_peak_after = $6, grid_minutes = $7, rules_revision = $8, changed_at = now()
WHERE tenant_id = $1

-- name: begin_rebuild
INSERT INTO rollup.rebuilds (tenant_id) VALUES ($1)
ON CONFLICT (tenant_id) DO UPDATE
SET step = DEFAULT, after_id = DEFAULT, entities = 0, mended = 0, started_at = now(), finished_at = NULL

-- name: lock_days
-- Inserted or updated, either way the row is ours until commit; in key order, so that two writers cannot deadlock.
INSERT INTO rollup.day_locks AS l (kind, tenant_id, day)
SELECT $1, tenant_id, day FROM unnest($2::text[], $3::date[]) AS d(tenant_id, day) ORDER BY tenant_id, day
ON CONFLICT (kind, tenant_id, day) DO UPDATE SET changes = l.changes + 1

-- name: count_changes
INSERT INTO rollup.tenant_changes AS c (tenant_id)
SELECT tenant_id FROM unnest($1::text[]) AS d(tenant_id) ORDER BY tenant_id
ON CONFLICT (tenant_id) DO UPDATE SET counter = c.counter + 1, changed_at = now()

-- name: upsert_chain_facts
-- $41 = also rewrite rows of the same version that differ (rebuild).
INSERT INTO rollup.chain_facts AS f (
  tenant_id, booking_id, version, day, staff_id, service_id, channel, source, uid, status, merged_into, client_id,
  intent_id, created_at, confirmed_at, start_at, end_at, cancelled_at, cancelled_by, cancel_reason, no_show,
  completed_at, moves, admin_actions, admin_before_confirmation, off_peak_suggested, off_peak_taken, gross_minor,
  discount_minor, refund_minor, currency, other_currency_payments, rating, reachable, reminder_accepted_at,
  reminder_outcome, off_peak, on_grid, late_cancel, own_currency
)
SELECT * FROM unnest(
  $1::text[], $2::uuid[], $3::int[], $4::date[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
  $10::text[], $11::uuid[], $12::uuid[], $13::uuid[], $14::timestamptz[], $15::timestamptz[], $16::timestamptz[],
  $17::timestamptz[], $18::timestamptz[], $19::text[], $20::text[], $21::boolean[], $22::timestamptz[], $23::int[],
  $24::int[], $25::boolean[], $26::boolean[], $27::boolean[], $28::bigint[], $29::bigint[], $30::bigint[],
  $31::text[], $32::int[], $33::smallint[], $34::boolean[], $35::timestamptz[], $36::text[], $37::boolean[],
  $38::boolean[], $39::boolean[], $40::boolean[]
) AS r(tenant_id, booking_id, version, day, staff_id, service_id, channel, source, uid, status, merged_into, client_id,
  intent_id, created_at, confirmed_at, start_at, end_at, cancelled_at, cancelled_by, cancel_reason, no_show,
  completed_at, moves, admin_actions, admin_before_confirmation, off_peak_suggested, off_peak_taken, gross_minor,
  discount_minor, refund_minor, currency, other_currency_payments, rating, reachable, reminder_accepted_at,
  reminder_outcome, off_peak, on_grid, late_cancel, own_currency)
ORDER BY tenant_id, booking_id
ON CONFLICT (tenant_id, booking_id) DO UPDATE SET (
  version, day, staff_id, service_id, channel, source, uid, status, merged_into, client_id, intent_id, created_at,
  confirmed_at, start_at, end_at, cancelled_at, cancelled_by, cancel_reason, no_show, completed_at, moves,
  admin_actions, admin_before_confirmation, off_peak_suggested, off_peak_taken, gross_minor, discount_minor,
  refund_minor, currency, other_currency_payments, rating, reachable, reminder_accepted_at, reminder_outcome,
  off_peak, on_grid, late_cancel, own_currency
) = (
  excluded.version, excluded.day, excluded.staff_id, excluded.service_id, excluded.channel, excluded.source,
  excluded.uid, excluded.status, excluded.merged_into, excluded.client_id, excluded.intent_id, excluded.created_at,
  excluded.confirmed_at, excluded.start_at, excluded.end_at, excluded.cancelled_at, excluded.cancelled_by,
  excluded.cancel_reason, excluded.no_show, excluded.completed_at, excluded.moves, excluded.admin_actions,
  excluded.admin_before_confirmation, excluded.off_peak_suggested, excluded.off_peak_taken, excluded.gross_minor,
  excluded.discount_minor, excluded.refund_minor, excluded.currency, excluded.other_currency_payments,
  excluded.rating, excluded.reachable, excluded.reminder_accepted_at, excluded.reminder_outcome, excluded.off_peak,
  excluded.on_grid, excluded.late_cancel, excluded.own_currency
)
WHERE f.version < excluded.version OR ($41 AND f.version = excluded.version AND f.* IS DISTINCT FROM excluded.*)
RETURNING new.tenant_id, old.day AS old_day, new.day AS new_day

-- name: upsert_intent_facts
-- $20 = also rewrite rows of the same version that differ (rebuild).
INSERT INTO rollup.intent_facts AS f (
  tenant_id, intent_id, version, day, staff_id, service_id, channel, client_id, booking_id, implicit, opened_at,
  confirmed_at, closed_at, outcome, admin_actions, admin_before_confirmation, off_peak_suggested, off_peak_taken,
  withdrawn
)
SELECT * FROM unnest(
  $1::text[], $2::uuid[], $3::int[], $4::date[], $5::text[], $6::text[], $7::text[], $8::uuid[], $9::uuid[],
  $10::boolean[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::text[], $15::int[], $16::boolean[],
  $17::boolean[], $18::boolean[], $19::boolean[]
) AS r(tenant_id, intent_id, version, day, staff_id, service_id, channel, client_id, booking_id, implicit, opened_at,
  confirmed_at, closed_at, outcome, admin_actions, admin_before_confirmation, off_peak_suggested, off_peak_taken,
  withdrawn)
ORDER BY tenant_id, intent_id
ON CONFLICT (tenant_id, intent_id) DO UPDATE SET (
  version, day, staff_id, service_id, channel, client_id, booking_id, implicit, opened_at, confirmed_at, closed_at,
  outcome, admin_actions, admin_before_confirmation, off_peak_suggested, off_peak_taken, withdrawn
) = (
  excluded.version, excluded.day, excluded.staff_id, excluded.service_id, excluded.channel, excluded.client_id,
  excluded.booking_id, excluded.implicit, excluded.opened_at, excluded.confirmed_at, excluded.closed_at,
  excluded.outcome, excluded.admin_actions, excluded.admin_before_confirmation, excluded.off_peak_suggested,
  excluded.off_peak_taken, excluded.withdrawn
)
WHERE f.version < excluded.version OR ($20 AND f.version = excluded.version AND f.* IS DISTINCT FROM excluded.*)
RETURNING new.tenant_id, old.day AS old_day, new.day AS new_day

-- name: upsert_message_facts
-- $20 = also rewrite rows of the same version that differ (rebuild).
INSERT INTO rollup.message_facts AS f (
  tenant_id, message_id, version, day, channel, status, queue, template, gives_receipts, booking_id, client_id,
  start_at, first_attempt_at, accepted_at, delivered_at, read_at, failed_at, attempts, reason
)
SELECT * FROM unnest(
  $1::text[], $2::uuid[], $3::int[], $4::date[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[],
  $10::uuid[], $11::uuid[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
  $16::timestamptz[], $17::timestamptz[], $18::int[], $19::text[]
) AS r(tenant_id, message_id, version, day, channel, status, queue, template, gives_receipts, booking_id, client_id,
  start_at, first_attempt_at, accepted_at, delivered_at, read_at, failed_at, attempts, reason)
ORDER BY tenant_id, message_id
ON CONFLICT (tenant_id, message_id) DO UPDATE SET (
  version, day, channel, status, queue, template, gives_receipts, booking_id, client_id, start_at, first_attempt_at,
  accepted_at, delivered_at, read_at, failed_at, attempts, reason, staff_id, service_id
) = (
  excluded.version, excluded.day, excluded.channel, excluded.status, excluded.queue, excluded.template,
  excluded.gives_receipts, excluded.booking_id, excluded.client_id, excluded.start_at, excluded.first_attempt_at,
  excluded.accepted_at, excluded.delivered_at, excluded.read_at, excluded.failed_at, excluded.attempts,
  excluded.reason, excluded.staff_id, excluded.service_id
)
WHERE f.version < excluded.version OR ($20 AND f.version = excluded.version AND f.* IS DISTINCT FROM excluded.*)
RETURNING new.tenant_id, old.day AS old_day, new.day AS new_day

-- name: upsert_other_facts
-- $23 = also rewrite rows of the same version that differ (rebuild).
INSERT INTO rollup.other_facts AS f (
  tenant_id, fact_id, version, day, staff_id, channel, fact, at, clock_at, subject_id, booking_id, start_at, end_at,
  break_minutes, rating, expected, counted, quantity, gross_minor, discount_minor, currency, own_currency
)
SELECT * FROM unnest(
  $1::text[], $2::uuid[], $3::int[], $4::date[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
  $9::timestamptz[], $10::text[], $11::uuid[], $12::timestamptz[], $13::timestamptz[], $14::int[], $15::smallint[],
  $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::text[], $22::boolean[]
) AS r(tenant_id, fact_id, version, day, staff_id, channel, fact, at, clock_at, subject_id, booking_id, start_at, end_at,
  break_minutes, rating, expected, counted, quantity, gross_minor, discount_minor, currency, own_currency)
ORDER BY tenant_id, fact_id
ON CONFLICT (tenant_id, fact_id) DO UPDATE SET (
  version, day, staff_id, channel, fact, at, clock_at, subject_id, booking_id, start_at, end_at, break_minutes,
  rating, expected, counted, quantity, gross_minor, discount_minor, currency, own_currency, service_id
) = (
  excluded.version, excluded.day, excluded.staff_id, excluded.channel, excluded.fact, excluded.at, excluded.clock_at,
  excluded.subject_id, excluded.booking_id, excluded.start_at, excluded.end_at, excluded.break_minutes,
  excluded.rating, excluded.expected, excluded.counted, excluded.quantity, excluded.gross_minor,
  excluded.discount_minor, excluded.currency, excluded.own_currency, excluded.service_id
)
WHERE f.version < excluded.version OR ($23 AND f.version = excluded.version AND f.* IS DISTINCT FROM excluded.*)
RETURNING new.tenant_id, old.day AS old_day, new.day AS new_day

-- name: sum_chain_days
INSERT INTO rollup.chain_days AS c (
  tenant_id, day, staff_id, settled_at, facts, booked, cancelled, late_cancelled, moved, off_peak, on_grid,
  lead_seconds, due, no_show, reachable, reminder_covered, visit, gross, net, other_currency, feedback,
  service_minutes
)
SELECT d.tenant_id, d.day, s.*
FROM unnest($1::text[], $2::date[]) AS d(tenant_id, day)
CROSS JOIN LATERAL (
  SELECT p.staff_id, max(p.settled_at), count(*),
         sum(p.booked), sum(p.cancelled), sum(p.late_cancelled), sum(p.moved), sum(p.off_peak), sum(p.on_grid),
         sum(p.lead_seconds), sum(p.due), sum(p.no_show), sum(p.reachable), sum(p.reminder_covered), sum(p.visit),
         sum(p.gross), sum(p.net), sum(p.other_currency), sum(p.feedback), sum(p.service_minutes)
  FROM rollup.chain_parts('infinity') p
  WHERE p.tenant_id = d.tenant_id AND p.day = d.day
  GROUP BY p.staff_id
) s
ON CONFLICT (tenant_id, day, staff_id) DO UPDATE SET (
  settled_at, facts, booked, cancelled, late_cancelled, moved, off_peak, on_grid, lead_seconds, due, no_show,
  reachable, reminder_covered, visit, gross, net, other_currency, feedback, service_minutes
) = (
  excluded.settled_at, excluded.facts, excluded.booked, excluded.cancelled, excluded.late_cancelled, excluded.moved,
  excluded.off_peak, excluded.on_grid, excluded.lead_seconds, excluded.due, excluded.no_show, excluded.reachable,
  excluded.reminder_covered, excluded.visit, excluded.gross, excluded.net, excluded.other_currency, excluded.feedback,
  excluded.service_minutes
)

-- name: drop_empty_chain_days
-- OFFSET 0 keeps each look at the facts to one entry of the index: as a join the planner reads all facts of a young
-- table (measured: three quarters of Postgres' time).
DELETE FROM rollup.chain_days c
USING unnest($1::text[], $2::date[]) AS d(tenant_id, day)
WHERE c.tenant_id = d.tenant_id AND c.day = d.day
  AND NOT EXISTS (
    SELECT FROM rollup.chain_facts f
    WHERE f.tenant_id = d.tenant_id AND f.day = d.day AND f.staff_id = c.staff_id
    OFFSET 0
  )

-- name: sum_intent_days
INSERT INTO rollup.intent_days AS c (
  tenant_id, day, staff_id, settled_at, facts, intents, admin_actions, off_peak_suggested, off_peak_taken, closed,
  intervened, confirmed, automated, resolved, resolve_seconds
)
SELECT d.tenant_id, d.day, s.*
FROM unnest($1::text[], $2::date[]) AS d(tenant_id, day)
CROSS JOIN LATERAL (
  SELECT p.staff_id, max(p.settled_at), count(*),
         sum(p.intents), sum(p.admin_actions), sum(p.off_peak_suggested), sum(p.off_peak_taken), sum(p.closed),
         sum(p.intervened), sum(p.confirmed), sum(p.automated), sum(p.resolved), sum(p.resolve_seconds)
  FROM rollup.intent_parts('infinity') p
  WHERE p.tenant_id = d.tenant_id AND p.day = d.day
  GROUP BY p.staff_id
) s
ON CONFLICT (tenant_id, day, staff_id) DO UPDATE SET (
  settled_at, facts, intents, admin_actions, off_peak_suggested, off_peak_taken, closed, intervened, confirmed,
  automated, resolved, resolve_seconds
) = (
  excluded.settled_at, excluded.facts, excluded.intents, excluded.admin_actions, excluded.off_peak_suggested,
  excluded.off_peak_taken, excluded.closed, excluded.intervened, excluded.confirmed, excluded.automated,
  excluded.resolved, excluded.resolve_seconds
)

-- name: drop_empty_intent_days
DELETE FROM rollup.intent_days c
USING unnest($1::text[], $2::date[]) AS d(tenant_id, day)
WHERE c.tenant_id = d.tenant_id AND c.day = d.day
  AND NOT EXISTS (
    SELECT FROM rollup.intent_facts f
    WHERE f.tenant_id = d.tenant_id AND f.day = d.day AND f.staff_id = c.staff_id
    OFFSET 0
  )

-- name: sum_message_days
INSERT INTO rollup.message_days AS c (
  tenant_id, day, staff_id, settled_at, facts, attempted, accepted, receipted, delivered, reminder_receipted,
  reminder_delivered, failed, dead, unknown
)
SELECT d.tenant_id, d.day, s.*
FROM unnest($1::text[], $2::date[]) AS d(tenant_id, day)
CROSS JOIN LATERAL (
  SELECT p.staff_id, max(p.settled_at), count(*),
         sum(p.attempted), sum(p.accepted), sum(p.receipted), sum(p.delivered), sum(p.reminder_receipted),
         sum(p.reminder_delivered), sum(p.failed), sum(p.dead), sum(p.unknown)
  FROM rollup.message_parts('infinity') p
  WHERE p.tenant_id = d.tenant_id AND p.day = d.day
  GROUP BY p.staff_id
) s
ON CONFLICT (tenant_id, day, staff_id) DO UPDATE SET (
  settled_at, facts, attempted, accepted, receipted, delivered, reminder_receipted, reminder_delivered, failed, dead,
  unknown
) = (
  excluded.settled_at, excluded.facts, excluded.attempted, excluded.accepted, excluded.receipted, excluded.delivered,
  excluded.reminder_receipted, excluded.reminder_delivered, excluded.failed, excluded.dead, excluded.unknown
)

-- name: drop_empty_message_days
DELETE FROM rollup.message_days c
USING unnest($1::text[], $2::date[]) AS d(tenant_id, day)
WHERE c.tenant_id = d.tenant_id AND c.day = d.day
  AND NOT EXISTS (
    SELECT FROM rollup.message_facts f
    WHERE f.tenant_id = d.tenant_id AND f.day = d.day AND f.staff_id = c.staff_id
    OFFSET 0
  )

-- name: sum_other_days
INSERT INTO rollup.other_days AS c (
  tenant_id, day, staff_id, settled_at, facts, rating_sum, ratings, inventory_variance, inventory_expected,
  goods_gross, goods_net, other_currency, rostered_minutes
)
SELECT d.tenant_id, d.day, s.*
FROM unnest($1::text[], $2::date[]) AS d(tenant_id, day)
CROSS JOIN LATERAL (
  SELECT p.staff_id, max(p.settled_at), count(*),
         sum(p.rating_sum), sum(p.ratings), sum(p.inventory_variance), sum(p.inventory_expected), sum(p.goods_gross),
         sum(p.goods_net), sum(p.other_currency), sum(p.rostered_minutes)
  FROM rollup.other_parts('infinity') p
  WHERE p.tenant_id = d.tenant_id AND p.day = d.day
  GROUP BY p.staff_id
) s
ON CONFLICT (tenant_id, day, staff_id) DO UPDATE SET (
  settled_at, facts, rating_sum, ratings, inventory_variance, inventory_expected, goods_gross, goods_net,
  other_currency, rostered_minutes
) = (
  excluded.settled_at, excluded.facts, excluded.rating_sum, excluded.ratings, excluded.inventory_variance,
  excluded.inventory_expected, excluded.goods_gross, excluded.goods_net, excluded.other_currency,
  excluded.rostered_minutes
)

-- name: drop_empty_other_days
DELETE FROM rollup.other_days c
USING unnest($1::text[], $2::date[]) AS d(tenant_id, day)
WHERE c.tenant_id = d.tenant_id AND c.day = d.day
  AND NOT EXISTS (
    SELECT FROM rollup.other_facts f
    WHERE f.tenant_id = d.tenant_id AND f.day = d.day AND f.staff_id = c.staff_id
    OFFSET 0
  )
