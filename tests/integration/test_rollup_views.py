"""The views for internal consumers: KPIs by period, in the salon's own hours and days."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.infrastructure import Database
from tests.integration.rollup_world import HOUR, START, Rollup, chain, fact, intent, message, rollup_on

MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    async with rollup_on(database) as started:
        yield started


async def test_views_show_the_kpis_of_each_period(rollup: Rollup, tenant_id: str) -> None:
    await rollup.apply(
        chain(tenant_id, staff_id="ann", gross_minor=5000),
        chain(tenant_id, staff_id="bob", status="no_show", no_show=True),
        chain(tenant_id, staff_id="bob", status="cancelled", cancelled_at=START - HOUR),
        chain(tenant_id, start_at=START + 5 * HOUR),
        intent(tenant_id, confirmed_at=START + HOUR),
        intent(tenant_id),
        message(tenant_id, status="failed", accepted_at=None),
        fact(tenant_id, "feedback", rating=4),
        fact(tenant_id, "feedback", rating=5),
    )
    rows = await rollup.admin.fetch("SELECT * FROM rollup.kpi_rollup WHERE tenant_id = $1", tenant_id)
    found = {(r["granularity"], r["period_start"]): (r["period_end"], json.loads(r["metrics"])) for r in rows}

    midnight = datetime(2026, 3, 8, 23, tzinfo=UTC)
    end, day = found["daily", midnight]
    assert end == midnight + 24 * HOUR
    assert day["noShowRate"] == {"value": pytest.approx(100 / 3), "numerator": 1, "denominator": 3}
    assert day["cancellationRate"] == {"value": 25, "numerator": 1, "denominator": 4}
    assert day["revenueNet"] == {"value": 5000, "numerator": 5000}
    assert day["avgTicket"] == {"value": 2500, "numerator": 5000, "denominator": 2}
    assert day["bookingSuccessRate"] == {"value": 50, "numerator": 1, "denominator": 2}
    assert day["openIntents"]["value"] == 0
    assert day["messageFailureRate"]["value"] == 100
    assert day["messageDeliveryRate"] == {"value": None, "numerator": 0, "denominator": 0}
    assert day["feedbackAvg"] == {"value": 4.5, "numerator": 9, "denominator": 2}
    assert day["leadTimeHours"]["value"] == 24
    assert found["hourly", START][0] == START + HOUR
    assert found["hourly", START][1]["noShowRate"] == {"value": 50, "numerator": 1, "denominator": 2}
    assert found["hourly", START + 5 * HOUR][1]["noShowRate"] == {
        "value": 0,
        "numerator": 0,
        "denominator": 1,
    }
    assert {"hourly", "daily", "weekly", "monthly"} == {granularity for granularity, _ in found}


async def test_staff_view_adds_up_to_the_salons(rollup: Rollup, tenant_id: str) -> None:
    for hours, staff in enumerate(["ann", "bob", None, "ann"]):
        await rollup.apply(chain(tenant_id, staff_id=staff, start_at=START + hours * HOUR, gross_minor=100))
    rows = await rollup.admin.fetch(
        "SELECT staff_id, metrics FROM rollup.staff_kpi_rollup WHERE tenant_id = $1 AND granularity = 'daily'",
        tenant_id,
    )
    whole = await rollup.admin.fetchval(
        "SELECT metrics FROM rollup.kpi_rollup WHERE tenant_id = $1 AND granularity = 'daily'", tenant_id
    )

    by_staff = {row["staff_id"]: json.loads(row["metrics"])["revenueNet"]["value"] for row in rows}
    assert by_staff == {"ann": 200, "bob": 100, "": 100}
    assert json.loads(whole)["revenueNet"]["value"] == 400


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-28T23:00:00+00:00", 23), ("2026-10-24T22:00:00+00:00", 25)]
)
async def test_daily_period_of_the_view_is_as_long_as_the_salons_day(
    rollup: Rollup, tenant_id: str, day: str, hours: int
) -> None:
    midnight = datetime.fromisoformat(day)
    last = midnight + hours * HOUR - MICROSECOND

    await rollup.apply(*(chain(tenant_id, start_at=at) for at in (midnight, last)))
    rows = await rollup.admin.fetch(
        "SELECT * FROM rollup.kpi_rollup WHERE tenant_id = $1 AND granularity = 'daily'", tenant_id
    )

    assert [(row["period_start"], row["period_end"]) for row in rows] == [(midnight, midnight + hours * HOUR)]


async def test_hour_that_comes_twice_is_two_hours(rollup: Rollup, tenant_id: str) -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)

    await rollup.apply(*(chain(tenant_id, start_at=at) for at in (first, first + HOUR)))
    starts = await rollup.admin.fetch(
        "SELECT period_start FROM rollup.kpi_rollup WHERE tenant_id = $1 AND granularity = 'hourly' ORDER BY 1",
        tenant_id,
    )

    assert [row["period_start"] for row in starts] == [datetime(2026, 10, 25, h, tzinfo=UTC) for h in (0, 1)]
