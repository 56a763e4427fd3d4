"""Receipts on a channel that gives them: before the record, after it, twice, and out of order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.sender_world import Appointment, World, envelope_of, sender_world
from turnout_common.clock import SystemClock
from turnout_common.consumer import Outcome, Received
from turnout_common.events import RECEIPT_RANKS, Channel, MessagePlanned, ReceiptItem, ReceiptStatus
from turnout_common.tenants import set_channel
from turnout_sender.channels.http import Http
from turnout_sender.channels.port import Answer, Verdict
from turnout_sender.handlers import InboundHandler


class WithReceipts:
    """A channel that takes every message under the id that the test wants, as WhatsApp would."""

    channel = Channel.WHATSAPP
    base_url = "https://example.invalid"
    per_second = 10

    def __init__(self, provider_message_id: str) -> None:
        self._provider_message_id = provider_message_id

    async def send(self, http: Http, token: str, address: str, text: str) -> Answer:
        return Answer(Verdict.ACCEPTED, None, 200, self._provider_message_id)


@pytest.fixture(scope="module")
async def world(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[World]:
    async with sender_world(database, infrastructure, topic_prefix) as made:
        yield made


@pytest.fixture
async def booked(world: World) -> Appointment:
    """An appointment whose client is reached on WhatsApp."""
    salon = await world.salon()
    connection = await asyncpg.connect(world.database.dsn("platform"))
    await set_channel(connection, MASTER_KEY, salon.tenant_id, "whatsapp", secret="s", api_token="t")
    await connection.close()
    await world.directory.reload()
    made = await salon.appointment(reachable=False)
    await salon.add_chat(made.client_id, made.chat_id, channel="whatsapp")
    return made


def receipt(tenant_id: str, wamid: str, status: ReceiptStatus, at: datetime) -> ReceiptItem:
    return ReceiptItem(
        tenant_id=tenant_id, item_id=uuid4(), channel=Channel.WHATSAPP, key_hash="0" * 32, occurred_at=at,
        received_at=at, provider_message_id=wamid, status=status, rank=RECEIPT_RANKS[status],
        reason="131026" if status == "failed" else None,
    )  # fmt: skip


async def hear(world: World, *items: ReceiptItem) -> Mapping[UUID, Outcome]:
    """Applies receipts, as one batch of the consumer would."""
    received = [Received(envelope_of(item), item, None) for item in items]  # type: ignore[arg-type]
    async with world.pool.acquire() as connection, connection.transaction():
        return await InboundHandler(SystemClock())(connection, received)


async def send(world: World, plan: MessagePlanned, wamid: str) -> None:
    await world.say(plan)
    async with world.sending(adapters={Channel.WHATSAPP: WithReceipts(wamid)}):
        await world.until_status(plan, "accepted", "delivered", "read", "failed")


async def test_receipt_that_outruns_its_record_waits_for_it(world: World, booked: Appointment) -> None:
    plan, wamid, now = booked.planned(), f"wamid.{uuid4()}", SystemClock().now()
    early = receipt(plan.tenant_id, wamid, "delivered", now)

    assert await hear(world, early) == {early.item_id: Outcome.PARKED}
    await send(world, plan, wamid)

    delivery = await world.delivery(plan)
    assert (delivery["status"], delivery["delivered_at"], delivery["gives_receipts"]) == (
        "delivered",
        now,
        True,
    )
    assert await world.log_of(plan) == ["attempted", "accepted", "delivered"]
    left = await world.admin.fetchval(
        "SELECT count(*) FROM sender.early_receipts WHERE tenant_id = $1", plan.tenant_id
    )
    assert left == 0


async def test_receipts_move_a_message_on_and_never_back(world: World, booked: Appointment) -> None:
    plan, wamid, now = booked.planned(), f"wamid.{uuid4()}", SystemClock().now()
    await send(world, plan, wamid)
    order: list[ReceiptStatus] = ["sent", "read", "delivered", "sent", "failed", "read"]
    items = [
        receipt(plan.tenant_id, wamid, status, now + timedelta(seconds=n)) for n, status in enumerate(order)
    ]
    for item in items:
        assert await hear(world, item) == {}

    delivery = await world.delivery(plan)
    assert (delivery["status"], delivery["read_at"], delivery["failed_at"]) == (
        "read",
        now + timedelta(seconds=1),
        None,
    )
    assert await world.log_of(plan) == ["attempted", "accepted", "read"]


async def test_failed_receipt_fails_the_message_unless_it_was_delivered_after_all(
    world: World, booked: Appointment
) -> None:
    plan, wamid, now = booked.planned(), f"wamid.{uuid4()}", SystemClock().now()
    await send(world, plan, wamid)

    await hear(world, receipt(plan.tenant_id, wamid, "failed", now))
    assert await world.states(plan) == [("failed", "131026")]
    await hear(world, receipt(plan.tenant_id, wamid, "delivered", now))

    assert await world.states(plan) == [("delivered", None)]
    assert await world.log_of(plan) == ["attempted", "accepted", "failed", "delivered"]


async def test_receipt_of_another_tenants_message_touches_nothing(world: World, booked: Appointment) -> None:
    plan, wamid, now = booked.planned(), f"wamid.{uuid4()}", SystemClock().now()
    stranger = await world.salon()
    await send(world, plan, wamid)

    foreign = receipt(stranger.tenant_id, wamid, "read", now)
    assert await hear(world, foreign) == {foreign.item_id: Outcome.PARKED}

    assert await world.states(plan) == [("accepted", None)]
