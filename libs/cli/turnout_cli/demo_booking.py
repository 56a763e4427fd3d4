"""Draws one appointment of the demo: when it was booked, whether it moved, how it ended, what was paid."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

from turnout_cli.demo_life import Life, Payment
from turnout_cli.demo_salon import Member, Salon, Service
from turnout_cli.webhooks import calcom

#: The end of each shift is kept free: what was moved first stood there, three days before.
EVENING = timedelta(hours=1)
MOVED_BY_DAYS = 3
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def book(
    salon: Salon,
    member: Member,
    service: Service,
    start: datetime,
    zone: ZoneInfo,
    chance: Random,
    *,
    movable: bool,
) -> Life:
    """One appointment at `start` with all that became of it."""
    asked = _asked_at(start, zone, chance)
    guest = chance.choice(salon.guests)
    if chance.random() < 0.03:
        start += timedelta(minutes=5)  # typed in by hand, off the slot grid
    booking = calcom.Booking(
        uid(chance), chance.randint(10**6, 10**7), start, member.host, service.event_type, guest, asked
    )
    life = _confirmed(Life(booking, member.staff_id, service.service_id, asked), chance)
    if life.confirmed_at is None:
        return life
    if movable and chance.random() < 0.35:
        life = _moved(life, member, zone, chance)
    return _fate(life, chance)


def uid(chance: Random) -> str:
    return "".join(chance.choices(ALPHABET, k=22))


def _asked_at(start: datetime, zone: ZoneInfo, chance: Random) -> datetime:
    """Some days ahead, at an hour when people are awake."""
    hours = min(max(chance.expovariate(1 / 110), 3.0), 13 * 24.0)
    asked = (start - timedelta(hours=hours)).astimezone(zone)
    if not 8 <= asked.hour < 22:
        day = asked.date() - timedelta(days=1 if asked.hour < 8 else 0)
        asked = datetime.combine(day, time(chance.randint(18, 21)), zone)
    seconds = timedelta(minutes=chance.randint(0, 59), seconds=chance.randint(0, 59))
    return min((asked.replace(minute=0, second=0, microsecond=0) + seconds).astimezone(UTC), start - 2 * HOUR)


def _confirmed(life: Life, chance: Random) -> Life:
    """Most are booked at once; some event types wait for the salon's word, and a few get a no."""
    draw = chance.random()
    if draw < 0.9:
        return replace(life, confirmed_at=life.asked_at)
    answered = life.asked_at + timedelta(seconds=chance.randint(120, 5400))
    return replace(life, confirmed_at=answered) if draw < 0.985 else replace(life, rejected_at=answered)


def _moved(life: Life, member: Member, zone: ZoneInfo, chance: Random) -> Life:
    """It first stood at the end of a shift three days before; the client moved it to where it is now."""
    final = life.booking
    day = final.start.astimezone(zone).date() - timedelta(days=MOVED_BY_DAYS)
    first_start = datetime.combine(day, member.closes, zone).astimezone(UTC) - EVENING
    moved_at = first_start - timedelta(seconds=chance.randint(2 * 3600, 30 * 3600))
    asked = min(life.asked_at, moved_at - timedelta(seconds=chance.randint(1800, 200_000)))
    waited = (life.confirmed_at or asked) - life.asked_at
    if asked + waited >= moved_at:
        waited = timedelta(0)
    first = replace(
        final, uid=uid(chance), booking_id=final.booking_id - 1, start=first_start, booked_at=asked
    )
    then = replace(final, booked_at=moved_at, sequence=1, ical_uid=f"{first.uid}@Cal.com")
    return replace(
        life, booking=first, asked_at=asked, confirmed_at=asked + waited, moved_to=then, moved_at=moved_at
    )


def _fate(life: Life, chance: Random) -> Life:
    draw = chance.random()
    if draw < 0.065:
        return _cancelled(life, timedelta(seconds=chance.randint(25 * 3600, 72 * 3600)), chance)
    if draw < 0.105:
        return _cancelled(life, timedelta(seconds=chance.randint(1200, 23 * 3600)), chance)
    if draw < 0.15:
        absent = replace(life, no_show_at=life.stands.end + timedelta(seconds=chance.randint(300, 3000)))
        if chance.random() < 0.75:
            return absent
        # The client came late after all.
        life = replace(absent, undone_at=absent.stands.end + HOUR + chance.randint(1, 40) * MINUTE)
    return _visited(life, chance)


def _cancelled(life: Life, before: timedelta, chance: Random) -> Life:
    known_since = life.moved_at or life.confirmed_at or life.asked_at
    start = life.stands.start
    at = max(start - before, known_since + (start - known_since) / 3)
    by = chance.choices(("client", "salon", "admin"), (8, 1, 1))[0]
    return replace(life, cancelled_at=at.replace(microsecond=0), cancelled_by=by)  # type: ignore[arg-type]


def _visited(life: Life, chance: Random) -> Life:
    end = life.undone_at or life.stands.end
    price = life.stands.event_type.price_minor
    if chance.random() < 0.7:
        life = replace(life, completed_at=end + chance.randint(1, 15) * MINUTE)
    elif life.undone_at is None and chance.random() < 0.5:
        life = replace(life, ended_at=end)
    if chance.random() < 0.97:
        life = replace(life, payment=_payment(price, end + chance.randint(2, 20) * MINUTE, chance))
    if chance.random() < 0.35:
        stars = chance.choices((5, 4, 3, 2, 1), (60, 25, 9, 4, 2))[0]
        life = replace(life, rating=stars, rated_at=end + chance.randint(60, 2000) * MINUTE)
    return life


def _payment(price: int, at: datetime, chance: Random) -> Payment:
    discount = price // 10 if chance.random() < 0.12 else 0
    if chance.random() < 0.02:
        back = at + timedelta(seconds=chance.randint(3600, 200_000))
        return Payment(at, price, discount, back, (price - discount) // 2)
    return Payment(at, price, discount)
