"""The `turnout` command: a table of contents; each command is imported when it is called."""

from __future__ import annotations

import sys

from cyclopts import App

from turnout_cli.errors import CommandError

#: Here, since a command's own words are hidden by its `help`, and nothing else names the variables.
MIGRATE_HELP = """Bring an external Postgres and Kafka up to date.

Makes roles, schemas, tables and topics that are missing; safe to run again. Reads TURNOUT_ADMIN_DSN (an administrator
of the database), TURNOUT_KAFKA_BOOTSTRAP, TURNOUT_KAFKA_REPLICATION (3; with one broker set 1; from 3 on, a write must
reach 2 replicas) and TURNOUT_PASSWORD_INGEST, _BOOKING, _SENDER, _ROLLUP, _KPI, _PLATFORM and _MAINTENANCE: a role
whose variable is not set keeps the password that it has."""

app = App(
    name="turnout",
    help="Turnout: webhooks in, exact KPIs out. Words go to stderr, machine output to stdout.",
)

app.command("turnout_cli.up:up", name="up", help="Start Postgres, Kafka and all services.")
app.command("turnout_cli.up:down", name="down", help="Stop what `up` started.")
app.command("turnout_cli.up:status", name="status", help="Show what runs, and where.")
app.command(
    "turnout_cli.migrate_command:migrate_command",
    name="migrate",
    help=MIGRATE_HELP,
)
app.command(
    "turnout_cli.secrets_command:secrets", name="secrets", help="Write the secrets of compose to .env."
)
app.command("turnout_cli.test_command:run_tests", name="test", help="Run the tests.")
app.command("turnout_cli.bench_command:bench", name="bench", help="Measure; figures as a table or --json.")
app.command("turnout_cli.doctor:doctor", name="doctor", help="Check what this machine offers.")

# Working with a running system
app.command(
    "turnout_cli.smoke:smoke", name="smoke", help="Drive the running system through a day, and check it."
)
app.command(
    "turnout_cli.check_kpi:check_kpi",
    name="check-kpi",
    help="Check a tenant's KPIs against its logs by plain SQL.",
)
app.command("turnout_cli.demo_commands:app", name="demo", help="Demo data through the front door.")
app.command("turnout_cli.tenant:app", name="tenant", help="Tenants, their settings, channels and tokens.")
app.command("turnout_cli.master_key_commands:app", name="master-key", help="The master key: check, rotate.")
app.command("turnout_cli.inbox:app", name="inbox", help="What came in, and its fate.")
app.command("turnout_cli.dlq:app", name="dlq", help="Dead letters: list, show, replay.")
app.command("turnout_cli.reconcile:app", name="reconcile", help="Compare a provider's own view with ours.")
app.command("turnout_cli.prune:prune", name="prune", help="Delete what is over its time; once a day.")
app.command("turnout_cli.rollup_commands:app", name="rollup", help="The aggregates: verify, rebuild, run.")
app.command("turnout_cli.contracts_commands:app", name="contracts", help="Schemas, examples, .env.example.")


def main() -> None:
    """Entry point; what a command can explain is told in one line, without a traceback."""
    try:
        app()
    except CommandError as error:
        print(f"✗ {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
