"""Cal.com's webhook bodies, in the shape that it sends (version 2021-10-20) with all that a receiver must not rely on."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from turnout_cli.webhooks.calcom_shapes import Booking, EventType, Guest, Host, instant, row, shape_of
from turnout_cli.webhooks.post import Webhook

__all__ = [
    "Booking",
    "EventType",
    "Guest",
    "Host",
    "cancelled",
    "created",
    "meeting_ended",
    "meeting_started",
    "no_show",
    "paid",
    "payment_initiated",
    "ping",
    "rejected",
    "requested",
    "rescheduled",
]


def created(booking: Booking, at: datetime) -> Webhook:
    return _envelope("BOOKING_CREATED", at, shape_of(booking, "ACCEPTED"))


def requested(booking: Booking, at: datetime) -> Webhook:
    """Waits for the salon's word: Cal.com's event types with confirmation."""
    return _envelope("BOOKING_REQUESTED", at, shape_of(booking, "PENDING") | {"requiresConfirmation": True})


def rejected(booking: Booking, at: datetime, reason: str = "") -> Webhook:
    payload = shape_of(booking, "REJECTED") | {"rejectionReason": reason}
    payload.pop("iCalUID")  # Cal.com leaves it out here
    return _envelope("BOOKING_REJECTED", at, payload)


def rescheduled(old: Booking, new: Booking, at: datetime, by: str | None = None) -> Webhook:
    """`new` has a uid of its own and points back to `old`."""
    payload = shape_of(new, "ACCEPTED") | {
        "rescheduleId": old.booking_id,
        "rescheduleUid": old.uid,
        "rescheduleStartTime": instant(old.start),
        "rescheduleEndTime": instant(old.end),
        "rescheduledBy": by or new.guest.email,
        "cancellationReason": "",
    }
    return _envelope("BOOKING_RESCHEDULED", at, payload)


def cancelled(
    booking: Booking, at: datetime, *, by: str | None = None, reason: str = "", reschedule: bool = False
) -> Webhook:
    """`reschedule`: the host asked the guest to pick another time."""
    payload = shape_of(booking, "CANCELLED") | {
        "cancelledBy": by or booking.guest.email,
        "cancellationReason": reason,
        "requestReschedule": reschedule,
    }
    return _envelope("BOOKING_CANCELLED", at, payload)


def paid(booking: Booking, at: datetime) -> Webhook:
    payload = shape_of(booking, "ACCEPTED") | {"paymentId": booking.booking_id + 7, "paymentData": {}}
    return _envelope("BOOKING_PAID", at, payload)


def payment_initiated(booking: Booking, at: datetime) -> Webhook:
    return _envelope("BOOKING_PAYMENT_INITIATED", at, shape_of(booking, "ACCEPTED"))


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
    return _webhook({"triggerEvent": "MEETING_ENDED"} | row(booking, absent=absent, rating=rating))


def meeting_started(booking: Booking) -> Webhook:
    return _webhook({"triggerEvent": "MEETING_STARTED"} | row(booking, absent=False, rating=None))


def ping(at: datetime) -> Webhook:
    """What the Test button sends: no uid, no booking."""
    payload = {
        "type": "Test",
        "title": "Test trigger event",
        "startTime": instant(at),
        "endTime": instant(at),
    }
    return _envelope("PING", at, payload | {"attendees": [], "organizer": {"name": "", "email": ""}})


def _envelope(trigger: str, at: datetime, payload: dict[str, Any]) -> Webhook:
    return _webhook({"triggerEvent": trigger, "createdAt": instant(at), "payload": payload})


def _webhook(body: dict[str, Any]) -> Webhook:
    return Webhook("calcom", json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
