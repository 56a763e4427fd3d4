"""Entities for rollup's tests: versions of chains, intents, messages and facts, the logs they stand in, and the
consumers that apply them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import ConsumerRecord
from pydantic import SecretStr

from tests.infrastructure import Database
from turnout_common.clock import SystemClock
from turnout_common.consumer import BatchConsumer
from turnout_common.dead_letters import Raw
from turnout_common.events import (
    BookingEvent,
    BookingEventType,
    ChainState,
    ChainStatus,
    Channel,
    EntityKind,
    Envelope,
    FactState,
    IntentState,
    MessageEvent,
    MessageStatus,
    MessageTemplate,
    Queue,
)
from turnout_common.ids import new_id
from turnout_common.kafka import create_broker
from turnout_common.postgres import create_pool
from turnout_rollup.handlers import TOPICS, FactHandler
from turnout_rollup.settings import RollupSettings

Event = BookingEvent | MessageEvent
#: A Monday, 10:00 in Berlin; nobody's off-peak, on every grid.
START = datetime(2026, 3, 9, 11, tzinfo=UTC)
HOUR = timedelta(hours=1)
_offsets = count()


def chain(tenant_id: str, version: int = 1, booking_id: UUID | None = None, **state: Any) -> BookingEvent:
    """A version of a chain: a confirmed hour at START, booked a day ahead, unless `state` says otherwise."""
    booking_id = booking_id or new_id()
    start_at = state.pop("start_at", START)
    values: dict[str, Any] = {
        "status": ChainStatus.CONFIRMED,
        "source": "calcom",
        "uid": f"uid-{booking_id}",
        "channel": Channel.CALCOM,
        "created_at": start_at - 24 * HOUR,
        "confirmed_at": start_at - 24 * HOUR,
        "start_at": start_at,
        "end_at": start_at + HOUR,
    }
    payload = ChainState(booking_id=booking_id, **(values | state))
    return _booking_event(tenant_id, EntityKind.CHAIN, booking_id, version, payload)


def intent(tenant_id: str, version: int = 1, intent_id: UUID | None = None, **state: Any) -> BookingEvent:
    """A version of an intent that was opened at START and is open."""
    intent_id = intent_id or new_id()
    values: dict[str, Any] = {"channel": Channel.TELEGRAM, "implicit": False, "opened_at": START}
    payload = IntentState(intent_id=intent_id, **(values | state))
    return _booking_event(tenant_id, EntityKind.INTENT, intent_id, version, payload)


def fact(
    tenant_id: str, what: str, version: int = 1, fact_id: UUID | None = None, **state: Any
) -> BookingEvent:
    """A version of a business fact that happened at START."""
    fact_id = fact_id or new_id()
    values: dict[str, Any] = {"fact": what, "at": START, "channel": Channel.EVENTS}
    payload = FactState(fact_id=fact_id, **(values | state))
    return _booking_event(tenant_id, EntityKind.FACT, fact_id, version, payload)


def _booking_event(
    tenant_id: str,
    kind: EntityKind,
    entity_id: UUID,
    version: int,
    payload: ChainState | IntentState | FactState,
) -> BookingEvent:
    return BookingEvent(
        event_id=new_id(),
        tenant_id=tenant_id,
        entity_kind=kind,
        entity_id=entity_id,
        version=version,
        event_type=BookingEventType.CHANGED,
        source="test",
        occurred_at=START,
        payload=payload,
    )


def message(tenant_id: str, version: int = 1, message_id: UUID | None = None, **state: Any) -> MessageEvent:
    """A version of a confirmation that Telegram accepted at START."""
    values: dict[str, Any] = {
        "status": MessageStatus.ACCEPTED,
        "queue": Queue.TX,
        "template": MessageTemplate.CONFIRMATION,
        "channel": Channel.TELEGRAM,
        "first_attempt_at": START,
        "accepted_at": START,
        "attempts": 1,
    }
    return MessageEvent(
        event_id=new_id(),
        tenant_id=tenant_id,
        message_id=message_id or new_id(),
        version=version,
        occurred_at=START,
        **(values | state),
    )


def something_of_everything(tenant_id: str) -> list[Event]:
    """Eight versions of seven entities: of each kind one at least, and a chain that was moved."""
    moved = chain(tenant_id, staff_id="ann")
    return [
        moved,
        chain(tenant_id, 2, moved.entity_id, staff_id="bob", start_at=START + 24 * HOUR, moves=1),
        chain(tenant_id, staff_id="ann", gross_minor=5000, rating=5),
        chain(tenant_id, status="cancelled", cancelled_at=START - HOUR),
        intent(tenant_id, confirmed_at=START + HOUR),
        message(tenant_id),
        fact(tenant_id, "feedback", rating=4),
        fact(tenant_id, "shift", start_at=START, end_at=START + 8 * HOUR),
    ]


def record_of(event: Event, published_at: datetime | None = None) -> Raw:
    """The event as Kafka brings it."""
    is_message = isinstance(event, MessageEvent)
    kind = "message.changed" if isinstance(event, MessageEvent) else event.event_type
    entity = event.message_id if isinstance(event, MessageEvent) else event.entity_id
    envelope = Envelope(event.event_id, kind, "test", event.occurred_at, str(entity), event.tenant_id)
    value, key = event.model_dump_json().encode(), f"{event.tenant_id}:{entity}".encode()
    timestamp = int((published_at or SystemClock().now()).timestamp() * 1000)
    topic = "message_events" if is_message else "booking_events"
    return ConsumerRecord(
        topic, 0, next(_offsets), timestamp, 0, key, value, None, len(key), len(value), tuple(envelope.headers())
    )  # fmt: skip


class Rollup:
    """One consumer of each topic, given its records by hand, and its database seen by an administrator."""

    def __init__(self, database: Database, pool: asyncpg.Pool, admin: asyncpg.Connection) -> None:
        self.pool = pool
        self.admin = admin
        self.handlers = {topic: FactHandler(SystemClock()) for topic in TOPICS}
        settings = RollupSettings(
            env="development", postgres_dsn=SecretStr(database.dsn("rollup")), kafka_bootstrap="127.0.0.1:1"
        )
        broker = create_broker(settings.kafka_bootstrap, "test")
        self.consumers = {
            topic: BatchConsumer(
                broker=broker, settings=settings, pool=pool, schema="rollup", topic=topic,
                handler=handler, wanted=TOPICS[topic], after_commit=handler.committed,
            )
            for topic, handler in self.handlers.items()
        }  # fmt: skip

    async def apply(self, *events: Event) -> None:
        """One batch per topic."""
        records = [record_of(event) for event in events]
        for topic, consumer in self.consumers.items():
            if mine := [record for record in records if record.topic == topic]:
                await consumer.process(mine)

    async def write_logs(self, events: Iterable[Event]) -> None:
        """Puts events where booking and sender put them."""
        for event in events:
            if isinstance(event, MessageEvent):
                await self.admin.execute(_MESSAGE_LOG, event.model_dump_json(), event.event_id)
            else:
                await self.admin.execute(
                    _BOOKING_EVENTS, event.event_id, event.tenant_id, event.entity_kind, event.entity_id, event.version,
                    event.event_type, event.source, event.occurred_at, event.payload.model_dump_json(),
                )  # fmt: skip

    async def cells(self, kind: str, tenant_id: str) -> dict[tuple[date, str], dict[str, Any]]:
        rows = await self.admin.fetch(f"SELECT * FROM rollup.{kind}_days WHERE tenant_id = $1", tenant_id)
        return {
            (row["day"], row["staff_id"]): {
                name: value for name, value in row.items() if name not in ("tenant_id", "day", "staff_id")
            }
            for row in rows
        }

    async def cell(self, kind: str, tenant_id: str) -> dict[str, Any]:
        """The tenant's only cell."""
        (found,) = (await self.cells(kind, tenant_id)).values()
        return found


_BOOKING_EVENTS = """
INSERT INTO booking.booking_events
  (event_id, tenant_id, entity_kind, entity_id, version, event_type, source, occurred_at, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""
_MESSAGE_LOG = """
INSERT INTO sender.message_log (record_id, tenant_id, message_id, version, occurred_at, status, queue, template, channel,
  gives_receipts, booking_id, client_id, start_at, first_attempt_at, accepted_at, delivered_at, read_at, failed_at,
  attempts, reason)
SELECT $2, e.* FROM jsonb_to_record($1::jsonb) AS e(tenant_id text, message_id uuid, version int, occurred_at timestamptz,
  status text, queue text, template text, channel text, gives_receipts boolean, booking_id uuid, client_id uuid,
  start_at timestamptz, first_attempt_at timestamptz, accepted_at timestamptz, delivered_at timestamptz,
  read_at timestamptz, failed_at timestamptz, attempts int, reason text)"""


@asynccontextmanager
async def rollup_on(database: Database) -> AsyncIterator[Rollup]:
    pool = await create_pool(database.dsn("rollup"), "test-rollup", size=4)
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        yield Rollup(database, pool, admin)
    finally:
        await admin.close()
        await pool.close()
