-- The truth by other means: facts and cells recomputed from the raw logs, never through facts.py or rollup.*_contributions.
-- verify.py puts `stored`, a kind's `_truth` and `compare` together, with {kind}, {key} and {log} ({id}, {at}) of the kind.
-- $1 tenant, $2 first day or NULL for all, $3 zone, $4 currency, $5 notice hours, $6 off-peak before, $7 off-peak after,
-- $8 grid minutes; a kind takes as many of them as it needs.

-- name: tenants
SELECT t.tenant_id, t.timezone AS wanted_timezone, t.currency AS wanted_currency, t.settings AS wanted_settings,
       s.timezone, s.currency, s.notice_hours, s.off_peak_before, s.off_peak_after, s.grid_minutes, s.rules_revision
FROM platform.tenants t LEFT JOIN rollup.tenant_settings s USING (tenant_id)
WHERE t.status <> 'deleted' AND ($1::text IS NULL OR t.tenant_id = $1) ORDER BY t.tenant_id

-- name: stored
WITH stored AS MATERIALIZED (
  SELECT f.* FROM rollup.{kind}_facts f
  WHERE f.tenant_id = $1
    AND ($2::date IS NULL OR f.day >= $2
         OR f.{key} IN (SELECT t.{id} FROM {log} t WHERE t.tenant_id = $1 AND t.{at} >= $2::date))
),

-- name: chain_truth
said AS MATERIALIZED (
  SELECT t.tenant_id, t.entity_id AS booking_id, t.version, (e.start_at AT TIME ZONE $3)::date AS day,
         coalesce(e.staff_id, '') AS staff_id, coalesce(e.service_id, '') AS service_id, e.channel, e.source, e.uid,
         e.status, e.merged_into, e.client_id, e.intent_id, e.created_at, e.confirmed_at, e.start_at, e.end_at,
         e.cancelled_at, e.cancelled_by, e.cancel_reason, coalesce(e.no_show, false) AS no_show, e.completed_at,
         coalesce(e.moves, 0) AS moves, coalesce(e.admin_actions, 0) AS admin_actions,
         coalesce(e.admin_before_confirmation, false) AS admin_before_confirmation,
         coalesce(e.off_peak_suggested, false) AS off_peak_suggested, coalesce(e.off_peak_taken, false) AS off_peak_taken,
         coalesce(e.gross_minor, 0) AS gross_minor, coalesce(e.discount_minor, 0) AS discount_minor,
         coalesce(e.refund_minor, 0) AS refund_minor, e.currency,
         coalesce(e.other_currency_payments, 0) AS other_currency_payments, e.rating,
         coalesce(e.reachable, false) AS reachable, e.reminder_accepted_at, e.reminder_outcome,
         extract(hour FROM e.start_at AT TIME ZONE $3) NOT BETWEEN $6::int AND $7::int - 1 AS off_peak,
         extract(epoch FROM (e.start_at AT TIME ZONE $3)::time) % ($8::int * 60) = 0 AS on_grid,
         coalesce(e.cancelled_at > e.start_at - make_interval(hours => $5::int), false) AS late_cancel,
         coalesce(e.currency, $4::text) = $4 AS own_currency
  FROM stored f
  JOIN booking.truth t
    ON t.tenant_id = $1 AND t.entity_kind = 'chain' AND t.entity_id = f.booking_id AND t.version = f.version
  CROSS JOIN LATERAL jsonb_to_record(t.payload) AS e(
    staff_id text, service_id text, channel text, source text, uid text, status text, merged_into uuid, client_id uuid,
    intent_id uuid, created_at timestamptz, confirmed_at timestamptz, start_at timestamptz, end_at timestamptz,
    cancelled_at timestamptz, cancelled_by text, cancel_reason text, no_show boolean, completed_at timestamptz,
    moves int, admin_actions int, admin_before_confirmation boolean, off_peak_suggested boolean,
    off_peak_taken boolean, gross_minor bigint, discount_minor bigint, refund_minor bigint, currency text,
    other_currency_payments int, rating int, reachable boolean, reminder_accepted_at timestamptz, reminder_outcome text)
), judged AS (
  SELECT s.*, s.status <> 'merged' AND s.confirmed_at IS NOT NULL AS is_booked,
         s.status = 'cancelled' AND NOT coalesce(s.cancelled_at >= s.start_at, false) AS is_called_off,
         s.status NOT IN ('merged', 'cancelled', 'no_show') AND s.confirmed_at IS NOT NULL AND NOT s.no_show AS is_visit
  FROM said s
), wanted AS (
  SELECT day, staff_id,
         max(greatest(
           CASE WHEN is_booked AND NOT is_called_off THEN start_at + interval '1 microsecond' END,
           CASE WHEN is_visit THEN greatest(end_at, least(completed_at, end_at + interval '2 hours')) END,
           '-infinity')) AS settled_at,
         count(*) AS facts,
         count(*) FILTER (WHERE is_booked) AS booked,
         count(*) FILTER (WHERE is_booked AND is_called_off
                          AND coalesce(cancel_reason, '') <> 'reschedule_requested') AS cancelled,
         count(*) FILTER (WHERE is_booked AND is_called_off AND late_cancel
                          AND coalesce(cancel_reason, '') <> 'reschedule_requested') AS late_cancelled,
         count(*) FILTER (WHERE is_booked AND moves >= 1) AS moved,
         count(*) FILTER (WHERE is_booked AND off_peak) AS off_peak,
         count(*) FILTER (WHERE is_booked AND on_grid) AS on_grid,
         coalesce(sum(floor(extract(epoch FROM start_at) - extract(epoch FROM confirmed_at)))
                  FILTER (WHERE is_booked), 0)::bigint AS lead_seconds,
         count(*) FILTER (WHERE is_booked AND NOT is_called_off) AS due,
         count(*) FILTER (WHERE is_booked AND NOT is_called_off AND (no_show OR status = 'no_show')) AS no_show,
         count(*) FILTER (WHERE is_booked AND NOT is_called_off AND reachable) AS reachable,
         count(*) FILTER (WHERE is_booked AND NOT is_called_off AND reachable
                          AND reminder_accepted_at < start_at) AS reminder_covered,
         count(*) FILTER (WHERE is_visit) AS visit,
         coalesce(sum(gross_minor) FILTER (WHERE is_visit AND own_currency), 0)::bigint AS gross,
         coalesce(sum(gross_minor - (discount_minor + refund_minor)) FILTER (WHERE is_visit AND own_currency), 0)::bigint
           AS net,
         coalesce(sum(other_currency_payments) FILTER (WHERE is_visit), 0)
           + count(*) FILTER (WHERE is_visit AND NOT own_currency) AS other_currency,
         count(rating) FILTER (WHERE is_visit) AS feedback,
         coalesce(sum(floor((extract(epoch FROM end_at) - extract(epoch FROM start_at)) / 60)) FILTER (WHERE is_visit), 0)::bigint
           AS service_minutes
  FROM judged GROUP BY day, staff_id
)

