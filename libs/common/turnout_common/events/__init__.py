"""Everything that the services say to each other: one frozen pydantic model per event type (design §1).

Producers build the models and cannot add unknown fields; consumers parse with `parse_event`, which ignores them, so
that a rolling upgrade never stops a consumer. A breaking change is a new type name.
"""

from turnout_common.events.booking import (
    BOOKING_EVENT_TYPES,
    BookingEvent,
    BookingEventType,
    CancelReason,
    ChainState,
    ChainStatus,
    EntityKind,
    FactState,
    IntentOutcome,
    IntentState,
)
from turnout_common.events.envelope import Envelope, UnknownEventType, from_headers, parse_event
from turnout_common.events.inbound import (
    RECEIPT_RANKS,
    BookingItem,
    BookingReference,
    BookingTrigger,
    ConsentItem,
    ConsentScope,
    Contact,
    FactItem,
    FactType,
    InboundItem,
    MessageItem,
    MessageKind,
    ReceiptItem,
    ReceiptStatus,
)
from turnout_common.events.message import MessageEvent, MessageStatus
from turnout_common.events.outbound import MessagePlanned, MessageTemplate, MessageWithdrawn, Queue
from turnout_common.events.values import Actor, Channel, Currency, Key, Label, TenantId, WireModel

__all__ = [
    "BOOKING_EVENT_TYPES",
    "RECEIPT_RANKS",
    "Actor",
    "BookingEvent",
    "BookingEventType",
    "BookingItem",
    "BookingReference",
    "BookingTrigger",
    "CancelReason",
    "ChainState",
    "ChainStatus",
    "Channel",
    "ConsentItem",
    "ConsentScope",
    "Contact",
    "Currency",
    "EntityKind",
    "Envelope",
    "FactItem",
    "FactState",
    "FactType",
    "InboundItem",
    "IntentOutcome",
    "IntentState",
    "Key",
    "Label",
    "MessageEvent",
    "MessageItem",
    "MessageKind",
    "MessagePlanned",
    "MessageStatus",
    "MessageTemplate",
    "MessageWithdrawn",
    "Queue",
    "ReceiptItem",
    "ReceiptStatus",
    "TenantId",
    "UnknownEventType",
    "WireModel",
    "from_headers",
    "parse_event",
]
