-- Roles of the system, made before the first migration and safe to run again (design §2.9, §6).
-- Run by an administrator connected to the target database. Passwords are set apart, by `turnout migrate`.
DO $$
DECLARE
  role_name text;
BEGIN
  -- The owner of all objects: nobody logs in as it, and it is no superuser, so row-level security binds it too.
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'turnout_owner') THEN
    CREATE ROLE turnout_owner NOLOGIN NOSUPERUSER;
  END IF;
  FOREACH role_name IN ARRAY ARRAY[
    'turnout_ingest', 'turnout_booking', 'turnout_sender', 'turnout_rollup', 'turnout_kpi', 'turnout_platform',
    'turnout_maintenance'
  ] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
      EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', role_name);
    END IF;
    -- No wait without an end (design §2.9); the maintenance role is exempt for verify, dump and indexes.
    IF role_name <> 'turnout_maintenance' THEN
      EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', role_name, '10s');
      EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', role_name, '5s');
      EXECUTE format('ALTER ROLE %I SET transaction_timeout = %L', role_name, '30s');
    END IF;
    EXECUTE format('ALTER ROLE %I SET search_path = %L', role_name, 'pg_catalog');
    -- A batch statement's plan is made once and its arrays vary: JIT would cost more than it gives.
    EXECUTE format('ALTER ROLE %I SET jit = off', role_name);
    EXECUTE format('ALTER ROLE %I SET timezone = %L', role_name, 'UTC');
  END LOOP;
  EXECUTE format('GRANT turnout_owner TO %I WITH INHERIT FALSE, SET TRUE', current_user);
  EXECUTE format('GRANT CREATE, CONNECT ON DATABASE %I TO turnout_owner', current_database());
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format(
    'GRANT CONNECT ON DATABASE %I TO turnout_ingest, turnout_booking, turnout_sender, turnout_rollup, turnout_kpi, turnout_platform, turnout_maintenance',
    current_database());
END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
-- Schemas exist before the migrations, so that each migration only fills its own.
CREATE SCHEMA IF NOT EXISTS platform AUTHORIZATION turnout_owner;
CREATE SCHEMA IF NOT EXISTS ingest AUTHORIZATION turnout_owner;
CREATE SCHEMA IF NOT EXISTS booking AUTHORIZATION turnout_owner;
CREATE SCHEMA IF NOT EXISTS sender AUTHORIZATION turnout_owner;
CREATE SCHEMA IF NOT EXISTS rollup AUTHORIZATION turnout_owner;
GRANT USAGE ON SCHEMA platform TO turnout_ingest, turnout_booking, turnout_sender, turnout_rollup, turnout_kpi, turnout_platform, turnout_maintenance;
GRANT USAGE ON SCHEMA ingest TO turnout_ingest, turnout_booking, turnout_sender, turnout_kpi, turnout_maintenance;
GRANT USAGE ON SCHEMA booking TO turnout_ingest, turnout_booking, turnout_sender, turnout_rollup, turnout_kpi, turnout_maintenance;
GRANT USAGE ON SCHEMA sender TO turnout_ingest, turnout_booking, turnout_sender, turnout_rollup, turnout_kpi, turnout_maintenance;
GRANT USAGE ON SCHEMA rollup TO turnout_booking, turnout_sender, turnout_rollup, turnout_kpi, turnout_maintenance;
