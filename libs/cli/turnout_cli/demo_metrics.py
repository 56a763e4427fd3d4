"""The metrics that true counts give, by the definitions of kpis.md. Pure."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

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
