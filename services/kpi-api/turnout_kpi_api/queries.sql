-- What kpi-api reads, always inside tenant_transaction: row-level security confines every block to one tenant.
-- {kind} and {sums} come from the catalogue in kpis.py. Filters are NULL where the caller sets none.

-- name: tenant
-- `rebuilding`: the days of some facts, and so the cells, may still be those of another zone.
SELECT t.timezone, t.currency, t.demo, t.status, r.timezone AS facts_timezone,
       b.tenant_id IS NOT NULL AND b.finished_at IS NULL AS rebuilding
FROM platform.tenants t LEFT JOIN rollup.tenant_settings r USING (tenant_id) LEFT JOIN rollup.rebuilds b USING (tenant_id)
WHERE t.tenant_id = $1

-- name: sums_from_facts
-- $1 tenant, $2 asOf, $3 and $4 the window's instants, $5 and $6 days around it in any zone (for the index),
-- $7 staff, $8 service, $9 channel, $10 whether to group by staff
SELECT CASE WHEN $10 THEN p.staff_id END AS staff_id, nullif(max(p.settled_at), '-infinity') AS settled_at, {sums}
FROM rollup.{kind}_parts($2) p
WHERE p.tenant_id = $1 AND p.day BETWEEN $5 AND $6 AND p.clock_at >= $3 AND p.clock_at < $4
  AND ($7::text IS NULL OR p.staff_id = $7) AND ($8::text IS NULL OR p.service_id = $8)
  AND ($9::text IS NULL OR p.channel = $9)
GROUP BY 1

-- name: sums_from_cells
-- $1 tenant, $2 asOf, $3 and $4 the window's first and last day in the tenant's zone, $5 staff, $6 whether to group by staff
-- A cell that is settled at asOf is its sum; of the others the facts are summed, cut at asOf.
WITH cells AS MATERIALIZED (
  SELECT * FROM rollup.{kind}_days
  WHERE tenant_id = $1 AND day BETWEEN $3 AND $4 AND ($5::text IS NULL OR staff_id = $5)
), parts AS (
  SELECT c.staff_id, c.settled_at, {columns} FROM cells c WHERE c.settled_at <= $2
  UNION ALL
  SELECT c.staff_id, c.settled_at, {columns} FROM cells d CROSS JOIN LATERAL (
    SELECT * FROM rollup.{kind}_parts($2) p
    WHERE p.tenant_id = d.tenant_id AND p.day = d.day AND p.staff_id = d.staff_id
  ) c WHERE d.settled_at > $2
)
SELECT CASE WHEN $6 THEN p.staff_id END AS staff_id, nullif(max(p.settled_at), '-infinity') AS settled_at, {sums}
FROM parts p GROUP BY 1

-- name: utilisation
-- $1 tenant, $2 the end of the last quarter hour that counts, else as sums_from_facts
-- Minutes are spread over the quarter hours that they cover: of an appointment or shift counts what lies in the window
-- and before the cut. An unpaid break is spread over its shift.
WITH pieces AS (
  SELECT c.staff_id, extract(epoch FROM least(c.end_at, $2, $4) - greatest(c.start_at, $3))::bigint AS served, 0 AS rostered
  FROM rollup.chain_contributions c
  WHERE c.tenant_id = $1 AND c.day BETWEEN $5 AND $6 AND c.visit = 1
    AND $2 > $3 AND c.start_at < least($2, $4) AND c.end_at > $3
    AND ($7::text IS NULL OR c.staff_id = $7) AND ($8::text IS NULL OR c.service_id = $8)
    AND ($9::text IS NULL OR c.channel = $9)
  UNION ALL
  SELECT f.staff_id, 0, s.inside - coalesce(f.break_minutes, 0) * 60 * s.inside / nullif(s.whole, 0)
  FROM rollup.other_facts f
  CROSS JOIN LATERAL (
    SELECT extract(epoch FROM least(f.end_at, $2, $4) - greatest(f.start_at, $3))::bigint AS inside,
           extract(epoch FROM f.end_at - f.start_at)::bigint AS whole
  ) s
  WHERE f.tenant_id = $1 AND f.fact = 'shift' AND f.day BETWEEN $5 AND $6
    AND $2 > $3 AND f.start_at < least($2, $4) AND f.end_at > $3
    AND ($7::text IS NULL OR f.staff_id = $7)
)
SELECT CASE WHEN $10 THEN p.staff_id END AS staff_id, NULL::timestamptz AS settled_at,
       sum(p.served)::bigint / 60 AS service_minutes,
       sum(greatest(p.rostered, 0))::bigint / 60 AS rostered_minutes
FROM pieces p GROUP BY 1

-- name: clients
-- $11 the local midnights of the window, its end among them, else as sums_from_facts. The window's visits are filtered;
-- a client's other visits and appointments are looked up with anyone, for anything, at any time.
WITH visits AS (
  SELECT v.staff_id, v.booking_id, v.client_id, v.clock_at,
         ($11::timestamptz[])[width_bucket(v.clock_at, $11::timestamptz[]) + 1] AS midnight
  FROM rollup.chain_parts($2) v
  WHERE v.tenant_id = $1 AND v.day BETWEEN $5 AND $6 AND v.clock_at >= $3 AND v.clock_at < $4
    AND v.visit = 1 AND v.client_id IS NOT NULL
    AND ($7::text IS NULL OR v.staff_id = $7) AND ($8::text IS NULL OR v.service_id = $8)
    AND ($9::text IS NULL OR v.channel = $9)
), seen AS (
  SELECT v.staff_id, v.client_id,
         EXISTS (
           SELECT FROM rollup.chain_parts($2) e
           WHERE e.tenant_id = $1 AND e.client_id = v.client_id AND e.visit = 1
             AND (e.clock_at, e.booking_id) < (v.clock_at, v.booking_id)
         ) AS before,
         EXISTS (
           SELECT FROM rollup.chain_parts($2) e
           WHERE e.tenant_id = $1 AND e.client_id = v.client_id AND e.visit = 1
             AND (e.clock_at, e.booking_id) > (v.clock_at, v.booking_id) AND e.clock_at <= v.clock_at + interval '2160 hours'
         ) AS again,
         EXISTS (
           SELECT FROM rollup.chain_facts e
           WHERE e.tenant_id = $1 AND e.client_id = v.client_id AND e.start_at > v.clock_at
             AND e.confirmed_at < v.midnight AND e.status NOT IN ('cancelled', 'merged')
         ) AS rebooked
  FROM visits v
)
SELECT CASE WHEN $10 THEN s.staff_id END AS staff_id, NULL::timestamptz AS settled_at,
       count(DISTINCT s.client_id) AS clients,
       count(DISTINCT s.client_id) FILTER (WHERE s.before) AS came_before,
       count(DISTINCT s.client_id) FILTER (WHERE NOT s.before) AS first_time,
       count(DISTINCT s.client_id) FILTER (WHERE NOT s.before AND s.again) AS retained,
       count(*) FILTER (WHERE s.rebooked) AS rebooked
FROM seen s GROUP BY 1

-- name: as_of
-- $1 now. What is not published yet, or not read yet, may change any number from its time on.
SELECT least(
  $1::timestamptz,
  (SELECT oldest_at FROM ingest.oldest_unpublished),
  (SELECT oldest_at FROM booking.oldest_unpublished),
  (SELECT oldest_at FROM sender.oldest_unpublished),
  (SELECT min(read_until) FROM booking.read_marks),
  (SELECT min(read_until) FROM sender.read_marks),
  (SELECT min(read_until) FROM rollup.read_marks)
)
