"""A booking service for tests: its consumers given records by hand, builders of what comes in, and the database as an
administrator sees it, with ids put in place of what is random.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import ConsumerRecord
from pydantic import SecretStr

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from turnout_booking.handlers import TOPICS, BookingHandler
from turnout_booking.settings import BookingSettings
from turnout_booking.upkeep import Upkeep
from turnout_common.clock import FixedClock
from turnout_common.consumer import BatchConsumer
from turnout_common.events import (
    BookingItem,
    BookingReference,
    BookingTrigger,
    Channel,
    ConsentItem,
    ConsentScope,
    Contact,
    Envelope,
    FactItem,
    FactType,
    MessageEvent,
    MessageItem,
    MessageKind,
    MessageStatus,
    MessageTemplate,
    Queue,
)
from turnout_common.ids import idempotency_key, new_id
from turnout_common.kafka import create_broker
from turnout_common.postgres import create_pool
from turnout_common.tenants import create_tenant

Event = BookingItem | FactItem | MessageItem | ConsentItem | MessageEvent
#: A Monday, 10:00 in Berlin.
NOW = datetime(2026, 3, 9, 9, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = NOW + 3 * DAY
_numbers = count(1)


def contact_hash(name: str) -> str:
    """Any contact's hash, by a readable name."""
    return idempotency_key("contact", name).hex()


def person(phone: str | None = None, email: str | None = None) -> Contact:
    return Contact(
        phone_hash=contact_hash(phone) if phone else None,
        email_hash=contact_hash(email) if email else None,
        sealed="sealed",
    )


def _common(tenant_id: str, channel: Channel, at: datetime, key: str | None) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "item_id": new_id(),
        "channel": channel,
        "key_hash": idempotency_key(key or f"item {next(_numbers)}").hex(),
        "occurred_at": at,
        "received_at": at,
    }


def booking(
    tenant_id: str,
    trigger: BookingTrigger | str,
    uid: str,
    at: datetime,
    start: datetime | None = START,
    *,
    key: str | None = None,
    **fields: Any,
) -> BookingItem:
    """A statement of Cal.com about an hour at `start`; None: one without times."""
    return BookingItem(
        **_common(tenant_id, Channel.CALCOM, at, key),
        source="calcom",
        trigger=BookingTrigger(trigger),
        uid=uid,
        start_at=start,
        end_at=start + HOUR if start is not None else None,
        **fields,
    )


def fact(
    tenant_id: str,
    what: FactType | str,
    at: datetime,
    uid: str | None = None,
    *,
    key: str | None = None,
    **fields: Any,
) -> FactItem:
    """A business fact, about Cal.com's booking `uid` where it is given."""
    return FactItem(
        **_common(tenant_id, Channel.EVENTS, at, key),
        fact=FactType(what),
        booking=BookingReference(source="calcom", uid=uid) if uid is not None else None,
        **fields,
    )


def message(
    tenant_id: str,
    chat: str,
    at: datetime,
    *,
    phone: str | None = None,
    key: str | None = None,
    **fields: Any,
) -> MessageItem:
    """A Telegram message; `phone` is a shared one that Telegram vouches for."""
    shared = (
        {"contact": person(phone), "contact_verified": True, "kind": MessageKind.CONTACT} if phone else {}
    )
    values: dict[str, Any] = {"kind": MessageKind.TEXT, "message_no": next(_numbers), "sent_at": at}
    return MessageItem(
        **_common(tenant_id, Channel.TELEGRAM, at, key),
        chat_hash=contact_hash(chat),
        chat_sealed=f"sealed-{chat}",
        **(values | shared | fields),
    )


def consent(
    tenant_id: str, chat: str, at: datetime, opted_in: bool, scope: ConsentScope = "all"
) -> ConsentItem:
    return ConsentItem(
        **_common(tenant_id, Channel.TELEGRAM, at, None),
        chat_hash=contact_hash(chat),
        chat_sealed=f"sealed-{chat}",
        opted_in=opted_in,
        scope=scope,
    )


