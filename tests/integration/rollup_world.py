"""Entities for rollup's tests: versions of chains, intents, messages and facts, the logs they stand in, the consumer
that applies them, and the cells as plain Python sums them up from the highest versions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
from aiokafka import ConsumerRecord
from pydantic import SecretStr

from tests.infrastructure import Database
from turnout_common.clock import SystemClock
from turnout_common.consumer import BatchConsumer, Raw
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


def record_of(event: Event, published_at: datetime | None = None) -> Raw:
    """The event as Kafka brings it."""
    is_message = isinstance(event, MessageEvent)
    kind = "message.changed" if isinstance(event, MessageEvent) else event.event_type
    entity = event.message_id if isinstance(event, MessageEvent) else event.entity_id
    envelope = Envelope(event.event_id, kind, "test", event.occurred_at, str(entity), event.tenant_id)
    value, key = event.model_dump_json().encode(), f"{event.tenant_id}:{entity}".encode()
    timestamp = int((published_at or datetime.now(UTC)).timestamp() * 1000)
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


def heads(events: Iterable[Event]) -> list[Event]:
    """The highest version of each entity."""
    found: dict[UUID, Event] = {}
    for event in events:
        entity = event.message_id if isinstance(event, MessageEvent) else event.entity_id
        if entity not in found or found[entity].version < event.version:
            found[entity] = event
    return list(found.values())


Cells = dict[tuple[str, date, str], dict[str, int]]


def summed_up(events: Sequence[Event], zones: dict[str, str]) -> dict[str, Cells]:
    """The cells, by kind, as kpis.md has them: plain sums over the highest versions, all of it past."""
    cells: dict[str, Cells] = {
        kind: defaultdict(lambda: defaultdict(int)) for kind in ("chain", "intent", "message", "other")
    }
    for event in heads(events):
        zone = ZoneInfo(zones[event.tenant_id])
        if isinstance(event, MessageEvent):
            if event.first_attempt_at is not None:
                key = (event.tenant_id, event.first_attempt_at.astimezone(zone).date(), "")
                _add(cells["message"][key], _message_parts(event))
            continue
        state = event.payload
        match state:
            case ChainState():
                at, kind, parts = state.start_at, "chain", _chain_parts(state, zone)
            case IntentState():
                at, kind, parts = state.opened_at, "intent", _intent_parts(state)
            case FactState():
                at = state.start_at if state.fact == "shift" and state.start_at else state.at
                kind, parts = "other", _fact_parts(state)
        _add(cells[kind][event.tenant_id, at.astimezone(zone).date(), state.staff_id or ""], parts)
    return cells


def _add(cell: dict[str, int], parts: dict[str, int]) -> None:
    cell["facts"] += 1
    for name, value in parts.items():
        cell[name] += value


def _chain_parts(state: ChainState, zone: ZoneInfo) -> dict[str, int]:
    local = state.start_at.astimezone(zone)
    booked = state.confirmed_at is not None and state.status != "merged"
    called_off = (
        state.status == "cancelled" and (state.cancelled_at or state.start_at - HOUR) < state.start_at
    )
    cancelled = booked and called_off and state.cancel_reason != "reschedule_requested"
    due = booked and not called_off
    no_show = state.no_show or state.status == "no_show"
    visit = booked and state.status != "cancelled" and not no_show
    late = state.cancelled_at is not None and state.start_at - state.cancelled_at < 24 * HOUR
    own = state.currency in (None, "EUR")
    reminded = state.reminder_accepted_at is not None and state.reminder_accepted_at < state.start_at
    net = state.gross_minor - state.discount_minor - state.refund_minor
    return {
        "booked": booked,
        "cancelled": cancelled,
        "late_cancelled": cancelled and late,
        "moved": booked and state.moves > 0,
        "off_peak": booked and (local.hour < 11 or local.hour >= 19),
        "on_grid": booked and local.minute % 15 == 0 and local.second == 0,
        "lead_seconds": int((state.start_at - state.confirmed_at) // timedelta(seconds=1))
        if booked and state.confirmed_at
        else 0,
        "due": due,
        "no_show": due and no_show,
        "reachable": due and state.reachable,
        "reminder_covered": due and state.reachable and reminded,
        "visit": visit,
        "gross": state.gross_minor if visit and own else 0,
        "net": net if visit and own else 0,
        "other_currency": state.other_currency_payments + (not own) if visit else 0,
        "feedback": visit and state.rating is not None,
        "service_minutes": (state.end_at - state.start_at) // timedelta(minutes=1) if visit else 0,
    }


def _intent_parts(state: IntentState) -> dict[str, int]:
    counts = not state.withdrawn
    confirmed = counts and state.confirmed_at is not None
    ended = state.confirmed_at or state.closed_at
    suggested = counts and state.booking_id is not None and state.off_peak_suggested
    return {
        "intents": counts,
        "admin_actions": state.admin_actions if counts else 0,
        "off_peak_suggested": suggested,
        "off_peak_taken": suggested and state.off_peak_taken,
        "closed": counts,
        "intervened": counts and state.admin_actions > 0,
        "confirmed": confirmed,
        "automated": confirmed and not state.admin_before_confirmation,
        "resolved": counts and ended is not None,
        "resolve_seconds": (ended - state.opened_at) // timedelta(seconds=1) if counts and ended else 0,
    }


def _message_parts(event: MessageEvent) -> dict[str, int]:
    delivered = event.delivered_at is not None or event.read_at is not None
    accepted = event.accepted_at is not None or delivered
    reminder = event.template == MessageTemplate.REMINDER_24H
    return {
        "attempted": 1,
        "accepted": accepted,
        "receipted": accepted and event.gives_receipts,
        "delivered": delivered and event.gives_receipts,
        "reminder_receipted": accepted and event.gives_receipts and reminder,
        "reminder_delivered": delivered and event.gives_receipts and reminder,
        "failed": event.status == "failed",
        "dead": event.status == "dead",
        "unknown": event.status == "unknown",
    }


def _fact_parts(state: FactState) -> dict[str, int]:
    own = state.currency in (None, "EUR")
    counted = state.fact == "inventory_count" and state.expected is not None and state.counted is not None
    goods = state.fact == "goods_sale" and state.booking_id is None and own
    shift = state.fact == "shift" and state.start_at is not None and state.end_at is not None
    rated = state.fact == "feedback" and state.rating is not None
    minutes = (state.end_at - state.start_at) // timedelta(minutes=1) if shift else 0  # type: ignore[operator]
    return {
        "rating_sum": state.rating or 0 if rated else 0,
        "ratings": rated,
        "inventory_variance": abs((state.counted or 0) - (state.expected or 0)) if counted else 0,
        "inventory_expected": state.expected or 0 if counted else 0,
        "goods_gross": state.gross_minor or 0 if goods else 0,
        "goods_net": (state.gross_minor or 0) - (state.discount_minor or 0) if goods else 0,
        "other_currency": state.gross_minor is not None and not own,
        "rostered_minutes": max(minutes - (state.break_minutes or 0), 0),
    }
