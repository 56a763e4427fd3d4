"""Makes one day of the demo salon: who works, who comes, what is sold. All chance comes from the stream that is given."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

from turnout_cli.demo_booking import EVENING, book
from turnout_cli.demo_day import Count, DayPlan, Enquiry, Sale, Shift
from turnout_cli.demo_life import Life
from turnout_cli.demo_salon import Member, Salon
from turnout_cli.webhooks import telegram

#: How busy a weekday is, Monday first; on Sunday the salon is closed.
RHYTHM = (0.75, 0.85, 0.95, 1.0, 1.2, 1.15, 0.0)
GRID = timedelta(minutes=15)
ARTICLES = (("shampoo-500ml", 1490), ("hair-oil-100ml", 1900), ("wax-75ml", 1250), ("comb", 690))
QUESTIONS = (
    "Добрый день! Есть ли окно в пятницу?",
    "Здравствуйте, сколько стоит окрашивание?",
    "Hallo, haben Sie am Samstag etwas frei?",
    "Hi, do you have time for a haircut tomorrow?",
)
ANSWERS = (
    "После 18:00, если можно",
    "Gern auch vormittags",
    "Any time after six is fine",
    "Спасибо, подумаю",
)


def plan_day(salon: Salon, day: date, zone: ZoneInfo, chance: Random) -> DayPlan:
    """The whole day, also what lies ahead of now."""
    working = [member for member in salon.members if day.weekday() in member.weekdays]
    if RHYTHM[day.weekday()] == 0:
        return DayPlan(day, [], [], [], [], [])
    return DayPlan(
        day,
        list(_appointments(salon, working, day, zone, chance)),
        [_shift(member, day, zone) for member in working],
        list(_sales(salon, working, day, zone, chance)),
        list(_counts(day, zone, chance)),
        list(_enquiries(salon, day, zone, chance)),
    )


def local(day: date, at: time, zone: ZoneInfo) -> datetime:
    """An instant in UTC, so that arithmetic on it knows no summer time."""
    return datetime.combine(day, at, zone).astimezone(UTC)


def _shift(member: Member, day: date, zone: ZoneInfo) -> Shift:
    planned = local(day - timedelta(days=14), time(12), zone)
    start, end = local(day, member.opens, zone), local(day, member.closes, zone)
    return Shift(f"shift-{member.staff_id}-{day}", member.staff_id, planned, start, end, member.break_minutes)


def _appointments(
    salon: Salon, working: list[Member], day: date, zone: ZoneInfo, chance: Random
) -> Iterator[Life]:
    """Each member's day from opening on, one appointment after the other, with gaps."""
    wanted = salon.bookings_a_day * RHYTHM[day.weekday()] * chance.uniform(0.85, 1.15)
    share = wanted / max(1, len(working))
    for member in working:
        count = int(share + chance.random())
        at, end = local(day, member.opens, zone), local(day, member.closes, zone) - EVENING
        for number in range(count):
            service = chance.choices(salon.services, [each.weight for each in salon.services])[0]
            length = timedelta(minutes=service.event_type.minutes)
            gap = _gap(end - at - length, count - number, chance)
            if gap is None:
                break
            start = at + gap
            yield book(salon, member, service, start, zone, chance, movable=number == 0)
            at = start + length


def _gap(room: timedelta, left: int, chance: Random) -> timedelta | None:
    """Idle time before the next of `left` appointments; None when it does not fit any more."""
    if room < timedelta(0):
        return None
    longest = max(0, int(room / GRID / left) - 1)
    return chance.randint(0, longest) * GRID


def _sales(salon: Salon, working: list[Member], day: date, zone: ZoneInfo, chance: Random) -> Iterator[Sale]:
    for number in range(chance.randint(0, max(2, salon.bookings_a_day // 4))):
        article, price = chance.choice(ARTICLES)
        quantity = chance.choice((1, 1, 1, 2, 3))
        at = local(day, time(10), zone) + timedelta(seconds=chance.randint(0, 9 * 3600))
        seller = chance.choice(working).staff_id
        yield Sale(f"sale-{day}-{number}", at, article, quantity, price * quantity, salon.currency, seller)


def _counts(day: date, zone: ZoneInfo, chance: Random) -> Iterator[Count]:
    """Stock is counted on Saturdays."""
    if day.weekday() != 5:
        return
    for article, _ in ARTICLES:
        expected = chance.randint(8, 60)
        missing = chance.choice((0, 0, 0, 1, 2))
        at = local(day, time(20, 15), zone) + timedelta(seconds=chance.randint(0, 900))
        yield Count(f"count-{article}-{day}", at, article, expected, expected - missing)


def _enquiries(salon: Salon, day: date, zone: ZoneInfo, chance: Random) -> Iterator[Enquiry]:
    for number in range(chance.randint(0, max(4, salon.bookings_a_day // 4))):
        guest = chance.choice(salon.guests)
        chat_id = 7_000_000_000 + day.toordinal() * 1000 + number
        asked = local(day, time(9), zone) + timedelta(seconds=chance.randint(0, 12 * 3600))
        more = asked + timedelta(seconds=chance.randint(60, 1200)) if chance.random() < 0.6 else None
        yield Enquiry(
            telegram.Chat(chat_id, guest.name.split()[0], guest.locale),
            chance.randint(10**8, 10**9) * 2,
            asked,
            (chance.choice(QUESTIONS), chance.choice(ANSWERS)),
            more,
        )