def outcome(
    tenant_id: str,
    booking_id: UUID,
    status: MessageStatus,
    at: datetime,
    start: datetime = START,
    **fields: Any,
) -> MessageEvent:
    """What became of the reminder for `start`."""
    values: dict[str, Any] = {
        "message_id": UUID(int=booking_id.int ^ int(start.timestamp())),
        "version": 1,
        "queue": Queue.TX,
        "template": MessageTemplate.REMINDER_24H,
        "channel": Channel.TELEGRAM,
        "first_attempt_at": at,
        "accepted_at": at,
    }
    return MessageEvent(
        event_id=new_id(), tenant_id=tenant_id, occurred_at=at, status=status, booking_id=booking_id,
        start_at=start, **(values | fields),
    )  # fmt: skip


def record_of(event: Event) -> ConsumerRecord[bytes, bytes]:
    """The event as Kafka brings it."""
    is_message = isinstance(event, MessageEvent)
    record_id = event.event_id if isinstance(event, MessageEvent) else event.item_id
    envelope = Envelope(record_id, event.type, "test", event.occurred_at, "subject", event.tenant_id)
    value, key = event.model_dump_json().encode(), event.tenant_id.encode()
    topic = "message_events" if is_message else "inbound_webhooks"
    return ConsumerRecord(
        topic, 0, next(_numbers), int(NOW.timestamp() * 1000), 0, key, value, None, len(key), len(value),
        tuple(envelope.headers()),
    )  # fmt: skip


class Booking:
    """The service's consumers without Kafka, and what they wrote."""

    def __init__(self, database: Database, pool: asyncpg.Pool, admin: asyncpg.Connection) -> None:
        self.pool = pool
        self.admin = admin
        self.clock = FixedClock(NOW)
        settings = BookingSettings(
            env="development", postgres_dsn=SecretStr(database.dsn("booking")), kafka_bootstrap="127.0.0.1:1"
        )
        broker = create_broker(settings.kafka_bootstrap, "test")
        self.consumers = {
            topic: BatchConsumer(
                broker=broker, settings=settings, pool=pool, schema="booking", topic=topic,
                handler=BookingHandler(self.clock), wanted=wanted,
            )
            for topic, wanted in TOPICS.items()
        }  # fmt: skip
        self.upkeep = Upkeep(pool, self.clock, 60.0, lambda: None)

    async def apply(self, *events: Event) -> None:
        """One batch per topic."""
        records = [record_of(event) for event in events]
        for topic, consumer in self.consumers.items():
            if mine := [record for record in records if record.topic == topic]:
                await consumer.process(mine)

    async def one_by_one(self, *events: Event) -> None:
        for event in events:
            await self.apply(event)

    async def chains(self, tenant_id: str) -> list[dict[str, Any]]:
        """The states of the tenant's chains, oldest first."""
        rows = await self.admin.fetch(
            "SELECT state FROM booking.chains WHERE tenant_id = $1 ORDER BY start_at, booking_id", tenant_id
        )
        return [json.loads(row["state"]) for row in rows]

    async def chain(self, tenant_id: str) -> dict[str, Any]:
        """The state of the tenant's only live chain."""
        (found,) = [state for state in await self.chains(tenant_id) if state["status"] != "merged"]
        return found

    async def intents(self, tenant_id: str) -> list[dict[str, Any]]:
        """The states of the tenant's intents that count, in the order in which they opened."""
        rows = await self.admin.fetch(
            "SELECT state FROM booking.intents WHERE tenant_id = $1 AND NOT withdrawn ORDER BY opened_at, implicit",
            tenant_id,
        )
        return [json.loads(row["state"]) for row in rows]

    async def facts(self, tenant_id: str) -> list[dict[str, Any]]:
        rows = await self.admin.fetch(
            "SELECT state FROM booking.facts WHERE tenant_id = $1 ORDER BY state ->> 'at', fact_id", tenant_id
        )
        return [json.loads(row["state"]) for row in rows]

    async def events(self, tenant_id: str, kind: str = "chain") -> list[asyncpg.Record]:
        return await self.admin.fetch(
            "SELECT * FROM booking.booking_events WHERE tenant_id = $1 AND entity_kind = $2 ORDER BY seq",
            tenant_id, kind,
        )  # fmt: skip

    async def types(self, tenant_id: str, kind: str = "chain") -> list[str]:
        return [row["event_type"].removeprefix("booking.") for row in await self.events(tenant_id, kind)]

    async def told(self, tenant_id: str) -> list[dict[str, Any]]:
        """What went to outbound_messages, in order, with its type."""
        rows = await self.admin.fetch(
            "SELECT type, payload FROM booking.outbound WHERE tenant_id = $1 ORDER BY seq", tenant_id
        )
        return [{"type": row["type"], **json.loads(row["payload"])} for row in rows]

    async def outcomes(self, *events: Event) -> list[str | None]:
        """What became of each record."""
        ids = [e.event_id if isinstance(e, MessageEvent) else e.item_id for e in events]
        rows = await self.admin.fetch("SELECT * FROM booking.applied WHERE record_id = ANY ($1::uuid[])", ids)
        found = {row["record_id"]: row["outcome"] for row in rows}
        return [found.get(record_id) for record_id in ids]

    async def picture(self, tenant_id: str) -> Any:
        """Everything that the tenant's items come to, with random ids replaced by what they stand for."""
        return normalised(
            {
                "chains": [c for c in await self.chains(tenant_id) if c["status"] != "merged"],
                "intents": await self.intents(tenant_id),
                "facts": [{**state, "fact_id": None} for state in await self.facts(tenant_id)],
            }
        )


