"""One set of time zone data everywhere: the pinned package, not what a machine happens to have."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import turnout_common


def test_zones_come_from_the_pinned_package_only() -> None:
    assert turnout_common.__doc__
    assert zoneinfo.TZPATH == ()


def test_vancouver_keeps_daylight_time_from_november_2026() -> None:
    at = datetime(2026, 12, 1, 20, tzinfo=UTC)

    assert at.astimezone(ZoneInfo("America/Vancouver")).hour == 13
