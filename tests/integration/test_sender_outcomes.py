"""Outcomes beside what else happens: a commit whose answer was lost, a receipt at the same moment, a stop, a redirect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import until
from tests.integration.sender_world import World, sender_world
from turnout_common.clock import SystemClock
from turnout_common.events import MessagePlanned
from turnout_common.ids import new_id
from turnout_sender.channels.http import Http
from turnout_sender.channels.port import Answer, Verdict
from turnout_sender.claims import Claimed, Claimer
from turnout_sender.decisions import Transition
from turnout_sender.deliveries import Outcome, ProviderMessage, apply_receipts, release, settle
from turnout_sender.receipts import Receipt

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
        "UPDATE sender.deliveries SET status = 'sending', claim_id = $2, claimed_at = now(), attempts = attempts + 1, "
        "channel = 'whatsapp', gives_receipts = true "
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


async def test_receipt_and_outcome_that_are_written_at_once_find_each_other(
    world: World, connection: asyncpg.Connection, database: Database
) -> None:
    salon = await world.salon()
    plan = (await salon.appointment()).planned()
    await world.say(plan)
    name = ProviderMessage(plan.tenant_id, "whatsapp", f"wamid.{plan.message_id.hex}")
    accepted = replace(
        outcome(plan, await claimed(world, plan)),
        answer=replace(ACCEPTED, provider_message_id=name.provider_message_id),
        transition=Transition("accepted", None, 0), receipts_as=name,
    )  # fmt: skip
    other = await asyncpg.connect(database.dsn("sender"))
    receiving, now = connection.transaction(), SystemClock().now()
    await receiving.start()
    early = await apply_receipts(connection, {name: [Receipt("delivered", now)]}, now)

    async def write() -> None:
        async with other.transaction():
            await settle(other, [accepted])

    async def waits() -> bool:
        waiting = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
        return writing.done() or bool(await world.admin.fetchval(waiting, other.get_server_pid()))

    writing = asyncio.create_task(write())
    await until(waits, "the outcome to wait for the receipt, or not")
    await receiving.commit()
    await writing
    await other.close()

    assert early == {name}
    assert (await world.delivery(plan))["status"] == "delivered"


async def test_claim_that_is_committed_while_the_sender_stops_is_still_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    salon = await world.salon()
    plan = (await salon.appointment()).planned()
    claim, committed = Claimer.claim, asyncio.Event()

    async def claim_slowly(claimer: Claimer, busy: list[str]) -> Claimed:
        claimed = await claim(claimer, busy)
        if claimed.claims:
            committed.set()
            await asyncio.sleep(0.2)
        return claimed

    monkeypatch.setattr(Claimer, "claim", claim_slowly)
    await world.say(plan)
    async with world.sending():
        await asyncio.wait_for(committed.wait(), 20)

    assert (await world.delivery(plan))["status"] == "accepted"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_not_followed_to_where_a_token_does_not_belong(world: World, status: int) -> None:
    elsewhere: list[str] = []

    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async def arrive(request: web.Request) -> web.Response:
        elsewhere.append(request.path)
        return web.json_response({"ok": True, "result": {"message_id": 1}})

    app = web.Application()
    app.add_routes([web.post("/start", redirect), web.route("*", "/elsewhere", arrive)])
    async with TestServer(app) as server, Http(world.settings(provider_base_url="")) as http:
        reply = await http.post(str(server.make_url("")).rstrip("/"), "/start", {})

    assert (reply.status, elsewhere) == (status, [])
