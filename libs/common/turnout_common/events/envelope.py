"""CloudEvents 1.0 in Kafka's binary mode: attributes in `ce_*` headers, the event as JSON in the value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import ValidationError

from turnout_common.events.booking import BOOKING_EVENT_TYPES, BookingEvent
from turnout_common.events.inbound import BookingItem, ConsentItem, FactItem, MessageItem, ReceiptItem
from turnout_common.events.message import MessageEvent
from turnout_common.events.outbound import MessagePlanned, MessageWithdrawn
from turnout_common.events.values import WireModel

EVENT_MODELS: dict[str, type[WireModel]] = {
    "inbound.booking": BookingItem,
    "inbound.message": MessageItem,
    "inbound.receipt": ReceiptItem,
    "inbound.consent": ConsentItem,
    "inbound.fact": FactItem,
    **dict.fromkeys(BOOKING_EVENT_TYPES, BookingEvent),
    "message.planned": MessagePlanned,
    "message.withdrawn": MessageWithdrawn,
    "message.changed": MessageEvent,
}


class UnknownEventType(Exception):
    """An event of a type that this build does not know: a newer producer, to be ignored and counted."""

    def __init__(self, event_type: str) -> None:
        super().__init__(f"unknown event type {event_type!r}")
        self.event_type = event_type


class InvalidEvent(ValueError):
    """A record that is not an event of ours; the message says what is wrong with it, without its content."""


@dataclass(frozen=True)
class Envelope:
    """The CloudEvents attributes of one record. `time` is the event's own; `subject` is what it is about."""

    id: UUID
    type: str
    source: str
    time: datetime
    subject: str
    tenant_id: str
    traceparent: str | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        """Kafka headers. ASCII only: a header that is not would kill a consumer's parser (libraries.md §3)."""
        pairs = [
            ("ce_specversion", "1.0"),
            ("ce_id", str(self.id)),
            ("ce_type", self.type),
            ("ce_source", self.source),
            ("ce_time", self.time.isoformat()),
            ("ce_subject", self.subject),
            ("ce_tenantid", self.tenant_id),
            ("content-type", "application/json"),
        ]
        if self.traceparent:
            pairs.append(("traceparent", self.traceparent))
        return [(name, value.encode("ascii", "backslashreplace")) for name, value in pairs]


def from_headers(headers: Sequence[tuple[str, bytes | None]]) -> Envelope:
    """The envelope of a record; Kafka allows a header without a value. Raises InvalidEvent with the first attribute that is missing or malformed."""
    found: Mapping[str, str] = {
        name: value.decode("ascii", "replace") for name, value in headers if value is not None
    }
    try:
        return Envelope(
            id=UUID(found["ce_id"]),
            type=found["ce_type"],
            source=found["ce_source"],
            time=datetime.fromisoformat(found["ce_time"]),
            subject=found["ce_subject"],
            tenant_id=found["ce_tenantid"],
            traceparent=found.get("traceparent"),
        )
    except KeyError as error:
        raise InvalidEvent(f"header {error.args[0]} is missing") from error
    except ValueError as error:
        raise InvalidEvent("ce_id is not a UUID or ce_time is not a time") from error


def parse_event(event_type: str, value: bytes) -> WireModel:
    """The event in `value`, unknown fields ignored.

    Raises UnknownEventType, or InvalidEvent that names the fields at fault but never their values.
    """
    model = EVENT_MODELS.get(event_type)
    if model is None:
        raise UnknownEventType(event_type)
    try:
        return model.model_validate_json(value, extra="ignore")
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['type']}"
            for e in error.errors(include_url=False, include_context=False, include_input=False)[:5]
        )
        raise InvalidEvent(f"{event_type}: {faults}") from error
