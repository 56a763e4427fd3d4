"""Any history ends in one state: statements that contradict each other, of clients who turn out to be one, in any order
and cut, delivered twice, by one consumer or by two at once (design §2.3). Found by trying, not by example.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
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
    consent,
    contact_hash,
    fact,
    message,
    person,
)
from turnout_common.events import BookingTrigger, ConsentScope, Contact

History = Callable[[str, int], list[Event]]
#: Histories; `just nightly` asks for more.
HISTORIES = int(os.environ.get("TURNOUT_TEST_HISTORIES", "10"))
RANDOM_IDS = {"booking_id", "intent_id", "client_id", "merged_into", "fact_id"}
TABLES = [
    f"booking.{name}"
    for name in (
        "chains", "chain_items", "source_refs", "parked", "booking_events", "intents", "chat_items", "facts", "clients",
        "client_contacts", "client_chats", "client_consents", "notes", "outbound", "outbox", "applied",
    )
]  # fmt: skip
UIDS = ("A", "B", "C", "D", "E")
PHONES, EMAILS, CHATS = ("+491", "+492"), ("a@b.example", "c@d.example"), ("chat1", "chat2", "chat3")
FACTS = (
    "admin.reply", "admin.override_booking", "admin.manual_reschedule", "admin.manual_cancel", "feedback.received",
    "inventory.sold", "payment.received", "payment.refunded", "service.completed",
)  # fmt: skip


@pytest.fixture(scope="module")
async def worlds(database: Database) -> AsyncIterator[Sequence[Booking]]:
    async with booking_on(database) as one, booking_on(database) as two:
        yield one, two


def any_history(tenant_id: str, seed: int) -> list[Event]:
    """The same statements for the same seed, with few enough names and times that they collide."""
    chance = random.Random(seed)
    events: list[Event] = []
    for number in range(chance.randint(4, 14)):
        at = NOW - 3 * DAY + chance.randint(0, 12) * 6 * HOUR
        key = f"{seed} {number}"
        what = chance.random()
        if what < 0.5:
            events.append(_statement(tenant_id, chance, at, key))
        elif what < 0.7:
            events.append(_fact(tenant_id, chance, at, key))
        elif what < 0.92:
            phone = chance.choice((None, None, *PHONES))
            events.append(message(tenant_id, chance.choice(CHATS), at, phone=phone, key=key))
        elif what < 0.96:
            chat = contact_hash(chance.choice(CHATS))
            events.append(fact(tenant_id, "admin.reply", at, key=key, chat_hash=chat))
        else:
            scope: ConsentScope = chance.choice(("all", "marketing"))
            said = consent(tenant_id, chance.choice(CHATS), at, chance.random() < 0.5, scope)
            events.append(said.model_copy(update={"key_hash": message(tenant_id, "x", at, key=key).key_hash}))
    return events


def _statement(tenant_id: str, chance: random.Random, at: Any, key: str) -> Event:
    trigger = chance.choice([*BookingTrigger, *["created", "rescheduled"] * 4])
    start = None if trigger == "no_show_updated" else START + chance.randint(-4, 3) * DAY
    return booking(
        tenant_id, trigger, chance.choice(UIDS), at, start, key=key,
        previous_uid=chance.choice((None, None, *UIDS)), root_uid=chance.choice((None, None, None, *UIDS)),
        no_show=chance.choice((None, True, False)), contact=_contact(chance) if start else None,
        price_minor=chance.choice((None, 1000)), currency=chance.choice((None, "EUR", "USD")),
    )  # fmt: skip


def _contact(chance: random.Random) -> Contact | None:
    phone, email = chance.choice((None, *PHONES)), chance.choice((None, *EMAILS))
    return person(phone, email) if phone or email else None


def _fact(tenant_id: str, chance: random.Random, at: Any, key: str) -> Event:
    what = chance.choice(FACTS)
    fields: dict[str, Any] = {}
    if what == "admin.override_booking":
        fields["status"] = chance.choice(("confirmed", "cancelled", "completed", "no_show"))
    elif what == "admin.manual_reschedule":
        start = START + chance.randint(-4, 3) * DAY
        fields |= {"start_at": start, "end_at": start + HOUR}
    elif what == "feedback.received":
        fields["rating"] = chance.randint(1, 5)
    elif what.startswith(("payment", "inventory")):
        fields |= {"gross_minor": chance.randint(1, 900), "currency": chance.choice(("EUR", "USD"))}
    return fact(tenant_id, what, at, chance.choice(UIDS), key=key, **fields)


def cut(events: Sequence[Event], chance: random.Random) -> list[list[Event]]:
    shuffled = chance.sample(list(events), len(events))
    batches = []
    while shuffled:
        size = chance.choice((1, 1, 2, 3, len(shuffled)))
        batches.append(shuffled[:size])
        shuffled = shuffled[size:]
    return batches


def history_with_seats(tenant_id: str, seed: int) -> list[Event]:
    """Bookings with seats and bookings with guests, of which meetings and marks speak alike. As at Cal.com, the uids that
    one booking was moved through are all of one kind; a guest may hold a seat of another."""
    chance = random.Random(f"seats {seed}")
    return [
        _of_a_visit(
            tenant_id, chance, seated, NOW - 3 * DAY + chance.randint(0, 20) * 3 * HOUR, f"{seed} {number}"
        )
        for number in range(chance.randint(4, 14))
        for seated in (chance.random() < 0.6,)
    ]


def _of_a_visit(tenant_id: str, chance: random.Random, seated: bool, at: Any, key: str) -> Event:
    first, second = ("S1", "S2") if seated else ("G1", "G2")
    uid = chance.choice((first, first, second))
    who = chance.choice(EMAILS) if seated else EMAILS[0]
    what = chance.choice(
        ("created", "created", "cancelled", "rescheduled", "meeting", "meeting", "mark", "mark", "mark")
    )
    anybody = contact_hash(chance.choice(EMAILS))
    start = START + chance.randint(-4, 3) * DAY
    if what == "mark":
        absent = chance.random() < 0.7
        return booking(tenant_id, "no_show_updated", uid, at, None, key=key, attendee=anybody, no_show=absent)
    if what == "meeting":
        trigger = chance.choice(("meeting_started", "meeting_ended"))
        if chance.random() < 0.3:
            return booking(tenant_id, "meeting_ended", uid, at, None, key=key, attendee=anybody, no_show=True)
        seen_first = anybody if seated else contact_hash(who)
        return booking(
            tenant_id, trigger, uid, at, start, key=key, attendee=seen_first, no_show=chance.choice((None, True)),
            rating=chance.choice((None, 4)) if trigger == "meeting_ended" else None, contact=_contact(chance),
            previous_uid=first if uid == second and not seated else None,
        )  # fmt: skip
    moved = what == "rescheduled"
    return booking(
        tenant_id, what, second if moved else uid, at, start, key=key, contact=person(email=who),
        attendee=contact_hash(who), seat=contact_hash(who) if seated else None, previous_uid=first if moved else None,
    )  # fmt: skip


async def picture_of(
    worlds: Sequence[Booking], tenant_id: str, seed: int, way: str, history: History = any_history
) -> Any:
    await _forget_everything(worlds[0])
    events = history(tenant_id, seed)
    chance = random.Random(f"{seed} {way}")
    match way:
        case "in one batch":
            await worlds[0].apply(*events)
        case "shuffled and cut":
            for batch in cut(events, chance):
                await worlds[0].apply(*batch)
        case "one by one":
            await worlds[0].one_by_one(*chance.sample(events, len(events)))
        case _:
            await asyncio.gather(*(_all_of(world, cut(events, chance)) for world in worlds))
    await worlds[0].upkeep.link_parked()
    return named_by_place(await worlds[0].picture(tenant_id))


async def _forget_everything(world: Booking) -> None:
    """For the next way of the same tenant: what is equally old is sorted by keys, and they depend on the tenant."""
    async with world.admin.transaction():
        await world.admin.execute("SET LOCAL session_replication_role = replica")  # the truth is append-only
        await world.admin.execute(f"TRUNCATE {', '.join(TABLES)}")


def named_by_place(picture: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The states with each random id replaced by a digest of all that is said about it: equal for equal histories, also
    where two states differ in their ids only."""
    states = [(kind, state) for kind, found in picture.items() for state in found]
    names: dict[str, str] = {}
    for _ in range(4):
        said: dict[str, list[str]] = {}
        lines = [json.dumps([kind, _renamed(state, names)], sort_keys=True) for kind, state in states]
        for line, (_, state) in zip(lines, states, strict=True):
            for field in RANDOM_IDS & state.keys():
                if state[field] is not None:
                    said.setdefault(state[field], []).append(f"{field} {line}")
        names = {name: sha256("".join(sorted(told)).encode()).hexdigest()[:8] for name, told in said.items()}
    return sorted(lines)


def _renamed(state: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    ids = {field: state[field] and names.get(state[field], "?") for field in RANDOM_IDS & state.keys()}
    return state | ids


async def _all_of(world: Booking, batches: Sequence[Sequence[Event]]) -> None:
    for batch in batches:
        await world.apply(*batch)


@pytest.mark.parametrize("way", ["shuffled and cut", "one by one", "twice, by two consumers at once"])
async def test_any_history_ends_in_one_state(worlds: Sequence[Booking], tenant_id: str, way: str) -> None:
    for seed in range(HISTORIES):
        in_one = await picture_of(worlds, tenant_id, seed, "in one batch")
        assert await picture_of(worlds, tenant_id, seed, way) == in_one, f"history {seed}"


@pytest.mark.parametrize("way", ["shuffled and cut", "one by one", "twice, by two consumers at once"])
async def test_any_history_of_seats_and_guests_ends_in_one_state(
    worlds: Sequence[Booking], tenant_id: str, way: str
) -> None:
    for seed in range(HISTORIES):
        in_one = await picture_of(worlds, tenant_id, seed, "in one batch", history_with_seats)
        assert await picture_of(worlds, tenant_id, seed, way, history_with_seats) == in_one, f"history {seed}"
