-- For an auditor: every KPI of docs/KPIS.md, straight from the two logs of record, booking.booking_events and
-- sender.message_log, of which the row with the highest version of an entity is how it stands. Written from the
-- definitions and from nothing else: it shares no table, view or function with rollup or kpi-api.

-- name: tenant
SELECT timezone FROM platform.tenants WHERE tenant_id = $1

-- name: history
-- The first and the last local day on which anything counts; both NULL for a tenant without history.
SELECT min((at AT TIME ZONE $2)::date) AS first_day, max((at AT TIME ZONE $2)::date) AS last_day
FROM (
  SELECT unnest(ARRAY[payload ->> 'start_at', payload ->> 'opened_at', payload ->> 'at'])::timestamptz AS at
  FROM booking.booking_events WHERE tenant_id = $1
  UNION ALL
  SELECT first_attempt_at FROM sender.message_log WHERE tenant_id = $1
) times

-- name: kpis
-- $1 tenant; one window each in $2 number, $3 first local day, $4 last local day (it counts too), $5 asOf.
-- Gives one row for each window and metric: both parts, and the value as the API rounds it.
WITH salon AS (
  SELECT timezone, currency,
         make_interval(hours => coalesce((settings ->> 'notice_hours')::int, 24)) AS notice,
         coalesce((settings ->> 'off_peak_before')::int, 11) AS off_peak_before,
         coalesce((settings ->> 'off_peak_after')::int, 19) AS off_peak_after,
         coalesce((settings ->> 'grid_minutes')::int, 15) AS grid_minutes
  FROM platform.tenants WHERE tenant_id = $1
), windows AS (
  SELECT w.n, w.as_of, w.first_day::timestamp AT TIME ZONE salon.timezone AS begins,
         (w.last_day + 1)::timestamp AT TIME ZONE salon.timezone AS ends,
         date_bin('15 minutes', w.as_of, '2000-01-01Z') AS quarter
  FROM unnest($2::int[], $3::date[], $4::date[], $5::timestamptz[]) AS w(n, first_day, last_day, as_of), salon
), heads AS MATERIALIZED (
  SELECT DISTINCT ON (entity_kind, entity_id) entity_kind, entity_id, payload
  FROM booking.booking_events WHERE tenant_id = $1
  ORDER BY entity_kind, entity_id, version DESC
),

-- Appointments: a chain counts when it was ever confirmed and was not merged into another.
chains AS MATERIALIZED (
  SELECT c.*, c.start_at AT TIME ZONE salon.timezone AS local_start, salon.off_peak_before, salon.off_peak_after,
         salon.grid_minutes, coalesce(c.currency, salon.currency) = salon.currency AS own_currency,
         ((c.start_at AT TIME ZONE salon.timezone)::date + 1)::timestamp AT TIME ZONE salon.timezone AS midnight,
         c.status = 'cancelled' AND c.cancelled_at < c.start_at AS cancelled_before_start,
         c.cancelled_at > c.start_at - salon.notice AS cancelled_late,
         c.status IN ('confirmed', 'completed', 'pending') AND NOT c.no_show AS still_on,
         least(c.completed_at, c.end_at + interval '2 hours') AS visit_from
  FROM heads h, salon, jsonb_to_record(h.payload) AS c(
    booking_id uuid, status text, client_id uuid, confirmed_at timestamptz, start_at timestamptz, end_at timestamptz,
    cancelled_at timestamptz, cancel_reason text, no_show boolean, completed_at timestamptz, moves int,
    gross_minor bigint, discount_minor bigint, refund_minor bigint, currency text, rating int, reachable boolean,
    reminder_accepted_at timestamptz)
  WHERE h.entity_kind = 'chain' AND c.confirmed_at IS NOT NULL AND c.status <> 'merged'
), chain_sums AS (
  SELECT w.n, count(c.booking_id) AS booked,
         count(*) FILTER (WHERE due) AS due,
         count(*) FILTER (WHERE due AND (c.no_show OR c.status = 'no_show')) AS no_shows,
         count(*) FILTER (WHERE due AND c.reachable) AS reachable,
         count(*) FILTER (WHERE due AND c.reachable AND c.reminder_accepted_at < c.start_at) AS reminded,
         count(*) FILTER (WHERE lost) AS cancelled,
         count(*) FILTER (WHERE lost AND c.cancelled_late) AS late_cancelled,
         count(*) FILTER (WHERE c.moves > 0) AS moved,
         count(*) FILTER (WHERE extract(hour FROM c.local_start) < c.off_peak_before
                             OR extract(hour FROM c.local_start) >= c.off_peak_after) AS off_peak,
         count(*) FILTER (WHERE extract(epoch FROM c.local_start::time) % (c.grid_minutes * 60) = 0) AS on_grid,
         coalesce(sum(floor(extract(epoch FROM c.start_at - c.confirmed_at))), 0) AS lead_seconds,
         count(*) FILTER (WHERE visit) AS visits,
         count(*) FILTER (WHERE visit AND c.rating IS NOT NULL) AS rated,
         coalesce(sum(c.gross_minor) FILTER (WHERE visit AND c.own_currency), 0) AS gross,
         coalesce(sum(c.gross_minor - c.discount_minor - c.refund_minor) FILTER (WHERE visit AND c.own_currency), 0) AS net
  FROM windows w
  LEFT JOIN chains c ON c.start_at >= w.begins AND c.start_at < w.ends
  CROSS JOIN LATERAL (
    SELECT c.start_at < w.as_of AND NOT c.cancelled_before_start IS TRUE AS due,
           c.cancelled_before_start AND c.cancel_reason IS DISTINCT FROM 'reschedule_requested' AS lost,
           c.still_on AND c.visit_from <= w.as_of AS visit
  ) is_now
  GROUP BY w.n
),