def normalised(picture: dict[str, list[dict[str, Any]]]) -> Any:
    """The same picture for the same states: an id becomes the number of its first place in a fixed order."""
    names: dict[str, str] = {}
    random_ids = ("booking_id", "intent_id", "client_id", "merged_into", "fact_id")
    ordered = {
        kind: sorted(
            states,
            key=lambda s: json.dumps({k: v for k, v in s.items() if k not in random_ids}, sort_keys=True),
        )
        for kind, states in picture.items()
    }
    for states in ordered.values():
        for state in states:
            for field in random_ids:
                if state.get(field) is not None:
                    state[field] = names.setdefault(state[field], f"id {len(names)}")
    return ordered


@asynccontextmanager
async def booking_on(database: Database) -> AsyncIterator[Booking]:
    pool = await create_pool(database.dsn("booking"), "test-booking", size=4)
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        yield Booking(database, pool, admin)
    finally:
        await admin.close()
        await pool.close()


def life(tenant_id: str, **fields: Any) -> Sequence[BookingItem]:
    """CREATED O, RESCHEDULED N1←O, RESCHEDULED N2←N1, NO_SHOW N2, its undo, CANCELLED N2: each at a time of its own."""
    n2 = START + 2 * DAY
    return (
        booking(tenant_id, "created", "O", NOW - 5 * DAY, START, **fields),
        booking(tenant_id, "rescheduled", "N1", NOW - 4 * DAY, START + DAY, previous_uid="O", **fields),
        booking(tenant_id, "rescheduled", "N2", NOW - 3 * DAY, n2, previous_uid="N1", **fields),
        booking(tenant_id, "no_show_updated", "N2", NOW - 2 * DAY, None, no_show=True),
        booking(tenant_id, "no_show_updated", "N2", NOW - DAY, None, no_show=False),
        booking(tenant_id, "cancelled", "N2", NOW - HOUR, n2, previous_uid="N1", **fields),
    )


async def new_tenant(database: Database) -> str:
    """A tenant as any other."""
    name = "t" + os.urandom(6).hex()
    connection = await asyncpg.connect(database.dsn("platform"))
    try:
        await create_tenant(connection, MASTER_KEY, name, "Europe/Berlin", actor="test")
    finally:
        await connection.close()
    return name
