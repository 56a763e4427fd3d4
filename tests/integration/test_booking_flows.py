"""Each flow of a booking writes its events, with the whole state and the next version (design §4)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
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
    contact_hash,
    fact,
    life,
    message,
    outcome,
    person,
)
from turnout_common.events import BookingEvent, MessageStatus, parse_event
from turnout_common.ids import new_id


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


async def test_events_carry_the_items_own_time_and_the_whole_state(world: Booking, tenant_id: str) -> None:
    await world.one_by_one(*life(tenant_id)[:2])
    created, confirmed, moved = await world.events(tenant_id)

    assert [row["occurred_at"] for row in (created, confirmed, moved)] == [NOW - 5 * DAY] * 2 + [
        NOW - 4 * DAY
    ]
    assert [row["version"] for row in (created, confirmed, moved)] == [1, 2, 3]
    states = [json.loads(row["payload"]) for row in (created, confirmed, moved)]
    assert [state["status"] for state in states] == ["pending", "confirmed", "confirmed"]
    assert [state["confirmed_at"] is None for state in states] == [True, False, False]
    assert states[2] == await world.chain(tenant_id)


async def test_every_event_row_and_its_outbox_record_are_one_valid_event(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(*life(tenant_id, contact=person("+491")), message(tenant_id, "chat", NOW))
    rows = await world.admin.fetch(
        "SELECT e.*, o.payload AS body, o.key, o.type FROM booking.booking_events e JOIN booking.outbox o ON o.record_id = e.event_id"
        " WHERE e.tenant_id = $1", tenant_id,
    )  # fmt: skip

    assert len(rows) == len(await world.events(tenant_id)) + len(await world.events(tenant_id, "intent"))
    for row in rows:
        event = parse_event(row["type"], row["body"].encode())
        assert isinstance(event, BookingEvent)
        assert BookingEvent.model_validate_json(row["body"]) == event  # no field that the model does not know
        assert (event.event_id, event.version, event.entity_id) == (
            row["event_id"],
            row["version"],
            row["entity_id"],
        )
        assert json.loads(row["payload"]) == json.loads(event.payload.model_dump_json())
        assert row["key"] == f"{tenant_id}:{event.entity_id}"


@pytest.mark.parametrize(
    ("requested_first", "expected"),
    [(True, ["created", "confirmed"]), (False, ["created", "confirmed", "changed"])],
)
async def test_a_confirmed_request_is_created_once(
    world: Booking, tenant_id: str, requested_first: bool, expected: list[str]
) -> None:
    requested = booking(tenant_id, "requested", "O", NOW - HOUR)
    created = booking(tenant_id, "created", "O", NOW - MINUTE)
    await world.one_by_one(*((requested, created) if requested_first else (created, requested)))

    assert await world.types(tenant_id) == expected
    assert (await world.chain(tenant_id))["created_at"] == "2026-03-09T08:00:00Z"


async def test_a_move_that_awaits_the_salon_is_rescheduled_then_confirmed(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        booking(tenant_id, "created", "O", NOW - DAY),
        booking(tenant_id, "requested", "N", NOW - HOUR, START + DAY, previous_uid="O"),
        booking(tenant_id, "created", "N", NOW - MINUTE, START + DAY, previous_uid="O"),
    )

    assert await world.types(tenant_id) == ["created", "confirmed", "rescheduled", "confirmed"]
    states = [json.loads(row["payload"])["status"] for row in await world.events(tenant_id)]
    assert states == ["pending", "confirmed", "pending", "confirmed"]


@pytest.mark.parametrize(
    ("trigger", "reason", "by"),
    [
        ("cancelled", "cancelled", "client"),
        ("rejected", "rejected", "salon"),
        ("reschedule_requested", "reschedule_requested", "client"),
    ],
)
async def test_a_cancellation_says_by_whom_and_why(
    world: Booking, tenant_id: str, trigger: str, reason: str, by: str
) -> None:
    await world.one_by_one(
        booking(tenant_id, "requested", "O", NOW - DAY), booking(tenant_id, trigger, "O", NOW, actor="client")
    )
    state = await world.chain(tenant_id)

    assert (state["status"], state["cancel_reason"], state["cancelled_by"]) == ("cancelled", reason, by)
    assert (await world.types(tenant_id))[-1] == "cancelled"
    (intent,) = await world.intents(tenant_id)
    assert (intent["outcome"], intent["implicit"]) == ("refused", True)


async def test_facts_about_a_booking_join_its_chain(world: Booking, tenant_id: str) -> None:
    await world.one_by_one(
        booking(tenant_id, "created", "O", NOW - 5 * DAY, NOW - DAY),
        fact(tenant_id, "admin.reply", NOW - 4 * DAY, "O"),
        fact(
            tenant_id,
            "admin.manual_reschedule",
            NOW - 3 * DAY,
            "O",
            start_at=NOW - 5 * HOUR,
            end_at=NOW - 4 * HOUR,
        ),
        fact(tenant_id, "service.completed", NOW - 3 * HOUR, "O"),
        fact(
            tenant_id,
            "payment.received",
            NOW - 2 * HOUR,
            "O",
            gross_minor=5000,
            discount_minor=500,
            currency="EUR",
        ),
        fact(tenant_id, "payment.refunded", NOW - HOUR, "O", gross_minor=1000, currency="EUR"),
        fact(tenant_id, "feedback.received", NOW - MINUTE, "O", rating=4),
        fact(tenant_id, "admin.override_booking", NOW - MINUTE, "O", status="no_show"),
        fact(tenant_id, "admin.manual_cancel", NOW, "O"),
    )

    assert (await world.types(tenant_id))[2:] == [
        "admin.reply", "admin.manual_reschedule", "completed", "payment.received", "payment.refunded",
        "feedback.received", "admin.override_booking", "admin.manual_cancel",
    ]  # fmt: skip
    state = await world.chain(tenant_id)
    assert (state["gross_minor"], state["discount_minor"], state["refund_minor"]) == (5000, 500, 1000)
    assert (state["rating"], state["moves"], state["admin_actions"]) == (4, 1, 4)
    assert (state["status"], state["admin_before_confirmation"]) == ("cancelled", False)
    (intent,) = await world.intents(tenant_id)
    assert (intent["admin_actions"], intent["booking_id"]) == (4, state["booking_id"])
    assert (await world.types(tenant_id, "intent"))[2:] == [
        "admin.reply", "admin.manual_reschedule", "admin.override_booking", "admin.manual_cancel",
    ]  # fmt: skip


async def test_feedback_is_a_fact_of_its_own_too_and_of_the_bookings_staff(
    world: Booking, database: Database, tenant_id: str
) -> None:
    await set_settings(database, tenant_id, {"staff_map": {"host": "anna"}})
    await world.one_by_one(
        fact(tenant_id, "feedback.received", NOW, "O", rating=4),
        booking(tenant_id, "created", "O", NOW - 5 * DAY, NOW - DAY, staff_ref="host"),
    )
    chain = await world.chain(tenant_id)
    (feedback,) = await world.facts(tenant_id)

    assert chain["rating"] == 4
    assert (feedback["booking_id"], feedback["staff_id"]) == (chain["booking_id"], "anna")
    assert await world.types(tenant_id, "fact") == ["feedback.received", "feedback.received"]


async def set_settings(database: Database, tenant_id: str, settings: dict[str, object]) -> None:
    connection = await asyncpg.connect(database.dsn("platform"))
    try:
        await connection.execute(
            "UPDATE platform.tenants SET settings = $2 WHERE tenant_id = $1", tenant_id, json.dumps(settings)
        )
    finally:
        await connection.close()


async def test_a_rating_that_comes_with_a_meetings_end_is_feedback_once(
    world: Booking, tenant_id: str
) -> None:
    start = NOW - DAY
    ended = booking(tenant_id, "meeting_ended", "O", start + HOUR, start, rating=5)
    again = booking(tenant_id, "meeting_ended", "O", start + HOUR, start, rating=5)
    await world.one_by_one(booking(tenant_id, "created", "O", NOW - 3 * DAY, start), ended, again)

    (feedback,) = await world.facts(tenant_id)
    assert (feedback["fact"], feedback["rating"]) == ("feedback", 5)


async def test_facts_about_no_booking_are_entities_of_their_own(world: Booking, tenant_id: str) -> None:
    await world.apply(
        fact(tenant_id, "inventory.counted", NOW, subject_id="wax", expected=10, counted=9),
        fact(
            tenant_id,
            "inventory.sold",
            NOW,
            subject_id="wax",
            quantity=1,
            gross_minor=900,
            discount_minor=0,
            currency="EUR",
        ),
        fact(
            tenant_id,
            "staff.shift_planned",
            NOW,
            subject_id="s1",
            staff_id="anna",
            start_at=START,
            end_at=START + 8 * HOUR,
            break_minutes=30,
        ),
        fact(tenant_id, "payment.received", NOW, gross_minor=100, currency="EUR"),
    )

    assert {state["fact"] for state in await world.facts(tenant_id)} == {
        "inventory_count",
        "goods_sale",
        "shift",
        "payment",
    }
    assert sorted(await world.types(tenant_id, "fact")) == [
        "inventory.counted", "inventory.sold", "payment.received", "staff.shift_planned",
    ]  # fmt: skip


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_shift_that_is_planned_again_is_replaced_and_may_be_taken_back(
    world: Booking, tenant_id: str, newest_first: bool
) -> None:
    first = fact(
        tenant_id,
        "staff.shift_planned",
        NOW,
        subject_id="s",
        staff_id="anna",
        start_at=START,
        end_at=START + HOUR,
    )
    gone = fact(
        tenant_id, "staff.shift_planned", NOW + HOUR, subject_id="s", staff_id="anna", start_at=START,
        end_at=START + HOUR, status="cancelled",
    )  # fmt: skip
    await world.one_by_one(*((gone, first) if newest_first else (first, gone)))

    (shift,) = await world.facts(tenant_id)
    assert (shift["start_at"], shift["end_at"]) == (None, None)


async def test_a_sale_during_a_visit_learns_its_booking(world: Booking, tenant_id: str) -> None:
    await world.one_by_one(
        booking(tenant_id, "created", "O", NOW - DAY),
        fact(
            tenant_id,
            "inventory.sold",
            NOW,
            "O",
            subject_id="wax",
            quantity=1,
            gross_minor=900,
            currency="EUR",
        ),
    )
    (sale,) = await world.facts(tenant_id)

    assert sale["booking_id"] == (await world.chain(tenant_id))["booking_id"]
    assert await world.types(tenant_id) == ["created", "confirmed"]


async def test_a_message_opens_an_intent_that_the_clients_next_booking_closes(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        message(tenant_id, "chat", NOW - HOUR, phone="+491"),
        message(tenant_id, "chat", NOW - 50 * MINUTE),
        booking(tenant_id, "created", "O", NOW - 40 * MINUTE, contact=person("+491")),
        message(tenant_id, "chat", NOW - 30 * MINUTE),
    )
    first, second = await world.intents(tenant_id)
    chain = await world.chain(tenant_id)

    assert (first["booking_id"], first["outcome"], first["implicit"]) == (
        chain["booking_id"],
        "confirmed",
        False,
    )
    assert chain["intent_id"] == first["intent_id"]
    assert (second["booking_id"], second["closed_at"]) == (None, None)
    assert await world.types(tenant_id, "intent") == ["intent_received", "intent_closed", "intent_received"]


async def test_a_booking_whose_message_comes_late_gives_its_implicit_intent_up(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        booking(tenant_id, "created", "O", NOW - 40 * MINUTE, contact=person("+491")),
        message(tenant_id, "chat", NOW - HOUR, phone="+491"),
    )
    (intent,) = await world.intents(tenant_id)

    assert (intent["implicit"], intent["booking_id"]) == (False, (await world.chain(tenant_id))["booking_id"])
    assert (
        await world.admin.fetchval(
            "SELECT count(*) FROM booking.intents WHERE tenant_id = $1 AND withdrawn", tenant_id
        )
        == 1
    )


async def test_buttons_and_edits_open_no_intent(world: Booking, tenant_id: str) -> None:
    await world.apply(
        message(tenant_id, "chat", NOW, kind="button", button="confirm"),
        message(tenant_id, "chat", NOW, edited=True),
    )

    assert await world.intents(tenant_id) == []


async def test_a_booking_that_names_its_intent_closes_it_for_whoever_it_was(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(message(tenant_id, "chat", NOW - HOUR))
    (opened,) = await world.intents(tenant_id)
    await world.apply(
        booking(
            tenant_id, "created", "O", NOW, contact=person(email="a@b.example"), intent_id=opened["intent_id"]
        )
    )
    (closed,) = await world.intents(tenant_id)

    assert (closed["intent_id"], closed["outcome"]) == (opened["intent_id"], "confirmed")
    assert (await world.chain(tenant_id))["intent_id"] == opened["intent_id"]


async def test_an_answer_in_a_chat_counts_in_the_intent_and_in_its_booking(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        message(tenant_id, "chat", NOW - HOUR, phone="+491"),
        fact(tenant_id, "admin.reply", NOW - 50 * MINUTE, chat_hash=contact_hash("chat")),
        booking(tenant_id, "created", "O", NOW - 40 * MINUTE, contact=person("+491")),
    )
    (intent,), chain = await world.intents(tenant_id), await world.chain(tenant_id)

    assert (intent["admin_actions"], intent["admin_before_confirmation"]) == (1, True)
    assert (chain["admin_actions"], chain["admin_before_confirmation"]) == (1, True)


async def test_a_shared_phone_makes_two_clients_one_and_tells_their_bookings(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        booking(tenant_id, "created", "A", NOW - 3 * DAY, contact=person("+491", "a@b.example")),
        booking(tenant_id, "created", "B", NOW - 2 * DAY, START + DAY, contact=person("+491")),
        message(tenant_id, "chat", NOW - DAY),
        message(tenant_id, "chat", NOW - HOUR, phone="+491"),
    )
    first, second = await world.chains(tenant_id)
    owners = await world.admin.fetch(
        "SELECT DISTINCT client_id FROM booking.client_contacts WHERE tenant_id = $1", tenant_id
    )

    assert {str(row["client_id"]) for row in owners} == {first["client_id"]} == {second["client_id"]}
    assert first["reachable"] and second["reachable"]
    assert await world.types(tenant_id) == ["created", "confirmed"] * 2 + ["changed"] * 2


async def test_a_booking_of_an_absorbed_client_is_relinked(world: Booking, tenant_id: str) -> None:
    """The chat came first, so the chat's client is the older one and stays."""
    await world.one_by_one(
        message(tenant_id, "chat", NOW - 2 * DAY),
        booking(tenant_id, "created", "A", NOW - DAY, contact=person("+491")),
    )
    before = (await world.chain(tenant_id))["client_id"]
    await world.apply(message(tenant_id, "chat", NOW - HOUR, phone="+491"))
    after = (await world.chain(tenant_id))["client_id"]
    stays = await world.admin.fetchval(
        "SELECT merged_into FROM booking.clients WHERE client_id = $1::uuid", before
    )

    assert after != before and str(stays) == after
    await world.apply(
        booking(tenant_id, "rescheduled", "N", NOW, START + DAY, previous_uid="A", contact=person("+491"))
    )
    assert (await world.chain(tenant_id))["client_id"] == after


