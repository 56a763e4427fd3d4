"""All who make facts at a time make them by the same rules: a change waits for them, and they for a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.infrastructure import Database
from tests.integration.probe import until
from tests.integration.rollup_world import START, Rollup, chain, rollup_on
from turnout_common.postgres import is_transient
from turnout_rollup.facts import RULES_REVISION
from turnout_rollup.tenant_rules import NewerRulesInForce, adopt_rules, share_rules, tenants_with_new_rules

FAR_EAST = "Pacific/Kiritimati"


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    async with rollup_on(database) as started:
        yield started


async def move(rollup: Rollup, tenant_id: str) -> None:
    """To where START is the next day already."""
    await rollup.admin.execute(
        "UPDATE platform.tenants SET timezone = $2 WHERE tenant_id = $1", tenant_id, FAR_EAST
    )


async def until_one_waits(rollup: Rollup) -> None:
    query = (
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
    )

    async def waits() -> bool:
        return bool(await rollup.admin.fetchval(query))

    await until(waits, "a session that waits for the rules")


async def test_a_change_of_rules_waits_for_the_batches_that_use_the_old_ones(
    rollup: Rollup, tenant_id: str
) -> None:
    await rollup.apply(chain(tenant_id))
    await move(rollup, tenant_id)
    async with rollup.pool.acquire() as batch, rollup.pool.acquire() as change:
        async with batch.transaction():
            await share_rules(batch, [tenant_id])
            adopted = asyncio.create_task(adopt_rules(change, tenant_id))
            await until_one_waits(rollup)
            assert not adopted.done()
        assert await adopted


async def test_a_batch_waits_for_a_change_of_rules_and_makes_its_facts_by_the_new_ones(
    rollup: Rollup, tenant_id: str
) -> None:
    await rollup.apply(chain(tenant_id))
    await move(rollup, tenant_id)
    late = chain(tenant_id)
    async with rollup.pool.acquire() as change:
        async with change.transaction():
            await adopt_rules(change, tenant_id)
            applied = asyncio.create_task(rollup.apply(late))
            await until_one_waits(rollup)
        await applied

    day = "SELECT day FROM rollup.chain_facts WHERE tenant_id = $1 AND booking_id = $2"
    assert await rollup.admin.fetchval(day, tenant_id, late.entity_id) > START.date()


async def test_a_build_of_older_rules_makes_no_facts_and_takes_no_newer_rules_back(
    rollup: Rollup, tenant_id: str
) -> None:
    await rollup.apply(chain(tenant_id))
    await rollup.admin.execute(
        "UPDATE rollup.tenant_settings SET rules_revision = $2 WHERE tenant_id = $1",
        tenant_id,
        RULES_REVISION + 1,
    )
    await move(rollup, tenant_id)
    async with rollup.pool.acquire() as connection, connection.transaction():
        with pytest.raises(NewerRulesInForce) as refused:
            await share_rules(connection, [tenant_id])
        assert tenant_id not in await tenants_with_new_rules(connection)
        assert not await adopt_rules(connection, tenant_id)

    assert is_transient(refused.value), "it waits to be replaced, and dead-letters nothing"