-- name: intent_truth
said AS MATERIALIZED (
  SELECT t.tenant_id, t.entity_id AS intent_id, t.version, (e.opened_at AT TIME ZONE $3)::date AS day,
         coalesce(e.staff_id, '') AS staff_id, coalesce(e.service_id, '') AS service_id, e.channel, e.client_id,
         e.booking_id, e.implicit, e.opened_at, e.confirmed_at, e.closed_at, e.outcome,
         coalesce(e.admin_actions, 0) AS admin_actions,
         coalesce(e.admin_before_confirmation, false) AS admin_before_confirmation,
         coalesce(e.off_peak_suggested, false) AS off_peak_suggested, coalesce(e.off_peak_taken, false) AS off_peak_taken,
         coalesce(e.withdrawn, false) AS withdrawn
  FROM stored f
  JOIN booking.truth t
    ON t.tenant_id = $1 AND t.entity_kind = 'intent' AND t.entity_id = f.intent_id AND t.version = f.version
  CROSS JOIN LATERAL jsonb_to_record(t.payload) AS e(
    staff_id text, service_id text, channel text, client_id uuid, booking_id uuid, implicit boolean,
    opened_at timestamptz, confirmed_at timestamptz, closed_at timestamptz, outcome text, admin_actions int,
    admin_before_confirmation boolean, off_peak_suggested boolean, off_peak_taken boolean, withdrawn boolean)
), wanted AS (
  SELECT day, staff_id,
         coalesce(max(greatest(least(opened_at + interval '24 hours', closed_at, confirmed_at),
                               coalesce(confirmed_at, closed_at))) FILTER (WHERE NOT withdrawn), '-infinity') AS settled_at,
         count(*) AS facts,
         count(*) FILTER (WHERE NOT withdrawn) AS intents,
         coalesce(sum(admin_actions) FILTER (WHERE NOT withdrawn), 0) AS admin_actions,
         count(booking_id) FILTER (WHERE NOT withdrawn AND off_peak_suggested) AS off_peak_suggested,
         count(booking_id) FILTER (WHERE NOT withdrawn AND off_peak_suggested AND off_peak_taken) AS off_peak_taken,
         count(*) FILTER (WHERE NOT withdrawn) AS closed,
         count(*) FILTER (WHERE NOT withdrawn AND admin_actions <> 0) AS intervened,
         count(confirmed_at) FILTER (WHERE NOT withdrawn) AS confirmed,
         count(confirmed_at) FILTER (WHERE NOT withdrawn AND NOT admin_before_confirmation) AS automated,
         count(coalesce(confirmed_at, closed_at)) FILTER (WHERE NOT withdrawn) AS resolved,
         coalesce(sum(floor(extract(epoch FROM coalesce(confirmed_at, closed_at)) - extract(epoch FROM opened_at)))
                  FILTER (WHERE NOT withdrawn), 0)::bigint AS resolve_seconds
  FROM said GROUP BY day, staff_id
)

