"""The shapes of Cal.com's bodies, field by field, with all that a receiver must not rely on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class Host:
    """Who gives the service: Cal.com's organizer."""

    user_id: int
    name: str
    handle: str
    timezone: str = "Europe/Berlin"

    @property
    def email(self) -> str:
        return f"{self.handle}@salon.example"


@dataclass(frozen=True)
class EventType:
    """What can be booked. `price_minor` in minor units of `currency` (lower case, as Cal.com has it)."""

    event_type_id: int
    slug: str
    title: str
    minutes: int
    price_minor: int = 0
    currency: str = "eur"


@dataclass(frozen=True)
class Guest:
    """Who books."""

    name: str
    email: str
    phone: str | None = None
    locale: str = "de"
    timezone: str = "Europe/Berlin"


@dataclass(frozen=True)
class Booking:
    """One booking at Cal.com; a reschedule makes a new one."""

    uid: str
    booking_id: int
    start: datetime
    host: Host
    event_type: EventType
    guest: Guest
    booked_at: datetime
    sequence: int = 0
    ical_uid: str | None = None

    @property
    def end(self) -> datetime:
        return self.start + timedelta(minutes=self.event_type.minutes)


def instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shape_of(booking: Booking, status: str) -> dict[str, Any]:
    guest, host, kind = booking.guest, booking.host, booking.event_type
    return {
        "bookerUrl": "https://book.salon.example",
        "title": f"{kind.title}: {host.name} & {guest.name}",
        "type": kind.slug,
        "startTime": instant(booking.start),
        "endTime": instant(booking.end),
        "additionalNotes": "",
        "description": "",
        "eventTypeId": kind.event_type_id,
        "hideCalendarNotes": False,
        "schedulingType": None,
        "seatsPerTimeSlot": None,
        "seatsShowAttendees": True,
        "customReplyToEmail": None,
        "disableRescheduling": False,
        "organizer": _organizer(host),
        "attendees": [_attendee(guest)],
        "customInputs": {},
        "responses": _responses(guest),
        "userFieldsResponses": {},
        "location": "inPerson",
        "destinationCalendar": None,
        "iCalUID": booking.ical_uid or f"{booking.uid}@Cal.com",
        "iCalSequence": booking.sequence,
        "requiresConfirmation": False,
        "organizationId": None,
        "uid": booking.uid,
        "bookingId": booking.booking_id,
        "status": status,
        "eventTitle": kind.title,
        "eventDescription": None,
        "price": kind.price_minor,
        "currency": kind.currency,
        "length": kind.minutes,
        "metadata": {},
    }


def _organizer(host: Host) -> dict[str, Any]:
    return {
        "id": host.user_id,
        "name": host.name,
        "email": host.email,
        "username": host.handle,
        "timeZone": host.timezone,
        "language": {"locale": "en"},
        "timeFormat": "h:mma",
    }


def _attendee(guest: Guest) -> dict[str, Any]:
    first, _, last = guest.name.partition(" ")
    return {
        "name": guest.name,
        "firstName": first,
        "lastName": last,
        "email": guest.email,
        "timeZone": guest.timezone,
        "language": {"locale": guest.locale},
        "phoneNumber": guest.phone,
        "bookingSeat": None,
    }


def _responses(guest: Guest) -> dict[str, Any]:
    phone = {"value": guest.phone} if guest.phone else {}
    return {
        "name": {"label": "your_name", "value": guest.name, "isHidden": False},
        "email": {"label": "email_address", "value": guest.email, "isHidden": False},
        "attendeePhoneNumber": {"label": "phone_number", "isHidden": not guest.phone} | phone,
        "notes": {"label": "additional_notes", "isHidden": False},
        "guests": {"label": "additional_guests", "value": [], "isHidden": False},
    }


def row(booking: Booking, *, absent: bool, rating: int | None) -> dict[str, Any]:
    guest, host = booking.guest, booking.host
    attendee = {
        "id": booking.booking_id + 3,
        "name": guest.name,
        "email": guest.email,
        "timeZone": guest.timezone,
        "locale": guest.locale,
        "phoneNumber": guest.phone,
        "bookingId": booking.booking_id,
        "noShow": absent,
    }
    return {
        "id": booking.booking_id,
        "uid": booking.uid,
        "title": booking.event_type.title,
        "description": "",
        "customInputs": [],
        "responses": {"name": {"label": "name", "value": guest.name}},
        "startTime": instant(booking.start),
        "endTime": instant(booking.end),
        "location": "inPerson",
        "status": "ACCEPTED",
        "paid": False,
        "createdAt": instant(booking.booked_at),
        "updatedAt": instant(booking.booked_at),
        "userId": host.user_id,
        "userPrimaryEmail": host.email,
        "eventTypeId": booking.event_type.event_type_id,
        "rescheduled": None,
        "fromReschedule": None,
        "metadata": {},
        "iCalUID": booking.ical_uid or f"{booking.uid}@Cal.com",
        "iCalSequence": booking.sequence,
        "rating": rating,
        "ratingFeedback": None,
        "noShowHost": False,
        "creationSource": "WEBAPP",
        "user": {"email": host.email, "name": host.name, "username": host.handle, "timeZone": host.timezone},
        "attendees": [attendee],
        "payment": [],
        "references": [],
    }
