-- migrate:up

-- The rules that a tenant's facts were made by. Consumers hold their tenants' rows FOR SHARE while they make facts, so
-- that after a change of this row no fact by the old rules can follow (design 2.5); the rebuild then makes the rest anew.
CREATE TABLE rollup.tenant_settings (
  tenant_id text PRIMARY KEY,
  timezone text NOT NULL,
  currency text NOT NULL,
  notice_hours int NOT NULL,
  off_peak_before int NOT NULL,
  off_peak_after int NOT NULL,
  grid_minutes int NOT NULL,
  rules_revision int NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN rollup.tenant_settings.rules_revision IS 'turnout_rollup.facts.RULES_REVISION that the facts were made by';

CREATE TABLE rollup.rebuilds (
  tenant_id text PRIMARY KEY,
  step text NOT NULL DEFAULT 'chain' CHECK (step IN ('chain', 'intent', 'other', 'message', 'days', 'done')),
  after_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
  entities bigint NOT NULL DEFAULT 0,
  mended bigint NOT NULL DEFAULT 0,
  started_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
);
COMMENT ON COLUMN rollup.rebuilds.mended IS 'rows that were not what the log says';
COMMENT ON TABLE rollup.rebuilds IS 'how far the last rebuild of each tenant has come; a rebuild that was cut off goes on from here';

CREATE TABLE rollup.runs (
  run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  granularity text NOT NULL CHECK (granularity IN ('hourly', 'daily')),
  finished_at timestamptz NOT NULL DEFAULT now(),
  tenants int NOT NULL,
  drift bigint NOT NULL,
  missing bigint NOT NULL,
  left_over bigint NOT NULL
);
COMMENT ON TABLE rollup.runs IS 'what each `turnout rollup run` found, and what its repair could not mend';

-- Facts: one row per entity, a pure function of the entity's state at `version` and of the tenant's settings.
CREATE TABLE rollup.chain_facts (
  tenant_id text NOT NULL,
  booking_id uuid NOT NULL,
  version int NOT NULL,
  day date NOT NULL,
  staff_id text NOT NULL DEFAULT '',
  service_id text NOT NULL DEFAULT '',
  channel text NOT NULL,
  source text NOT NULL,
  uid text NOT NULL,
  status text NOT NULL,
  merged_into uuid,
  client_id uuid,
  intent_id uuid,
  created_at timestamptz NOT NULL,
  confirmed_at timestamptz,
  start_at timestamptz NOT NULL,
  end_at timestamptz NOT NULL,
  cancelled_at timestamptz,
  cancelled_by text,
  cancel_reason text,
  no_show boolean NOT NULL,
  completed_at timestamptz,
  moves int NOT NULL,
  admin_actions int NOT NULL,
  admin_before_confirmation boolean NOT NULL,
  off_peak_suggested boolean NOT NULL,
  off_peak_taken boolean NOT NULL,
  gross_minor bigint NOT NULL,
  discount_minor bigint NOT NULL,
  refund_minor bigint NOT NULL,
  currency text,
  other_currency_payments int NOT NULL,
  rating smallint,
  reachable boolean NOT NULL,
  reminder_accepted_at timestamptz,
  reminder_outcome text,
  off_peak boolean NOT NULL,
  on_grid boolean NOT NULL,
  late_cancel boolean NOT NULL,
  own_currency boolean NOT NULL,
  PRIMARY KEY (tenant_id, booking_id)
);
CREATE INDEX chain_facts_day ON rollup.chain_facts (tenant_id, day, staff_id);
CREATE INDEX chain_facts_client ON rollup.chain_facts (tenant_id, client_id, start_at) WHERE client_id IS NOT NULL;
COMMENT ON TABLE rollup.chain_facts IS
  'clock A: `day` is the local date of start_at. staff_id, service_id: '''' = not mapped. Depending on settings: day, off_peak, on_grid, late_cancel, own_currency';

CREATE TABLE rollup.intent_facts (
  tenant_id text NOT NULL,
  intent_id uuid NOT NULL,
  version int NOT NULL,
  day date NOT NULL,
  staff_id text NOT NULL DEFAULT '',
  service_id text NOT NULL DEFAULT '',
  channel text NOT NULL,
  client_id uuid,
  booking_id uuid,
  implicit boolean NOT NULL,
  opened_at timestamptz NOT NULL,
  confirmed_at timestamptz,
  closed_at timestamptz,
  outcome text,
  admin_actions int NOT NULL,
  admin_before_confirmation boolean NOT NULL,
  off_peak_suggested boolean NOT NULL,
  off_peak_taken boolean NOT NULL,
  withdrawn boolean NOT NULL,
  PRIMARY KEY (tenant_id, intent_id)
);
CREATE INDEX intent_facts_day ON rollup.intent_facts (tenant_id, day, staff_id);
COMMENT ON TABLE rollup.intent_facts IS 'clock I: `day` is the local date of opened_at';

CREATE TABLE rollup.message_facts (
  tenant_id text NOT NULL,
  message_id uuid NOT NULL,
  version int NOT NULL,
  day date,
  staff_id text NOT NULL DEFAULT '',
  service_id text NOT NULL DEFAULT '',
  channel text,
  status text NOT NULL,
  queue text NOT NULL,
  template text NOT NULL,
  gives_receipts boolean NOT NULL,
  booking_id uuid,
  client_id uuid,
  start_at timestamptz,
  first_attempt_at timestamptz,
  accepted_at timestamptz,
  delivered_at timestamptz,
  read_at timestamptz,
  failed_at timestamptz,
  attempts int NOT NULL,
  reason text,
  PRIMARY KEY (tenant_id, message_id)
);
CREATE INDEX message_facts_day ON rollup.message_facts (tenant_id, day, staff_id);
COMMENT ON TABLE rollup.message_facts IS 'clock E: `day` is the local date of first_attempt_at, NULL before the first attempt';

CREATE TABLE rollup.other_facts (
  tenant_id text NOT NULL,
  fact_id uuid NOT NULL,
  version int NOT NULL,
  day date NOT NULL,
  staff_id text NOT NULL DEFAULT '',
  service_id text NOT NULL DEFAULT '',
  channel text NOT NULL,
  fact text NOT NULL,
  at timestamptz NOT NULL,
  clock_at timestamptz NOT NULL,
  subject_id text,
  booking_id uuid,
  start_at timestamptz,
  end_at timestamptz,
  break_minutes int,
  rating smallint,
  expected bigint,
  counted bigint,
  quantity bigint,
  gross_minor bigint,
  discount_minor bigint,
  currency text,
  own_currency boolean NOT NULL,
  PRIMARY KEY (tenant_id, fact_id)
);
CREATE INDEX other_facts_day ON rollup.other_facts (tenant_id, day, staff_id);
COMMENT ON TABLE rollup.other_facts IS
  'feedback, stock, goods, shifts, payments outside a visit; `day` is the local date of clock_at: a shift''s start, else `at`';

-- What each fact adds to the sums. A part with a time `X_from` beside it counts for asOf >= X_from; NULL = never. All
-- other parts are not cut. These views and the functions `*_parts(as_of)` on them are the only definition of the parts.
--   due_from counts:    due, no_show, reachable, reminder_covered
--   visit_from counts:  visit, gross, net, other_currency, feedback
--   service_from counts: service_minutes
-- "start before asOf" is strict, hence the microsecond (the resolution of time here) in due_from.
CREATE VIEW rollup.chain_contributions WITH (security_invoker = true) AS
SELECT f.tenant_id, f.booking_id, f.version, f.day, f.staff_id, f.service_id, f.channel, f.client_id,
       f.start_at AS clock_at, f.start_at, f.end_at,
       CASE WHEN s.due THEN f.start_at + interval '1 microsecond' END AS due_from,
       CASE WHEN s.visit THEN least(f.completed_at, f.end_at + interval '2 hours') END AS visit_from,
       CASE WHEN s.visit THEN f.end_at END AS service_from,
       s.booked::int AS booked,
       (s.booked AND s.cancelled_before AND f.cancel_reason IS DISTINCT FROM 'reschedule_requested')::int AS cancelled,
       (s.booked AND s.cancelled_before AND f.cancel_reason IS DISTINCT FROM 'reschedule_requested'
         AND f.late_cancel)::int AS late_cancelled,
       (s.booked AND f.moves > 0)::int AS moved,
       (s.booked AND f.off_peak)::int AS off_peak,
       (s.booked AND f.on_grid)::int AS on_grid,
       CASE WHEN s.booked THEN floor(extract(epoch FROM f.start_at - f.confirmed_at))::bigint ELSE 0 END AS lead_seconds,
       s.due::int AS due,
       (s.due AND s.no_show)::int AS no_show,
       (s.due AND f.reachable)::int AS reachable,
       (s.due AND f.reachable AND coalesce(f.reminder_accepted_at < f.start_at, false))::int AS reminder_covered,
       s.visit::int AS visit,
       CASE WHEN s.visit AND f.own_currency THEN f.gross_minor ELSE 0 END AS gross,
       CASE WHEN s.visit AND f.own_currency THEN f.gross_minor - f.discount_minor - f.refund_minor ELSE 0 END AS net,
       CASE WHEN s.visit THEN f.other_currency_payments + (NOT f.own_currency)::int ELSE 0 END AS other_currency,
       (s.visit AND f.rating IS NOT NULL)::int AS feedback,
       CASE WHEN s.visit THEN floor(extract(epoch FROM f.end_at - f.start_at) / 60)::bigint ELSE 0 END AS service_minutes
FROM rollup.chain_facts f
CROSS JOIN LATERAL (
  SELECT f.confirmed_at IS NOT NULL AND f.status <> 'merged' AS booked,
         f.status = 'cancelled' AND coalesce(f.cancelled_at < f.start_at, true) AS cancelled_before,
         f.no_show OR f.status = 'no_show' AS no_show
) b
CROSS JOIN LATERAL (
  SELECT b.booked, b.cancelled_before, b.no_show,
         b.booked AND NOT b.cancelled_before AS due,
         b.booked AND f.status <> 'cancelled' AND NOT b.no_show AS visit
) s;
COMMENT ON VIEW rollup.chain_contributions IS
  'booked = ever confirmed and not merged. due = booked and not cancelled before its start. visit = booked, not cancelled, not no_show. What was asked to be rescheduled is neither due nor a cancellation';

--   closed_from counts:    closed, intervened
--   confirmed_from counts: confirmed, automated
--   resolved_from counts:  resolved, resolve_seconds
-- An intent is closed when it was confirmed or ended explicitly, at the latest 24 h after its first message; it is
-- resolved when it was confirmed or ended explicitly. So every confirmed intent is a closed one.
CREATE VIEW rollup.intent_contributions WITH (security_invoker = true) AS
SELECT f.tenant_id, f.intent_id, f.version, f.day, f.staff_id, f.service_id, f.channel, f.client_id, f.booking_id,
       f.opened_at AS clock_at, f.opened_at,
       CASE WHEN s.counts THEN least(f.closed_at, f.confirmed_at, f.opened_at + interval '24 hours') END AS closed_from,
       CASE WHEN s.confirmed THEN f.confirmed_at END AS confirmed_from,
       CASE WHEN s.resolved THEN coalesce(f.confirmed_at, f.closed_at) END AS resolved_from,
       s.counts::int AS intents,
       CASE WHEN s.counts THEN f.admin_actions ELSE 0 END AS admin_actions,
       (s.counts AND f.booking_id IS NOT NULL AND f.off_peak_suggested)::int AS off_peak_suggested,
       (s.counts AND f.booking_id IS NOT NULL AND f.off_peak_suggested AND f.off_peak_taken)::int AS off_peak_taken,
       s.counts::int AS closed,
       (s.counts AND f.admin_actions > 0)::int AS intervened,
       s.confirmed::int AS confirmed,
       (s.confirmed AND NOT f.admin_before_confirmation)::int AS automated,
       s.resolved::int AS resolved,
       CASE WHEN s.resolved
         THEN floor(extract(epoch FROM coalesce(f.confirmed_at, f.closed_at) - f.opened_at))::bigint ELSE 0
       END AS resolve_seconds
FROM rollup.intent_facts f
CROSS JOIN LATERAL (
  SELECT NOT f.withdrawn AS counts,
         NOT f.withdrawn AND f.confirmed_at IS NOT NULL AS confirmed,
         NOT f.withdrawn AND coalesce(f.confirmed_at, f.closed_at) IS NOT NULL AS resolved
) s;

-- Nothing of a message is cut: what is in the fact has happened. Before the first attempt it counts nowhere (day NULL).
CREATE VIEW rollup.message_contributions WITH (security_invoker = true) AS
SELECT f.tenant_id, f.message_id, f.version, f.day, f.staff_id, f.service_id, f.channel, f.client_id, f.booking_id,
       f.template, f.first_attempt_at AS clock_at,
       s.attempted::int AS attempted,
       s.accepted::int AS accepted,
       (s.accepted AND f.gives_receipts)::int AS receipted,
       (s.delivered AND f.gives_receipts)::int AS delivered,
       (s.accepted AND f.gives_receipts AND f.template = 'reminder_24h')::int AS reminder_receipted,
       (s.delivered AND f.gives_receipts AND f.template = 'reminder_24h')::int AS reminder_delivered,
       (s.attempted AND f.status = 'failed')::int AS failed,
       (s.attempted AND f.status = 'dead')::int AS dead,
       (s.attempted AND f.status = 'unknown')::int AS unknown
FROM rollup.message_facts f
CROSS JOIN LATERAL (
  SELECT f.first_attempt_at IS NOT NULL AS attempted,
         f.first_attempt_at IS NOT NULL AND coalesce(f.accepted_at, f.delivered_at, f.read_at) IS NOT NULL AS accepted,
         f.first_attempt_at IS NOT NULL AND coalesce(f.delivered_at, f.read_at) IS NOT NULL AS delivered
) s;

--   rostered_from counts: rostered_minutes (the shift has ended)
CREATE VIEW rollup.other_contributions WITH (security_invoker = true) AS
SELECT f.tenant_id, f.fact_id, f.version, f.day, f.staff_id, f.service_id, f.channel, f.booking_id, f.fact, f.clock_at,
       CASE WHEN s.shift THEN f.end_at END AS rostered_from,
       CASE WHEN s.feedback THEN f.rating ELSE 0 END::bigint AS rating_sum,
       s.feedback::int AS ratings,
       CASE WHEN s.inventory THEN abs(f.counted - f.expected) ELSE 0 END AS inventory_variance,
       CASE WHEN s.inventory THEN f.expected ELSE 0 END AS inventory_expected,
       CASE WHEN s.goods THEN f.gross_minor ELSE 0 END AS goods_gross,
       CASE WHEN s.goods THEN f.gross_minor - coalesce(f.discount_minor, 0) ELSE 0 END AS goods_net,
       (f.gross_minor IS NOT NULL AND NOT f.own_currency)::int AS other_currency,
       CASE WHEN s.shift
         THEN greatest(floor(extract(epoch FROM f.end_at - f.start_at) / 60)::bigint - coalesce(f.break_minutes, 0), 0)
         ELSE 0 END AS rostered_minutes
FROM rollup.other_facts f
CROSS JOIN LATERAL (
  SELECT f.fact = 'feedback' AND f.rating IS NOT NULL AS feedback,
         f.fact = 'inventory_count' AND f.expected IS NOT NULL AND f.counted IS NOT NULL AS inventory,
         f.fact = 'goods_sale' AND f.booking_id IS NULL AND f.gross_minor IS NOT NULL AND f.own_currency AS goods,
         f.fact = 'shift' AND f.start_at IS NOT NULL AND f.end_at IS NOT NULL AS shift
) s;

-- The same parts, cut at `as_of`. Plain SQL functions that the planner puts into the query in place; a cell is their sum
-- at 'infinity', and for every as_of >= the cell's settled_at the sum at as_of is the same.
CREATE FUNCTION rollup.chain_parts(as_of timestamptz)
RETURNS TABLE (
  tenant_id text, booking_id uuid, day date, staff_id text, service_id text, channel text, client_id uuid,
  clock_at timestamptz, settled_at timestamptz,
  booked int, cancelled int, late_cancelled int, moved int, off_peak int, on_grid int, lead_seconds bigint,
  due int, no_show int, reachable int, reminder_covered int,
  visit int, gross bigint, net bigint, other_currency int, feedback int, service_minutes bigint
) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT c.tenant_id, c.booking_id, c.day, c.staff_id, c.service_id, c.channel, c.client_id, c.clock_at,
         coalesce(greatest(c.due_from, c.visit_from, c.service_from), '-infinity'),
         c.booked, c.cancelled, c.late_cancelled, c.moved, c.off_peak, c.on_grid, c.lead_seconds,
         CASE WHEN c.due_from <= as_of THEN c.due ELSE 0 END,
         CASE WHEN c.due_from <= as_of THEN c.no_show ELSE 0 END,
         CASE WHEN c.due_from <= as_of THEN c.reachable ELSE 0 END,
         CASE WHEN c.due_from <= as_of THEN c.reminder_covered ELSE 0 END,
         CASE WHEN c.visit_from <= as_of THEN c.visit ELSE 0 END,
         CASE WHEN c.visit_from <= as_of THEN c.gross ELSE 0 END,
         CASE WHEN c.visit_from <= as_of THEN c.net ELSE 0 END,
         CASE WHEN c.visit_from <= as_of THEN c.other_currency ELSE 0 END,
         CASE WHEN c.visit_from <= as_of THEN c.feedback ELSE 0 END,
         CASE WHEN c.service_from <= as_of THEN c.service_minutes ELSE 0 END
  FROM rollup.chain_contributions c;
END;

CREATE FUNCTION rollup.intent_parts(as_of timestamptz)
RETURNS TABLE (
  tenant_id text, intent_id uuid, day date, staff_id text, service_id text, channel text, client_id uuid,
  clock_at timestamptz, settled_at timestamptz,
  intents int, admin_actions int, off_peak_suggested int, off_peak_taken int,
  closed int, intervened int, confirmed int, automated int, resolved int, resolve_seconds bigint
) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT c.tenant_id, c.intent_id, c.day, c.staff_id, c.service_id, c.channel, c.client_id, c.clock_at,
         coalesce(greatest(c.closed_from, c.confirmed_from, c.resolved_from), '-infinity'),
         c.intents, c.admin_actions, c.off_peak_suggested, c.off_peak_taken,
         CASE WHEN c.closed_from <= as_of THEN c.closed ELSE 0 END,
         CASE WHEN c.closed_from <= as_of THEN c.intervened ELSE 0 END,
         CASE WHEN c.confirmed_from <= as_of THEN c.confirmed ELSE 0 END,
         CASE WHEN c.confirmed_from <= as_of THEN c.automated ELSE 0 END,
         CASE WHEN c.resolved_from <= as_of THEN c.resolved ELSE 0 END,
         CASE WHEN c.resolved_from <= as_of THEN c.resolve_seconds ELSE 0 END
  FROM rollup.intent_contributions c;
END;

CREATE FUNCTION rollup.message_parts(as_of timestamptz)
RETURNS TABLE (
  tenant_id text, message_id uuid, day date, staff_id text, service_id text, channel text, client_id uuid,
  clock_at timestamptz, settled_at timestamptz,
  attempted int, accepted int, receipted int, delivered int, reminder_receipted int, reminder_delivered int,
  failed int, dead int, unknown int
) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT c.tenant_id, c.message_id, c.day, c.staff_id, c.service_id, c.channel, c.client_id, c.clock_at,
         '-infinity'::timestamptz,
         c.attempted, c.accepted, c.receipted, c.delivered, c.reminder_receipted, c.reminder_delivered,
         c.failed, c.dead, c.unknown
  FROM rollup.message_contributions c WHERE c.day IS NOT NULL;
END;

CREATE FUNCTION rollup.other_parts(as_of timestamptz)
RETURNS TABLE (
  tenant_id text, fact_id uuid, day date, staff_id text, service_id text, channel text,
  clock_at timestamptz, settled_at timestamptz,
  rating_sum bigint, ratings int, inventory_variance bigint, inventory_expected bigint,
  goods_gross bigint, goods_net bigint, other_currency int, rostered_minutes bigint
) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT c.tenant_id, c.fact_id, c.day, c.staff_id, c.service_id, c.channel, c.clock_at,
         coalesce(c.rostered_from, '-infinity'),
         c.rating_sum, c.ratings, c.inventory_variance, c.inventory_expected, c.goods_gross, c.goods_net,
         c.other_currency,
         CASE WHEN c.rostered_from <= as_of THEN c.rostered_minutes ELSE 0 END
  FROM rollup.other_contributions c;
END;

-- Day cells: per (tenant, local day, staff) the sums of the parts with all of it past. `settled_at`: for any asOf at or
-- after it these sums are right; before it sum the facts' parts at asOf instead.
CREATE TABLE rollup.chain_days (
  tenant_id text NOT NULL,
  day date NOT NULL,
  staff_id text NOT NULL,
  settled_at timestamptz NOT NULL,
  facts bigint NOT NULL,
  booked bigint NOT NULL,
  cancelled bigint NOT NULL,
  late_cancelled bigint NOT NULL,
  moved bigint NOT NULL,
  off_peak bigint NOT NULL,
  on_grid bigint NOT NULL,
  lead_seconds bigint NOT NULL,
  due bigint NOT NULL,
  no_show bigint NOT NULL,
  reachable bigint NOT NULL,
  reminder_covered bigint NOT NULL,
  visit bigint NOT NULL,
  gross bigint NOT NULL,
  net bigint NOT NULL,
  other_currency bigint NOT NULL,
  feedback bigint NOT NULL,
  service_minutes bigint NOT NULL,
  PRIMARY KEY (tenant_id, day, staff_id)
) WITH (fillfactor = 70);

CREATE TABLE rollup.intent_days (
  tenant_id text NOT NULL,
  day date NOT NULL,
  staff_id text NOT NULL,
  settled_at timestamptz NOT NULL,
  facts bigint NOT NULL,
  intents bigint NOT NULL,
  admin_actions bigint NOT NULL,
  off_peak_suggested bigint NOT NULL,
  off_peak_taken bigint NOT NULL,
  closed bigint NOT NULL,
  intervened bigint NOT NULL,
  confirmed bigint NOT NULL,
  automated bigint NOT NULL,
  resolved bigint NOT NULL,
  resolve_seconds bigint NOT NULL,
  PRIMARY KEY (tenant_id, day, staff_id)
) WITH (fillfactor = 70);

CREATE TABLE rollup.message_days (
  tenant_id text NOT NULL,
  day date NOT NULL,
  staff_id text NOT NULL,
  settled_at timestamptz NOT NULL,
  facts bigint NOT NULL,
  attempted bigint NOT NULL,
  accepted bigint NOT NULL,
  receipted bigint NOT NULL,
  delivered bigint NOT NULL,
  reminder_receipted bigint NOT NULL,
  reminder_delivered bigint NOT NULL,
  failed bigint NOT NULL,
  dead bigint NOT NULL,
  unknown bigint NOT NULL,
  PRIMARY KEY (tenant_id, day, staff_id)
) WITH (fillfactor = 70);

CREATE TABLE rollup.other_days (
  tenant_id text NOT NULL,
  day date NOT NULL,
  staff_id text NOT NULL,
  settled_at timestamptz NOT NULL,
  facts bigint NOT NULL,
  rating_sum bigint NOT NULL,
  ratings bigint NOT NULL,
  inventory_variance bigint NOT NULL,
  inventory_expected bigint NOT NULL,
  goods_gross bigint NOT NULL,
  goods_net bigint NOT NULL,
  other_currency bigint NOT NULL,
  rostered_minutes bigint NOT NULL,
  PRIMARY KEY (tenant_id, day, staff_id)
) WITH (fillfactor = 70);

-- Who changes facts of a day holds its row here until commit, so that the cells of a day are summed up by one at a time.
CREATE TABLE rollup.day_locks (
  kind text NOT NULL CHECK (kind IN ('chain', 'intent', 'message', 'other')),
  tenant_id text NOT NULL,
  day date NOT NULL,
  changes bigint NOT NULL DEFAULT 1,
  PRIMARY KEY (kind, tenant_id, day)
) WITH (fillfactor = 70);

CREATE TABLE rollup.tenant_changes (
  tenant_id text PRIMARY KEY,
  counter bigint NOT NULL DEFAULT 1,
  changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE rollup.tenant_changes IS 'grows with each batch that changed a fact of the tenant: a cache key, and what the live stream watches';

SELECT platform.add_consumer('rollup', 'turnout_rollup', 'turnout_booking', 'turnout_sender');
SELECT platform.let_read('rollup.read_marks', 'topic, partition, read_until, partitions', 'turnout_kpi');
SELECT platform.protect('rollup.' || name, 'turnout_rollup')
FROM unnest(ARRAY['tenant_settings', 'rebuilds', 'runs', 'chain_facts', 'intent_facts', 'message_facts', 'other_facts', 'chain_days',
  'intent_days', 'message_days', 'other_days', 'day_locks', 'tenant_changes']) AS name;
SELECT platform.let_tenant_read('rollup.' || name)
FROM unnest(ARRAY['tenant_settings', 'rebuilds', 'chain_facts', 'intent_facts', 'message_facts', 'other_facts', 'chain_days',
  'intent_days', 'message_days', 'other_days', 'tenant_changes']) AS name;

-- The hour, day, ISO week and month that hold `at` in a zone; days of 23 and 25 hours are days like others.
CREATE FUNCTION rollup.periods(at timestamptz, timezone text)
RETURNS TABLE (granularity text, period_start timestamptz, period_end timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT g.granularity, date_trunc(g.unit, at, timezone),
         CASE g.unit WHEN 'hour' THEN date_trunc('hour', at, timezone) + interval '1 hour'
           ELSE (date_trunc(g.unit, at AT TIME ZONE timezone) + ('1 ' || g.unit)::interval) AT TIME ZONE timezone END
  FROM (VALUES ('hourly', 'hour'), ('daily', 'day'), ('weekly', 'week'), ('monthly', 'month')) AS g(granularity, unit);
END;

-- Every KPI of kpis.md as sums, now, by tenant, staff and period in the tenant's zone. `denominator` NULL: a plain sum.
-- `factor`: value = numerator * factor / denominator.
CREATE VIEW rollup.kpi_parts WITH (security_invoker = true) AS
WITH chains AS (
  SELECT c.tenant_id, c.staff_id, p.granularity, p.period_start, p.period_end,
         sum(c.booked) AS booked, sum(c.cancelled) AS cancelled, sum(c.late_cancelled) AS late_cancelled,
         sum(c.moved) AS moved, sum(c.off_peak) AS off_peak, sum(c.on_grid) AS on_grid,
         sum(c.lead_seconds) AS lead_seconds, sum(c.due) AS due, sum(c.no_show) AS no_show,
         sum(c.reachable) AS reachable, sum(c.reminder_covered) AS reminder_covered, sum(c.visit) AS visit,
         sum(c.gross) AS gross, sum(c.net) AS net, sum(c.feedback) AS feedback
  FROM rollup.chain_parts(now()) c
  JOIN rollup.tenant_settings t USING (tenant_id)
  CROSS JOIN LATERAL rollup.periods(c.clock_at, t.timezone) p
  GROUP BY c.tenant_id, c.staff_id, p.granularity, p.period_start, p.period_end
), intents AS (
  SELECT c.tenant_id, c.staff_id, p.granularity, p.period_start, p.period_end,
         sum(c.intents) AS intents, sum(c.admin_actions) AS admin_actions,
         sum(c.off_peak_suggested) AS off_peak_suggested, sum(c.off_peak_taken) AS off_peak_taken,
         sum(c.closed) AS closed, sum(c.intervened) AS intervened, sum(c.confirmed) AS confirmed,
         sum(c.automated) AS automated, sum(c.resolved) AS resolved, sum(c.resolve_seconds) AS resolve_seconds
  FROM rollup.intent_parts(now()) c
  JOIN rollup.tenant_settings t USING (tenant_id)
  CROSS JOIN LATERAL rollup.periods(c.clock_at, t.timezone) p
  GROUP BY c.tenant_id, c.staff_id, p.granularity, p.period_start, p.period_end
), messages AS (
  SELECT c.tenant_id, c.staff_id, p.granularity, p.period_start, p.period_end,
         sum(c.attempted) AS attempted, sum(c.receipted) AS receipted, sum(c.delivered) AS delivered,
         sum(c.reminder_receipted) AS reminder_receipted, sum(c.reminder_delivered) AS reminder_delivered,
         sum(c.failed) AS failed, sum(c.dead) AS dead
  FROM rollup.message_parts(now()) c
  JOIN rollup.tenant_settings t USING (tenant_id)
  CROSS JOIN LATERAL rollup.periods(c.clock_at, t.timezone) p
  GROUP BY c.tenant_id, c.staff_id, p.granularity, p.period_start, p.period_end
), others AS (
  SELECT c.tenant_id, c.staff_id, p.granularity, p.period_start, p.period_end,
         sum(c.rating_sum) AS rating_sum, sum(c.ratings) AS ratings, sum(c.goods_net) AS goods_net,
         sum(c.inventory_variance) AS inventory_variance, sum(c.inventory_expected) AS inventory_expected
  FROM rollup.other_parts(now()) c
  JOIN rollup.tenant_settings t USING (tenant_id)
  CROSS JOIN LATERAL rollup.periods(c.clock_at, t.timezone) p
  GROUP BY c.tenant_id, c.staff_id, p.granularity, p.period_start, p.period_end
)
SELECT s.tenant_id, s.staff_id, s.granularity, s.period_start, s.period_end, m.metric, m.numerator, m.denominator, m.factor
FROM chains s CROSS JOIN LATERAL (VALUES
  ('noShowRate', s.no_show, s.due, 100.0),
  ('cancellationRate', s.cancelled, s.booked, 100),
  ('lateCancellationRate', s.late_cancelled, s.booked, 100),
  ('rescheduleRate', s.moved, s.booked, 100),
  ('completionRate', s.visit, s.due, 100),
  ('offPeakShare', s.off_peak, s.booked, 100),
  ('gridAlignmentRate', s.on_grid, s.booked, 100),
  ('leadTimeHours', s.lead_seconds, s.booked, 1 / 3600.0),
  ('avgTicket', s.net, s.visit, 1),
  ('revenueGross', s.gross, NULL, 1),
  ('revenueNet', s.net, NULL, 1),
  ('reminderCoverage', s.reminder_covered, s.reachable, 100),
  ('feedbackCoverage', s.feedback, s.visit, 100)
) m(metric, numerator, denominator, factor)
UNION ALL
SELECT s.tenant_id, s.staff_id, s.granularity, s.period_start, s.period_end, m.metric, m.numerator, m.denominator, m.factor
FROM intents s CROSS JOIN LATERAL (VALUES
  ('bookingSuccessRate', s.confirmed, s.closed, 100.0),
  ('bookingAutomationRate', s.automated, s.confirmed, 100),
  ('adminInterventionRate', s.intervened, s.closed, 100),
  ('adminActions', s.admin_actions, NULL, 1),
  ('openIntents', s.intents - s.closed, NULL, 1),
  ('meanTimeToResolveIntentSec', s.resolve_seconds, s.resolved, 1),
  ('offPeakShiftRate', s.off_peak_taken, s.off_peak_suggested, 100)
) m(metric, numerator, denominator, factor)
UNION ALL
SELECT s.tenant_id, s.staff_id, s.granularity, s.period_start, s.period_end, m.metric, m.numerator, m.denominator, m.factor
FROM messages s CROSS JOIN LATERAL (VALUES
  ('reminderDeliveryRate', s.reminder_delivered, s.reminder_receipted, 100.0),
  ('messageDeliveryRate', s.delivered, s.receipted, 100),
  ('messageFailureRate', s.failed, s.attempted, 100),
  ('deadLetterRate', s.dead, s.attempted, 100)
) m(metric, numerator, denominator, factor)
UNION ALL
SELECT s.tenant_id, s.staff_id, s.granularity, s.period_start, s.period_end, m.metric, m.numerator, m.denominator, m.factor
FROM others s CROSS JOIN LATERAL (VALUES
  ('feedbackAvg', s.rating_sum, s.ratings, 1.0),
  ('goodsRevenueNet', s.goods_net, NULL, 1),
  ('inventoryVariancePct', s.inventory_variance, s.inventory_expected, 100)
) m(metric, numerator, denominator, factor);

-- Contracts for internal consumers: `WHERE tenant_id = … AND granularity = …`. metrics: {"noShowRate": {"value", "numerator", "denominator"}, ...}; a plain sum has
-- no denominator; a metric whose clock has nothing in the period is absent.
CREATE VIEW rollup.staff_kpi_rollup WITH (security_invoker = true) AS
SELECT p.tenant_id, p.staff_id, p.granularity, p.period_start, p.period_end,
       jsonb_object_agg(p.metric, CASE WHEN p.denominator IS NULL
         THEN jsonb_build_object('value', p.numerator, 'numerator', p.numerator)
         ELSE jsonb_build_object('value', p.numerator * p.factor / nullif(p.denominator, 0),
                                 'numerator', p.numerator, 'denominator', p.denominator) END) AS metrics
FROM rollup.kpi_parts p
GROUP BY p.tenant_id, p.staff_id, p.granularity, p.period_start, p.period_end;

CREATE VIEW rollup.kpi_rollup WITH (security_invoker = true) AS
SELECT p.tenant_id, p.granularity, p.period_start, p.period_end,
       jsonb_object_agg(p.metric, CASE WHEN p.denominator IS NULL
         THEN jsonb_build_object('value', p.numerator, 'numerator', p.numerator)
         ELSE jsonb_build_object('value', p.numerator * p.factor / nullif(p.denominator, 0),
                                 'numerator', p.numerator, 'denominator', p.denominator) END) AS metrics
FROM (
  SELECT tenant_id, granularity, period_start, period_end, metric, factor,
         sum(numerator) AS numerator, sum(denominator) AS denominator
  FROM rollup.kpi_parts GROUP BY tenant_id, granularity, period_start, period_end, metric, factor
) p
GROUP BY p.tenant_id, p.granularity, p.period_start, p.period_end;

COMMENT ON VIEW rollup.kpi_rollup IS
  'KPIs now, by tenant and period (hourly, daily, weekly, monthly; the tenant''s zone): metrics = {name: {value, numerator, denominator}}';
COMMENT ON VIEW rollup.staff_kpi_rollup IS 'as kpi_rollup, by member of staff; staff_id '''' = not mapped';

GRANT SELECT ON rollup.chain_contributions, rollup.intent_contributions, rollup.message_contributions,
  rollup.other_contributions, rollup.kpi_parts, rollup.staff_kpi_rollup, rollup.kpi_rollup
  TO turnout_rollup, turnout_kpi, turnout_maintenance;

-- migrate:down
DROP VIEW rollup.kpi_rollup, rollup.staff_kpi_rollup, rollup.kpi_parts;
DROP FUNCTION rollup.periods, rollup.chain_parts, rollup.intent_parts, rollup.message_parts, rollup.other_parts;
DROP VIEW rollup.chain_contributions, rollup.intent_contributions, rollup.message_contributions, rollup.other_contributions;
DROP TABLE rollup.chain_days, rollup.intent_days, rollup.message_days, rollup.other_days, rollup.chain_facts,
  rollup.intent_facts, rollup.message_facts, rollup.other_facts, rollup.day_locks, rollup.tenant_changes,
  rollup.runs, rollup.rebuilds, rollup.tenant_settings, rollup.applied, rollup.read_marks, rollup.dead_letters;
