"""A fact is a pure function of an entity's state and the tenant's settings: days, peaks, the grid, the notice window."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.integration.rollup_world import START, chain, fact, intent, message, record_of
from turnout_common import metrics
from turnout_common.clock import FixedClock, SystemClock
from turnout_common.consumer import Received
from turnout_common.events import from_headers
from turnout_rollup.facts import ChainFact, IntentFact, MessageFact, OtherFact, Rules, fact_of
from turnout_rollup.handlers import FactHandler, newest_versions

BERLIN = Rules("Europe/Berlin", "EUR", 24, 11, 19, 15)


def in_zone(zone: str) -> Rules:
    return Rules(zone, "EUR", 24, 11, 19, 15)


def chain_fact_of(rules: Rules = BERLIN, **state: Any) -> ChainFact:
    made = fact_of(chain("salon", **state), rules)
    assert isinstance(made, ChainFact)
    return made


@pytest.mark.parametrize(
    ("zone", "start", "day"),
    [
        ("Europe/Berlin", "2026-03-09T22:59:59+00:00", "2026-03-09"),
        ("Europe/Berlin", "2026-03-09T23:00:00+00:00", "2026-03-10"),
        # the day with 23 hours, and the one with 25
        ("Europe/Berlin", "2026-03-29T21:59:59+00:00", "2026-03-29"),
        ("Europe/Berlin", "2026-03-29T22:00:00+00:00", "2026-03-30"),
        ("Europe/Berlin", "2026-10-25T22:59:59+00:00", "2026-10-25"),
        ("Europe/Berlin", "2026-10-25T23:00:00+00:00", "2026-10-26"),
        ("Pacific/Niue", "2026-03-10T10:59:59+00:00", "2026-03-09"),
        ("Pacific/Niue", "2026-03-10T11:00:00+00:00", "2026-03-10"),
        ("Pacific/Kiritimati", "2026-03-09T09:59:59+00:00", "2026-03-09"),
        ("Pacific/Kiritimati", "2026-03-09T10:00:00+00:00", "2026-03-10"),
        ("Asia/Kathmandu", "2026-03-09T18:15:00+00:00", "2026-03-10"),
    ],
)
def test_day_is_the_local_date_of_the_start(zone: str, start: str, day: str) -> None:
    made = chain_fact_of(in_zone(zone), start_at=datetime.fromisoformat(start))

    assert made.day == date.fromisoformat(day)


@pytest.mark.parametrize(
    ("local", "off_peak"), [("10:59", True), ("11:00", False), ("18:59", False), ("19:00", True)]
)
@pytest.mark.parametrize("offset", ["2026-03-09T{}:00+01:00", "2026-07-09T{}:00+02:00"])
def test_off_peak_is_judged_on_the_wall_clock(local: str, off_peak: bool, offset: str) -> None:
    made = chain_fact_of(start_at=datetime.fromisoformat(offset.format(local)))

    assert made.off_peak is off_peak


@pytest.mark.parametrize(
    ("local", "on_grid"), [("12:00:00", True), ("12:45:00", True), ("12:05:00", False), ("12:00:01", False)]
)
def test_grid_is_judged_on_the_wall_clock(local: str, on_grid: bool) -> None:
    made = chain_fact_of(
        in_zone("Asia/Kathmandu"), start_at=datetime.fromisoformat(f"2026-03-09T{local}+05:45")
    )

    assert made.on_grid is on_grid


@pytest.mark.parametrize(("hours", "late"), [(23.99, True), (24, False), (-1, True)])
def test_cancelling_within_the_notice_window_is_late(hours: float, late: bool) -> None:
    made = chain_fact_of(cancelled_at=START - timedelta(hours=hours))

    assert made.late_cancel is late


@pytest.mark.parametrize(("currency", "own"), [(None, True), ("EUR", True), ("USD", False)])
def test_money_in_another_currency_is_told_apart(currency: str | None, own: bool) -> None:
    assert chain_fact_of(currency=currency, gross_minor=100).own_currency is own


def test_unmapped_staff_and_service_are_empty_words() -> None:
    made = chain_fact_of()

    assert (made.staff_id, made.service_id) == ("", "")


def test_intent_counts_on_the_day_it_was_opened() -> None:
    made = fact_of(intent("salon", opened_at=datetime(2026, 3, 9, 23, 30, tzinfo=UTC)), BERLIN)

    assert isinstance(made, IntentFact)
    assert made.day == date(2026, 3, 10)


def test_message_has_no_day_before_its_first_attempt() -> None:
    waiting = fact_of(message("salon", first_attempt_at=None, accepted_at=None), BERLIN)
    sent = fact_of(message("salon", first_attempt_at=START, accepted_at=START + timedelta(days=2)), BERLIN)

    assert isinstance(waiting, MessageFact) and isinstance(sent, MessageFact)
    assert (waiting.day, sent.day) == (None, date(2026, 3, 9))


def test_shift_counts_on_the_day_it_starts_and_not_when_it_was_planned() -> None:
    planned = START - timedelta(days=30)
    made = fact_of(
        fact("salon", "shift", at=planned, start_at=START, end_at=START + timedelta(hours=8)), BERLIN
    )

    assert isinstance(made, OtherFact)
    assert (made.day, made.clock_at) == (date(2026, 3, 9), START)


def test_same_state_gives_the_same_row_at_any_time() -> None:
    event = chain("salon", start_at=SystemClock().now() + timedelta(days=1))

    assert fact_of(event, BERLIN) == fact_of(event, BERLIN)


def test_highest_version_of_an_entity_is_kept_whatever_the_order() -> None:
    first = chain("salon", version=1)
    second = chain("salon", version=2, booking_id=first.entity_id)
    other = chain("salon", version=1)

    assert newest_versions([second, first, other, second]) == [second, other]


def received(happened: datetime, published: datetime) -> Received:
    event = chain("salon").model_copy(update={"occurred_at": happened})
    record = record_of(event, published)
    return Received(from_headers(record.headers), event, record)


def freshness_sum() -> float:
    return float(metrics.FRESHNESS._sum.get())


@pytest.mark.parametrize(
    ("happened_before", "published_before", "seconds"),
    [
        (3.0, 2.0, 3.0),  # live: since it happened
        (86_400.0, 2.0, 2.0),  # imported: since it was published
        (-30.0, 2.0, 2.0),  # the source's clock is ahead of ours
    ],
)
def test_freshness_is_measured_from_the_event_if_it_is_live_else_from_its_publishing(
    happened_before: float, published_before: float, seconds: float
) -> None:
    handler = FactHandler(FixedClock(START))
    happened, published = (START - timedelta(seconds=s) for s in (happened_before, published_before))
    handler._batch = [received(happened, published)]
    before = freshness_sum()

    handler.committed()

    assert freshness_sum() - before == pytest.approx(seconds)
    assert handler.freshness_seconds == published_before
