"""Cal.com's webhook bodies, in the shape that it sends (version 2021-10-20) with all that a receiver must not rely on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from turnout_cli.webhooks.post import Webhook


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


def created(booking: Booking, at: datetime) -> Webhook:
    return _envelope("BOOKING_CREATED", at, _payload(booking, "ACCEPTED"))


def requested(booking: Booking, at: datetime) -> Webhook:
    """Waits for the salon's word: Cal.com's event types with confirmation."""
    return _envelope("BOOKING_REQUESTED", at, _payload(booking, "PENDING") | {"requiresConfirmation": True})


def rejected(booking: Booking, at: datetime, reason: str = "") -> Webhook:
    payload = _payload(booking, "REJECTED") | {"rejectionReason": reason}
    payload.pop("iCalUID")  # Cal.com leaves it out here
    return _envelope("BOOKING_REJECTED", at, payload)


def rescheduled(old: Booking, new: Booking, at: datetime, by: str | None = None) -> Webhook:
    """`new` has a uid of its own and points back to `old`."""
    payload = _payload(new, "ACCEPTED") | {
        "rescheduleId": old.booking_id,
        "rescheduleUid": old.uid,
        "rescheduleStartTime": _instant(old.start),
        "rescheduleEndTime": _instant(old.end),
        "rescheduledBy": by or new.guest.email,
        "cancellationReason": "",
    }
    return _envelope("BOOKING_RESCHEDULED", at, payload)


def cancelled(
    booking: Booking, at: datetime, *, by: str | None = None, reason: str = "", reschedule: bool = False
) -> Webhook:
    """`reschedule`: the host asked the guest to pick another time."""
    payload = _payload(booking, "CANCELLED") | {
        "cancelledBy": by or booking.guest.email,
        "cancellationReason": reason,
        "requestReschedule": reschedule,
    }
    return _envelope("BOOKING_CANCELLED", at, payload)


def paid(booking: Booking, at: datetime) -> Webhook:
    payload = _payload(booking, "ACCEPTED") | {"paymentId": booking.booking_id + 7, "paymentData": {}}
    return _envelope("BOOKING_PAID", at, payload)


def payment_initiated(booking: Booking, at: datetime) -> Webhook:
    return _envelope("BOOKING_PAYMENT_INITIATED", at, _payload(booking, "ACCEPTED"))


def no_show(booking: Booking, at: datetime, *, marked: bool = True) -> Webhook:
    """The mark, or with `marked=False` its undo. Has no start time: the receiver joins it by uid."""
    words = "marked" if marked else "unmarked"
    return _envelope(
        "BOOKING_NO_SHOW_UPDATED",
        at,
        {
            "message": f"{booking.guest.email} {words} as no-show",
            "attendees": [{"email": booking.guest.email, "noShow": marked}],
            "bookingUid": booking.uid,
            "bookingId": booking.booking_id,
        },
    )


def meeting_ended(booking: Booking, *, absent: bool = False, rating: int | None = None) -> Webhook:
    """Flat, and `createdAt` is when it was booked: Cal.com's cron sends the bare row."""
    return _webhook({"triggerEvent": "MEETING_ENDED"} | _row(booking, absent=absent, rating=rating))


def meeting_started(booking: Booking) -> Webhook:
    return _webhook({"triggerEvent": "MEETING_STARTED"} | _row(booking, absent=False, rating=None))


def ping(at: datetime) -> Webhook:
    """What the Test button sends: no uid, no booking."""
    payload = {
        "type": "Test",
        "title": "Test trigger event",
        "startTime": _instant(at),
        "endTime": _instant(at),
    }
    return _envelope("PING", at, payload | {"attendees": [], "organizer": {"name": "", "email": ""}})


def _envelope(trigger: str, at: datetime, payload: dict[str, Any]) -> Webhook:
    return _webhook({"triggerEvent": trigger, "createdAt": _instant(at), "payload": payload})


def _webhook(body: dict[str, Any]) -> Webhook:
    return Webhook("calcom", json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _payload(booking: Booking, status: str) -> dict[str, Any]:
    guest, host, kind = booking.guest, booking.host, booking.event_type
    return {
        "bookerUrl": "https://book.salon.example",
        "title": f"{kind.title}: {host.name} & {guest.name}",
        "type": kind.slug,
        "startTime": _instant(booking.start),
        "endTime": _instant(booking.end),
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


def _row(booking: Booking, *, absent: bool, rating: int | None) -> dict[str, Any]:
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
        "startTime": _instant(booking.start),
        "endTime": _instant(booking.end),
        "location": "inPerson",
        "status": "ACCEPTED",
        "paid": False,
        "createdAt": _instant(booking.booked_at),
        "updatedAt": _instant(booking.booked_at),
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
