"""The next versions of one entity, as events; and what caused them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from turnout_booking.domain.items import Item
from turnout_booking.domain.rules import RULES_BY_NAME
from turnout_common.events import (
    BookingEvent,
    BookingEventType,
    ChainState,
    EntityKind,
    FactState,
    IntentState,
)
from turnout_common.ids import derived_id

FACT_EVENTS: Mapping[str, BookingEventType] = {
    "feedback": BookingEventType.FEEDBACK_RECEIVED,
    "inventory_count": BookingEventType.INVENTORY_COUNTED,
    "goods_sale": BookingEventType.INVENTORY_SOLD,
    "shift": BookingEventType.SHIFT_PLANNED,
    "payment": BookingEventType.PAYMENT_RECEIVED,
    "refund": BookingEventType.PAYMENT_REFUNDED,
    "admin": BookingEventType.ADMIN_REPLY,
}


@dataclass(frozen=True, slots=True)
class Cause:
    """The item that made something change: its key names the events, its time is theirs."""

    key: UUID
    at: datetime
    source: str
    event: BookingEventType = BookingEventType.CHANGED


def cause_of(item: Item) -> Cause:
    return Cause(item.key, item.at, item.source, RULES_BY_NAME[item.trigger].events[0])


def newest_cause(causes: Iterable[Cause]) -> Cause | None:
    """The one that happened last."""
    return max(causes, key=lambda cause: (cause.at, cause.key), default=None)


class Versions:
    """Writes the next versions of one entity into `events`; `version` is the last one."""

    def __init__(
        self, events: list[BookingEvent], tenant_id: str, kind: EntityKind, entity_id: UUID, version: int
    ) -> None:
        self._events = events
        self._tenant_id = tenant_id
        self._kind = kind
        self._entity_id = entity_id
        self.version = version

    def add(
        self, event_type: BookingEventType, cause: Cause, state: ChainState | IntentState | FactState
    ) -> None:
        self.version += 1
        # Not validated again: the state is a model, the rest is ours (test_booking_flows.py parses all that is written).
        event = BookingEvent.model_construct(
            event_id=derived_id(self._entity_id.hex, cause.key.hex, str(self.version)),
            tenant_id=self._tenant_id,
            entity_kind=self._kind,
            entity_id=self._entity_id,
            version=self.version,
            event_type=event_type,
            source=cause.source,
            occurred_at=cause.at,
            payload=state,
        )
        self._events.append(event)