async def test_consent_decides_whether_coming_appointments_can_be_reminded_of(
    world: Booking, tenant_id: str
) -> None:
    await world.one_by_one(
        message(tenant_id, "chat", NOW - 9 * DAY, phone="+491"),
        booking(tenant_id, "created", "past", NOW - 8 * DAY, NOW - 7 * DAY, contact=person("+491")),
        booking(tenant_id, "created", "coming", NOW - 8 * DAY, START, contact=person("+491")),
        consent(tenant_id, "chat", NOW - HOUR, False),
    )

    assert [chain["reachable"] for chain in await world.chains(tenant_id)] == [True, False]
    await world.apply(consent(tenant_id, "chat", NOW, True))
    assert [chain["reachable"] for chain in await world.chains(tenant_id)] == [True, True]


async def test_a_reminders_outcome_is_heard_twice_at_most(world: Booking, tenant_id: str) -> None:
    await world.apply(booking(tenant_id, "created", "O", NOW - DAY, contact=person("+491")))
    chain_id = (await world.events(tenant_id))[0]["entity_id"]
    accepted = outcome(tenant_id, chain_id, MessageStatus.ACCEPTED, NOW)
    delivered = outcome(
        tenant_id, chain_id, MessageStatus.DELIVERED, NOW + MINUTE, accepted_at=NOW, version=2
    )
    read = outcome(tenant_id, chain_id, MessageStatus.READ, NOW + HOUR, accepted_at=NOW, version=3)
    planned = outcome(
        tenant_id, chain_id, MessageStatus.PLANNED, NOW, accepted_at=None, first_attempt_at=None
    )
    await world.one_by_one(planned, accepted, delivered, read)
    state = await world.chain(tenant_id)

    assert (state["reminder_accepted_at"], state["reminder_outcome"]) == ("2026-03-09T09:00:00Z", "delivered")
    assert await world.types(tenant_id) == ["created", "confirmed", "changed", "changed"]
    assert await world.outcomes(planned, accepted, delivered, read) == [
        "ignored",
        "applied",
        "applied",
        "applied",
    ]


