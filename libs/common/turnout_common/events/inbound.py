"""`inbound_webhooks`: what ingest accepted, normalised, one model per kind of item.

Contact data and free text are sealed (security.TenantKeys); everything else is ids, enums, numbers and times.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from turnout_common.events.values import (
    Actor,
    Channel,
    ContactHash,
    Currency,
    Instant,
    Key,
    Label,
    Sealed,
    TenantId,
    WireModel,
)


class BookingTrigger(StrEnum):
    """What happened to a booking at its source, in the source's own sense."""

    REQUESTED = "requested"
    CREATED = "created"
    RESCHEDULED = "rescheduled"
    RESCHEDULE_REQUESTED = "reschedule_requested"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    PAID = "paid"
    PAYMENT_INITIATED = "payment_initiated"
    CHANGED = "changed"
    NO_SHOW_UPDATED = "no_show_updated"
    MEETING_STARTED = "meeting_started"
    MEETING_ENDED = "meeting_ended"


class Contact(WireModel):
    """A person as the source named them. `sealed` is JSON {name, email, phone} under purpose `contact`."""

    phone_hash: ContactHash | None = None
    email_hash: ContactHash | None = None
    sealed: Sealed | None = None
    locale: Label | None = None


class InboundItem(WireModel):
    """What every item carries. `item_id` is `ce_id`; `key_hash` is the idempotency key in hex."""

    tenant_id: TenantId
    item_id: UUID
    channel: Channel
    key_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    occurred_at: Instant
    received_at: Instant


class BookingItem(InboundItem):
    """One statement of a booking source about one uid (and seat).

    `previous_uid` is the booking that this one replaces (rescheduleUid, fromReschedule); `root_uid` the first of the
    chain, where the source says it. Items without `start_at` and `end_at` (no-show marks) are joined by uid.
    `attendee` is whom it is about: who booked, or a guest. `seat` is the same person where the source says that each
    attendee holds a seat, a booking of its own; without it a meeting or a mark leaves open whether that is so.
    """

    type: Literal["inbound.booking"] = "inbound.booking"
    source: Key
    trigger: BookingTrigger
    uid: Key
    previous_uid: Key | None = None
    root_uid: Key | None = None
    seat: ContactHash | None = None
    attendee: ContactHash | None = None
    start_at: Instant | None = None
    end_at: Instant | None = None
    previous_start_at: Instant | None = None
    previous_end_at: Instant | None = None
    staff_ref: Key | None = None
    service_ref: Key | None = None
    contact: Contact | None = None
    no_show: bool | None = None
    actor: Actor = Actor.UNKNOWN
    price_minor: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    currency: Currency | None = None
    paid: bool | None = None
    rating: Annotated[int, Field(ge=1, le=5)] | None = None
    intent_id: UUID | None = None
    notes_sealed: Sealed | None = None


class MessageKind(StrEnum):
    TEXT = "text"
    COMMAND = "command"
    BUTTON = "button"
    CONTACT = "contact"
    OTHER = "other"


class MessageItem(InboundItem):
    """A client's message. Order within a chat: (`sent_at`, `message_no`), the channel's own.

    `chat_sealed` is the address to answer to (purpose `chat`), `text_sealed` the text (purpose `text`), `contact` a
    phone that the messenger itself vouches for when `contact_verified`.
    """

    type: Literal["inbound.message"] = "inbound.message"
    chat_hash: ContactHash
    chat_sealed: Sealed
    kind: MessageKind
    message_no: int
    sent_at: Instant
    edited: bool = False
    button: Label | None = None
    text_sealed: Sealed | None = None
    contact: Contact | None = None
    contact_verified: bool = False
    locale: Label | None = None


ReceiptStatus = Literal["sent", "delivered", "read", "failed"]
#: The highest wins, in whatever order they come: what was delivered did not fail, and is never only `sent` again.
RECEIPT_RANKS: Mapping[str, int] = {"sent": 1, "failed": 2, "delivered": 3, "read": 4}


class ReceiptItem(InboundItem):
    """A provider's word on a message of ours. `rank` is that of RECEIPT_RANKS, by which the sender folds receipts."""

    type: Literal["inbound.receipt"] = "inbound.receipt"
    provider_message_id: Key
    status: ReceiptStatus
    rank: Annotated[int, Field(ge=0, le=9)]
    reason: Label | None = None


ConsentScope = Literal["all", "marketing"]


class ConsentItem(InboundItem):
    """A client blocked or unblocked us, or opted in or out: of `all` messages, or of `marketing` and no others."""

    type: Literal["inbound.consent"] = "inbound.consent"
    chat_hash: ContactHash
    chat_sealed: Sealed
    opted_in: bool
    scope: ConsentScope = "all"


class FactType(StrEnum):
    """The catalogue of the channel `events` (Standard Webhooks); docs/FACTS.md has an example of each."""

    ADMIN_REPLY = "admin.reply"
    ADMIN_OVERRIDE_BOOKING = "admin.override_booking"
    ADMIN_MANUAL_RESCHEDULE = "admin.manual_reschedule"
    ADMIN_MANUAL_CANCEL = "admin.manual_cancel"
    FEEDBACK_RECEIVED = "feedback.received"
    INVENTORY_COUNTED = "inventory.counted"
    INVENTORY_SOLD = "inventory.sold"
    SHIFT_PLANNED = "staff.shift_planned"
    PAYMENT_RECEIVED = "payment.received"
    PAYMENT_REFUNDED = "payment.refunded"
    SERVICE_COMPLETED = "service.completed"


class BookingReference(WireModel):
    """How a fact names a booking: the source's own uid."""

    source: Key
    uid: Key


class FactItem(InboundItem):
    """One business fact. Which of the optional fields are set is fixed per `fact` (turnout_ingest.facts checks it)."""

    type: Literal["inbound.fact"] = "inbound.fact"
    fact: FactType
    booking: BookingReference | None = None
    chat_hash: ContactHash | None = None
    subject_id: Key | None = None
    staff_id: Key | None = None
    status: Literal["confirmed", "cancelled", "completed", "no_show"] | None = None
    start_at: Instant | None = None
    end_at: Instant | None = None
    break_minutes: Annotated[int, Field(ge=0, le=1440)] | None = None
    rating: Annotated[int, Field(ge=1, le=5)] | None = None
    expected: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    counted: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    quantity: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    gross_minor: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    discount_minor: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    currency: Currency | None = None


AnyInboundItem = BookingItem | MessageItem | ReceiptItem | ConsentItem | FactItem
