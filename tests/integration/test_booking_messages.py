"""What is planned for a client at the sender, through the real store (design §4, Reminders)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import permutations

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
    consent,
    fact,
    message,
    person,
)
from turnout_common.events import ConsentScope, MessagePlanned, parse_event


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


@pytest.fixture
async def chat(world: Booking, tenant_id: str) -> str:
    """A client who can be written to."""
    await world.apply(message(tenant_id, "chat", NOW - DAY, phone="+491", locale="ru"))
    return tenant_id


async def templates(world: Booking, tenant_id: str) -> list[tuple[str, str]]:
    return [(m["type"], m["slot_key"].rsplit(":", 1)[1]) for m in await world.told(tenant_id)]


async def test_a_booking_is_confirmed_and_reminded_of(world: Booking, chat: str) -> None:
    await world.apply(booking(chat, "created", "O", NOW - MINUTE, contact=person("+491")))
    confirmation, reminder = await world.told(chat)

    assert (confirmation["template"], reminder["template"]) == ("confirmation", "reminder_24h")
    assert confirmation["not_before"] == "2026-03-09T09:00:00Z"
    assert reminder["expires_at"] == reminder["start_at"] == "2026-03-12T09:00:00Z"
    assert reminder["locale"] == "ru"
    version = await world.admin.fetchval("SELECT version FROM booking.heads WHERE tenant_id = $1", chat)
    assert {confirmation["booking_version"], reminder["booking_version"]} == {version}


async def test_what_is_planned_is_in_the_outbox_as_one_valid_event(world: Booking, chat: str) -> None:
    await world.apply(booking(chat, "created", "O", NOW - MINUTE, contact=person("+491")))
    rows = await world.admin.fetch(
        "SELECT * FROM booking.outbox WHERE tenant_id = $1 AND topic = 'outbound_messages' ORDER BY outbox_id",
        chat,
    )

    events = [parse_event(row["type"], row["payload"].encode()) for row in rows]
    assert [type(event) for event in events] == [MessagePlanned, MessagePlanned]
    assert {row["key"] for row in rows} == {
        f"{chat}:{event.client_id}" for event in events if isinstance(event, MessagePlanned)
    }


async def test_an_import_of_old_bookings_texts_nobody(world: Booking, chat: str) -> None:
    await world.apply(
        *(
            booking(chat, "created", f"O{n}", NOW - n * DAY, START + n * HOUR, contact=person("+491"))
            for n in range(1, 30)
        )
    )
    await world.apply(fact(chat, "payment.received", NOW, "O1", gross_minor=1, currency="EUR"))

    assert await world.told(chat) == []


async def test_a_backlog_that_ends_in_a_cancellation_texts_nobody(world: Booking, chat: str) -> None:
    await world.apply(
        booking(chat, "created", "O", NOW - 2 * MINUTE, contact=person("+491")),
        booking(chat, "cancelled", "O", NOW - MINUTE, contact=person("+491")),
    )

    assert await world.told(chat) == []


async def test_a_move_replaces_the_reminder_under_a_higher_version(world: Booking, chat: str) -> None:
    await world.one_by_one(
        booking(chat, "created", "O", NOW - 2 * MINUTE, contact=person("+491")),
        booking(
            chat, "rescheduled", "N", NOW - MINUTE, START + DAY, previous_uid="O", contact=person("+491")
        ),
    )
    told = await world.told(chat)
    reminders = [m for m in told if m["slot_key"].endswith("reminder_24h")]

    assert len({m["slot_key"] for m in reminders}) == 1 and len({m["sent_key"] for m in reminders}) == 2
    assert reminders[0]["booking_version"] < reminders[1]["booking_version"]
    assert (await templates(world, chat))[2:] == [
        ("message.withdrawn", "confirmation"),
        ("message.planned", "reminder_24h"),
    ]


@pytest.mark.parametrize("trigger", ["cancelled", "no_show_updated"])
async def test_a_cancellation_and_a_no_show_withdraw(world: Booking, chat: str, trigger: str) -> None:
    await world.apply(booking(chat, "created", "O", NOW - MINUTE, contact=person("+491")))
    await world.apply(
        booking(chat, trigger, "O", NOW, no_show=True if trigger == "no_show_updated" else None)
    )

    assert (await templates(world, chat))[2:] == [
        ("message.withdrawn", "confirmation"),
        ("message.withdrawn", "reminder_24h"),
    ]


async def test_who_opts_out_is_not_reminded_and_who_opts_in_again_is(world: Booking, chat: str) -> None:
    await world.apply(booking(chat, "created", "O", NOW - 2 * MINUTE, contact=person("+491")))
    await world.apply(consent(chat, "chat", NOW - MINUTE, False))
    await world.apply(consent(chat, "chat", NOW, True))

    assert (await templates(world, chat))[2:] == [
        ("message.withdrawn", "confirmation"), ("message.withdrawn", "reminder_24h"), ("message.planned", "reminder_24h"),
    ]  # fmt: skip


async def test_who_stops_marketing_is_still_reminded(world: Booking, chat: str) -> None:
    await world.apply(booking(chat, "created", "O", NOW - 2 * MINUTE, contact=person("+491")))
    await world.apply(consent(chat, "chat", NOW - MINUTE, False, "marketing"))
    await world.apply(
        booking(chat, "rescheduled", "N", NOW, START + DAY, previous_uid="O", contact=person("+491"))
    )

    assert [kind for kind in await templates(world, chat) if kind[1] == "reminder_24h"] == [
        ("message.planned", "reminder_24h"), ("message.planned", "reminder_24h"),
    ]  # fmt: skip
    assert (await world.chain(chat))["reachable"] is True


Said = tuple[ConsentScope, bool]
ALL_OUT, ALL_IN = ("all", False), ("all", True)
MARKETING_OUT, MARKETING_IN = ("marketing", False), ("marketing", True)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ([MARKETING_OUT], (False, True)),
        ([MARKETING_OUT, MARKETING_IN], (False, False)),
        ([MARKETING_IN, MARKETING_OUT], (False, True)),
        ([ALL_OUT], (True, True)),
        ([ALL_OUT, ALL_IN], (False, False)),
        ([ALL_OUT, MARKETING_IN], (True, True)),
        ([MARKETING_OUT, ALL_IN], (False, True)),
        ([MARKETING_OUT, ALL_OUT, ALL_IN, MARKETING_IN], (False, False)),
    ],
)
async def test_newest_consent_of_each_scope_counts_in_any_order_of_arrival(
    world: Booking, chat: str, said: list[Said], refused: tuple[bool, bool]
) -> None:
    for number, order in enumerate(permutations(enumerate(said))):
        for way, apply in (("at-once", world.apply), ("one-by-one", world.one_by_one)):
            name = f"{way}-{number}"
            await apply(*(consent(chat, name, NOW + n * MINUTE, word, scope) for n, (scope, word) in order))
            row = await world.admin.fetchrow(
                "SELECT opted_out, promotions_opted_out FROM booking.contactable"
                " WHERE tenant_id = $1 AND chat_sealed = $2", chat, f"sealed-{name}",
            )  # fmt: skip

            assert row is not None and tuple(row) == refused


@pytest.mark.parametrize("said", [[ALL_OUT, ALL_IN], [ALL_IN, ALL_OUT]])
async def test_of_two_consents_at_one_time_the_refusal_counts(
    world: Booking, chat: str, said: list[Said]
) -> None:
    await world.apply(booking(chat, "created", "O", NOW - 2 * MINUTE, contact=person("+491")))
    for scope, word in said:
        await world.apply(consent(chat, "chat", NOW - MINUTE, word, scope))

    assert (await templates(world, chat))[-1] == ("message.withdrawn", "reminder_24h")
    assert (await world.chain(chat))["reachable"] is False


async def test_a_client_who_shares_a_phone_later_is_reminded_then(world: Booking, tenant_id: str) -> None:
    await world.apply(booking(tenant_id, "created", "O", NOW - 2 * DAY, contact=person("+491")))
    await world.apply(message(tenant_id, "chat", NOW - MINUTE, phone="+491"))

    assert await templates(world, tenant_id) == [("message.planned", "reminder_24h")]


async def test_clients_who_turn_out_to_be_one_are_reminded_under_their_new_id(
    world: Booking, tenant_id: str
) -> None:
    """Both write; the booking's chat becomes the older client's, and what is planned must follow."""
    await world.one_by_one(
        message(tenant_id, "first", NOW - 3 * HOUR),
        message(tenant_id, "second", NOW - 2 * HOUR, phone="+491"),
        booking(tenant_id, "created", "O", NOW - 2 * MINUTE, contact=person("+491")),
        message(tenant_id, "first", NOW - MINUTE, phone="+491"),
    )
    reminders = [m for m in await world.told(tenant_id) if m["slot_key"].endswith("reminder_24h")]
    client_id = (await world.chain(tenant_id))["client_id"]

    assert len(reminders) == 2
    assert (reminders[0]["client_id"] == client_id, reminders[1]["client_id"] == client_id) == (False, True)
    rows = await world.admin.fetch(
        "SELECT client_id, channel FROM booking.contactable WHERE tenant_id = $1", tenant_id
    )
    assert [str(row["client_id"]) for row in rows] == [client_id]
