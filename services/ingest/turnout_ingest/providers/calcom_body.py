"""What is read of Cal.com's bodies: an envelope of triggers, and MEETING_* flat (domain.md A1).

Strict on what is read, open to the rest: fields come and go between versions and triggers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from turnout_common.events import Key
from turnout_ingest.providers.provider import Read, Text, Time

#: A uid that may be absent, null or empty.
MaybeKey = Annotated[Key | None, BeforeValidator(lambda value: value or None)]
#: Longer ones are no references that we could pass on.
Id = Annotated[int, Field(ge=-(2**62), lt=2**62)]


class Language(Read):
    locale: Text | None = None


class Person(Read):
    """An attendee or the organizer; `language` stands in envelopes, `locale` in flat events."""

    id: Id | None = None
    name: Text | None = None
    email: Text | None = None
    username: Text | None = None
    phoneNumber: Text | None = None
    language: Language | None = None
    locale: Text | None = None
    noShow: bool | None = None
    bookingSeat: Any = None


class Booking(Read):
    """What is read of a booking, in an envelope's payload or flat. `responses`, `metadata`, `price`, `rating` and
    `currency` vary in type between triggers; what is not usable of them is left out."""

    uid: Key
    startTime: Time
    endTime: Time
    attendees: list[Person] = Field(default_factory=list)
    organizer: Person | None = None
    userId: Id | None = None
    type: Text | None = None
    eventTypeId: Id | None = None
    rescheduleUid: MaybeKey = None
    fromReschedule: MaybeKey = None
    rootBookingUid: MaybeKey = None
    rescheduleStartTime: Time | None = None
    rescheduleEndTime: Time | None = None
    requestReschedule: bool | None = None
    cancelledBy: Text | None = None
    rescheduledBy: Text | None = None
    additionalNotes: Text | None = None
    smsReminderNumber: Text | None = None
    paid: bool | None = None
    attendeeSeatId: Any = None
    seatsPerTimeSlot: Any = None
    responses: Any = None
    metadata: Any = None
    price: Any = None
    currency: Any = None
    rating: Any = None

    @property
    def has_seats(self) -> bool:
        """Whether each attendee holds a booking of their own. MEETING_* and no-show marks do not say so."""
        said = (self.seatsPerTimeSlot, self.attendeeSeatId, *(each.bookingSeat for each in self.attendees))
        return any(said)

    @property
    def first(self) -> Person | None:
        """Who booked, which is who was entered first: a mark moves an attendee's row, so the list's order may change."""
        if all(each.id is not None for each in self.attendees):
            return min(self.attendees, key=lambda each: each.id or 0, default=None)
        return self.attendees[0]


class NoShow(Read):
    bookingUid: Key
    attendees: list[Person] = Field(min_length=1)


class Envelope(Read):
    triggerEvent: Literal[
        "BOOKING_REQUESTED",
        "BOOKING_CREATED",
        "BOOKING_RESCHEDULED",
        "BOOKING_CANCELLED",
        "BOOKING_REJECTED",
        "BOOKING_PAID",
        "BOOKING_PAYMENT_INITIATED",
        "BOOKING_LOCATION_UPDATED",
        "BOOKING_REASSIGNED",
    ]
    createdAt: Time
    payload: Booking


class NoShowEnvelope(Read):
    triggerEvent: Literal["BOOKING_NO_SHOW_UPDATED"]
    createdAt: Time
    payload: NoShow


class Meeting(Booking):
    """Flat, and its `createdAt` is when the booking was made: the event's time is the start or the end."""

    triggerEvent: Literal["MEETING_STARTED", "MEETING_ENDED"]


class Ping(Read):
    triggerEvent: Literal["PING"]


BODY: TypeAdapter[Envelope | NoShowEnvelope | Meeting | Ping] = TypeAdapter(
    Annotated[Envelope | NoShowEnvelope | Meeting | Ping, Field(discriminator="triggerEvent")]
)
