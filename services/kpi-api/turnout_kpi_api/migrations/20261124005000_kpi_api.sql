-- migrate:up

-- A member of staff sees their own rows only: restrictive, so it narrows what the tenant's policy lets kpi-api see.
-- `turnout.staff_id` is '' for an owner and for an operator.
DO $$
DECLARE
  target text;
BEGIN
  FOREACH target IN ARRAY ARRAY['chain_facts', 'intent_facts', 'message_facts', 'other_facts',
                                'chain_days', 'intent_days', 'message_days', 'other_days'] LOOP
    EXECUTE format($f$CREATE POLICY staff_read ON rollup.%I AS RESTRICTIVE FOR SELECT TO turnout_kpi
      USING (coalesce(current_setting('turnout.staff_id', true), '') IN ('', staff_id))$f$, target);
  END LOOP;
END $$;

-- migrate:down
DO $$
DECLARE
  target text;
BEGIN
  FOREACH target IN ARRAY ARRAY['chain_facts', 'intent_facts', 'message_facts', 'other_facts',
                                'chain_days', 'intent_days', 'message_days', 'other_days'] LOOP
    EXECUTE format('DROP POLICY staff_read ON rollup.%I', target);
  END LOOP;
END $$;
