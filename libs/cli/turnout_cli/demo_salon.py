"""The salon of the demo: who works there, what can be booked, who comes. Plain data, nothing random."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time

from turnout_cli.webhooks.calcom import EventType, Guest, Host


@dataclass(frozen=True)
class Member:
    """One member of staff; `weekdays` 0 = Monday."""

    staff_id: str
    host: Host
    weekdays: frozenset[int]
    opens: time
    closes: time
    break_minutes: int = 30


@dataclass(frozen=True)
class Service:
    """One service; `weight` is how often it is booked."""

    service_id: str
    event_type: EventType
    weight: int


@dataclass(frozen=True)
class Salon:
    """What a history is made for. `bookings_a_day` is a usual weekday's; staff are added until they fit in."""

    timezone: str
    currency: str
    members: tuple[Member, ...]
    services: tuple[Service, ...]
    guests: tuple[Guest, ...]
    bookings_a_day: int

    @property
    def staff_map(self) -> dict[str, str]:
        """Cal.com organizer -> member of staff, as tenant setting."""
        return {str(member.host.user_id): member.staff_id for member in self.members}

    @property
    def service_map(self) -> dict[str, str]:
        """Cal.com event type -> service, as tenant setting."""
        return {str(each.event_type.event_type_id): each.service_id for each in self.services}


MEMBERS = (
    ("anna", "Anna Weiss", (0, 1, 2, 3, 4), time(9), time(17)),
    ("boris", "Boris Kern", (1, 2, 3, 4, 5), time(11), time(20)),
    ("clara", "Clara Nowak", (0, 2, 3, 4, 5), time(10), time(19)),
    ("dmitri", "Dmitri Sokolov", (0, 1, 3, 4, 5), time(9), time(18)),
    ("elif", "Elif Aydin", (1, 2, 4, 5), time(12), time(20)),
)
SERVICES = (
    ("cut", "Haircut", 45, 4200, 40),
    ("cut-long", "Haircut, long hair", 60, 5800, 20),
    ("colour", "Colour", 120, 9500, 14),
    ("beard", "Beard trim", 30, 2200, 14),
    ("styling", "Styling", 45, 3900, 12),
)
FIRST_NAMES = (
    *("Mila", "Jonas", "Sofia", "Emil", "Lea", "Noah", "Olga", "Paul", "Ida", "Timur"),
    *("Nina", "Felix", "Maria", "Anton", "Julia", "Oskar", "Elena", "David", "Yara", "Pavel"),
)
LAST_NAMES = (
    *("Brandt", "Vogel", "Ivanova", "Hahn", "Richter", "Petrov", "Lang", "Fuchs", "Koch", "Orlov"),
    *("Simon", "Krause", "Berg", "Volkov", "Otto", "Roth", "Lindner", "Demir", "Huber", "Schulz"),
)
SLOTS_A_MEMBER = 8


def demo_salon(timezone: str, currency: str, bookings_a_day: int = 14) -> Salon:
    """The salon with as many staff as its bookings need: at least four, at most 200."""
    count = min(max(4, -(-bookings_a_day // 5)), 200)
    return Salon(
        timezone=timezone,
        currency=currency,
        members=tuple(_member(number, timezone) for number in range(count)),
        services=tuple(_service(number, currency) for number in range(len(SERVICES))),
        guests=tuple(_guest(number, timezone) for number in range(max(200, bookings_a_day * 20))),
        bookings_a_day=bookings_a_day,
    )


def _member(number: int, timezone: str) -> Member:
    name, full, weekdays, opens, closes = MEMBERS[number % len(MEMBERS)]
    staff_id = name if number < len(MEMBERS) else f"{name}-{number // len(MEMBERS) + 1}"
    host = Host(4100 + number, full, staff_id, timezone)
    return Member(staff_id, host, frozenset(weekdays), opens, closes)


def _service(number: int, currency: str) -> Service:
    slug, title, minutes, price, weight = SERVICES[number]
    return Service(slug, EventType(77001 + number, slug, title, minutes, price, currency.lower()), weight)


def _guest(number: int, timezone: str) -> Guest:
    first = FIRST_NAMES[number % len(FIRST_NAMES)]
    last = LAST_NAMES[number // len(FIRST_NAMES) % len(LAST_NAMES)]
    # +49 30 23125 is kept free for fiction by the regulator.
    phone = f"+493023125{number:04d}"
    locale = "ru" if number % 5 == 0 else "de"
    email = f"{first}.{last}.{number}@guest.example".lower()
    return Guest(f"{first} {last}", email, phone, locale, timezone)
