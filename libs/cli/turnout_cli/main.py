"""The `turnout` command: a table of contents; each command is imported when it is called."""

from __future__ import annotations

import sys

from cyclopts import App

from turnout_cli.errors import CommandError

app = App(
    name="turnout",
    help="Turnout: webhooks in, exact KPIs out. Words go to stderr, machine output to stdout.",
)

app.command("turnout_cli.up:up", name="up", help="Start Postgres, Kafka and all services.")
app.command("turnout_cli.up:down", name="down", help="Stop what `up` started.")
app.command("turnout_cli.up:status", name="status", help="Show what runs, and where.")
app.command("turnout_cli.doctor:doctor", name="doctor", help="Check what this machine offers.")


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