async def test_an_outcome_for_a_booking_that_is_not_there_is_ignored(world: Booking, tenant_id: str) -> None:
    stray = outcome(tenant_id, new_id(), MessageStatus.ACCEPTED, NOW)
    await world.apply(stray)

    assert await world.outcomes(stray) == ["ignored"]


async def test_what_is_of_no_tenant_is_ignored_and_its_neighbours_are_applied(
    world: Booking, tenant_id: str
) -> None:
    stray, mine = booking("nobody", "created", "O", NOW), booking(tenant_id, "created", "O", NOW)
    await world.apply(stray, mine)

    assert await world.outcomes(stray, mine) == ["ignored", "applied"]
    assert await world.chains("nobody") == []


async def test_notes_are_kept_sealed_and_apart(world: Booking, tenant_id: str) -> None:
    await world.apply(booking(tenant_id, "created", "O", NOW, notes_sealed="sealed-note"))
    rows = await world.admin.fetch("SELECT sealed FROM booking.notes WHERE tenant_id = $1", tenant_id)

    assert [row["sealed"] for row in rows] == ["sealed-note"]
    stored = await world.admin.fetch(
        "SELECT item FROM booking.chain_items i JOIN booking.chains USING (booking_id) WHERE tenant_id = $1",
        tenant_id,
    )
    assert "sealed" not in stored[0]["item"]
