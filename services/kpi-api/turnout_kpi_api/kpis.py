"""The catalogue of KPIs as data: what is counted, and which two sums make each metric. Pure.

In: sums of additive parts by name. Out: metrics, rounded only here, for the HTTP answer. docs/KPIS.md, the API's
schema and `GET /kpi/definitions` are generated from this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum


class Clock(StrEnum):
    """By which time a thing falls into a window. A metric has one, and both of its parts follow it."""

    INTENT = "intent"
    APPOINTMENT = "appointment"
    EVENT = "event"


class Unit(StrEnum):
    """What a metric's number means. `minor`: minor units of the tenant's currency, cents for EUR."""

    PERCENT = "percent"
    SECONDS = "seconds"
    HOURS = "hours"
    MINOR = "minor"
    COUNT = "count"
    STARS = "stars"


class Source(StrEnum):
    """Where a count comes from: the rollup's parts of one kind, or a query of its own over the facts."""

    CHAINS = "chain"
    INTENTS = "intent"
    MESSAGES = "message"
    OTHER = "other"
    UTILISATION = "utilisation"
    CLIENTS = "clients"


class Maturity(StrEnum):
    """Until when a metric can still change by the rules alone. A late correction may change any number at any time."""

    WINDOW = "window"
    SETTLED = "settled"
    DAYS_90 = "90 days"


MATURITY_WORDS = {
    Maturity.WINDOW: "final once the window is over",
    Maturity.SETTLED: "final once the window is over and all that began in it is decided: a visit 2 h after its end, "
    "an intent 24 h after its first message",
    Maturity.DAYS_90: "final 90 days after the window",
}
CLOCK_WORDS = {
    Clock.INTENT: "when the intent was received",
    Clock.APPOINTMENT: "the start of the appointment as it stands now; a reschedule moves it",
    Clock.EVENT: "when the thing itself happened; all of a message counts at its first attempt",
}


@dataclass(frozen=True)
class Count:
    """A sum that is exact over any window, filter and grouping. `column` names it where it is read."""

    name: str
    source: Source
    column: str
    description: str


@dataclass(frozen=True)
class Metric:
    """`numerator` / `denominator`, or the plain sum `numerator`. `fed`: today's flows can give it a value."""

    name: str
    numerator: str
    denominator: str | None
    clock: Clock
    unit: Unit
    maturity: Maturity
    description: str
    fed: bool = True

    @property
    def decimals(self) -> int:
        """How many the HTTP answer keeps."""
        match self.unit:
            case Unit.COUNT | Unit.MINOR:
                return 0
            case Unit.STARS:
                return 2
            case _:
                return 1

    def value(self, counts: Mapping[str, int]) -> float | int | None:
        """The metric's number for an answer; None for a zero denominator, never 0."""
        top = Decimal(counts[self.numerator])
        bottom = 1 if self.denominator is None else counts[self.denominator]
        if bottom == 0:
            return None
        if self.unit is Unit.PERCENT:
            top *= 100
        elif self.unit is Unit.HOURS:
            bottom *= 3600
        rounded = (top / bottom).quantize(Decimal(1).scaleb(-self.decimals), ROUND_HALF_UP)
        return float(rounded) if self.decimals else int(rounded)


