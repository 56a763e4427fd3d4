"""Bookings with seats, and marks of attendees of whom nobody says whether they hold one (design §4, seat)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.infrastructure import Database
from tests.integration.booking_world import (
    DAY,
    HOUR,
    NOW,
    START,
    Booking,
    Event,
    booking,
    booking_on,
    contact_hash,
    new_tenant,
    person,
)

ANA, BEN = "ana@client.example", "ben@client.example"


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


def seat(tenant_id: str, trigger: str, who: str, hours: int, uid: str = "O", **fields: Any) -> Event:
    """A statement about `who`'s seat."""
    held = contact_hash(who)
    values = {"contact": person(email=who), "seat": held, "attendee": held, **fields}
    return booking(tenant_id, trigger, uid, NOW + hours * HOUR, key=f"{trigger} {who} {hours}", **values)


def whole(tenant_id: str, trigger: str, who: str, hours: int, **fields: Any) -> Event:
    """A statement about a booking without seats, which `who` made."""
    values = {"contact": person(email=who), "attendee": contact_hash(who), **fields}
    return booking(tenant_id, trigger, "O", NOW + hours * HOUR, key=f"{trigger} {who} {hours}", **values)


def mark(tenant_id: str, who: str, hours: int, absent: bool = True) -> Event:
    at, key = START + hours * HOUR, f"mark {who} {hours}"
    return booking(
        tenant_id, "no_show_updated", "O", at, None, key=key, attendee=contact_hash(who), no_show=absent
    )


def meeting(tenant_id: str, who: str, *, absent: bool | None = None, first: bool = True) -> Event:
    """The end of the meeting: of who was entered first with times, of others only that they did not come."""
    start, contact = (START, person(email=who)) if first else (None, None)
    return booking(
        tenant_id, "meeting_ended", "O", START + HOUR, start, key=f"meeting {who}", attendee=contact_hash(who),
        no_show=absent, contact=contact,
    )  # fmt: skip


async def ends(world: Booking, database: Database, make: Any) -> tuple[list[Any], list[Any]]:
    """What every order of arrival comes to, and what waits then."""
    pictures, waiting = [], []
    for order in itertools.permutations(range(len(make("t")))):
        tenant_id = await new_tenant(database)
        events = make(tenant_id)
        await world.one_by_one(*(events[at] for at in order))
        pictures.append(await shown(world, tenant_id))
        waiting.append(
            await world.admin.fetchval("SELECT count(*) FROM booking.parked WHERE tenant_id = $1", tenant_id)
        )
    return pictures, waiting


async def shown(world: Booking, tenant_id: str) -> list[tuple[Any, ...]]:
    """Status and time of each chain that lives, and whether it has a client."""
    chains = [chain for chain in await world.chains(tenant_id) if chain["status"] != "merged"]
    return sorted((c["status"], c["start_at"], c["no_show"], c["overlaps"], c["moves"]) for c in chains)


def state(status: str, moved: int = 0) -> tuple[Any, ...]:
    start = (START + moved * DAY).isoformat().replace("+00:00", "Z")
    return status, start, status == "no_show", 0, int(moved > 0)


async def test_a_cancelled_seat_is_one_seat(world: Booking, tenant_id: str) -> None:
    await world.apply(
        seat(tenant_id, "created", ANA, -9), seat(tenant_id, "created", BEN, -8), seat(tenant_id, "cancelled", ANA, -7)
    )  # fmt: skip

    assert await shown(world, tenant_id) == [state("cancelled"), state("confirmed")]


async def test_seats_of_one_time_are_no_overlap_and_nothing_collides(world: Booking, tenant_id: str) -> None:
    people = [f"{number}@client.example" for number in range(12)]
    await world.apply(*(seat(tenant_id, "created", who, -9) for who in people))
    moved = START + DAY
    await world.apply(
        *(
            booking(
                tenant_id, "rescheduled", "N", NOW, moved, seat=contact_hash(who), attendee=contact_hash(who),
                contact=person(email=who), previous_uid="O",
            )
            for who in people
        )
    )  # fmt: skip

    assert await shown(world, tenant_id) == [state("confirmed", 1)] * 12
    assert "overlap" not in await world.types(tenant_id)
    clients = {chain["client_id"] for chain in await world.chains(tenant_id)}
    assert len(clients) == 12