-- name: other_truth
said AS MATERIALIZED (
  SELECT t.tenant_id, t.entity_id AS fact_id, t.version, (w.clock_at AT TIME ZONE $3)::date AS day,
         coalesce(e.staff_id, '') AS staff_id, '' AS service_id, e.channel, e.fact, e.at, w.clock_at, e.subject_id,
         e.booking_id, e.start_at, e.end_at, e.break_minutes, e.rating, e.expected, e.counted, e.quantity,
         e.gross_minor, e.discount_minor, e.currency, coalesce(e.currency, $4::text) = $4 AS own_currency
  FROM stored f
  JOIN booking.truth t
    ON t.tenant_id = $1 AND t.entity_kind = 'fact' AND t.entity_id = f.fact_id AND t.version = f.version
  CROSS JOIN LATERAL jsonb_to_record(t.payload) AS e(
    staff_id text, channel text, fact text, at timestamptz, subject_id text, booking_id uuid, start_at timestamptz,
    end_at timestamptz, break_minutes int, rating int, expected bigint, counted bigint, quantity bigint,
    gross_minor bigint, discount_minor bigint, currency text)
  CROSS JOIN LATERAL (SELECT CASE e.fact WHEN 'shift' THEN coalesce(e.start_at, e.at) ELSE e.at END AS clock_at) w
), wanted AS (
  SELECT day, staff_id,
         coalesce(max(end_at) FILTER (WHERE fact = 'shift' AND start_at IS NOT NULL), '-infinity') AS settled_at,
         count(*) AS facts,
         coalesce(sum(rating) FILTER (WHERE fact = 'feedback'), 0) AS rating_sum,
         count(rating) FILTER (WHERE fact = 'feedback') AS ratings,
         coalesce(sum(greatest(counted, expected) - least(counted, expected))
                  FILTER (WHERE fact = 'inventory_count' AND counted IS NOT NULL AND expected IS NOT NULL), 0)::bigint
           AS inventory_variance,
         coalesce(sum(expected) FILTER (WHERE fact = 'inventory_count' AND counted IS NOT NULL), 0)::bigint
           AS inventory_expected,
         coalesce(sum(gross_minor) FILTER (WHERE fact = 'goods_sale' AND booking_id IS NULL AND own_currency), 0)::bigint
           AS goods_gross,
         coalesce(sum(gross_minor - coalesce(discount_minor, 0))
                  FILTER (WHERE fact = 'goods_sale' AND booking_id IS NULL AND own_currency), 0)::bigint AS goods_net,
         count(gross_minor) FILTER (WHERE NOT own_currency) AS other_currency,
         coalesce(sum(greatest(floor((extract(epoch FROM end_at) - extract(epoch FROM start_at)) / 60)
                               - coalesce(break_minutes, 0), 0)) FILTER (WHERE fact = 'shift'), 0)::bigint
           AS rostered_minutes
  FROM said GROUP BY day, staff_id
)