_S = Source
# fmt: off
COUNTS: tuple[Count, ...] = (
    Count("intents", _S.INTENTS, "intents", "wishes to book; a booking without a chat before it has an implicit one"),
    Count("closedIntents", _S.INTENTS, "closed", "intents that ended explicitly, or 24 h past their first message"),
    Count("confirmedIntents", _S.INTENTS, "confirmed", "intents whose chain reached confirmed"),
    Count("automatedIntents", _S.INTENTS, "automated", "of these, with no admin action or human reply before"),
    Count("intervenedIntents", _S.INTENTS, "intervened", "closed intents with at least one admin action"),
    Count("adminActions", _S.INTENTS, "admin_actions", "replies, overrides, manual reschedules and cancels"),
    Count("resolvedIntents", _S.INTENTS, "resolved", "intents that were confirmed or closed explicitly"),
    Count("resolveSeconds", _S.INTENTS, "resolve_seconds", "seconds from intent to confirmed or closed, summed"),
    Count("offPeakSuggested", _S.INTENTS, "off_peak_suggested", "chains to which an off-peak slot was suggested"),
    Count("offPeakTaken", _S.INTENTS, "off_peak_taken", "of these, those whose client took one"),
    Count("booked", _S.CHAINS, "booked", "chains that were ever confirmed and are not merged into another"),
    Count("due", _S.CHAINS, "due", "booked, start before asOf, not cancelled before its start"),
    Count("visits", _S.CHAINS, "visit", "booked, not cancelled, not no-show, marked completed or 2 h past its end"),
    Count("noShows", _S.CHAINS, "no_show", "due chains marked no-show; an undo takes it back"),
    Count("cancelled", _S.CHAINS, "cancelled", "booked, cancelled before its start; no reschedules among them"),
    Count("lateCancelled", _S.CHAINS, "late_cancelled", "of these, within the tenant's notice window"),
    Count("rescheduled", _S.CHAINS, "moved", "booked chains with at least one move"),
    Count("offPeak", _S.CHAINS, "off_peak", "booked chains that start before 11:00 or from 19:00 on, local time"),
    Count("onGrid", _S.CHAINS, "on_grid", "booked chains that start on the tenant's slot grid"),
    Count("leadSeconds", _S.CHAINS, "lead_seconds", "seconds from confirmation to start of booked chains, summed"),
    Count("dueReachable", _S.CHAINS, "reachable", "due chains whose client has a channel that we can write to"),
    Count("dueReminded", _S.CHAINS, "reminder_covered", "of these, with a reminder accepted before the start"),
    Count("visitsGross", _S.CHAINS, "gross", "paid for visits"),
    Count("visitsNet", _S.CHAINS, "net", "paid for visits, less refunds and discounts"),
    Count("otherCurrencyPayments", _S.CHAINS, "other_currency", "payments for visits in another currency, never added"),
    Count("visitsWithFeedback", _S.CHAINS, "feedback", "visits that the client rated"),
    Count("serviceMinutes", _S.UTILISATION, "service_minutes", "minutes of chains not cancelled and not no-show"),
    Count("rosteredMinutes", _S.UTILISATION, "rostered_minutes", "minutes of shifts less unpaid breaks"),
    Count("clients", _S.CLIENTS, "clients", "distinct clients who visited"),
    Count("returningClients", _S.CLIENTS, "came_before", "of these, with a visit before one of these visits"),
    Count("newClients", _S.CLIENTS, "first_time", "clients whose first visit ever is one of these visits"),
    Count("retainedClients", _S.CLIENTS, "retained", "of these, who visited again within 90 days"),
    Count("rebookedVisits", _S.CLIENTS, "rebooked", "visits whose client held a later live appointment by that midnight"),
    Count("messagesAttempted", _S.MESSAGES, "attempted", "messages with at least one attempt to send"),
    Count("messagesAccepted", _S.MESSAGES, "accepted", "of these, accepted by the channel"),
    Count("messagesReceipted", _S.MESSAGES, "receipted", "of these, by a channel that gives receipts"),
    Count("messagesDelivered", _S.MESSAGES, "delivered", "of these, delivered or read"),
    Count("remindersReceipted", _S.MESSAGES, "reminder_receipted", "reminders among messagesReceipted"),
    Count("remindersDelivered", _S.MESSAGES, "reminder_delivered", "reminders among messagesDelivered"),
    Count("messagesFailed", _S.MESSAGES, "failed", "attempted messages that the provider refused for good"),
    Count("messagesDead", _S.MESSAGES, "dead", "attempted messages that were dead-lettered, a fault of ours"),
    Count("messagesUnknown", _S.MESSAGES, "unknown", "attempted messages whose answer was lost"),
    Count("ratings", _S.OTHER, "ratings", "ratings that clients gave"),
    Count("ratingSum", _S.OTHER, "rating_sum", "their stars, summed"),
    Count("stockExpected", _S.OTHER, "inventory_expected", "stock that the counts expected"),
    Count("stockDeviation", _S.OTHER, "inventory_variance", "absolute difference of counted and expected, summed"),
    Count("goodsGross", _S.OTHER, "goods_gross", "paid for goods outside a visit"),
    Count("goodsNet", _S.OTHER, "goods_net", "paid for goods outside a visit, less discounts"),
    Count("otherCurrencySales", _S.OTHER, "other_currency", "amounts outside a visit in another currency, never added"),
)
#: Counts that are the difference of two others.
DERIVED_COUNTS = {"openIntents": ("intents", "closedIntents", "intents that are not closed yet")}