-- Clients: only visits tell who came; what else a client has is looked up in their whole history.
client_visits AS (
  SELECT w.n, w.as_of, c.booking_id, c.client_id, c.start_at, c.midnight,
         w.begins <= c.start_at AND c.start_at < w.ends AS inside,
         row_number() OVER (PARTITION BY w.n, c.client_id ORDER BY c.start_at, c.booking_id) AS visit_no,
         lead(c.start_at) OVER (PARTITION BY w.n, c.client_id ORDER BY c.start_at, c.booking_id) AS next_visit
  FROM windows w JOIN chains c ON c.still_on AND c.visit_from <= w.as_of AND c.client_id IS NOT NULL
), client_sums AS (
  SELECT w.n, count(DISTINCT v.client_id) AS clients,
         count(DISTINCT v.client_id) FILTER (WHERE v.visit_no > 1) AS came_before,
         count(DISTINCT v.client_id) FILTER (WHERE v.visit_no = 1) AS first_time,
         count(DISTINCT v.client_id) FILTER (WHERE v.visit_no = 1 AND v.next_visit <= v.start_at + interval '2160 hours')
           AS retained,
         count(*) FILTER (WHERE EXISTS (
           SELECT FROM chains later WHERE later.client_id = v.client_id AND later.status <> 'cancelled'
             AND later.start_at > v.start_at AND later.confirmed_at < v.midnight)) AS rebooked
  FROM windows w LEFT JOIN client_visits v ON v.n = w.n AND v.inside
  GROUP BY w.n
),

-- Intents: closed explicitly or by confirmation, at the latest 24 h after the first message.
intents AS MATERIALIZED (
  SELECT i.*, least(i.closed_at, i.confirmed_at, i.opened_at + interval '24 hours') AS closed_from,
         coalesce(i.confirmed_at, i.closed_at) AS resolved_at
  FROM heads h, jsonb_to_record(h.payload) AS i(
    intent_id uuid, booking_id uuid, opened_at timestamptz, confirmed_at timestamptz, closed_at timestamptz,
    admin_actions int, admin_before_confirmation boolean, off_peak_suggested boolean, off_peak_taken boolean,
    withdrawn boolean)
  WHERE h.entity_kind = 'intent' AND NOT i.withdrawn
), intent_sums AS (
  SELECT w.n, count(i.intent_id) AS intents,
         count(*) FILTER (WHERE i.closed_from <= w.as_of) AS closed,
         count(*) FILTER (WHERE i.closed_from <= w.as_of AND i.admin_actions > 0) AS intervened,
         count(*) FILTER (WHERE i.confirmed_at <= w.as_of) AS confirmed,
         count(*) FILTER (WHERE i.confirmed_at <= w.as_of AND NOT i.admin_before_confirmation) AS automated,
         count(*) FILTER (WHERE i.resolved_at <= w.as_of) AS resolved,
         coalesce(sum(floor(extract(epoch FROM i.resolved_at - i.opened_at))) FILTER (WHERE i.resolved_at <= w.as_of), 0)
           AS resolve_seconds,
         coalesce(sum(i.admin_actions), 0) AS admin_actions,
         count(*) FILTER (WHERE i.booking_id IS NOT NULL AND i.off_peak_suggested) AS suggested,
         count(*) FILTER (WHERE i.booking_id IS NOT NULL AND i.off_peak_suggested AND i.off_peak_taken) AS taken
  FROM windows w LEFT JOIN intents i ON i.opened_at >= w.begins AND i.opened_at < w.ends
  GROUP BY w.n
),

