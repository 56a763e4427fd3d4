"""Whole senders as processes on a real Kafka: redelivery, two replicas, a kill in the middle of a send."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import read_all, until
from tests.integration.sender_world import SenderProcess, World, envelope_of, sender_world
from tests.integration.wire import Wire, wire_to
from turnout_common.events import MessageEvent, MessagePlanned
from turnout_common.events.envelope import from_headers, parse_event

OUTBOUND = "outbound_messages"


@pytest.fixture(scope="module")
async def world(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[World]:
    async with sender_world(database, infrastructure, topic_prefix) as made:
        yield made


async def test_redelivered_plans_on_two_replicas_are_sent_once(world: World) -> None:
    salon = await world.salon()
    plans = [(await salon.appointment()).planned() for _ in range(12)]
    records = [(envelope_of(plan), plan) for plan in plans]
    again = [(envelope_of(plan), plan) for plan in plans]

    async with world.process() as one, world.process() as two:
        await world.publish_as(OUTBOUND, [*records, *records, *again])
        for plan in plans:
            await world.until_status(plan, "accepted")
        last = (await salon.appointment()).planned()
        await world.publish_as(OUTBOUND, [*records, (envelope_of(last), last)])
        await world.until_status(last, "accepted")
        await until(lambda: _have_published([one, two], 2 * 13), "two events a message")

    chats = [m["chat_id"] for m in await world.mock.sent(salon.token)]
    assert len(chats) == len(set(chats)) == 13
    applied = await world.admin.fetchval(
        "SELECT count(*) FROM sender.applied WHERE record_id = ANY ($1)", [e.id for e, _ in records + again]
    )
    assert applied == 24


async def _have_published(senders: list[SenderProcess], events: int) -> bool:
    published = [int((await sender.status())["events"]) for sender in senders]
    return sum(published) == events


async def test_message_events_are_published_in_order_with_growing_versions(world: World) -> None:
    salon = await world.salon()
    plan = (await salon.appointment()).planned()
    async with world.process():
        await world.publish(OUTBOUND, plan)
        await world.until_status(plan, "accepted")
        await until(lambda: _outbox_is_empty(world), "the relay")

    count = await world.admin.fetchval("SELECT count(*) FROM sender.message_log")
    records = await read_all(world.infrastructure.kafka, world.prefix + "message_events", count)
    events = [
        (from_headers(r.headers), parse_event(from_headers(r.headers).type, r.value or b"")) for r in records
    ]
    mine = [(envelope, event) for envelope, event in events if envelope.subject == str(plan.message_id)]
    for envelope, event in mine:
        assert isinstance(event, MessageEvent)
        assert (envelope.id, envelope.time) == (event.event_id, event.occurred_at)
    assert [event.status for _, event in mine if isinstance(event, MessageEvent)] == ["attempted", "accepted"]


async def _outbox_is_empty(world: World) -> bool:
    return bool(await world.admin.fetchval("SELECT NOT EXISTS (SELECT FROM sender.outbox)"))


async def test_sender_killed_in_the_middle_of_a_send_leaves_no_second_send(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned()
    await world.mock.behave(salon.token, {"kind": "slow", "times": 1, "seconds": 1.5})
    short = {"TURNOUT_SEND_TIMEOUT_SECONDS": "3", "TURNOUT_CLAIM_SECONDS": "4"}

    async with world.process(**short) as sender:
        await world.publish(OUTBOUND, plan)
        await until(lambda: _has_sent(world, salon.token), "the request to be under way")
        sender.process.send_signal(signal.SIGKILL)
    assert (await world.delivery(plan))["status"] == "sending"
    async with world.process(**short):
        await world.until_status(plan, "unknown")
        await world.publish(OUTBOUND, plan)
        later = (await salon.appointment()).planned()
        await world.publish(OUTBOUND, later)
        await world.until_status(later, "accepted")

    to_booked = [m for m in await world.mock.sent(salon.token) if m["chat_id"] == booked.chat_id]
    assert len(to_booked) == 1
    assert await world.states(plan) == [("unknown", "sender_stopped")]
    assert await world.log_of(plan) == ["attempted", "unknown"]


async def _has_sent(world: World, token: str) -> bool:
    return bool(await world.mock.sent(token))


async def test_sender_that_is_told_to_stop_finishes_what_is_under_way(world: World) -> None:
    salon = await world.salon()
    plan = (await salon.appointment()).planned()
    await world.mock.behave(salon.token, {"kind": "slow", "times": 1, "seconds": 1.5})

    async with world.process() as sender:
        await world.publish(OUTBOUND, plan)
        await world.until_status(plan, "sending")
        sender.process.terminate()
        assert await sender.process.wait() == 0

    assert await world.states(plan) == [("accepted", None)]


async def test_sender_paused_past_its_claim_sends_nothing_twice(world: World) -> None:
    """A zombie: stopped with a claim in its hands, thought dead by another replica, and woken again."""
    salon = await world.salon()
    plans = [(await salon.appointment()).planned() for _ in range(15)]
    short = {"TURNOUT_SEND_TIMEOUT_SECONDS": "1", "TURNOUT_CLAIM_SECONDS": "1.5"}
    await world.mock.behave(salon.token, {"kind": "slow", "times": 2, "seconds": 0.3})

    async with world.process(**short) as zombie:
        await world.publish(OUTBOUND, *plans)
        await world.until_status(plans[0], "sending", "accepted")
        zombie.process.send_signal(signal.SIGSTOP)
        async with world.process(**short):
            await until(lambda: _none_waits(world, plans), "the other replica to end all", seconds=60)
            zombie.process.send_signal(signal.SIGCONT)
            later = (await salon.appointment()).planned()
            await world.publish(OUTBOUND, later)
            await world.until_status(later, "accepted")
            await until(zombie.is_ready, "the zombie to live again")

    chats = [m["chat_id"] for m in await world.mock.sent(salon.token)]
    assert len(chats) == len(set(chats))
    assert {status for status, _ in await world.states(*plans)} <= {"accepted", "unknown"}


async def _none_waits(world: World, plans: list[MessagePlanned]) -> bool:
    return not await world.admin.fetchval(
        "SELECT count(*) FROM sender.deliveries WHERE message_id = ANY ($1) AND status IN ('planned', 'sending')",
        [plan.message_id for plan in plans],
    )


async def test_no_log_line_holds_a_token_a_chat_or_a_text(world: World) -> None:
    salon = await world.salon()
    booked, cut, away = [await salon.appointment() for _ in range(3)]
    await world.mock.behave(salon.token, {"kind": "cut", "times": 1, "chat_id": cut.chat_id})
    plans = [booked.planned(), cut.planned()]
    async with world.process(TURNOUT_LOG_LEVEL="DEBUG") as sender:
        await world.publish(OUTBOUND, *plans)
        for plan in plans:
            await world.until_status(plan, "accepted", "unknown")
    missed = away.planned()
    async with world.process(
        TURNOUT_LOG_LEVEL="DEBUG", TURNOUT_PROVIDER_BASE_URL="http://127.0.0.1:9", TURNOUT_MAX_ATTEMPTS="1"
    ) as nowhere:
        await world.publish(OUTBOUND, missed)
        await world.until_status(missed, "failed")

    text = (await world.mock.sent(salon.token))[0]["text"]
    logged = sender.output[0] + nowhere.output[0]
    assert "message sent" in logged and "message not sent" in logged
    for secret in (salon.token, salon.token.split(":")[1], booked.chat_id, cut.chat_id, away.chat_id, text):
        assert secret not in logged


async def test_stop_ends_though_postgres_hears_and_does_not_answer(world: World, database: Database) -> None:
    async with wire_to(database.dsn("sender")) as wire:
        through = {"TURNOUT_POSTGRES_DSN": wire.through(database.dsn("sender")), "TURNOUT_STOP_SECONDS": "3"}
        async with world.process(**through) as sender:
            wire.freeze()
            await until(lambda: _holds_an_answer_back(wire), "a question without an answer")
            stopped = monotonic()
        assert monotonic() - stopped < 20

    assert "the stop takes too long" in sender.output[-1]


async def _holds_an_answer_back(wire: Wire) -> bool:
    return wire.held > 0
