"""From uids to chains: founding, parking, merging, overlaps (design §4, Chain identity)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

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
    message,
    new_tenant,
    outcome,
    person,
)
from turnout_booking import batch
from turnout_common.events import MessageStatus


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


async def test_an_item_with_times_founds_the_chain_for_all_uids_that_it_names(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(booking(tenant_id, "rescheduled", "N2", NOW, previous_uid="N1", root_uid="O"))
    refs = await world.admin.fetch(
        "SELECT uid, booking_id FROM booking.source_refs WHERE tenant_id = $1 ORDER BY uid", tenant_id
    )

    assert [row["uid"] for row in refs] == ["N1", "N2", "O"]
    assert len({row["booking_id"] for row in refs}) == 1


async def test_seats_of_one_uid_are_chains_of_their_own(world: Booking, tenant_id: str) -> None:
    await world.apply(
        booking(tenant_id, "created", "O", NOW, seat="a" * 32),
        booking(tenant_id, "created", "O", NOW, seat="b" * 32),
    )

    assert len(await world.chains(tenant_id)) == 2


async def test_what_nobody_founded_waits_and_is_applied_with_its_uid(world: Booking, tenant_id: str) -> None:
    absent = booking(tenant_id, "no_show_updated", "O", START + DAY, None, no_show=True)
    paid = fact(tenant_id, "payment.received", NOW, "O", gross_minor=500, currency="EUR")
    await world.apply(absent, paid)

    assert await world.outcomes(absent, paid) == ["parked", "parked"]
    assert await world.chains(tenant_id) == []
    await world.apply(booking(tenant_id, "created", "O", NOW - DAY))
    state = await world.chain(tenant_id)
    assert (state["status"], state["gross_minor"]) == ("no_show", 500)
    assert await world.outcomes(absent, paid) == ["applied", "applied"]
    assert await world.types(tenant_id) == ["created", "confirmed", "payment.received", "no_show"]


async def test_what_was_parked_while_its_uid_was_founded_elsewhere_is_linked_later(
    world: Booking, tenant_id: str
) -> None:
    absent = booking(tenant_id, "no_show_updated", "O", START + DAY, None, no_show=True)
    await world.apply(absent)
    (parked,) = await world.admin.fetch(
        "DELETE FROM booking.parked WHERE tenant_id = $1 RETURNING *", tenant_id
    )
    await world.apply(booking(tenant_id, "created", "O", NOW))
    await world.admin.execute(
        "INSERT INTO booking.parked SELECT * FROM jsonb_populate_record(NULL::booking.parked, $1)",
        json.dumps(dict(parked), default=str),
    )

    assert (await world.chain(tenant_id))["status"] == "confirmed"
    await world.upkeep.link_parked()
    assert (await world.chain(tenant_id))["status"] == "no_show"
    assert await world.outcomes(absent) == ["applied"]


async def test_a_full_booking_takes_no_more_and_stops_nobody(
    world: Booking, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_ITEMS", 3)
    replies = [fact(tenant_id, "admin.reply", NOW, "O") for _ in range(3)]
    await world.one_by_one(booking(tenant_id, "created", "O", NOW), *replies)
    await world.apply(
        booking(tenant_id, "created", "other", NOW), fact(tenant_id, "admin.reply", NOW, "late")
    )
    await world.apply(fact(tenant_id, "service.completed", NOW, "later"))
    for parked, founded in (("late", "O"), ("later", "other")):
        await world.admin.execute("UPDATE booking.parked SET uid = $1 WHERE uid = $2", founded, parked)

    await world.upkeep.link_parked()

    assert await world.outcomes(*replies) == ["applied", "applied", "dead"]
    full, other = sorted(await world.chains(tenant_id), key=lambda state: state["uid"])
    assert (full["admin_actions"], other["status"]) == (2, "completed")
    waiting = await world.admin.fetch("SELECT reason FROM booking.parked WHERE tenant_id = $1", tenant_id)
    assert [row["reason"] for row in waiting] == ["chain_too_long"]


async def test_what_waits_for_72_hours_is_quarantined_as_unlinked(world: Booking, tenant_id: str) -> None:
    await world.apply(fact(tenant_id, "service.completed", NOW, "lost"))
    waiting = "SELECT reason FROM booking.parked WHERE tenant_id = $1"
    world.clock.at = NOW + timedelta(hours=72) - MINUTE
    await world.upkeep.quarantine_parked()
    early = await world.admin.fetchval(waiting, tenant_id)
    world.clock.at = NOW + timedelta(hours=72)
    await world.upkeep.quarantine_parked()
    world.clock.at = NOW

    assert (early, await world.admin.fetchval(waiting, tenant_id)) == (None, "unlinked")
    await world.apply(booking(tenant_id, "created", "lost", NOW))
    assert (await world.chain(tenant_id))["status"] == "confirmed"


async def test_a_later_link_merges_two_chains_into_the_older_one(world: Booking, tenant_id: str) -> None:
    await world.apply(
        booking(tenant_id, "created", "O", NOW - 3 * DAY, contact=person("+491"), notes_sealed="old")
    )
    await world.apply(
        booking(
            tenant_id, "created", "N2", NOW - DAY, START + 2 * DAY, contact=person("+491"), notes_sealed="new"
        ),
        fact(tenant_id, "feedback.received", NOW, "N2", rating=3),
    )
    older, younger = await world.chains(tenant_id)
    await world.apply(
        booking(tenant_id, "rescheduled", "N1", NOW - 2 * DAY, START + DAY, previous_uid="O"),
        booking(tenant_id, "rescheduled", "N2", NOW - DAY, START + 2 * DAY, previous_uid="N1"),
    )
    stays, gone = sorted(await world.chains(tenant_id), key=lambda state: state["status"] == "merged")

    assert (stays["booking_id"], stays["uid"], stays["moves"], stays["rating"]) == (
        older["booking_id"],
        "N2",
        2,
        3,
    )
    assert (gone["booking_id"], gone["merged_into"]) == (younger["booking_id"], older["booking_id"])
    assert (await world.types(tenant_id))[-1] == "merged"
    (feedback,) = await world.facts(tenant_id)
    assert feedback["booking_id"] == older["booking_id"]
    (intent,) = await world.intents(tenant_id)
    assert intent["booking_id"] == older["booking_id"]
    left = await world.admin.fetchval(
        "SELECT (SELECT count(*) FROM booking.chain_items WHERE booking_id = $1) + (SELECT count(*) FROM booking.notes"
        " WHERE booking_id = $1) + (SELECT count(*) FROM booking.source_refs WHERE booking_id = $1)", gone["booking_id"],
    )  # fmt: skip
    assert left == 0


async def test_a_merge_withdraws_what_was_planned_for_the_younger_chain(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(message(tenant_id, "chat", NOW - HOUR, phone="+491"))
    await world.apply(booking(tenant_id, "created", "O", NOW - 3 * MINUTE, contact=person("+491")))
    await world.apply(
        booking(tenant_id, "created", "N", NOW - 2 * MINUTE, START + DAY, contact=person("+491"))
    )
    await world.apply(booking(tenant_id, "rescheduled", "N", NOW - MINUTE, START + DAY, previous_uid="O"))
    gone = next(state for state in await world.chains(tenant_id) if state["status"] == "merged")
    told = [m for m in await world.told(tenant_id) if m["booking_id"] == gone["booking_id"]]

    assert [m["type"] for m in told[-2:]] == ["message.withdrawn"] * 2
    assert {m["slot_key"].rsplit(":", 1)[1] for m in told[-2:]} == {"confirmation", "reminder_24h"}


async def test_an_outcome_for_a_merged_chain_is_the_older_ones(world: Booking, tenant_id: str) -> None:
    await world.apply(booking(tenant_id, "created", "O", NOW - 3 * DAY))
    await world.apply(booking(tenant_id, "created", "N", NOW - 2 * DAY, START + DAY))
    younger = (await world.chains(tenant_id))[1]["booking_id"]
    await world.apply(booking(tenant_id, "rescheduled", "N", NOW - DAY, START + DAY, previous_uid="O"))
    await world.apply(outcome(tenant_id, UUID(younger), MessageStatus.ACCEPTED, NOW, START + DAY))
    assert (await world.chain(tenant_id))["reminder_outcome"] == "accepted"


async def test_one_batch_that_founds_and_joins_everything_is_one_chain(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(*reversed(life(tenant_id)))

    assert len(await world.chains(tenant_id)) == 1


async def test_two_successors_are_an_overlap_for_a_human(world: Booking, tenant_id: str) -> None:
    await world.one_by_one(
        booking(tenant_id, "created", "O", NOW - 3 * DAY),
        booking(tenant_id, "rescheduled", "late", NOW - DAY, START + 2 * DAY, previous_uid="O"),
        booking(tenant_id, "rescheduled", "early", NOW - 2 * DAY, START + DAY, previous_uid="O"),
    )
    state = await world.chain(tenant_id)

    assert (state["uid"], state["overlaps"]) == ("late", 1)
    assert await world.types(tenant_id) == ["created", "confirmed", "rescheduled", "rescheduled", "overlap"]


async def test_tenants_with_the_same_uids_have_bookings_of_their_own(
    world: Booking, database: Database, tenant_id: str
) -> None:
    other = await new_tenant(database)
    await world.apply(
        *(
            booking(tenant, "created", "O", NOW, key="the same body", contact=person("+491"))
            for tenant in (tenant_id, other)
        )
    )
    mine, theirs = await world.chain(tenant_id), await world.chain(other)

    assert mine["booking_id"] != theirs["booking_id"]
    assert mine["client_id"] != theirs["client_id"]


@pytest.mark.parametrize("first", ["email", "phone", "both"])
async def test_a_bookings_client_is_whoever_has_its_surest_contact_whatever_came_first(
    world: Booking, tenant_id: str, first: str
) -> None:
    """Else whoever books with another's email and a phone of their own would hear of the other's appointments."""
    named = {
        "email": person(email="ida@example.com"),
        "phone": person("+491"),
        "both": person("+491", "ida@example.com"),
    }
    for name in (first, *(named.keys() - {first})):
        await world.apply(booking(tenant_id, "created", name, NOW, contact=named[name]))
    client = {state["uid"]: state["client_id"] for state in await world.chains(tenant_id)}

    assert client["both"] == client["phone"] != client["email"]