-- name: message_truth
said AS MATERIALIZED (
  SELECT t.tenant_id, t.message_id, t.version, (t.first_attempt_at AT TIME ZONE $3)::date AS day, '' AS staff_id,
         '' AS service_id, t.channel, t.status, t.queue, t.template, t.gives_receipts, t.booking_id, t.client_id,
         t.start_at, t.first_attempt_at, t.accepted_at, t.delivered_at, t.read_at, t.failed_at, t.attempts, t.reason
  FROM stored f
  JOIN sender.truth t ON t.tenant_id = $1 AND t.message_id = f.message_id AND t.version = f.version
), wanted AS (
  SELECT day, staff_id, '-infinity'::timestamptz AS settled_at, count(*) AS facts,
         count(*) AS attempted,
         count(coalesce(read_at, delivered_at, accepted_at)) AS accepted,
         count(coalesce(read_at, delivered_at, accepted_at)) FILTER (WHERE gives_receipts) AS receipted,
         count(coalesce(read_at, delivered_at)) FILTER (WHERE gives_receipts) AS delivered,
         count(coalesce(read_at, delivered_at, accepted_at))
           FILTER (WHERE gives_receipts AND template = 'reminder_24h') AS reminder_receipted,
         count(coalesce(read_at, delivered_at))
           FILTER (WHERE gives_receipts AND template = 'reminder_24h') AS reminder_delivered,
         count(*) FILTER (WHERE status = 'failed') AS failed,
         count(*) FILTER (WHERE status = 'dead') AS dead,
         count(*) FILTER (WHERE status = 'unknown') AS unknown
  FROM said WHERE day IS NOT NULL GROUP BY day, staff_id
)

-- name: compare
-- `fact` rows (id, version, fields) and `cell` rows (day, staff_id, fields); fields = {{name: [log, stored]}}. A fact at a
-- version that the log does not have has no fields.
SELECT 'fact' AS part, f.id, f.version, NULL::date AS day, NULL::text AS staff_id,
       (SELECT jsonb_object_agg(k.key, jsonb_build_array(k.value, f.stored -> k.key))
        FROM jsonb_each(f.log) k WHERE k.value IS DISTINCT FROM f.stored -> k.key) AS fields
FROM (
  SELECT f.{key} AS id, f.version, to_jsonb(s.*) AS log, to_jsonb(f.*) AS stored
  FROM stored f LEFT JOIN said s USING ({key}) OFFSET 0 -- so that each row is made JSON once
) f
WHERE f.log IS DISTINCT FROM f.stored
UNION ALL
SELECT 'cell', NULL, NULL, k.day, k.staff_id, d.fields
FROM (SELECT day, staff_id FROM wanted UNION SELECT day, staff_id FROM rollup.{kind}_days WHERE tenant_id = $1) k
LEFT JOIN wanted w USING (day, staff_id)
LEFT JOIN (SELECT * FROM rollup.{kind}_days WHERE tenant_id = $1) c USING (day, staff_id)
CROSS JOIN LATERAL (
  SELECT jsonb_object_agg(n.key, jsonb_build_array(to_jsonb(w.*) -> n.key, to_jsonb(c.*) -> n.key))
           FILTER (WHERE to_jsonb(w.*) -> n.key IS DISTINCT FROM to_jsonb(c.*) -> n.key) AS fields
  FROM jsonb_object_keys(coalesce(to_jsonb(w.*), to_jsonb(c.*) - 'tenant_id')) AS n(key)
) d
WHERE ($2::date IS NULL OR k.day >= $2) AND d.fields IS NOT NULL

-- name: missing
-- Entities whose highest version in the log is not applied.
SELECT h.id, h.version, f.version AS applied_version, h.written_at
FROM (
  SELECT DISTINCT ON (t.{id}) t.{id} AS id, t.version, t.{at} AS written_at
  FROM {log} t WHERE t.tenant_id = $1 AND ($2::date IS NULL OR t.{at} >= $2::date) {of_kind}
  ORDER BY t.{id}, t.version DESC
) h
LEFT JOIN rollup.{kind}_facts f ON f.tenant_id = $1 AND f.{key} = h.id
WHERE f.version IS NULL OR f.version < h.version ORDER BY h.written_at, h.id

-- name: count
SELECT count(*) FROM rollup.{kind}_facts WHERE tenant_id = $1