-- Messages: all of a message counts at its first attempt.
messages AS MATERIALIZED (
  SELECT DISTINCT ON (message_id) message_id, template, status, gives_receipts, first_attempt_at,
         coalesce(accepted_at, delivered_at, read_at) IS NOT NULL AND gives_receipts AS receipted,
         coalesce(delivered_at, read_at) IS NOT NULL AND gives_receipts AS arrived
  FROM sender.message_log WHERE tenant_id = $1 ORDER BY message_id, version DESC
), message_sums AS (
  SELECT w.n, count(m.message_id) AS attempted,
         count(*) FILTER (WHERE m.receipted) AS receipted,
         count(*) FILTER (WHERE m.arrived) AS arrived,
         count(*) FILTER (WHERE m.receipted AND m.template = 'reminder_24h') AS reminders_receipted,
         count(*) FILTER (WHERE m.arrived AND m.template = 'reminder_24h') AS reminders_arrived,
         count(*) FILTER (WHERE m.status = 'failed') AS failed,
         count(*) FILTER (WHERE m.status = 'dead') AS dead
  FROM windows w LEFT JOIN messages m ON m.first_attempt_at >= w.begins AND m.first_attempt_at < w.ends
  GROUP BY w.n
),

-- Facts of their own: feedback, stock, goods, shifts.
facts AS MATERIALIZED (
  SELECT f.*, coalesce(f.currency, salon.currency) = salon.currency AS own_currency
  FROM heads h, salon, jsonb_to_record(h.payload) AS f(
    fact text, at timestamptz, booking_id uuid, start_at timestamptz, end_at timestamptz, break_minutes int, rating int,
    expected bigint, counted bigint, gross_minor bigint, discount_minor bigint, currency text)
  WHERE h.entity_kind = 'fact'
), fact_sums AS (
  SELECT w.n, count(f.rating) FILTER (WHERE f.fact = 'feedback') AS ratings,
         coalesce(sum(f.rating) FILTER (WHERE f.fact = 'feedback'), 0) AS stars,
         coalesce(sum(abs(f.counted - f.expected)) FILTER (WHERE f.fact = 'inventory_count'), 0) AS deviation,
         coalesce(sum(f.expected) FILTER (WHERE f.fact = 'inventory_count' AND f.counted IS NOT NULL), 0) AS expected,
         coalesce(sum(f.gross_minor - coalesce(f.discount_minor, 0))
           FILTER (WHERE f.fact = 'goods_sale' AND f.booking_id IS NULL AND f.own_currency), 0) AS goods
  FROM windows w LEFT JOIN facts f ON f.at >= w.begins AND f.at < w.ends
  GROUP BY w.n
),

-- Utilisation: minutes inside the window, in quarter hours that were over at asOf; a break is spread over its shift.
minute_sums AS (
  SELECT w.n,
         (SELECT coalesce(sum(extract(epoch FROM least(c.end_at, w.ends, w.quarter) - greatest(c.start_at, w.begins))), 0)
          FROM chains c
          WHERE c.still_on AND greatest(c.start_at, w.begins) < least(c.end_at, w.ends, w.quarter)) AS served,
         (SELECT coalesce(sum(inside - floor(coalesce(f.break_minutes, 0) * 60 * inside / whole)), 0)
          FROM facts f, LATERAL (
            SELECT extract(epoch FROM f.end_at - f.start_at) AS whole,
                   extract(epoch FROM least(f.end_at, w.ends, w.quarter) - greatest(f.start_at, w.begins)) AS inside
          ) seconds
          WHERE f.fact = 'shift' AND inside > 0) AS rostered
  FROM windows w
)
SELECT n, k.metric, k.numerator::bigint, k.denominator::bigint, k.value
FROM chain_sums c JOIN client_sums g USING (n) JOIN intent_sums i USING (n) JOIN message_sums m USING (n)
  JOIN fact_sums f USING (n) JOIN minute_sums u USING (n)
