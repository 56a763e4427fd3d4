"""Each flow of a booking writes its events, with the whole state and the next version (design §4)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.infrastructure import Database
from tests.integration.booking_world import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    START,
    Booking,
    booking,
    booking_on,
    fact,
    life,
)


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


async def test_a_life_of_a_booking_writes_every_event(world: Booking, tenant_id: str) -> None:
    await world.one_by_one(*life(tenant_id))

    assert await world.types(tenant_id) == [
        "created", "confirmed", "rescheduled", "rescheduled", "no_show", "no_show_reverted", "cancelled",
    ]  # fmt: skip
    assert await world.types(tenant_id, "intent") == ["intent_received", "intent_closed"]
    state = await world.chain(tenant_id)
    assert (state["status"], state["uid"], state["moves"]) == ("cancelled", "N2", 2)
