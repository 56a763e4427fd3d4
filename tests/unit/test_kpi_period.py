"""Windows of local days against a walk over the zone's own clock, hour by hour."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout_kpi_api.period import MAX_DAYS, Period, PeriodError, Window, day_start, resolve

BERLIN = ZoneInfo("Europe/Berlin")
FROM = datetime(2005, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)
#: The ends of the calendar, zones with odd offsets, zones whose clocks jump at midnight.
ZONES = [
    "Pacific/Pago_Pago",  # UTC-11
    "Pacific/Kiritimati",  # UTC+14
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",  # UTC+5:45
    "Australia/Lord_Howe",  # half an hour of summer time
    "Africa/Cairo",  # jumps from 00:00 to 01:00, falls back from 24:00 to 23:00
    "Asia/Beirut",  # both at midnight
    "America/Havana",  # 00:00 comes twice
    "America/Santiago",
    "Pacific/Apia",
    "UTC",
]
days = st.dates(date(2005, 1, 1), date(2035, 12, 31))
zones = st.sampled_from(ZONES).map(ZoneInfo)


def first_instant(day: date, zone: ZoneInfo) -> datetime:
    """By walking a quarter of an hour at a time: the first instant whose local date is `day` or later."""
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=30)
    while at.astimezone(zone).date() < day:
        at += timedelta(minutes=15)
    return at


@given(days, zones)
def test_a_day_begins_where_the_zones_own_clock_says(day: date, zone: ZoneInfo) -> None:
    assert day_start(day, zone) == first_instant(day, zone)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("Africa/Cairo", date(2026, 4, 24), 23),
        ("Africa/Cairo", date(2026, 10, 29), 25),
        ("America/Havana", date(2024, 11, 3), 25),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Pacific/Apia", date(2011, 12, 30), 0),
        ("Pacific/Kiritimati", date(2026, 11, 24), 24),
    ],
)
def test_days_of_another_length(zone: str, day: date, hours: float) -> None:
    window = Window(Period.DAY, day, day, ZoneInfo(zone))

    assert window.end - window.start == timedelta(hours=hours)


def test_a_jump_before_midnight_is_found_to_the_second() -> None:
    # Toronto's clock went from 23:30 to 00:30 on 30 March 1919: that day began at 00:30.
    start = day_start(date(1919, 3, 31), ZoneInfo("America/Toronto"))

    assert start.astimezone(ZoneInfo("America/Toronto")).isoformat() == "1919-03-31T00:30:00-04:00"


@given(
    st.integers(0, 30 * 365 * 24 * 60).map(lambda minutes: FROM + timedelta(minutes=minutes)),
    zones,
    st.sampled_from(["day", "week", "month"]),
)
def test_the_current_window_holds_now(now: datetime, zone: ZoneInfo, name: str) -> None:
    window = resolve(Period(name), None, None, zone, now)

    assert window.start <= now < window.end
    assert window.first <= now.astimezone(zone).date() <= window.last


@given(days, st.integers(0, MAX_DAYS - 1), zones)
def test_the_previous_window_is_as_long_and_touches(first: date, more: int, zone: ZoneInfo) -> None:
    window = resolve(None, first, first + timedelta(days=more), zone, NOW)

    previous = window.previous()

    assert previous.days == window.days == more + 1
    assert previous.end == window.start
    assert previous.last + timedelta(days=1) == window.first


@given(days, st.integers(1, 40), zones)
def test_days_side_by_side_fill_the_window(first: date, count: int, zone: ZoneInfo) -> None:
    window = resolve(None, first, first + timedelta(days=count - 1), zone, NOW)
    singles = [
        Window(Period.DAY, first + timedelta(days=n), first + timedelta(days=n), zone) for n in range(count)
    ]

    assert singles[0].start == window.start and singles[-1].end == window.end
    assert all(a.end == b.start for a, b in pairwise(singles))


@given(days, zones)
def test_a_week_is_the_iso_week_and_a_month_the_calendar_month(day: date, zone: ZoneInfo) -> None:
    week = resolve(Period.WEEK, day, None, zone, NOW)
    month = resolve(Period.MONTH, day, None, zone, NOW)

    assert week.first.isocalendar()[:2] == day.isocalendar()[:2] == week.last.isocalendar()[:2]
    assert (week.first.isoweekday(), week.last.isoweekday()) == (1, 7)
    assert (month.first.day, (month.last + timedelta(days=1)).day) == (1, 1)
    assert month.first <= day <= month.last and month.days <= 31


def test_today_is_the_tenants_today_not_the_servers() -> None:
    assert resolve(None, None, None, ZoneInfo("Pacific/Kiritimati"), NOW).first == date(2026, 11, 25)
    assert resolve(None, None, None, ZoneInfo("Pacific/Pago_Pago"), NOW).first == date(2026, 11, 24)


def test_both_dates_are_taken_as_they_are_and_named_honestly() -> None:
    exact = resolve(Period.WEEK, date(2026, 11, 23), date(2026, 11, 29), BERLIN, NOW)
    other = resolve(Period.WEEK, date(2026, 11, 24), date(2026, 11, 30), BERLIN, NOW)
    unnamed = resolve(None, date(2026, 11, 24), date(2026, 11, 24), BERLIN, NOW)

    assert (exact.period, other.period, unnamed.period) == (Period.WEEK, Period.CUSTOM, Period.CUSTOM)
    assert (other.first, other.last) == (date(2026, 11, 24), date(2026, 11, 30))


@pytest.mark.parametrize(
    ("first", "last", "where"),
    [
        (None, date(2026, 1, 1), "from"),
        (date(2026, 1, 2), date(2026, 1, 1), "to"),
        (date(2026, 1, 1), date(2026, 1, 1) + timedelta(days=MAX_DAYS), "to"),
        (date(1, 1, 1), None, "from"),
        (date.max, None, "from"),
        (date(2026, 1, 1), date.max, "to"),
    ],
)
def test_a_window_that_does_not_exist_is_refused_by_its_parameter(
    first: date | None, last: date | None, where: str
) -> None:
    with pytest.raises(PeriodError) as caught:
        resolve(None, first, last, BERLIN, NOW)

    assert caught.value.parameter == where


def test_the_longest_window_is_allowed() -> None:
    last = date(2026, 1, 1) + timedelta(days=MAX_DAYS - 1)

    assert resolve(None, date(2026, 1, 1), last, BERLIN, NOW).days == MAX_DAYS
