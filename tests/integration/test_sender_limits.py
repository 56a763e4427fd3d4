"""Limits are kept by all replicas together: their slots and counts are rows that they lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import until
from tests.integration.sender_world import World, insert_row, sender_world
from turnout_common.clock import SystemClock
from turnout_common.postgres import create_pool
from turnout_sender.limits import HORIZON_SECONDS, Ask, DayCounts, DayKey, Slots, take_slots


@pytest.fixture(scope="module")
async def world(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[World]:
    async with sender_world(database, infrastructure, topic_prefix) as made:
        yield made


async def test_slots_of_one_bot_are_never_given_twice(world: World) -> None:
    tenant_id = f"t{uuid4().hex[:8]}"
    await insert_row(world.admin, "sender.rate_slots", tenant_id=tenant_id, channel="telegram", chat="")
    pool = await create_pool(world.database.dsn("sender"), "test", 8)

    async def take() -> Slots:
        asks = [Ask(uuid4(), tenant_id, "telegram", uuid4(), 20) for _ in range(10)]
        async with pool.acquire() as connection, connection.transaction():
            return await take_slots(connection, asks, 0.0)

    taken = await asyncio.gather(*(take() for _ in range(8)))
    await pool.close()

    times = sorted(at for slots in taken for at in slots.granted.values())
    first = min(slots.taken_at for slots in taken)
    last = max(slots.taken_at for slots in taken)
    assert all(later - sooner >= 0.045 for sooner, later in pairwise(times))
    assert 1 <= len(times) <= (last - first + HORIZON_SECONDS) * 20 + 2


async def test_counts_of_a_day_are_never_read_twice(world: World) -> None:
    key = DayKey(f"t{uuid4().hex[:8]}", SystemClock().now().date(), "tx")
    pool = await create_pool(world.database.dsn("sender"), "test", 8)

    async def take() -> int:
        async with pool.acquire() as connection, connection.transaction():
            counts = await DayCounts.lock(connection, {key})
            fitting = sum(counts.has_room(key, 30) for _ in range(7))
            for _ in range(fitting):
                counts.count(key)
            await counts.write(connection)
            return fitting

    taken = await asyncio.gather(*(take() for _ in range(8)))
    await pool.close()

    assert sum(taken) == 30


async def test_day_limit_holds_for_two_replicas(world: World) -> None:
    salon = await world.salon()
    plans = [(await salon.appointment()).planned() for _ in range(12)]
    await world.say(*plans)

    async with world.sending(day_limit_tx=5), world.sending(day_limit_tx=5):
        for plan in plans:
            await world.until_status(plan, "accepted", "limited")

    states = await world.states(*plans)
    assert (states.count(("accepted", None)), states.count(("limited", "day_limit"))) == (5, 7)
    assert len(await world.mock.sent(salon.token)) == 5


async def test_retry_is_not_counted_again(world: World) -> None:
    salon = await world.salon()
    await world.mock.behave(salon.token, {"kind": "fail", "times": 3})
    plan = (await salon.appointment()).planned()
    await world.say(plan)

    async with world.sending(day_limit_tx=1):
        await world.until_status(plan, "accepted")

    used = await world.admin.fetchval(
        "SELECT used FROM sender.day_counts WHERE tenant_id = $1", salon.tenant_id
    )
    assert (used, (await world.delivery(plan))["attempts"]) == (1, 4)


async def test_tenant_with_a_backlog_does_not_hold_up_another(world: World) -> None:
    flood, quiet = await world.salon(), await world.salon()
    now = SystemClock().now()
    plans = [(await flood.appointment()).planned(not_before=now - timedelta(minutes=5)) for _ in range(400)]
    await world.say(*plans)
    async with world.sending():
        await until(lambda: _has_sent(world, flood.token, 5), "the flood to begin")
        plan = (await quiet.appointment()).planned()
        await world.say(plan)
        await world.until_status(plan, "accepted", seconds=5)
        begun = len(await world.mock.sent(flood.token))

    assert begun < 300, "the flood was over before the other tenant came"
    await world.admin.execute(
        "UPDATE sender.deliveries SET status = 'cancelled' WHERE tenant_id = $1", flood.tenant_id
    )


async def test_slow_provider_of_one_tenant_does_not_hold_up_another(world: World) -> None:
    slow, quick = await world.salon(), await world.salon()
    await world.mock.behave(slow.token, {"kind": "slow", "seconds": 4})
    plans = [(await slow.appointment()).planned() for _ in range(20)]
    await world.say(*plans)
    async with world.sending(max_in_flight_per_tenant=4, max_in_flight=12):
        await until(lambda: _has_under_way(world, slow.tenant_id, 4), "the slow requests")
        others = [(await quick.appointment()).planned() for _ in range(10)]
        await world.say(*others)
        for plan in others:
            await world.until_status(plan, "accepted", seconds=3)
        under_way = await world.admin.fetchval(
            "SELECT count(*) FROM sender.deliveries WHERE tenant_id = $1 AND status = 'sending'",
            slow.tenant_id,
        )
        await world.admin.execute(
            "UPDATE sender.deliveries SET status = 'cancelled' WHERE tenant_id = $1 AND status = 'planned'",
            slow.tenant_id,
        )

    assert 0 < under_way <= 4 + 6, "more than the tenant's share and one claim's slots"


async def _has_sent(world: World, token: str, count: int) -> bool:
    return len(await world.mock.sent(token)) >= count


async def _has_under_way(world: World, tenant_id: str, count: int) -> bool:
    found = await world.admin.fetchval(
        "SELECT count(*) FROM sender.deliveries WHERE tenant_id = $1 AND status = 'sending'", tenant_id
    )
    return bool(found >= count)
