"""Verification finds what is planted and names it; rebuild and the scheduled run mend it, online and resumable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.infrastructure import Database
from tests.integration.rollup_world import (
    Event,
    Rollup,
    chain,
    fact,
    intent,
    message,
    rollup_on,
    something_of_everything,
)
from turnout_common.ids import new_id
from turnout_common.tenants import UnknownTenant
from turnout_rollup import rebuild as rebuild_module
from turnout_rollup.rebuild import rebuild, rebuild_page
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


async def test_nothing_is_found_where_all_is_well(
    maintenance: asyncpg.Connection, salon: list[Event]
) -> None:
    report = await report_of(maintenance, salon)

    assert report.ok
    assert (report.tenants, report.facts) == (1, 7)


PLANTED: dict[str, tuple[str, dict[str, tuple[object, object]]]] = {
    "a fact's money": (
        "UPDATE rollup.chain_facts SET gross_minor = 1 WHERE tenant_id = $1 AND gross_minor = 5000",
        {"gross_minor": (5000, 1)},
    ),
    "a fact's day": (
        "UPDATE rollup.intent_facts SET day = day + 1 WHERE tenant_id = $1",
        {"day": ("2026-03-09", "2026-03-10")},
    ),
    "a fact's flag that hangs on settings": (
        "UPDATE rollup.chain_facts SET on_grid = false WHERE tenant_id = $1 AND gross_minor = 5000",
        {"on_grid": (True, False)},
    ),
    "a message's status": (
        "UPDATE rollup.message_facts SET status = 'dead' WHERE tenant_id = $1",
        {"status": ("accepted", "dead")},
    ),
    "a rating": (
        "UPDATE rollup.other_facts SET rating = 1 WHERE tenant_id = $1 AND rating = 4",
        {"rating": (4, 1)},
    ),
    "what a message does not have": (
        "UPDATE rollup.message_facts SET staff_id = 'ann', service_id = 'cut' WHERE tenant_id = $1",
        {"staff_id": ("", "ann"), "service_id": ("", "cut")},
    ),
    "what a rating does not have": (
        "UPDATE rollup.other_facts SET service_id = 'cut' WHERE tenant_id = $1",
        {"service_id": ("", "cut")},
    ),
    "a cell's sum": (
        "UPDATE rollup.chain_days SET net = net + 1 WHERE tenant_id = $1 AND net = 5000",
        {"net": (5000, 5001)},
    ),
    "a cell's settling": (
        "UPDATE rollup.other_days SET settled_at = '-infinity' WHERE tenant_id = $1",
        {"settled_at": ("2026-03-09T19:00:00+00:00", "-infinity")},
    ),
    "a cell of the messages": (
        "UPDATE rollup.message_days SET failed = 7 WHERE tenant_id = $1",
        {"failed": (0, 7)},
    ),
    "a cell of the intents": (
        "UPDATE rollup.intent_days SET closed = 0 WHERE tenant_id = $1",
        {"closed": (1, 0)},
    ),
}


@pytest.mark.parametrize("what", PLANTED)
async def test_planted_drift_is_found_and_named_and_rebuild_mends_it(
    rollup: Rollup, maintenance: asyncpg.Connection, salon: list[Event], what: str
) -> None:
    statement, fields = PLANTED[what]
    tenant_id = salon[0].tenant_id
    await rollup.admin.execute(statement, tenant_id)

    report = await report_of(maintenance, salon)

    assert not report.ok
    assert report.missing == []
    assert [drift.fields for drift in report.drift if drift.fields and fields.items() <= drift.fields.items()]
    name, (said, stored) = next(iter(fields.items()))
    assert any(f"{name} is {stored!r}, the log says {said!r}" in str(drift) for drift in report.drift)
    await rebuild(maintenance, tenant_id)
    assert (await report_of(maintenance, salon)).ok


async def test_lost_fact_is_missing_and_not_drift_and_rebuild_brings_it_back(
    rollup: Rollup, maintenance: asyncpg.Connection, tenant_id: str
) -> None:
    lost, kept = chain(tenant_id, staff_id="ann"), chain(tenant_id, staff_id="bob")
    await rollup.write_logs([lost, kept])
    await rollup.apply(kept)

    report = await verify(maintenance, tenant_id)

    assert report.drift == []
    assert [(m.id, m.version, m.applied_version) for m in report.missing] == [(lost.entity_id, 1, None)]
    assert str(report.missing[0]).endswith("the log has version 1, nothing was applied")
    assert await rebuild(maintenance, tenant_id) == 1
    assert (await verify(maintenance, tenant_id)).ok
    assert {staff for _, staff in await rollup.cells("chain", tenant_id)} == {"ann", "bob"}


async def test_newer_version_in_the_log_is_missing_while_the_applied_one_is_right(
    rollup: Rollup, maintenance: asyncpg.Connection, tenant_id: str
) -> None:
    first = message(tenant_id)
    second = message(tenant_id, 2, first.message_id, status="failed")
    await rollup.write_logs([first, second])
    await rollup.apply(first)

    report = await verify(maintenance, tenant_id)

    assert report.drift == []
    assert [(m.kind, m.version, m.applied_version) for m in report.missing] == [("message", 2, 1)]


async def test_fact_that_the_log_does_not_know_is_drift_and_rebuild_drops_it_with_its_cell(
    rollup: Rollup, maintenance: asyncpg.Connection, tenant_id: str
) -> None:
    await rollup.apply(chain(tenant_id), message(tenant_id), intent(tenant_id), fact(tenant_id, "feedback"))

    report = await verify(maintenance, tenant_id)

    facts = [drift for drift in report.drift if drift.id]
    assert sorted(drift.kind for drift in facts) == ["chain", "intent", "message", "other"]
    assert all(str(drift).endswith("the log has no such version") for drift in facts)
    assert await rebuild(maintenance, tenant_id) == 4
    assert (await verify(maintenance, tenant_id)).ok
    assert await rollup.cells("chain", tenant_id) == {}


async def test_fact_at_a_version_that_the_log_does_not_have_is_drift_and_rebuild_makes_it_the_logs(
    rollup: Rollup, maintenance: asyncpg.Connection, salon: list[Event]
) -> None:
    tenant_id = salon[0].tenant_id
    tables = [f"{kind}_facts" for kind in ("chain", "intent", "message", "other")]
    for table in tables:
        await rollup.admin.execute(
            f"UPDATE rollup.{table} SET version = version + 7 WHERE tenant_id = $1", tenant_id
        )

    report = await report_of(maintenance, salon)

    assert len([drift for drift in report.drift if drift.id and drift.fields is None]) == 7
    assert await rebuild(maintenance, tenant_id) == 7
    assert (await report_of(maintenance, salon)).ok


async def test_cell_without_facts_is_drift_and_rebuild_drops_it(
    rollup: Rollup, maintenance: asyncpg.Connection, salon: list[Event]
) -> None:
    tenant_id = salon[0].tenant_id
    await rollup.admin.execute(
        "UPDATE rollup.chain_days SET day = day + 300 WHERE tenant_id = $1 AND staff_id = 'bob'", tenant_id
    )

    report = await report_of(maintenance, salon)

    assert {(drift.kind, drift.staff_id) for drift in report.drift} == {("chain", "bob")}
    assert len(report.drift) == 2
    await rebuild(maintenance, tenant_id)
    assert (await report_of(maintenance, salon)).ok


async def test_rebuild_leaves_alone_what_is_right(
    rollup: Rollup, maintenance: asyncpg.Connection, salon: list[Event]
) -> None:
    query = "SELECT array_agg(xmin::text ORDER BY booking_id) FROM rollup.chain_facts WHERE tenant_id = $1"
    before = await rollup.admin.fetchval(query, salon[0].tenant_id)

    assert await rebuild(maintenance, salon[0].tenant_id) == 0

    assert await rollup.admin.fetchval(query, salon[0].tenant_id) == before


async def test_rebuild_that_was_cut_off_goes_on_and_tells_its_progress(
    rollup: Rollup, maintenance: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "PAGE", 3)
    events = [chain(tenant_id) for _ in range(8)]
    await rollup.write_logs(events)
    await rollup.apply(events[0])
    await rollup.admin.execute("DELETE FROM rollup.chain_facts WHERE tenant_id = $1", tenant_id)
    await rollup.admin.execute("INSERT INTO rollup.rebuilds (tenant_id) VALUES ($1)", tenant_id)

    await rebuild_page(maintenance, tenant_id)
    halfway = await rollup.admin.fetchval(
        "SELECT count(*) FROM rollup.chain_facts WHERE tenant_id = $1", tenant_id
    )
    told: list[tuple[int, int]] = []
    mended = await rebuild(
        maintenance, tenant_id, lambda done, total: told.append((done, total)), resume=True
    )

    assert (halfway, mended) == (3, 8)
    assert told[0] == (6, 8) and told[-1] == (8, 8)
    assert told == sorted(told)
    assert (await verify(maintenance, tenant_id)).ok


async def test_rebuild_of_a_tenant_that_nobody_knows_is_refused(maintenance: asyncpg.Connection) -> None:
    with pytest.raises(UnknownTenant, match="'nobody'"):
        await rebuild(maintenance, "nobody")


async def test_newer_version_that_comes_during_a_rebuild_wins(
    rollup: Rollup, database: Database, maintenance: asyncpg.Connection, tenant_id: str
) -> None:
    entities = [new_id() for _ in range(50)]
    history = [
        chain(tenant_id, version, entity, gross_minor=version)
        for version in range(1, 20)
        for entity in entities
    ]
    by_version = [history[start : start + 50] for start in range(0, len(history), 50)]

    async def live() -> None:
        for events in by_version:
            await rollup.write_logs(events)
            await rollup.apply(*events)

    async def rebuilding() -> None:
        while not done.is_set():
            await rebuild(maintenance, tenant_id)
            await asyncio.sleep(0)

    done = asyncio.Event()
    task = asyncio.create_task(rebuilding())
    await live()
    done.set()
    await task

    assert (await verify(maintenance, tenant_id)).ok
    assert (await rollup.cell("chain", tenant_id))["gross"] == 50 * 19
