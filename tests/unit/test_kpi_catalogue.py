"""The catalogue of KPIs, its rounding, and what is generated from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout_kpi_api.documents import documents
from turnout_kpi_api.kpis import COUNTS, DERIVED_COUNTS, METRICS, Clock, Figures, Metric, Source
from turnout_kpi_api.settings import KpiApiSettings

#: The names of the definitions that all services agree on.
NAMES = [
    "bookingSuccessRate",
    "bookingAutomationRate",
    "adminInterventionRate",
    "meanTimeToResolveIntentSec",
    "noShowRate",
    "cancellationRate",
    "lateCancellationRate",
    "rescheduleRate",
    "completionRate",
    "utilizationRate",
    "offPeakShare",
    "offPeakShiftRate",
    "gridAlignmentRate",
    "leadTimeHours",
    "repeatVisitRate",
    "rebookingRate",
    "firstTimeRetention90",
    "newClients",
    "avgTicket",
    "revenueGross",
    "revenueNet",
    "goodsRevenueNet",
    "reminderDeliveryRate",
    "reminderCoverage",
    "messageDeliveryRate",
    "messageFailureRate",
    "deadLetterRate",
    "feedbackAvg",
    "feedbackCoverage",
    "inventoryVariancePct",
]
NOTHING = {count.name: 0 for count in COUNTS}
METRIC = {metric.name: metric for metric in METRICS}
END = datetime(2026, 11, 25, tzinfo=UTC)
SOURCES = {
    Clock.INTENT: {Source.INTENTS},
    Clock.APPOINTMENT: {Source.CHAINS, Source.CLIENTS, Source.UTILISATION},
    Clock.EVENT: {Source.MESSAGES, Source.OTHER},
}


def value(name: str, **counts: int) -> float | int | None:
    return METRIC[name].value(NOTHING | counts)


def test_every_metric_is_there_once() -> None:
    assert [metric.name for metric in METRICS] == NAMES
    assert len({count.name for count in COUNTS} | DERIVED_COUNTS.keys()) == len(COUNTS) + len(DERIVED_COUNTS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_both_parts_of_a_metric_follow_its_one_clock(metric: Metric) -> None:
    source = {count.name: count.source for count in COUNTS}
    parts = [metric.numerator] if metric.denominator is None else [metric.numerator, metric.denominator]

    assert {source[part] for part in parts} <= SOURCES[metric.clock]


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (None, value("noShowRate")),
        (0.0, value("noShowRate", due=3)),
        (33.3, value("noShowRate", noShows=1, due=3)),
        (66.7, value("noShowRate", noShows=2, due=3)),
        (12.5, value("noShowRate", noShows=1, due=8)),
        (6.3, value("noShowRate", noShows=1, due=16)),  # 6.25: half goes up, as in SQL
        (150.0, value("utilizationRate", serviceMinutes=90, rosteredMinutes=60)),
        (1.5, value("leadTimeHours", leadSeconds=3 * 3600, booked=2)),
        (90.0, value("meanTimeToResolveIntentSec", resolveSeconds=180, resolvedIntents=2)),
        (4.67, value("feedbackAvg", ratingSum=14, ratings=3)),
        (4333, value("avgTicket", visitsNet=13_000, visits=3)),
        (-200, value("revenueNet", visitsNet=-200)),
        (0, value("newClients")),
    ],
)
def test_values_are_rounded_once_and_never_divided_by_nothing(
    expected: float | int | None, actual: float | int | None
) -> None:
    assert actual == expected


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_rate_is_within_half_a_step_of_the_exact_one(top: int, bottom: int) -> None:
    rounded = value("cancellationRate", cancelled=top, booked=bottom)

    assert rounded is not None
    assert abs(rounded - 100 * top / bottom) <= 0.05 + 1e-9 * top


def test_what_nothing_feeds_is_listed_only_while_it_is_null() -> None:
    assert Figures(NOTHING, None).not_yet() == [
        "offPeakShiftRate",
        "reminderDeliveryRate",
        "messageDeliveryRate",
    ]
    assert "messageDeliveryRate" not in Figures(NOTHING | {"messagesReceipted": 1}, None).not_yet()


def test_who_sees_one_member_of_staff_gets_no_client_metrics_and_is_told() -> None:
    figures = Figures(NOTHING | {"visits": 4}, None, complete=False)

    clients = ["repeatVisitRate", "rebookingRate", "firstTimeRetention90", "newClients"]
    assert [name for name in clients if figures.metrics()[name] is None] == clients
    assert set(clients) <= set(figures.not_yet())
    assert figures.all_counts()["clients"] is None
    assert figures.metrics()["completionRate"] is None and "completionRate" not in figures.not_yet()


def test_maturity_follows_the_rules() -> None:
    late = END + timedelta(hours=3)

    assert Figures(NOTHING, late).immature(END, END - timedelta(seconds=1)) == NAMES
    assert "noShowRate" in Figures(NOTHING, late).immature(END, END)
    assert "cancellationRate" not in Figures(NOTHING, late).immature(END, END)
    assert Figures(NOTHING, late).immature(END, late) == ["firstTimeRetention90"]
    assert Figures(NOTHING, None).immature(END, END + timedelta(days=90)) == []


def test_generated_documents_are_fresh() -> None:
    for path, text in documents().items():
        assert path.read_text(encoding="utf-8") == text, f"stale: run `turnout contracts generate` ({path})"


@pytest.mark.parametrize(
    ("env", "host", "require_token", "is_open"),
    [
        ("development", "127.0.0.1", None, True),
        ("development", "localhost", None, True),
        ("development", "::1", False, True),
        ("development", "127.0.0.1", True, False),
        ("development", "0.0.0.0", None, False),
        ("production", "127.0.0.1", None, False),
        ("production", "127.0.0.1", True, False),
    ],
)
def test_the_demo_is_open_in_development_on_loopback_only(
    env: str, host: str, require_token: bool | None, is_open: bool
) -> None:
    assert _settings(env, host, require_token).demo_is_open is is_open


@pytest.mark.parametrize(("env", "host"), [("production", "127.0.0.1"), ("development", "0.0.0.0")])
def test_a_start_with_authentication_off_is_refused(env: str, host: str) -> None:
    with pytest.raises(ValueError, match="TURNOUT_REQUIRE_TOKEN=false"):
        _settings(env, host, False)


def _settings(env: str, host: str, require_token: bool | None) -> KpiApiSettings:
    return KpiApiSettings.model_validate(
        {"env": env, "http_host": host, "require_token": require_token, "postgres_dsn": "postgresql://x"}
    )
