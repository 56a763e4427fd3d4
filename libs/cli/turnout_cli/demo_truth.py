"""What the KPIs of a demo history must be, counted from the story itself by the definitions of kpis.md.

Knows nothing of events, facts or SQL: it and the pipeline agree only when both are right. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

from turnout_cli.demo_day import Enquiry
from turnout_cli.demo_history import History
from turnout_cli.demo_life import Life
from turnout_cli.webhooks.calcom import Booking

HOUR = timedelta(hours=1)
CLOSED_AFTER = 24 * HOUR
VISIT_AFTER = 2 * HOUR
RETENTION = timedelta(days=90)
NOTICE = 24 * HOUR
QUARTER = timedelta(minutes=15)
OFF_PEAK_BEFORE, OFF_PEAK_FROM = 11, 19

#: metric -> (numerator, denominator, factor, decimals)
RATIOS: dict[str, tuple[str, str | None, Decimal, int]] = {
    "bookingSuccessRate": ("confirmedIntents", "closedIntents", Decimal(100), 1),
    "bookingAutomationRate": ("automatedIntents", "confirmedIntents", Decimal(100), 1),
    "adminInterventionRate": ("intervenedIntents", "closedIntents", Decimal(100), 1),
    "meanTimeToResolveIntentSec": ("resolveSeconds", "resolvedIntents", Decimal(1), 1),
    "noShowRate": ("noShows", "due", Decimal(100), 1),
    "cancellationRate": ("cancelled", "booked", Decimal(100), 1),
    "lateCancellationRate": ("lateCancelled", "booked", Decimal(100), 1),
    "rescheduleRate": ("rescheduled", "booked", Decimal(100), 1),
    "completionRate": ("visits", "due", Decimal(100), 1),
    "utilizationRate": ("serviceMinutes", "rosteredMinutes", Decimal(100), 1),
    "offPeakShare": ("offPeak", "booked", Decimal(100), 1),
    "gridAlignmentRate": ("onGrid", "booked", Decimal(100), 1),
    "leadTimeHours": ("leadSeconds", "booked", 1 / Decimal(3600), 1),
    "repeatVisitRate": ("returningClients", "clients", Decimal(100), 1),
    "rebookingRate": ("rebookedVisits", "visits", Decimal(100), 1),
    "firstTimeRetention90": ("retainedClients", "newClients", Decimal(100), 1),
    "newClients": ("newClients", None, Decimal(1), 0),
    "avgTicket": ("visitsNet", "visits", Decimal(1), 0),
    "revenueGross": ("visitsGross", None, Decimal(1), 0),
    "revenueNet": ("visitsNet", None, Decimal(1), 0),
    "goodsRevenueNet": ("goodsNet", None, Decimal(1), 0),
    "feedbackAvg": ("ratingSum", "ratings", Decimal(1), 2),
    "feedbackCoverage": ("visitsWithFeedback", "visits", Decimal(100), 1),
    "inventoryVariancePct": ("stockDeviation", "stockExpected", Decimal(100), 1),
}
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
        _clients(lives, window),
    ):
        sums.update(part)
    return dict(sums)


def true_metrics(counts: dict[str, int]) -> dict[str, float | int | None]:
    """The metrics that these counts give, rounded as in an answer."""
    return {name: _ratio(counts, *parts) for name, parts in RATIOS.items()}


def _ratio(
    counts: dict[str, int], numerator: str, denominator: str | None, factor: Decimal, decimals: int
) -> float | int | None:
    below = counts[denominator] if denominator else 1
    if below == 0:
        return None
    value = (counts[numerator] * factor / below).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    return float(value) if decimals else int(value)


def is_booked(life: Life) -> bool:
    return life.confirmed_at is not None


def is_visit(life: Life, as_of: datetime) -> bool:
    """Booked, not cancelled, not no-show, and marked completed or 2 h past its end."""
    if not is_booked(life) or life.cancelled_at is not None or life.no_show:
        return False
    marked = life.completed_at is not None and life.completed_at <= as_of
    return marked or life.stands.end + VISIT_AFTER <= as_of


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


def _clients(lives: Iterable[Life], window: Window) -> dict[str, int]:
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
    again = any(first < start <= first + RETENTION for start, _ in visits[1:])
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
