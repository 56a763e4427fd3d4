"""The typed catalogue of business facts that the channel `events` takes; docs/FACTS.md has an example of each.

A model per type says which data a fact carries and maps it to the fields of `FactItem`. Ids, enums, numbers and times
only: free text about a person has no place in a fact.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from turnout_common.events import BookingReference, Currency, FactType, Key
from turnout_common.security import TenantKeys
from turnout_ingest.providers.provider import Time

Count = Annotated[int, Field(ge=0, lt=2**53)]
Minor = Count
MessengerName = Literal["telegram", "whatsapp", "instagram", "vk", "max"]


class _Data(BaseModel):
    """What stands under `data`. Unknown fields are refused, unless STRICT_INBOUND_SCHEMA is off."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def fields(self, keys: TenantKeys) -> dict[str, Any]:
        """The fields of FactItem that this fact sets. Names are the same, save where a model says otherwise."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class Booking(_Data):
    """A booking by its source's own uid: `calcom` and Cal.com's uid, or `own` and ours."""

    source: Key
    uid: Key


class Chat(_Data):
    """A conversation by the messenger and its own chat id."""

    channel: MessengerName
    id: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^-?[A-Za-z0-9_.]+$")]


class _OfBooking(_Data):
    booking: Booking
    staff_id: Key | None = None

    def fields(self, keys: TenantKeys) -> dict[str, Any]:
        booking = BookingReference(source=self.booking.source, uid=self.booking.uid)
        return super().fields(keys) | {"booking": booking}


class _Period(_Data):
    start_at: Time
    end_at: Time

    @model_validator(mode="after")
    def _ends_after_start(self) -> _Period:
        if self.end_at <= self.start_at:
            raise ValueError("end_at is not after start_at")
        return self


class AdminReply(_Data):
    """Somebody of the salon answered a client by hand; at least one of `booking` and `chat` says where."""

    booking: Booking | None = None
    chat: Chat | None = None
    staff_id: Key | None = None

    @model_validator(mode="after")
    def _names_something(self) -> AdminReply:
        if self.booking is None and self.chat is None:
            raise ValueError("needs a booking or a chat")
        return self

    def fields(self, keys: TenantKeys) -> dict[str, Any]:
        booking, chat = self.booking, self.chat
        return {
            "booking": BookingReference(source=booking.source, uid=booking.uid) if booking else None,
            "chat_hash": keys.contact_hash(chat.channel, chat.id) if chat else None,
            "staff_id": self.staff_id,
        }


class AdminOverrideBooking(_OfBooking):
    """Somebody of the salon set a booking's status by hand."""

    status: Literal["confirmed", "cancelled", "completed", "no_show"]


class AdminManualReschedule(_OfBooking, _Period):
    """Somebody of the salon moved a booking; the times are the new ones."""


class AdminManualCancel(_OfBooking):
    """Somebody of the salon cancelled a booking."""


class FeedbackReceived(_OfBooking):
    """A client's rating of a visit, 1 to 5."""

    rating: Annotated[int, Field(ge=1, le=5)]


class InventoryCounted(_Data):
    """An item of the stock was counted."""

    item: Key
    expected: Count
    counted: Count
    staff_id: Key | None = None

    def fields(self, keys: TenantKeys) -> dict[str, Any]:
        fields = super().fields(keys)
        return fields | {"subject_id": fields.pop("item")}


class InventorySold(_Data):
    """Goods were sold; with `booking` during a visit. Amounts are of all pieces together, in minor units."""

    item: Key
    quantity: Annotated[int, Field(ge=1, lt=2**53)]
    gross_minor: Minor
    discount_minor: Minor = 0
    currency: Currency
    booking: Booking | None = None
    staff_id: Key | None = None

    @model_validator(mode="after")
    def _discount_is_part_of_the_price(self) -> InventorySold:
        return _discounted(self)

    def fields(self, keys: TenantKeys) -> dict[str, Any]:
        fields = super().fields(keys)
        booking = self.booking
        named = BookingReference(source=booking.source, uid=booking.uid) if booking else None
        return fields | {"subject_id": fields.pop("item"), "booking": named}


class ShiftPlanned(_Period):
    """A shift of the roster; the same `shift_id` again replaces it, `cancelled` takes it back."""

    shift_id: Key
    staff_id: Key
    break_minutes: Annotated[int, Field(ge=0, le=1440)] = 0
    status: Literal["confirmed", "cancelled"] = "confirmed"

    def fields(self, keys: TenantKeys) -> dict[str, Any]:
        fields = super().fields(keys)
        return fields | {"subject_id": fields.pop("shift_id")}


class PaymentReceived(_OfBooking):
    """A payment for a visit, in minor units: `gross_minor` before the discount."""

    gross_minor: Minor
    discount_minor: Minor = 0
    currency: Currency

    @model_validator(mode="after")
    def _discount_is_part_of_the_price(self) -> PaymentReceived:
        return _discounted(self)


class PaymentRefunded(_OfBooking):
    """Money given back for a visit, in minor units."""

    gross_minor: Minor
    currency: Currency


class ServiceCompleted(_OfBooking):
    """A visit took place: it counts at once, without waiting for two hours past its end."""


Discounted = TypeVar("Discounted", "InventorySold", "PaymentReceived")


def _discounted(fact: Discounted) -> Discounted:
    if fact.discount_minor > fact.gross_minor:
        raise ValueError("discount_minor is more than gross_minor")
    return fact


CATALOGUE: dict[FactType, type[_Data]] = {
    FactType.ADMIN_REPLY: AdminReply,
    FactType.ADMIN_OVERRIDE_BOOKING: AdminOverrideBooking,
    FactType.ADMIN_MANUAL_RESCHEDULE: AdminManualReschedule,
    FactType.ADMIN_MANUAL_CANCEL: AdminManualCancel,
    FactType.FEEDBACK_RECEIVED: FeedbackReceived,
    FactType.INVENTORY_COUNTED: InventoryCounted,
    FactType.INVENTORY_SOLD: InventorySold,
    FactType.SHIFT_PLANNED: ShiftPlanned,
    FactType.PAYMENT_RECEIVED: PaymentReceived,
    FactType.PAYMENT_REFUNDED: PaymentRefunded,
    FactType.SERVICE_COMPLETED: ServiceCompleted,
}