async def test_a_mark_is_of_the_seat_that_it_names_in_any_order(world: Booking, database: Database) -> None:
    def make(tenant_id: str) -> Sequence[Event]:
        return (
            seat(tenant_id, "created", ANA, -9),
            seat(tenant_id, "created", BEN, -8),
            mark(tenant_id, BEN, 1),
            mark(tenant_id, ANA, 2, absent=False),
        )

    pictures, waiting = await ends(world, database, make)

    assert pictures == [[state("confirmed"), state("no_show")]] * 24
    assert set(waiting) == {0}


async def test_a_guests_mark_is_no_no_show_of_the_booking_and_does_not_wait(
    world: Booking, database: Database
) -> None:
    def make(tenant_id: str) -> Sequence[Event]:
        guest = mark(tenant_id, BEN, 1)
        return whole(tenant_id, "created", ANA, -9), guest, meeting(tenant_id, BEN, absent=True, first=False)

    pictures, waiting = await ends(world, database, make)

    assert pictures == [[state("confirmed")]] * 6
    assert set(waiting) == {0}


async def test_the_clients_mark_counts_among_those_of_guests(world: Booking, database: Database) -> None:
    def make(tenant_id: str) -> Sequence[Event]:
        marks = (
            mark(tenant_id, BEN, 1, absent=False),
            mark(tenant_id, ANA, 1),
            mark(tenant_id, BEN, 2, absent=False),
        )
        return (whole(tenant_id, "created", ANA, -9), *marks)

    pictures, waiting = await ends(world, database, make)

    assert pictures == [[state("no_show")]] * 24
    assert set(waiting) == {0}


async def test_a_meeting_that_comes_first_is_taken_over_by_the_seats(
    world: Booking, database: Database
) -> None:
    def make(tenant_id: str) -> Sequence[Event]:
        return (
            meeting(tenant_id, ANA),
            meeting(tenant_id, BEN, absent=True, first=False),
            seat(tenant_id, "created", ANA, -9),
            seat(tenant_id, "created", BEN, -8),
        )

    pictures, waiting = await ends(world, database, make)

    assert pictures == [[state("confirmed"), state("no_show")]] * 24
    assert set(waiting) == {0}


async def test_what_is_said_of_a_seat_that_nobody_founded_waits_for_it_in_any_order(
    world: Booking, database: Database
) -> None:
    def make(tenant_id: str) -> Sequence[Event]:
        return (
            meeting(tenant_id, ANA, absent=True),
            seat(tenant_id, "created", BEN, -8),
            mark(tenant_id, ANA, 3),
        )

    pictures, waiting = await ends(world, database, make)

    assert pictures == [[state("confirmed")]] * 6
    assert set(waiting) == {2}


async def test_a_meeting_alone_founds_its_booking_of_which_only_the_first_is_marked(
    world: Booking, database: Database
) -> None:
    def make(tenant_id: str) -> Sequence[Event]:
        return (
            meeting(tenant_id, ANA),
            mark(tenant_id, BEN, 1),
            meeting(tenant_id, BEN, absent=True, first=False),
        )

    pictures, waiting = await ends(world, database, make)

    assert pictures == [[state("confirmed")]] * 6
    assert set(waiting) == {0}


async def test_a_chain_that_a_seat_takes_over_keeps_its_id_and_tells_the_change(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(meeting(tenant_id, ANA, absent=True))
    before = await world.chain(tenant_id)
    await world.apply(seat(tenant_id, "created", BEN, -8))
    after = await world.chain(tenant_id)
    refs = await world.admin.fetch("SELECT seat FROM booking.source_refs WHERE tenant_id = $1", tenant_id)

    assert (before["status"], after["status"]) == ("no_show", "confirmed")
    assert after["booking_id"] == before["booking_id"]
    assert after["client_id"] != before["client_id"]
    assert [row["seat"] for row in refs] == [contact_hash(BEN)]
