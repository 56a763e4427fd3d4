"""Any order of any set of items ends in the same state, through the real store (design §2.3)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.infrastructure import Database
from tests.integration.booking_world import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    START,
    Booking,
    Event,
    booking,
    booking_on,
    consent,
    fact,
    life,
    message,
    new_tenant,
    person,
)

#: The same service for all examples of a property: a tenant each keeps them apart.
SHARED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=25,
)


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


def salon_day(tenant_id: str) -> Sequence[Event]:
    """Everything at once: a life with copies, facts, a chat that turns out to be the client's, a second booking."""
    client = person("+491", "ida@example.com")
    copies = life(tenant_id, contact=client)[:2]
    second = START + 9 * DAY
    return (
        *life(tenant_id, contact=client),
        *(copy.model_copy(update={"item_id": type(copy.item_id)(int=copy.item_id.int ^ 1), "key_hash": copy.key_hash[::-1],
                                  "occurred_at": copy.occurred_at + MINUTE}) for copy in copies),
        message(tenant_id, "chat", NOW - 5 * DAY - MINUTE),
        message(tenant_id, "chat", NOW - 3 * DAY, phone="+491"),
        message(tenant_id, "chat", NOW - HOUR - MINUTE),
        consent(tenant_id, "chat", NOW - 2 * HOUR, False),
        consent(tenant_id, "chat", NOW - HOUR, True),
        fact(tenant_id, "admin.reply", NOW - 3 * DAY + MINUTE, chat_hash=message(tenant_id, "chat", NOW).chat_hash),
        fact(tenant_id, "payment.received", NOW - 4 * DAY, "O", gross_minor=5000, discount_minor=500, currency="EUR"),
        fact(tenant_id, "payment.received", NOW - 4 * DAY, "N1", gross_minor=700, currency="USD"),
        fact(tenant_id, "feedback.received", NOW, "N2", rating=4),
        booking(tenant_id, "requested", "second", NOW - HOUR, second, contact=client),
        booking(tenant_id, "created", "second", NOW - HOUR + 2 * MINUTE, second, contact=client),
        fact(tenant_id, "staff.shift_planned", NOW, subject_id="shift", staff_id="anna", start_at=START, end_at=START + HOUR),
        fact(tenant_id, "staff.shift_planned", NOW + MINUTE, subject_id="shift", staff_id="ben", start_at=START, end_at=START + HOUR),
    )  # fmt: skip


def batches(events: Sequence[Event], chance: random.Random) -> list[list[Event]]:
    """The events shuffled, and cut into batches of any size."""
    shuffled = list(events)
    chance.shuffle(shuffled)
    cut: list[list[Event]] = []
    while shuffled:
        size = chance.choice((1, 1, 2, 3, 5, len(shuffled)))
        cut.append(shuffled[:size])
        shuffled = shuffled[size:]
    return cut


async def picture_of(world: Booking, database: Database, cut: Any, seed: int) -> Any:
    tenant_id = await new_tenant(database)
    for batch in cut(tenant_id, random.Random(seed)):
        await world.apply(*batch)
    rows = await world.admin.fetch(
        "SELECT entity_id, array_agg(version ORDER BY version) AS versions FROM booking.booking_events"
        " WHERE tenant_id = $1 GROUP BY entity_id", tenant_id,
    )  # fmt: skip
    assert all(list(row["versions"]) == list(range(1, len(row["versions"]) + 1)) for row in rows)
    return await world.picture(tenant_id)


@SHARED
@given(seed=st.integers(min_value=1))
async def test_a_salon_day_in_any_order_and_cut_ends_the_same(
    world: Booking, database: Database, seed: int
) -> None:
    in_order = await picture_of(
        world, database, lambda t, _: [[e] for e in sorted(salon_day(t), key=lambda e: e.occurred_at)], 0
    )
    shuffled = await picture_of(world, database, lambda t, chance: batches(salon_day(t), chance), seed)

    assert shuffled == in_order


@SHARED
@given(seed=st.integers(min_value=1), missing=st.integers(min_value=0, max_value=3))
async def test_a_life_whose_first_items_are_missing_ends_the_same_in_any_order(
    world: Booking, database: Database, seed: int, missing: int
) -> None:
    in_order = await picture_of(world, database, lambda t, _: [list(life(t)[missing:])], 0)
    shuffled = await picture_of(world, database, lambda t, chance: batches(life(t)[missing:], chance), seed)

    assert shuffled == in_order
