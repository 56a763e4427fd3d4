"""`booking_events`: what booking decided. Every event carries the entity's whole state after it.

Consumers keep the highest version per entity; versions of one entity grow by one per event.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from turnout_common.events.values import Actor, Channel, Currency, Instant, Key, TenantId, WireModel

Minor = Annotated[int, Field(ge=0, lt=2**53)]
Count = Annotated[int, Field(ge=0, lt=2**31)]


class EntityKind(StrEnum):
    CHAIN = "chain"
    INTENT = "intent"
    FACT = "fact"


class ChainStatus(StrEnum):
    PENDING = "pending"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    NO_SHOW = "no_show"
    MERGED = "merged"


class CancelReason(StrEnum):
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    RESCHEDULE_REQUESTED = "reschedule_requested"


class ChainState(WireModel):
    """One appointment through all its reschedules, as it stands after an event.

    `created_at` is the smallest source time of its items, `confirmed_at` the first confirmation, `cancelled_at` stands
    only while the chain is cancelled. Money is in minor units of `currency`; what was paid in another currency is
    counted in `other_currency_payments` and never added. `reachable`: before the start the client had a chat that we
    may write to. `overlaps`: how many of its uids were moved twice; the later move stands, a human looks at the rest.
    """

    kind: Literal["chain"] = "chain"
    booking_id: UUID
    status: ChainStatus
    merged_into: UUID | None = None
    source: Key
    uid: Key
    channel: Channel
    client_id: UUID | None = None
    staff_id: Key | None = None
    service_id: Key | None = None
    intent_id: UUID | None = None
    created_at: Instant
    confirmed_at: Instant | None = None
    start_at: Instant
    end_at: Instant
    cancelled_at: Instant | None = None
    cancelled_by: Actor | None = None
    cancel_reason: CancelReason | None = None
    no_show: bool = False
    completed_at: Instant | None = None
    moves: Count = 0
    overlaps: Count = 0
    admin_actions: Count = 0
    admin_before_confirmation: bool = False
    off_peak_suggested: bool = False
    off_peak_taken: bool = False
    gross_minor: Minor = 0
    discount_minor: Minor = 0
    refund_minor: Minor = 0
    currency: Currency | None = None
    other_currency_payments: Count = 0
    rating: Annotated[int, Field(ge=1, le=5)] | None = None
    reachable: bool = False
    reminder_accepted_at: Instant | None = None
    reminder_outcome: Literal["accepted", "delivered", "read", "failed"] | None = None


class IntentOutcome(StrEnum):
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    HANDED_OFF = "handed_off"


class IntentState(WireModel):
    """A wish to book. `implicit`: no chat came before the booking. It counts as closed when `closed_at` is set, or
    24 h after `opened_at` (the reader cuts that; nothing ticks)."""

    kind: Literal["intent"] = "intent"
    intent_id: UUID
    channel: Channel
    client_id: UUID | None = None
    staff_id: Key | None = None
    service_id: Key | None = None
    booking_id: UUID | None = None
    implicit: bool
    opened_at: Instant
    confirmed_at: Instant | None = None
    closed_at: Instant | None = None
    outcome: IntentOutcome | None = None
    admin_actions: Count = 0
    admin_before_confirmation: bool = False
    off_peak_suggested: bool = False
    off_peak_taken: bool = False
    #: Set when the chain that it stood for was merged into another: the intent counts no more.
    withdrawn: bool = False


class FactState(WireModel):
    """A business fact that is an entity of its own: feedback, stock, a shift, a payment outside a visit.

    `at` is when the thing itself happened. Amounts in minor units.
    """

    kind: Literal["fact"] = "fact"
    fact_id: UUID
    fact: Literal["feedback", "inventory_count", "goods_sale", "shift", "payment", "refund", "admin"]
    at: Instant
    channel: Channel
    staff_id: Key | None = None
    subject_id: Key | None = None
    booking_id: UUID | None = None
    start_at: Instant | None = None
    end_at: Instant | None = None
    break_minutes: Count | None = None
    rating: Annotated[int, Field(ge=1, le=5)] | None = None
    expected: Minor | None = None
    counted: Minor | None = None
    quantity: Minor | None = None
    gross_minor: Minor | None = None
    discount_minor: Minor | None = None
    currency: Currency | None = None


class BookingEventType(StrEnum):
    INTENT_RECEIVED = "booking.intent_received"
    INTENT_CLOSED = "booking.intent_closed"
    CREATED = "booking.created"
    CONFIRMED = "booking.confirmed"
    RESCHEDULED = "booking.rescheduled"
    CHANGED = "booking.changed"
    CANCELLED = "booking.cancelled"
    NO_SHOW = "booking.no_show"
    NO_SHOW_REVERTED = "booking.no_show_reverted"
    COMPLETED = "booking.completed"
    MERGED = "booking.merged"
    OVERLAP = "booking.overlap"
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


BOOKING_EVENT_TYPES = frozenset(str(member) for member in BookingEventType)


class BookingEvent(WireModel):
    """One row of booking.booking_events on the wire; `ce_id` = `event_id`, `ce_type` = `event_type`."""

    event_id: UUID
    tenant_id: TenantId
    entity_kind: EntityKind
    entity_id: UUID
    version: Annotated[int, Field(ge=1, lt=2**31)]
    event_type: BookingEventType
    source: Key
    occurred_at: Instant
    payload: Annotated[ChainState | IntentState | FactState, Field(discriminator="kind")]
