"""What a tenant's own state means for its bookings: deleted ones have none, changed settings reach every booking."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.infrastructure import Database
from tests.integration.booking_world import MINUTE, NOW, Booking, booking, booking_on, message, new_tenant


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


async def test_what_is_of_a_deleted_tenant_is_ignored_and_its_neighbours_are_applied(
    world: Booking, database: Database, tenant_id: str
) -> None:
    deleted = await new_tenant(database)
    await world.admin.execute("UPDATE platform.tenants SET status = 'deleted' WHERE tenant_id = $1", deleted)
    theirs = (booking(deleted, "created", "O", NOW), message(deleted, "chat", NOW))
    mine = booking(tenant_id, "created", "O", NOW)
    await world.apply(*theirs, mine)

    assert await world.outcomes(*theirs, mine) == ["ignored", "ignored", "applied"]
    assert await world.chains(deleted) == []
    kept = "SELECT count(*) FROM booking.client_contacts WHERE tenant_id = $1"
    assert await world.admin.fetchval(kept, deleted) == 0


async def test_a_second_pass_finds_what_was_folded_by_settings_read_before_the_change(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(booking(tenant_id, "created", "O", NOW))
    await world.upkeep.refold_changed()

    async def folded_again_after(minutes: int) -> bool:
        await world.admin.execute(
            "UPDATE booking.chains SET fold_basis = 'before' WHERE tenant_id = $1", tenant_id
        )
        await world.admin.execute(
            "UPDATE booking.tenant_folds SET adopted_at = now() - $2::interval WHERE tenant_id = $1",
            tenant_id,
            minutes * MINUTE,
        )
        await world.upkeep.refold_changed()
        basis = "SELECT fold_basis <> 'before' FROM booking.chains WHERE tenant_id = $1"
        return bool(await world.admin.fetchval(basis, tenant_id))

    assert not await folded_again_after(0)  # such transactions may still be open
    assert await folded_again_after(2)
    assert not await folded_again_after(2)  # none can be any more
