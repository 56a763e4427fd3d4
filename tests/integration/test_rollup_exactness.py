"""Cells equal the truth whatever comes: any order, copies, old versions, several consumers at once (design §2.5)."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.rollup_histories import KINDS, random_history, shuffled
from tests.integration.rollup_oracle import heads, summed_up
from tests.integration.rollup_world import START, Event, Rollup, chain, intent, record_of, rollup_on
from turnout_common.events import MessageEvent
from turnout_common.ids import new_id
from turnout_common.tenants import create_tenant
from turnout_rollup import store
from turnout_rollup.facts import fact_of
from turnout_rollup.store import write_facts
from turnout_rollup.tenant_rules import share_rules
from turnout_rollup.verify import verify

RUNS = int(os.environ.get("TURNOUT_PROPERTY_RUNS", "12"))


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    async with rollup_on(database) as started:
        yield started


@pytest.fixture
async def two_tenants(database: Database) -> dict[str, str]:
    """Tenants on both sides of the date line, and their zones."""
    zones = {f"t{os.urandom(6).hex()}": zone for zone in ("Pacific/Niue", "Pacific/Kiritimati")}
    connection = await asyncpg.connect(database.dsn("platform"))
    for tenant_id, zone in zones.items():
        await create_tenant(connection, MASTER_KEY, tenant_id, zone, actor="test")
    await connection.close()
    return zones


async def cells_of(rollup: Rollup, kind: str, tenants: list[str]) -> dict[Any, dict[str, int]]:
    found = {}
    for tenant_id in tenants:
        for (day, staff), cell in (await rollup.cells(kind, tenant_id)).items():
            del cell["settled_at"]
            found[tenant_id, day, staff] = cell
    return found


@pytest.mark.parametrize("seed", range(RUNS))
async def test_two_consumers_of_a_shuffled_and_duplicated_history_end_at_the_truth(
    rollup: Rollup, database: Database, two_tenants: dict[str, str], seed: int
) -> None:
    dice = random.Random(seed)
    events = random_history(dice, list(two_tenants), entities=60)
    batches = shuffled(dice, events)
    halves = (batches[::2], batches[1::2])

    async def consume(consumer: Rollup, mine: list[list[Event]]) -> None:
        for batch in mine:
            await consumer.apply(*batch)

    async with rollup_on(database) as second:
        await asyncio.gather(consume(rollup, halves[0]), consume(second, halves[1]))

    expected = summed_up(events, two_tenants)
    for kind in KINDS:
        assert await cells_of(rollup, kind, list(two_tenants)) == expected[kind], kind
    await rollup.write_logs(events)
    connection = await asyncpg.connect(database.dsn("maintenance"))
    for tenant_id in two_tenants:
        report = await verify(connection, tenant_id)
        assert (report.drift, report.missing) == ([], [])
    await connection.close()


async def test_old_version_never_overwrites_a_newer_one(rollup: Rollup, tenant_id: str) -> None:
    entity = new_id()

    await rollup.apply(chain(tenant_id, 3, entity, gross_minor=300))
    await rollup.apply(chain(tenant_id, 2, entity, gross_minor=200))
    await rollup.apply(chain(tenant_id, 3, entity, gross_minor=999))

    assert (await rollup.cell("chain", tenant_id))["gross"] == 300
    assert await rollup.admin.fetchval(
        "SELECT version FROM rollup.chain_facts WHERE booking_id = $1", entity
    ) == 3  # fmt: skip


async def test_record_delivered_twice_counts_once(rollup: Rollup, tenant_id: str) -> None:
    record = record_of(chain(tenant_id))
    consumer = rollup.consumers["booking_events"]
    before = consumer.applied

    await consumer.process([record, record])
    await consumer.process([record])

    assert (await rollup.cell("chain", tenant_id))["booked"] == 1
    assert consumer.applied == before + 1


async def test_change_counter_grows_with_each_batch_that_changes_something(
    rollup: Rollup, tenant_id: str
) -> None:
    async def counter() -> int | None:
        return await rollup.admin.fetchval(  # type: ignore[no-any-return]
            "SELECT counter FROM rollup.tenant_changes WHERE tenant_id = $1", tenant_id
        )

    event = chain(tenant_id, 2)
    await rollup.apply(event, intent(tenant_id))
    first = await counter()
    await rollup.apply(chain(tenant_id, 1, event.entity_id))
    unchanged = await counter()
    await rollup.apply(chain(tenant_id, 3, event.entity_id))

    assert (first, unchanged, await counter()) == (1, 1, 2)


async def overlapping(rollup: Rollup, first: Event, second: Event) -> None:
    """Two consumers at once: the first has written everything and not committed when the second begins."""
    await rollup.apply(
        intent(first.tenant_id)
    )  # so that they do not wait for each other at the tenant's first rules
    async with rollup.pool.acquire() as connection, connection.transaction():
        rules = await share_rules(connection, {first.tenant_id})
        await write_facts(connection, [fact_of(first, rules[first.tenant_id])])
        other = asyncio.create_task(rollup.apply(second))
        await _until_blocked(rollup)
        assert not other.done()
    await other


async def _until_blocked(rollup: Rollup) -> None:
    for _ in range(200):
        if await rollup.admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the second consumer did not wait for the first")


async def test_first_versions_of_one_new_entity_at_once_count_once(rollup: Rollup, tenant_id: str) -> None:
    entity = new_id()

    await overlapping(
        rollup, chain(tenant_id, 1, entity), chain(tenant_id, 2, entity, start_at=START + timedelta(days=1))
    )
    cells = await rollup.cells("chain", tenant_id)

    assert {day: cell["facts"] for (day, _), cell in cells.items()} == {(START + timedelta(days=1)).date(): 1}


async def test_first_facts_of_one_new_day_at_once_are_both_in_its_cell(
    rollup: Rollup, tenant_id: str
) -> None:
    await overlapping(rollup, chain(tenant_id), chain(tenant_id))

    assert (await rollup.cell("chain", tenant_id))["booked"] == 2


async def test_without_the_lock_on_the_day_one_of_two_facts_would_be_lost(
    rollup: Rollup, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(store.SQL, "lock_days", "SELECT $1::text, $2::text[], $3::date[]")

    await overlapping(rollup, chain(tenant_id), chain(tenant_id))

    assert (await rollup.cell("chain", tenant_id))["booked"] == 1


async def test_consumers_of_overlapping_batches_in_opposite_orders_never_deadlock(
    rollup: Rollup, database: Database, tenant_id: str
) -> None:
    entities = [new_id() for _ in range(40)]
    async with rollup_on(database) as second:
        before = await _deadlocks(rollup)
        for version in range(1, 12):
            forward = [_nth(tenant_id, version, n, entity) for n, entity in enumerate(entities)]
            backward = [_nth(tenant_id, version, n, entity) for n, entity in enumerate(reversed(entities))]
            await asyncio.gather(rollup.apply(*forward), second.apply(*backward[::-1]))
        after = await _deadlocks(rollup)
    cells = await rollup.cells("chain", tenant_id)

    assert sum(cell["facts"] for cell in cells.values()) == len(entities)
    assert after == before


def _nth(tenant_id: str, version: int, number: int, entity: UUID) -> Event:
    return chain(tenant_id, version, entity, start_at=START + timedelta(days=(number * version) % 9))


async def _deadlocks(rollup: Rollup) -> int:
    await rollup.admin.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    return int(
        await rollup.admin.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
    )


async def test_event_of_a_tenant_that_nobody_knows_is_dead_lettered_and_its_neighbours_count(
    rollup: Rollup, tenant_id: str
) -> None:
    stranger = chain("nobody-knows-me")

    await rollup.apply(chain(tenant_id), stranger, chain(tenant_id))

    assert (await rollup.cell("chain", tenant_id))["booked"] == 2
    assert await rollup.admin.fetchval(
        "SELECT reason FROM rollup.dead_letters WHERE record_id = $1", stranger.event_id
    ) == "UnknownTenant: no tenant 'nobody-knows-me'"  # fmt: skip


async def test_event_of_a_deleted_tenant_is_ignored_and_noted(rollup: Rollup, tenant_id: str) -> None:
    await rollup.admin.execute(
        "UPDATE platform.tenants SET status = 'deleted' WHERE tenant_id = $1", tenant_id
    )
    event = chain(tenant_id)

    await rollup.apply(event)

    assert await rollup.cells("chain", tenant_id) == {}
    assert await rollup.admin.fetchval(
        "SELECT outcome FROM rollup.applied WHERE record_id = $1", event.event_id
    ) == "ignored"  # fmt: skip


def test_the_oracle_knows_every_version() -> None:
    events = random_history(random.Random(1), ["a"], 50)
    newest = heads(events)

    assert len(newest) == 50
    assert {type(e) for e in newest} >= {MessageEvent}
