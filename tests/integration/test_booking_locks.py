"""Two consumers at once: what a batch has read stays as it was, and everybody locks in one order (design §4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.infrastructure import Database
from tests.integration.booking_world import HOUR, NOW, Booking, booking, booking_on, message, person
from tests.integration.test_booking_promises import until_blocked


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


async def test_chains_are_locked_in_the_order_of_their_ids(
    world: Booking, database: Database, tenant_id: str
) -> None:
    uids = [f"uid {n}" for n in range(12)]
    await world.one_by_one(*(booking(tenant_id, "created", uid, NOW) for uid in uids))
    ids = sorted(chain["booking_id"] for chain in await world.chains(tenant_id))
    async with booking_on(database) as second:
        async with second.admin.transaction():
            lock = "SELECT 1 FROM booking.chains WHERE booking_id = $1 FOR UPDATE"
            await second.admin.execute(lock, ids[-1])
            batch = asyncio.create_task(
                world.apply(*(booking(tenant_id, "cancelled", uid, NOW) for uid in reversed(uids)))
            )
            await until_blocked(world, 1)
            free = await second.admin.fetch(
                "SELECT booking_id FROM booking.chains WHERE booking_id = ANY ($1::uuid[]) FOR UPDATE SKIP LOCKED",
                ids[:-1],
            )
        await batch

    assert free == []
    assert {chain["status"] for chain in await world.chains(tenant_id)} == {"cancelled"}


async def test_a_booking_waits_for_what_its_client_says_at_the_same_time(
    world: Booking, database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock on the client it would have a wish of its own, beside the one that it answers."""
    await world.apply(message(tenant_id, "chat", NOW - 99 * HOUR, phone="+491"))
    written, may_commit = asyncio.Event(), asyncio.Event()

    async def hold_the_first(*_: Any) -> None:
        if not written.is_set():
            written.set()
            await may_commit.wait()

    monkeypatch.setattr("turnout_booking.linking.park", hold_the_first)
    async with booking_on(database) as second:
        said = asyncio.create_task(world.apply(message(tenant_id, "chat", NOW - HOUR)))
        await written.wait()
        booked = asyncio.create_task(
            second.apply(booking(tenant_id, "created", "O", NOW, contact=person("+491")))
        )
        try:
            await until_blocked(world, 1)
        finally:
            may_commit.set()
            await asyncio.gather(said, booked)

    _, answered = await world.intents(tenant_id)
    assert answered["booking_id"] == (await world.chain(tenant_id))["booking_id"]
    assert not answered["implicit"]
