"""Who a client is decides which wishes and bookings belong together, whatever came first (design §4, Clients)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.infrastructure import Database
from tests.integration.booking_world import (
    DAY,
    HOUR,
    NOW,
    Booking,
    booking,
    booking_on,
    consent,
    message,
    person,
)


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


async def test_a_booking_that_comes_late_divides_what_the_client_wrote_into_two_wishes(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        message(tenant_id, "chat", NOW - 3 * HOUR, phone="+491"),
        message(tenant_id, "chat", NOW - HOUR),
        booking(tenant_id, "created", "O", NOW - 2 * HOUR, contact=person("+491")),
    )
    first, second = await world.intents(tenant_id)

    assert first["booking_id"] == (await world.chain(tenant_id))["booking_id"]
    assert (second["booking_id"], second["implicit"]) == (None, False)
    assert await world.admin.fetchval("SELECT count(*) FROM booking.dead_letters") == 0


async def test_chats_that_turn_out_to_be_one_clients_are_one_stream_of_wishes_from_their_beginning(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        message(tenant_id, "mine", NOW - 40 * HOUR, phone="+491"),
        message(tenant_id, "also-mine", NOW - 30 * HOUR),
        message(tenant_id, "mine", NOW - 10 * HOUR),
        message(tenant_id, "also-mine", NOW - HOUR, phone="+491"),
    )

    assert [intent["opened_at"] for intent in await world.intents(tenant_id)] == [
        f"{NOW - n * HOUR:%Y-%m-%dT%H:%M:%SZ}" for n in (40, 10)
    ]


async def test_a_late_message_in_a_clients_second_chat_makes_an_old_booking_reachable(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        booking(tenant_id, "created", "O", NOW - 20 * DAY, NOW - 2 * DAY, contact=person("+491")),
        message(tenant_id, "first", NOW - 9 * DAY, phone="+491"),
        consent(tenant_id, "first", NOW - 8 * DAY, opted_in=False),
        message(tenant_id, "second", NOW - DAY, phone="+491"),
    )
    before = (await world.chain(tenant_id))["reachable"]
    await world.apply(message(tenant_id, "second", NOW - 3 * DAY))

    assert (before, (await world.chain(tenant_id))["reachable"]) == (False, True)