_I, _A, _E = Clock.INTENT, Clock.APPOINTMENT, Clock.EVENT
_PC, _MINOR, _COUNT = Unit.PERCENT, Unit.MINOR, Unit.COUNT
_W, _M, _90 = Maturity.WINDOW, Maturity.SETTLED, Maturity.DAYS_90
METRICS: tuple[Metric, ...] = (
    Metric("bookingSuccessRate", "confirmedIntents", "closedIntents", _I, _PC, _M, "intents that became a booking"),
    Metric("bookingAutomationRate", "automatedIntents", "confirmedIntents", _I, _PC, _M, "bookings no human touched"),
    Metric("adminInterventionRate", "intervenedIntents", "closedIntents", _I, _PC, _M, "intents that needed a human"),
    Metric("meanTimeToResolveIntentSec", "resolveSeconds", "resolvedIntents", _I, Unit.SECONDS, _M, "time to an answer"),
    Metric("noShowRate", "noShows", "due", _A, _PC, _M, "clients who did not come"),
    Metric("cancellationRate", "cancelled", "booked", _A, _PC, _W, "bookings cancelled before their start"),
    Metric("lateCancellationRate", "lateCancelled", "booked", _A, _PC, _W, "bookings cancelled at short notice"),
    Metric("rescheduleRate", "rescheduled", "booked", _A, _PC, _W, "bookings that were moved at least once"),
    Metric("completionRate", "visits", "due", _A, _PC, _M, "due bookings that became a visit"),
    Metric("utilizationRate", "serviceMinutes", "rosteredMinutes", _A, _PC, _M, "rostered time sold; may exceed 100"),
    Metric("offPeakShare", "offPeak", "booked", _A, _PC, _W, "bookings outside the rush"),
    Metric("offPeakShiftRate", "offPeakTaken", "offPeakSuggested", _I, _PC, _W, "off-peak offers that were taken", fed=False),
    Metric("gridAlignmentRate", "onGrid", "booked", _A, _PC, _W, "bookings that leave no odd gaps"),
    Metric("leadTimeHours", "leadSeconds", "booked", _A, Unit.HOURS, _W, "how far ahead clients book"),
    Metric("repeatVisitRate", "returningClients", "clients", _A, _PC, _M, "visiting clients who came before"),
    Metric("rebookingRate", "rebookedVisits", "visits", _A, _PC, _M, "visits followed by the next booking the same day"),
    Metric("firstTimeRetention90", "retainedClients", "newClients", _A, _PC, _90, "new clients who came again in 90 days"),
    Metric("newClients", "newClients", None, _A, _COUNT, _M, "clients on their first visit"),
    Metric("avgTicket", "visitsNet", "visits", _A, _MINOR, _M, "net revenue of a visit"),
    Metric("revenueGross", "visitsGross", None, _A, _MINOR, _M, "paid for visits"),
    Metric("revenueNet", "visitsNet", None, _A, _MINOR, _M, "paid for visits, less refunds and discounts"),
    Metric("goodsRevenueNet", "goodsNet", None, _E, _MINOR, _W, "goods sold outside a visit, net"),
    Metric("reminderDeliveryRate", "remindersDelivered", "remindersReceipted", _E, _PC, _W, "reminders that arrived", fed=False),
    Metric("reminderCoverage", "dueReminded", "dueReachable", _A, _PC, _M, "due bookings that were reminded in time"),
    Metric("messageDeliveryRate", "messagesDelivered", "messagesReceipted", _E, _PC, _W, "messages that arrived", fed=False),
    Metric("messageFailureRate", "messagesFailed", "messagesAttempted", _E, _PC, _W, "messages a provider refused"),
    Metric("deadLetterRate", "messagesDead", "messagesAttempted", _E, _PC, _W, "messages lost by a fault of ours"),
    Metric("feedbackAvg", "ratingSum", "ratings", _E, Unit.STARS, _W, "stars of 5, on average"),
    Metric("feedbackCoverage", "visitsWithFeedback", "visits", _A, _PC, _M, "visits that were rated"),
    Metric("inventoryVariancePct", "stockDeviation", "stockExpected", _E, _PC, _W, "stock that is not where it should be"),
)
# fmt: on
#: What needs every visit of the tenant, and so is not for who sees one member of staff only.
CLIENT_COUNTS = frozenset(count.name for count in COUNTS if count.source is Source.CLIENTS)


@dataclass(frozen=True)
class Figures:
    """The sums of one window, and until when they are undecided; `complete` without the client counts is False."""

    counts: Mapping[str, int]
    settled_at: datetime | None
    complete: bool = True

    def metrics(self) -> dict[str, float | int | None]:
        """Every metric of the catalogue, by name."""
        return {metric.name: metric.value(self.counts) if self.known(metric) else None for metric in METRICS}

    def known(self, metric: Metric) -> bool:
        """Whether both parts of `metric` were counted."""
        return self.complete or not CLIENT_COUNTS & {metric.numerator, metric.denominator}

    def all_counts(self) -> dict[str, int | None]:
        """Every count by name, derived ones too."""
        read = {
            c.name: self.counts[c.name] if self.complete or c.name not in CLIENT_COUNTS else None
            for c in COUNTS
        }
        derived = {name: self.counts[a] - self.counts[b] for name, (a, b, _) in DERIVED_COUNTS.items()}
        return read | derived

    def not_yet(self) -> list[str]:
        """The metrics that are null since nothing feeds them yet, or since this answer may not look that far."""
        values = self.metrics()
        return [m.name for m in METRICS if values[m.name] is None and not (m.fed and self.known(m))]

    def immature(self, window_end: datetime, as_of: datetime) -> list[str]:
        """The metrics that can still change by the rules."""
        undecided = as_of < window_end or (self.settled_at is not None and as_of < self.settled_at)
        open_until = {
            Maturity.WINDOW: as_of < window_end,
            Maturity.SETTLED: undecided,
            Maturity.DAYS_90: undecided or as_of < window_end + timedelta(days=90),
        }
        return [metric.name for metric in METRICS if open_until[metric.maturity]]
