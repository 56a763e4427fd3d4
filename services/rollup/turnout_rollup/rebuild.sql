-- What rebuild and repair read of the logs, and how far a rebuild has come.

-- name: unfinished_rebuilds
SELECT tenant_id FROM rollup.rebuilds WHERE finished_at IS NULL ORDER BY started_at

-- name: claim_rebuild
-- Whoever works on the rebuild, one page at a time.
SELECT step, after_id FROM rollup.rebuilds WHERE tenant_id = $1 AND finished_at IS NULL FOR UPDATE

-- name: note_page
UPDATE rollup.rebuilds
SET step = $2, after_id = $3, entities = entities + $4, mended = mended + $5,
    finished_at = CASE WHEN $2 = 'done' THEN now() END
WHERE tenant_id = $1

-- name: rebuild_progress
SELECT step, entities, mended FROM rollup.rebuilds WHERE tenant_id = $1

-- name: count_entities
SELECT (SELECT count(*) FROM booking.truth WHERE tenant_id = $1 AND version = 1)
     + (SELECT count(*) FROM sender.truth WHERE tenant_id = $1 AND version = 1)

-- name: next_chain_ids
-- A page of what the log or the facts know.
(SELECT DISTINCT t.entity_id AS id FROM booking.truth t WHERE t.tenant_id = $1 AND t.entity_kind = 'chain' AND t.entity_id > $2 ORDER BY 1 LIMIT $3)
UNION
(SELECT booking_id FROM rollup.chain_facts WHERE tenant_id = $1 AND booking_id > $2 ORDER BY 1 LIMIT $3)
ORDER BY 1 LIMIT $3

-- name: chain_heads
SELECT DISTINCT ON (t.entity_id) t.entity_id AS id, t.version, t.payload AS state
FROM booking.truth t WHERE t.tenant_id = $1 AND t.entity_kind = 'chain' AND t.entity_id = ANY ($2::uuid[])
ORDER BY t.entity_id, t.version DESC

-- name: drop_unknown_chain_facts
-- Of entities and of versions that the log does not have; what a consumer brings this moment is made again after it.
DELETE FROM rollup.chain_facts f
WHERE f.tenant_id = $1 AND f.booking_id = ANY ($2::uuid[])
  AND NOT EXISTS (
    SELECT FROM booking.truth t
    WHERE t.tenant_id = $1 AND t.entity_kind = 'chain' AND t.entity_id = f.booking_id AND t.version = f.version
  )
RETURNING f.booking_id AS id, f.day

-- name: chain_days
SELECT day FROM rollup.chain_facts WHERE tenant_id = $1 AND day IS NOT NULL
UNION SELECT day FROM rollup.chain_days WHERE tenant_id = $1 ORDER BY 1

-- name: next_intent_ids
-- A page of what the log or the facts know.
(SELECT DISTINCT t.entity_id AS id FROM booking.truth t WHERE t.tenant_id = $1 AND t.entity_kind = 'intent' AND t.entity_id > $2 ORDER BY 1 LIMIT $3)
UNION
(SELECT intent_id FROM rollup.intent_facts WHERE tenant_id = $1 AND intent_id > $2 ORDER BY 1 LIMIT $3)
ORDER BY 1 LIMIT $3

-- name: intent_heads
SELECT DISTINCT ON (t.entity_id) t.entity_id AS id, t.version, t.payload AS state
FROM booking.truth t WHERE t.tenant_id = $1 AND t.entity_kind = 'intent' AND t.entity_id = ANY ($2::uuid[])
ORDER BY t.entity_id, t.version DESC

-- name: drop_unknown_intent_facts
-- Of entities and of versions that the log does not have; what a consumer brings this moment is made again after it.
DELETE FROM rollup.intent_facts f
WHERE f.tenant_id = $1 AND f.intent_id = ANY ($2::uuid[])
  AND NOT EXISTS (
    SELECT FROM booking.truth t
    WHERE t.tenant_id = $1 AND t.entity_kind = 'intent' AND t.entity_id = f.intent_id AND t.version = f.version
  )
RETURNING f.intent_id AS id, f.day

-- name: intent_days
SELECT day FROM rollup.intent_facts WHERE tenant_id = $1 AND day IS NOT NULL
UNION SELECT day FROM rollup.intent_days WHERE tenant_id = $1 ORDER BY 1

-- name: next_other_ids
-- A page of what the log or the facts know.
(SELECT DISTINCT t.entity_id AS id FROM booking.truth t WHERE t.tenant_id = $1 AND t.entity_kind = 'fact' AND t.entity_id > $2 ORDER BY 1 LIMIT $3)
UNION
(SELECT fact_id FROM rollup.other_facts WHERE tenant_id = $1 AND fact_id > $2 ORDER BY 1 LIMIT $3)
ORDER BY 1 LIMIT $3

-- name: other_heads
SELECT DISTINCT ON (t.entity_id) t.entity_id AS id, t.version, t.payload AS state
FROM booking.truth t WHERE t.tenant_id = $1 AND t.entity_kind = 'fact' AND t.entity_id = ANY ($2::uuid[])
ORDER BY t.entity_id, t.version DESC

-- name: drop_unknown_other_facts
-- Of entities and of versions that the log does not have; what a consumer brings this moment is made again after it.
DELETE FROM rollup.other_facts f
WHERE f.tenant_id = $1 AND f.fact_id = ANY ($2::uuid[])
  AND NOT EXISTS (
    SELECT FROM booking.truth t
    WHERE t.tenant_id = $1 AND t.entity_kind = 'fact' AND t.entity_id = f.fact_id AND t.version = f.version
  )
RETURNING f.fact_id AS id, f.day

-- name: other_days
SELECT day FROM rollup.other_facts WHERE tenant_id = $1 AND day IS NOT NULL
UNION SELECT day FROM rollup.other_days WHERE tenant_id = $1 ORDER BY 1

-- name: next_message_ids
-- A page of what the log or the facts know.
(SELECT DISTINCT t.message_id AS id FROM sender.truth t WHERE t.tenant_id = $1 AND t.message_id > $2 ORDER BY 1 LIMIT $3)
UNION
(SELECT message_id FROM rollup.message_facts WHERE tenant_id = $1 AND message_id > $2 ORDER BY 1 LIMIT $3)
ORDER BY 1 LIMIT $3

-- name: message_heads
SELECT DISTINCT ON (t.message_id) t.message_id AS id, t.version, to_jsonb(t.*) || jsonb_build_object('event_id', t.record_id) AS state
FROM sender.truth t WHERE t.tenant_id = $1 AND t.message_id = ANY ($2::uuid[])
ORDER BY t.message_id, t.version DESC

-- name: drop_unknown_message_facts
DELETE FROM rollup.message_facts f
WHERE f.tenant_id = $1 AND f.message_id = ANY ($2::uuid[])
  AND NOT EXISTS (
    SELECT FROM sender.truth t WHERE t.tenant_id = $1 AND t.message_id = f.message_id AND t.version = f.version
  )
RETURNING f.message_id AS id, f.day

-- name: message_days
SELECT day FROM rollup.message_facts WHERE tenant_id = $1 AND day IS NOT NULL
UNION SELECT day FROM rollup.message_days WHERE tenant_id = $1 ORDER BY 1

-- name: note_run
INSERT INTO rollup.runs (granularity, tenants, drift, missing, left_over) VALUES ($1, $2, $3, $4, $5)

-- name: last_runs
SELECT DISTINCT ON (granularity) granularity, finished_at, drift, missing, left_over
FROM rollup.runs ORDER BY granularity, run_id DESC