CROSS JOIN LATERAL (VALUES
  ('bookingSuccessRate', i.confirmed, i.closed, round(100.0 * i.confirmed / nullif(i.closed, 0), 1)),
  ('bookingAutomationRate', i.automated, i.confirmed, round(100.0 * i.automated / nullif(i.confirmed, 0), 1)),
  ('adminInterventionRate', i.intervened, i.closed, round(100.0 * i.intervened / nullif(i.closed, 0), 1)),
  ('meanTimeToResolveIntentSec', i.resolve_seconds, i.resolved, round(1.0 * i.resolve_seconds / nullif(i.resolved, 0), 1)),
  ('noShowRate', c.no_shows, c.due, round(100.0 * c.no_shows / nullif(c.due, 0), 1)),
  ('cancellationRate', c.cancelled, c.booked, round(100.0 * c.cancelled / nullif(c.booked, 0), 1)),
  ('lateCancellationRate', c.late_cancelled, c.booked, round(100.0 * c.late_cancelled / nullif(c.booked, 0), 1)),
  ('rescheduleRate', c.moved, c.booked, round(100.0 * c.moved / nullif(c.booked, 0), 1)),
  ('completionRate', c.visits, c.due, round(100.0 * c.visits / nullif(c.due, 0), 1)),
  ('utilizationRate', floor(u.served / 60), floor(u.rostered / 60),
    round(100.0 * floor(u.served / 60) / nullif(floor(u.rostered / 60), 0), 1)),
  ('offPeakShare', c.off_peak, c.booked, round(100.0 * c.off_peak / nullif(c.booked, 0), 1)),
  ('offPeakShiftRate', i.taken, i.suggested, round(100.0 * i.taken / nullif(i.suggested, 0), 1)),
  ('gridAlignmentRate', c.on_grid, c.booked, round(100.0 * c.on_grid / nullif(c.booked, 0), 1)),
  ('leadTimeHours', c.lead_seconds, c.booked, round(c.lead_seconds / nullif(3600.0 * c.booked, 0), 1)),
  ('repeatVisitRate', g.came_before, g.clients, round(100.0 * g.came_before / nullif(g.clients, 0), 1)),
  ('rebookingRate', g.rebooked, c.visits, round(100.0 * g.rebooked / nullif(c.visits, 0), 1)),
  ('firstTimeRetention90', g.retained, g.first_time, round(100.0 * g.retained / nullif(g.first_time, 0), 1)),
  ('newClients', g.first_time, NULL, g.first_time),
  ('avgTicket', c.net, c.visits, round(1.0 * c.net / nullif(c.visits, 0))),
  ('revenueGross', c.gross, NULL, c.gross),
  ('revenueNet', c.net, NULL, c.net),
  ('goodsRevenueNet', f.goods, NULL, f.goods),
  ('reminderDeliveryRate', m.reminders_arrived, m.reminders_receipted,
    round(100.0 * m.reminders_arrived / nullif(m.reminders_receipted, 0), 1)),
  ('reminderCoverage', c.reminded, c.reachable, round(100.0 * c.reminded / nullif(c.reachable, 0), 1)),
  ('messageDeliveryRate', m.arrived, m.receipted, round(100.0 * m.arrived / nullif(m.receipted, 0), 1)),
  ('messageFailureRate', m.failed, m.attempted, round(100.0 * m.failed / nullif(m.attempted, 0), 1)),
  ('deadLetterRate', m.dead, m.attempted, round(100.0 * m.dead / nullif(m.attempted, 0), 1)),
  ('feedbackAvg', f.stars, f.ratings, round(1.0 * f.stars / nullif(f.ratings, 0), 2)),
  ('feedbackCoverage', c.rated, c.visits, round(100.0 * c.rated / nullif(c.visits, 0), 1)),
  ('inventoryVariancePct', f.deviation, f.expected, round(100.0 * f.deviation / nullif(f.expected, 0), 1)),
  ('openIntents', i.intents - i.closed, NULL, i.intents - i.closed),
  ('adminActions', i.admin_actions, NULL, i.admin_actions)
) AS k(metric, numerator, denominator, value)
ORDER BY n
