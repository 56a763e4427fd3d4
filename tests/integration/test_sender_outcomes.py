"""Writing outcomes when the answer to a commit was lost: what is written again counts once and touches nothing newer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.sender_world import World, sender_world
from turnout_common.clock import SystemClock
from turnout_common.events import MessagePlanned
from turnout_common.ids import new_id
from turnout_sender.channels.port import Answer, Verdict
from turnout_sender.decisions import Transition
from turnout_sender.deliveries import Outcome, release, settle

FAILED = Answer(Verdict.FAILED, "http_503", 503)
AGAIN = Transition("planned", "http_503", 1, retry_in=0.0)
ACCEPTED = Answer(Verdict.ACCEPTED, None, 200, "77")


@pytest.fixture(scope="module")
async def world(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[World]:
    async with sender_world(database, infrastructure, topic_prefix) as made:
        yield made


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database.dsn("sender"))
    yield opened
    await opened.close()


async def claimed(world: World, plan: MessagePlanned) -> UUID:
    """Claims the message as a sender does; gives the claim."""
    claim_id = new_id()
    await world.admin.execute(
        "UPDATE sender.deliveries SET status = 'sending', claim_id = $2, claimed_at = now(), attempts = attempts + 1 "
        "WHERE message_id = $1 AND status = 'planned'",
        plan.message_id, claim_id,
    )  # fmt: skip
    return claim_id


def outcome(plan: MessagePlanned, claim_id: UUID) -> Outcome:
    return Outcome(plan.message_id, claim_id, FAILED, AGAIN, SystemClock().now(), 5)


async def test_outcome_that_is_written_again_leaves_the_next_attempt_alone(
    world: World, connection: asyncpg.Connection
) -> None:
    plan = (await (await world.salon()).appointment()).planned()
    await world.say(plan)
    first = await claimed(world, plan)
    async with connection.transaction():
        await settle(connection, [outcome(plan, first)])
    second = await claimed(world, plan)

    async with connection.transaction():
        await settle(connection, [outcome(plan, first)])
        await release(connection, [(plan.message_id, first)], SystemClock().now())
    delivery = await world.delivery(plan)
    assert (delivery["status"], delivery["claim_id"], delivery["attempts"]) == ("sending", second, 2)

    accepted = replace(outcome(plan, second), answer=ACCEPTED, transition=Transition("accepted", None, 1))
    async with connection.transaction():
        await settle(connection, [accepted])
        await settle(connection, [accepted])
    assert (await world.log_of(plan))[-1] == "accepted"
    assert (await world.log_of(plan)).count("accepted") == 1
