"""A salon's history as a pure function of (salon, seed, days): appointments, shifts, stock, enquiries, as webhooks.

Each day is made from a random stream of its own, so any window over the same seed holds the same days, byte for byte:
seeding again sends the same ids. Reused as a scenario with a known truth by the fault tests and the bench.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

from turnout_cli.demo_day import DayPlan
from turnout_cli.demo_life import Life
from turnout_cli.demo_planning import plan_day
from turnout_cli.demo_salon import Salon
from turnout_cli.webhooks import Webhook

DAYS_AHEAD = 14
MESSAGE_WINDOW = timedelta(days=6, hours=20)
"""Older messages would be quarantined as stale (design promise 2: 7 days)."""


@dataclass(frozen=True)
class Timed:
    """A webhook and when it was sent in the story."""

    at: datetime
    webhook: Webhook = field(repr=False)


@dataclass(frozen=True)
class History:
    """What happened up to `now`, and the webhooks that told it, oldest first."""

    salon: Salon
    first: date
    last: date
    now: datetime
    plans: Sequence[DayPlan]
    webhooks: Sequence[Timed]

    @property
    def lives(self) -> Iterator[Life]:
        for plan in self.plans:
            yield from plan.lives


def history(salon: Salon, first: date, last: date, now: datetime, seed: int = 1) -> History:
    """The appointments of the local days `first` to `last`, and those after it that were booked by `now`."""
    zone = ZoneInfo(salon.timezone)
    plans = []
    for number in range((last - first).days + 1 + DAYS_AHEAD):
        day = first + timedelta(days=number)
        plan = plan_day(salon, day, zone, Random(f"{seed}:{salon.bookings_a_day}:{day.isoformat()}"))
        plans.append(plan.until(now, now - MESSAGE_WINDOW))
    webhooks = [Timed(at, webhook) for plan in plans for at, webhook in plan.webhooks()]
    webhooks.sort(key=lambda timed: timed.at)
    return History(salon, first, last, now, plans, webhooks)
