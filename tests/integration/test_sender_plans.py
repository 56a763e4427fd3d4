"""Plans and withdrawals in any order end in one state: the highest booking version wins for each slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import permutations

import asyncpg
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.sender_world import World, sender_world
from turnout_common.clock import SystemClock
from turnout_common.events import Channel, MessagePlanned, MessageWithdrawn
from turnout_sender.channels.http import Http
from turnout_sender.channels.port import Answer, Verdict


@pytest.fixture(scope="module")
async def world(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[World]:
    async with sender_world(database, infrastructure, topic_prefix) as made:
        yield made


async def test_superseded_plan_is_not_sent(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    old = booked.planned("reminder_24h")
    await booked.becomes("confirmed", booked.start_at + timedelta(hours=3))
    new = booked.planned("reminder_24h")
    await world.say(old)
    await world.say(new)
    assert await world.states(old, new) == [("cancelled", "superseded"), ("planned", None)]

    async with world.sending():
        await world.until_status(new, "accepted")

    assert len(await world.mock.sent(salon.token)) == 1
    assert await world.log_of(old) == ["cancelled"]


async def test_withdrawal_that_comes_before_its_plan_still_stops_it(world: World) -> None:
    salon = await world.salon()
    booked, other = await salon.appointment(), await salon.appointment()
    plan, sent = booked.planned(), other.planned()
    await world.say(booked.withdrawn(version=2))
    await world.say(plan)
    await world.say(sent)

    async with world.sending():
        await world.until_status(sent, "accepted")

    assert await world.states(plan) == [("cancelled", "withdrawn")]
    assert [m["chat_id"] for m in await world.mock.sent(salon.token)] == [other.chat_id]


async def test_older_plan_after_a_withdrawal_is_not_revived_and_a_newer_one_is(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned()
    await world.say(plan)
    await world.say(booked.withdrawn(version=2))
    await world.say(plan)
    assert await world.states(plan) == [("cancelled", "withdrawn")]

    booked.version = 3
    await world.say(booked.planned())
    assert await world.states(plan) == [("planned", None)]
    async with world.sending():
        await world.until_status(plan, "accepted")

    assert await world.log_of(plan) == ["cancelled", "planned", "attempted", "accepted"]


async def test_message_that_was_sent_is_not_sent_again_when_the_booking_moves_back(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    first, start = booked.planned(), booked.start_at
    await world.say(first)
    async with world.sending():
        await world.until_status(first, "accepted")
        await booked.becomes("confirmed", start + timedelta(hours=1))
        moved = booked.planned()
        await world.say(moved)
        await world.until_status(moved, "accepted")
        await booked.becomes("confirmed", start)
        back = booked.planned()
        assert back.message_id == first.message_id
        await world.say(back)
        last = (await salon.appointment()).planned()
        await world.say(last)
        await world.until_status(last, "accepted")

    assert len(await world.mock.sent(salon.token)) == 3


async def test_every_order_of_plans_and_withdrawals_ends_in_one_state(world: World) -> None:
    salon = await world.salon()
    ends = set()
    for order in permutations(range(5)):
        booked = await salon.appointment()
        start = booked.start_at
        said: list[MessagePlanned | MessageWithdrawn] = [
            booked.planned(booking_version=1),
            booked.planned(booking_version=2, start_at=start + timedelta(hours=1)),
            booked.withdrawn(version=3),
            booked.planned(booking_version=4),
            booked.planned(booking_version=5, start_at=start + timedelta(hours=2)),
        ]
        for n in order:
            await world.say(said[n])
        rows = await world.admin.fetch(
            "SELECT start_at, status, reason, booking_version FROM sender.deliveries WHERE booking_id = $1 ORDER BY 1",
            booked.booking_id,
        )
        ends.add(tuple((row["start_at"] - start, *row[1:]) for row in rows))

    hour = timedelta(hours=1)
    # The withdrawal shows in no reason any more: what stands is what the last word left.
    assert {tuple((at, status, version) for at, status, _, version in end) for end in ends} == {
        ((0 * hour, "cancelled", 4), (1 * hour, "cancelled", 2), (2 * hour, "planned", 5))
    }


async def test_one_batch_and_one_by_one_end_the_same(world: World) -> None:
    salon = await world.salon()
    for batched in (True, False):
        booked = await salon.appointment()
        said: list[MessagePlanned | MessageWithdrawn] = [
            booked.planned(booking_version=1),
            booked.withdrawn(version=2),
            booked.planned(booking_version=3),
        ]
        if batched:
            await world.say(*said)
        else:
            for event in said:
                await world.say(event)

        delivery = await world.delivery(booked.planned())
        assert (delivery["status"], delivery["booking_version"]) == ("planned", 3)


async def test_newer_plan_of_the_same_start_changes_when_it_goes_out(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    later = SystemClock().now() + timedelta(hours=5)
    plan = booked.planned("reminder_24h", not_before=later, expires_at=later + timedelta(hours=1))
    await world.say(plan)
    await world.say(booked.planned("reminder_24h", booking_version=2))

    async with world.sending():
        await world.until_status(plan, "accepted")

    assert await world.log_of(plan) == ["attempted", "accepted"]


async def test_withdrawal_between_two_attempts_stops_the_second(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned()
    await world.mock.behave(salon.token, {"kind": "fail"})
    await world.say(plan)

    async with world.sending(retry_base_seconds=5, retry_most_seconds=5, circuit_failures=100):
        await world.until_status(plan, "sending", "planned")
        while (await world.delivery(plan))["failures"] == 0:
            await world.until_status(plan, "planned")
        await world.say(booked.withdrawn(version=2))

    assert await world.states(plan) == [("cancelled", "withdrawn")]
    assert len(await world.mock.calls(salon.token)) == 1
    assert await world.log_of(plan) == ["attempted", "cancelled"]


class Gate:
    """A channel whose answers wait until the test lets them go; each is a failure that is worth another try."""

    channel = Channel.TELEGRAM
    base_url = "https://example.invalid"
    per_second = 20

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self.requests = 0

    async def send(self, http: Http, token: str, address: str, text: str) -> Answer:
        self.requests += 1
        self.reached.set()
        await self.opened.wait()
        return Answer(Verdict.FAILED, "http_500", 500)


async def test_withdrawal_of_a_message_under_way_allows_no_second_try(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan, gate = booked.planned(), Gate()
    await world.say(plan)
    async with world.sending(adapters={Channel.TELEGRAM: gate}):
        await gate.reached.wait()
        await world.say(booked.withdrawn(version=2))
        assert await world.states(plan) == [("sending", None)]
        gate.opened.set()
        await world.until_status(plan, "cancelled", "failed")

    assert await world.states(plan) == [("cancelled", "withdrawn")]
    assert gate.requests == 1
    assert await world.log_of(plan) == ["attempted", "cancelled"]


async def test_two_messages_cannot_share_a_sent_key(world: World) -> None:
    salon = await world.salon()
    booked, twin = await salon.appointment(), await salon.appointment()
    plan = booked.planned()
    await world.say(plan)

    with pytest.raises(asyncpg.UniqueViolationError):
        await world.say(twin.planned(sent_key=plan.sent_key))


async def test_sender_finds_every_order_dead_end(world: World) -> None:
    """A withdrawal of a slot that never gets a plan leaves only its tombstone."""
    salon = await world.salon()
    booked = await salon.appointment()
    await world.say(booked.withdrawn())

    slot = await world.admin.fetchrow("SELECT * FROM sender.slots WHERE tenant_id = $1", salon.tenant_id)
    assert slot is not None and slot["message_id"] is None
    assert (
        await world.admin.fetchval(
            "SELECT count(*) FROM sender.deliveries WHERE tenant_id = $1", salon.tenant_id
        )
        == 0
    )
