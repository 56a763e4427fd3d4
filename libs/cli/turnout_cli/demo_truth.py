"""What the KPIs of a demo history must be, counted from the story itself by the definitions of kpis.md.

Knows nothing of events, facts or SQL: it and the pipeline agree only when both are right. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from turnout_cli.demo_clients import Window, client_counts, is_booked, is_visit
from turnout_cli.demo_day import Enquiry
from turnout_cli.demo_history import History
from turnout_cli.demo_life import Life
from turnout_cli.webhooks.calcom import Booking

HOUR = timedelta(hours=1)
CLOSED_AFTER = 24 * HOUR
NOTICE = 24 * HOUR
QUARTER = timedelta(minutes=15)
OFF_PEAK_BEFORE, OFF_PEAK_FROM = 11, 19

COUNTED = (
    *(
        "intents",
        "closedIntents",
        "confirmedIntents",
        "automatedIntents",
        "intervenedIntents",
        "adminActions",
    ),
    *(
        "resolvedIntents",
        "resolveSeconds",
        "booked",
        "due",
        "visits",
        "noShows",
        "cancelled",
        "lateCancelled",
    ),
    *("rescheduled", "offPeak", "onGrid", "leadSeconds", "visitsGross", "visitsNet", "visitsWithFeedback"),
    *("serviceMinutes", "rosteredMinutes", "clients", "returningClients", "newClients", "retainedClients"),
    *("rebookedVisits", "ratings", "ratingSum", "stockExpected", "stockDeviation", "goodsGross", "goodsNet"),
)


def true_counts(history: History, first: date, last: date, as_of: datetime) -> dict[str, int]:
    """The sums of the local days `first` to `last` as of `as_of`, by the names of `GET /kpi/summary`."""
    window = Window(first, last, ZoneInfo(history.salon.timezone), as_of)
    lives = list(history.lives)
    sums: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
    for part in (
        *(_appointment(life, window) for life in lives if window.holds(life.stands.start)),
        *(_implicit_intent(life, as_of) for life in lives if window.holds(life.asked_at)),
        *(_enquiry(each, as_of) for each in _enquiries(history) if window.holds(each.asked_at)),
        _facts(history, window),
        _minutes(history, lives, window),
        client_counts(lives, window),
    ):
        sums.update(part)
    return dict(sums)


def _appointment(life: Life, window: Window) -> dict[str, int]:
    if not is_booked(life):
        return {}
    booking, confirmed = life.stands, life.confirmed_at
    assert confirmed is not None
    local = booking.start.astimezone(window.zone)
    before = life.cancelled_at is not None and life.cancelled_at < booking.start
    late = before and life.cancelled_at is not None and booking.start - life.cancelled_at < NOTICE
    due = booking.start < window.as_of and not before
    return {
        "booked": 1,
        "cancelled": int(before),
        "lateCancelled": int(late),
        "rescheduled": int(life.moved_to is not None),
        "offPeak": int(not OFF_PEAK_BEFORE <= local.hour < OFF_PEAK_FROM),
        "onGrid": int(local.minute % 15 == 0 and local.second == 0),
        "leadSeconds": int((booking.start - confirmed).total_seconds()),
        "due": int(due),
        "noShows": int(due and life.no_show),
    } | (_visit(life) if is_visit(life, window.as_of) else {})


def _visit(life: Life) -> dict[str, int]:
    paid = life.payment
    gross = paid.gross if paid else 0
    less = paid.discount + paid.refund if paid else 0
    return {
        "visits": 1,
        "visitsGross": gross,
        "visitsNet": gross - less,
        "visitsWithFeedback": int(life.rating > 0),
    }


def _implicit_intent(life: Life, as_of: datetime) -> dict[str, int]:
    """A booking without a chat before it: its wish to book is as old as its first word."""
    resolved_at = life.confirmed_at or life.rejected_at
    closed = min(resolved_at or as_of, life.asked_at + CLOSED_AFTER) <= as_of and (
        resolved_at is not None or life.asked_at + CLOSED_AFTER <= as_of
    )
    touched = int(life.cancelled_at is not None and life.cancelled_by == "admin")
    return {
        "intents": 1,
        "closedIntents": int(closed),
        "confirmedIntents": int(life.confirmed_at is not None),
        "automatedIntents": int(life.confirmed_at is not None),
        "intervenedIntents": touched if closed else 0,
        "adminActions": touched,
        "resolvedIntents": int(resolved_at is not None),
        "resolveSeconds": int((resolved_at - life.asked_at).total_seconds()) if resolved_at else 0,
    }


def _enquiry(enquiry: Enquiry, as_of: datetime) -> dict[str, int]:
    """A chat that ends without a booking is closed 24 h after its first message, and never resolved."""
    return {"intents": 1, "closedIntents": int(enquiry.asked_at + CLOSED_AFTER <= as_of)}


def _enquiries(history: History) -> Iterator[Enquiry]:
    for plan in history.plans:
        yield from plan.enquiries


def _facts(history: History, window: Window) -> Counter[str]:
    sums: Counter[str] = Counter()
    for plan in history.plans:
        for sale in plan.sales:
            if window.holds(sale.at):
                sums.update({"goodsGross": sale.gross, "goodsNet": sale.gross})
        for count in plan.counts:
            if window.holds(count.at):
                deviation = abs(count.counted - count.expected)
                sums.update({"stockExpected": count.expected, "stockDeviation": deviation})
        for life in plan.lives:
            if life.rated_at is not None and window.holds(life.rated_at):
                sums.update({"ratings": 1, "ratingSum": life.rating})
    return sums


def _minutes(history: History, lives: Iterable[Life], window: Window) -> dict[str, int]:
    """Sold and rostered time, up to the last full quarter of an hour before `as_of`."""
    cut = min(window.end, _quarter(window.as_of))
    served = sum(
        (min(life.stands.end, cut) - life.stands.start).total_seconds()
        for life in lives
        if is_booked(life)
        and life.cancelled_at is None
        and not life.no_show
        and _begins(life.stands, window, cut)
    )
    rostered = 0.0
    for plan in history.plans:
        for shift in plan.shifts:
            if window.start <= shift.start < cut:
                inside, whole = min(shift.end, cut) - shift.start, shift.end - shift.start
                rostered += inside.total_seconds() - shift.break_minutes * 60 * (inside / whole)
    return {"serviceMinutes": int(served / 60), "rosteredMinutes": int(rostered / 60)}


def _begins(booking: Booking, window: Window, cut: datetime) -> bool:
    return window.start <= booking.start < cut


def _quarter(at: datetime) -> datetime:
    return at - (at - datetime(2000, 1, 1, tzinfo=UTC)) % QUARTER
