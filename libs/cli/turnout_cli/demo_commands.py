"""`turnout demo`: data to look at, sent through the front door."""

from __future__ import annotations

import time

from cyclopts import App
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from turnout_cli.connection import Target, TargetOption, resolve, run
from turnout_cli.demo_seed import Seeded, seed_demo
from turnout_cli.demo_tenant import DEMO_TENANT
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, print_json, say, words

app = App(name="demo", help="Demo data through the front door.")
_SHOWN = 5


@app.command
def seed(
    *,
    days: int = 90,
    tenant: str = DEMO_TENANT,
    seed: int = 1,
    bookings_a_day: int = 14,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Send a salon's last days as signed webhooks; sending them again changes nothing.

    Parameters
    ----------
    days
        How many days back, today included.
    tenant
        A tenant with secrets for calcom, telegram and events.
    seed
        Another number tells another story.
    bookings_a_day
        On a usual weekday.
    """
    if not 1 <= days <= 400 or not 1 <= bookings_a_day <= 5000:
        raise CommandError("--days is from 1 to 400, --bookings-a-day from 1 to 5000")
    started = time.monotonic()
    seeded = _seed(resolve(target), tenant, days=days, seed=seed, bookings_a_day=bookings_a_day)
    seconds = time.monotonic() - started
    if as_json:
        told = {"sent": seeded.sent, "refused": len(seeded.refused), "until": seeded.history.now.isoformat()}
        print_json(told | {"seconds": round(seconds, 1)})
    for sentence in seeded.refused[:_SHOWN]:
        say(f"✗ {sentence}")
    good = seeded.sent - len(seeded.refused)
    say(f"{'✗' if seeded.refused else '✓'} {good:,} of {seeded.sent:,} webhooks accepted in {seconds:.1f} s")
    return 1 if seeded.refused else 0


def _seed(target: Target, tenant: str, *, days: int, seed: int, bookings_a_day: int) -> Seeded:
    """Under a progress bar."""
    columns = (TextColumn("webhooks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=words, transient=True, disable=not words.is_terminal) as bar:
        task = bar.add_task("webhooks", total=None)
        return run(
            seed_demo(
                target,
                days,
                tenant_id=tenant,
                seed=seed,
                bookings_a_day=bookings_a_day,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        )
