"""What a demo history makes of its people: who visited, came again, booked the next visit. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from turnout_cli.demo_life import Life

VISIT_AFTER = timedelta(hours=2)
RETENTION = timedelta(days=90)


@dataclass(frozen=True)
class Window:
    """Local days, both included, and the time up to which the answer is."""

    first: date
    last: date
    zone: ZoneInfo
    as_of: datetime

    def holds(self, at: datetime) -> bool:
        return self.first <= at.astimezone(self.zone).date() <= self.last

    @property
    def end(self) -> datetime:
        return midnight_after(self.last, self.zone)

    @property
    def start(self) -> datetime:
        return midnight_after(self.first - timedelta(days=1), self.zone)


def midnight_after(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day + timedelta(days=1), time.min, zone).astimezone(UTC)


def is_booked(life: Life) -> bool:
    return life.confirmed_at is not None


def is_visit(life: Life, as_of: datetime) -> bool:
    """Booked, not cancelled, not no-show, and marked completed or 2 h past its end."""
    if not is_booked(life) or life.cancelled_at is not None or life.no_show:
        return False
    marked = life.completed_at is not None and life.completed_at <= as_of
    return marked or life.stands.end + VISIT_AFTER <= as_of


def client_counts(lives: Iterable[Life], window: Window) -> dict[str, int]:
    """Distinct people: over the whole story, not day by day."""
    of_guest: dict[str, list[Life]] = defaultdict(list)
    for life in lives:
        of_guest[life.stands.guest.email].append(life)
    sums: Counter[str] = Counter()
    for appointments in of_guest.values():
        sums.update(_client(appointments, window))
    return sums


def _client(appointments: list[Life], window: Window) -> dict[str, int]:
    visits = sorted(
        (life.stands.start, number)
        for number, life in enumerate(appointments)
        if is_visit(life, window.as_of)
    )
    inside = [start for start, _ in visits if window.holds(start)]
    if not inside:
        return {}
    first = visits[0][0]
    is_new = window.holds(first)
    again = any(start <= first + RETENTION for start, _ in visits[1:])
    return {
        "clients": 1,
        "returningClients": int(len(inside) > 1 or not is_new),
        "newClients": int(is_new),
        "retainedClients": int(is_new and again),
        "rebookedVisits": sum(_rebooked(start, appointments, window) for start in inside),
    }


def _rebooked(visit: datetime, appointments: list[Life], window: Window) -> bool:
    """By midnight of the visit's day the client held a later appointment that still stands."""
    midnight = midnight_after(visit.astimezone(window.zone).date(), window.zone)
    return any(
        life.stands.start > visit
        and life.cancelled_at is None
        and life.confirmed_at is not None
        and life.confirmed_at < midnight
        for life in appointments
    )
