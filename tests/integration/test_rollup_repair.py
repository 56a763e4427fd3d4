"""What makes facts anew by itself: changed settings, and the scheduled run that mends what drifted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from tests.infrastructure import Database
from tests.integration.rollup_world import Event, Rollup, chain, message, rollup_on, something_of_everything
from turnout_common.clock import FixedClock, SystemClock
from turnout_rollup.repair import Granularity, run
from turnout_rollup.rules_watch import RulesWatch
from turnout_rollup.verify import Report, verify


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    async with rollup_on(database) as started:
        yield started


@pytest.fixture(scope="module")
async def maintenance(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.dsn("maintenance"))
    yield connection
    await connection.close()


@pytest.fixture
async def salon(rollup: Rollup, tenant_id: str) -> list[Event]:
    """A tenant with something of everything, in the logs and applied."""
    events = something_of_everything(tenant_id)
    await rollup.write_logs(events)
    await rollup.apply(*events)
    return events


async def report_of(maintenance: asyncpg.Connection, events: list[Event]) -> Report:
    return await verify(maintenance, events[0].tenant_id)


async def test_changed_settings_are_outdated_until_the_watch_has_made_the_facts_anew(
    rollup: Rollup, maintenance: asyncpg.Connection, salon: list[Event]
) -> None:
    tenant_id = salon[0].tenant_id
    await rollup.admin.execute(
        "UPDATE platform.tenants SET timezone = 'Pacific/Kiritimati', currency = 'USD',"
        ' settings = \'{"off_peak_before": 20, "notice_hours": 0}\' WHERE tenant_id = $1',
        tenant_id,
    )

    report = await report_of(maintenance, salon)
    rebuilt = await RulesWatch(rollup.pool, 30).check()

    assert report.outdated == [tenant_id]
    assert rebuilt >= 1
    assert (await report_of(maintenance, salon)).ok
    cells = await rollup.cells("chain", tenant_id)
    assert {day.day for day, _ in cells} == {10, 11}
    assert sum(cell["late_cancelled"] for cell in cells.values()) == 0
    assert sum(cell["off_peak"] for cell in cells.values()) == 3


async def test_consumer_goes_on_by_the_old_settings_until_the_new_ones_are_in_force(
    rollup: Rollup, tenant_id: str
) -> None:
    await rollup.apply(chain(tenant_id))
    await rollup.admin.execute(
        "UPDATE platform.tenants SET timezone = 'Pacific/Kiritimati' WHERE tenant_id = $1", tenant_id
    )

    await rollup.apply(chain(tenant_id))
    before = await rollup.cell("chain", tenant_id)
    await RulesWatch(rollup.pool, 30).check()
    await rollup.apply(chain(tenant_id))

    assert before["booked"] == 2
    assert {day.day for day, _ in await rollup.cells("chain", tenant_id)} == {10}


@pytest.mark.parametrize("granularity", ["hourly", "daily"])
async def test_run_mends_the_recent_window_fails_for_it_and_passes_afterwards(
    rollup: Rollup, maintenance: asyncpg.Connection, tenant_id: str, granularity: Granularity
) -> None:
    now = SystemClock().now()
    kept, lost = chain(tenant_id, start_at=now, gross_minor=5000), chain(tenant_id, start_at=now)
    sent = message(tenant_id, first_attempt_at=now)
    await rollup.write_logs([kept, lost, sent])
    await rollup.apply(kept, sent)
    await rollup.admin.execute(
        "UPDATE rollup.chain_facts SET gross_minor = 1 WHERE tenant_id = $1", tenant_id
    )
    await rollup.admin.execute("UPDATE rollup.message_days SET failed = 7 WHERE tenant_id = $1", tenant_id)
    clock = FixedClock(now + timedelta(minutes=10))

    first = await run(maintenance, granularity, tenant_id, clock=clock)
    second = await run(maintenance, granularity, tenant_id, clock=clock)

    assert not first.ok and first.left.ok
    assert [missing.id for missing in first.found.missing] == [lost.entity_id]
    assert {(drift.kind, drift.id) for drift in first.found.drift} >= {
        ("chain", kept.entity_id),
        ("message", None),
    }
    assert second.ok
    noted = await rollup.admin.fetch(
        "SELECT missing, left_over FROM rollup.runs WHERE granularity = $1 ORDER BY run_id DESC LIMIT 2",
        granularity,
    )
    assert [tuple(row) for row in noted] == [(0, 0), (1, 0)]


async def test_run_leaves_alone_what_is_still_on_its_way(
    rollup: Rollup, maintenance: asyncpg.Connection, tenant_id: str
) -> None:
    await rollup.write_logs([chain(tenant_id)])

    result = await run(maintenance, "hourly", tenant_id)

    assert result.ok
    assert await rollup.cells("chain", tenant_id) == {}


async def test_tenant_with_a_broken_configuration_is_named_and_stops_nobody(
    rollup: Rollup, maintenance: asyncpg.Connection, salon: list[Event]
) -> None:
    tenant_id = salon[0].tenant_id
    await rollup.admin.execute(
        "UPDATE platform.tenants SET timezone = 'Mars/Olympus' WHERE tenant_id = $1", tenant_id
    )
    try:
        await RulesWatch(rollup.pool, 30).check()
        await rollup.apply(chain(tenant_id))

        assert (await report_of(maintenance, salon)).outdated == [tenant_id]
        assert sum(cell["facts"] for cell in (await rollup.cells("chain", tenant_id)).values()) == 4
    finally:
        await rollup.admin.execute(
            "UPDATE platform.tenants SET timezone = 'Europe/Berlin' WHERE tenant_id = $1", tenant_id
        )
