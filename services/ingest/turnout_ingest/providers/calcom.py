"""Cal.com: HMAC over the exact body; each trigger becomes one statement about one uid (domain.md A1).

The key is the hash of the body, since Cal.com sends no delivery id; a second subscriber's copy is absorbed by the fold.
A body that speaks of several attendees (seats, no-show marks) is taken apart into bodies of one attendee each (see
calcom_parts), and each of those is an item as if it had come alone: so its raw bytes give it again under the same key.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from turnout_common.events import Actor, BookingItem, BookingTrigger, Contact
from turnout_common.events.values import Channel
from turnout_common.ids import new_id
from turnout_common.security import TenantKeys, equal
from turnout_ingest.contacts import label, mail_address, sealed_contact, sealed_text
from turnout_ingest.providers.calcom_body import (
    BODY,
    Booking,
    Envelope,
    Meeting,
    NoShowEnvelope,
    Person,
    Ping,
)
from turnout_ingest.providers.calcom_parts import is_mark_only, marked_others, parts_of
from turnout_ingest.providers.provider import (
    Answers,
    Delivery,
    Fate,
    Headers,
    Item,
    Provider,
    Refused,
    event_fields,
    hash16,
    in_words,
)

SOURCE = "calcom"
TRIGGERS = {
    "BOOKING_REQUESTED": BookingTrigger.REQUESTED,
    "BOOKING_CREATED": BookingTrigger.CREATED,
    "BOOKING_RESCHEDULED": BookingTrigger.RESCHEDULED,
    "BOOKING_CANCELLED": BookingTrigger.CANCELLED,
    "BOOKING_REJECTED": BookingTrigger.REJECTED,
    "BOOKING_PAID": BookingTrigger.PAID,
    "BOOKING_PAYMENT_INITIATED": BookingTrigger.PAYMENT_INITIATED,
    "BOOKING_LOCATION_UPDATED": BookingTrigger.CHANGED,
    "BOOKING_REASSIGNED": BookingTrigger.CHANGED,
    "BOOKING_NO_SHOW_UPDATED": BookingTrigger.NO_SHOW_UPDATED,
    "MEETING_STARTED": BookingTrigger.MEETING_STARTED,
    "MEETING_ENDED": BookingTrigger.MEETING_ENDED,
}

#: Triggers that exist and say nothing about appointments; whatever else comes is unknown. Both are ignored.
NOT_NEEDED = frozenset({
    "RECORDING_READY", "RECORDING_TRANSCRIPTION_GENERATED", "INSTANT_MEETING", "INSTANT_MEETING_ACCEPTED",
    "FORM_SUBMITTED", "FORM_SUBMITTED_NO_EVENT", "OOO_CREATED", "WRONG_ASSIGNMENT_REPORT",
    "AFTER_HOSTS_CAL_VIDEO_NO_SHOW", "AFTER_GUESTS_CAL_VIDEO_NO_SHOW",
})  # fmt: skip


class Calcom(Provider):
    channel = Channel.CALCOM
    answers = Answers(success=202, quarantined=400, conflict=202)
    kept_headers = (b"content-type",)
    sends_again = False

    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        """Without a secret Cal.com sends the literal `no-secret-provided`, which equals no digest."""
        given = headers.get(b"x-cal-signature-256", b"").strip().lower()
        return any(equal(hmac.new(key, body, hashlib.sha256).hexdigest().encode(), given) for key in secrets)

    def items(self, delivery: Delivery) -> list[Item]:
        content_type = delivery.headers.get(b"content-type", b"").lower()
        if content_type.startswith(b"application/x-www-form-urlencoded"):
            raise Refused(
                "the subscription sends a form instead of JSON: remove its custom payload template in Cal.com"
            )
        try:
            body = BODY.validate_json(delivery.body)
        except ValidationError as error:
            return [_unknown(delivery, error)]
        if isinstance(body, Ping):
            return [_ignored(delivery, "PING", "the ping of Cal.com's test button")]
        parts = parts_of(body, delivery.body)
        if parts:
            return [self._part(replace(delivery, body=part), body.triggerEvent) for part in parts]
        match body:
            case NoShowEnvelope():
                return [_no_show(delivery, body)]
            case Envelope():
                return [_booking(delivery, body, body.payload, body.createdAt)]
            case Meeting():
                started = body.triggerEvent == "MEETING_STARTED"
                return [_booking(delivery, body, body, body.startTime if started else body.endTime)]

    def _part(self, delivery: Delivery, trigger: str) -> Item:
        """The item of one attendee: a bad one does not hold up the others."""
        try:
            (item,) = self.items(delivery)
        except Refused as refused:
            return Item(
                event_type=trigger, key=b"", content=b"", occurred_at=delivery.received_at, raw=delivery.body,
                fate=Fate.QUARANTINED, reason=str(refused),
            )  # fmt: skip
        return item


def _unknown(delivery: Delivery, error: ValidationError) -> Item:
    """A trigger that is not read is ignored. Raises Refused for everything else that does not fit."""
    fault = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] == "union_tag_invalid":
        trigger = label(str(fault["ctx"]["tag"])) or "unknown"
        known = "says nothing about appointments" if trigger in NOT_NEEDED else "is not known to this version"
        return _ignored(delivery, trigger, f"a trigger that {known}")
    if fault["type"] == "union_tag_not_found":
        raise Refused("no triggerEvent: an empty body, or a custom payload template, which is not supported")
    trigger = str(fault["loc"][0]) if fault["loc"] else "unknown"
    raise Refused(in_words(error), trigger)


def _ignored(delivery: Delivery, trigger: str, reason: str) -> Item:
    key = hash16(delivery.body)
    return Item(
        event_type=trigger, key=key, content=key, occurred_at=delivery.received_at, raw=delivery.body,
        fate=Fate.IGNORED, reason=reason,
    )  # fmt: skip


def _published(
    delivery: Delivery, trigger: str, occurred_at: datetime, uid: str, fields: dict[str, Any]
) -> Item:
    key, item_id = hash16(delivery.body), new_id()
    event = BookingItem(**event_fields(delivery, item_id, key, occurred_at), source=SOURCE, uid=uid, **fields)
    return Item(
        event_type=trigger, key=key, content=key, occurred_at=occurred_at, raw=delivery.body, item_id=item_id,
        event=event, subject=uid, kafka_key=delivery.context.tenant_id,
    )  # fmt: skip


def _no_show(delivery: Delivery, body: NoShowEnvelope) -> Item:
    marked = body.payload.attendees[0]
    fields = {
        "trigger": BookingTrigger.NO_SHOW_UPDATED,
        "no_show": marked.noShow is True,
        "attendee": attendee_hash(delivery.context.keys, marked),
        "actor": Actor.SALON,
    }
    return _published(delivery, body.triggerEvent, body.createdAt, body.payload.bookingUid, fields)


def _booking(delivery: Delivery, body: Envelope | Meeting, booking: Booking, occurred_at: datetime) -> Item:
    if booking.endTime < booking.startTime:
        raise Refused("the booking ends before it starts", body.triggerEvent)
    keys = delivery.context.keys
    if isinstance(body, Meeting) and is_mark_only(body):
        return _mark(delivery, body, occurred_at)
    person = booking.first if isinstance(body, Meeting) else next(iter(booking.attendees), None)
    attendee = attendee_hash(keys, person)
    if booking.has_seats and attendee is None:
        raise Refused(
            "a booking with seats that does not say by its e-mail whose seat it is", body.triggerEvent
        )
    trigger = _trigger(body.triggerEvent, booking)
    fields = {
        "trigger": trigger,
        "previous_uid": _previous_uid(booking),
        "root_uid": booking.rootBookingUid,
        "seat": attendee if booking.has_seats else None,
        "attendee": attendee,
        "start_at": booking.startTime,
        "end_at": booking.endTime,
        "previous_start_at": booking.rescheduleStartTime,
        "previous_end_at": booking.rescheduleEndTime,
        "staff_ref": _staff(keys, booking),
        "service_ref": _service(booking),
        "contact": _client(keys, booking, person),
        "no_show": True if isinstance(body, Meeting) and person is not None and person.noShow else None,
        "actor": _actor(trigger, booking),
        "price_minor": _minor(booking.price),
        "currency": _currency(booking.currency),
        "paid": True if trigger is BookingTrigger.PAID else booking.paid,
        "rating": _rating(booking.rating),
        "intent_id": intent_of(booking.metadata),
        "notes_sealed": sealed_text(keys, "notes", booking.additionalNotes or _response(booking, "notes")),
    }
    return _published(delivery, body.triggerEvent, occurred_at, booking.uid, fields)


def _mark(delivery: Delivery, body: Meeting, occurred_at: datetime) -> Item:
    """The mark of an attendee who is not the first. It founds no booking: it may be a guest's."""
    (marked,) = marked_others(body)
    fields = {
        "trigger": TRIGGERS[body.triggerEvent],
        "no_show": True,
        "attendee": attendee_hash(delivery.context.keys, marked),
    }
    return _published(delivery, body.triggerEvent, occurred_at, body.uid, fields)


def _trigger(name: str, booking: Booking) -> BookingTrigger:
    """A cancellation by which the host asks the client to choose another time is no lost booking. What else moves a
    booking (an API reschedule comes as REQUESTED or CREATED) is told by `previous_uid`, which the fold goes by."""
    if name == "BOOKING_CANCELLED" and booking.requestReschedule:
        return BookingTrigger.RESCHEDULE_REQUESTED
    return TRIGGERS[name]


def _previous_uid(booking: Booking) -> str | None:
    previous = booking.rescheduleUid or booking.fromReschedule
    return previous if previous != booking.uid else None


def _staff(keys: TenantKeys, booking: Booking) -> str | None:
    if booking.organizer is None:
        return str(booking.userId) if booking.userId is not None else None
    organizer = booking.organizer
    if organizer.id is not None:
        return str(organizer.id)
    if organizer.username and "@" not in organizer.username:
        return _reference(organizer.username)
    address = mail_address(organizer.email)
    return keys.contact_hash("email", address) if address else None


def _service(booking: Booking) -> str | None:
    return str(booking.eventTypeId) if booking.eventTypeId is not None else _reference(booking.type)


def attendee_hash(keys: TenantKeys, person: Person | None) -> str | None:
    return email_hash(keys, person.email) if person is not None else None


def email_hash(keys: TenantKeys, email: str | None) -> str | None:
    """Who of the attendees it is: also by the address that Cal.com makes up for a phone, which is as much one person."""
    address = (email or "").strip().lower()
    return keys.contact_hash("email", address) if address else None


def _reference(text: str | None) -> str | None:
    """`text` as a Key, which has no control characters."""
    return "".join(c for c in text if c >= " " and c != "\x7f")[:255] or None if text else None


def _client(keys: TenantKeys, booking: Booking, client: Person | None) -> Contact | None:
    """The contact of who booked; guests are nobody's clients."""
    if client is None:
        return None
    phone = client.phoneNumber or _response(booking, "attendeePhoneNumber") or booking.smsReminderNumber
    return sealed_contact(
        keys,
        name=client.name,
        email=client.email,
        phone=phone or _response(booking, "smsReminderNumber"),
        locale=client.locale or (client.language.locale if client.language else None),
    )


def _response(booking: Booking, field: str) -> str | None:
    """The text of a booking form's answer; `value` may be missing, and `responses` may be a list when empty."""
    answer = booking.responses.get(field) if isinstance(booking.responses, dict) else None
    value = answer.get("value") if isinstance(answer, dict) else None
    return value if isinstance(value, str) and "\x00" not in value else None


def _actor(trigger: BookingTrigger, booking: Booking) -> Actor:
    if trigger is BookingTrigger.REJECTED:
        return Actor.SALON
    by = mail_address(booking.rescheduledBy if trigger is BookingTrigger.RESCHEDULED else booking.cancelledBy)
    if by is None:
        return Actor.UNKNOWN
    if any(by == mail_address(attendee.email) for attendee in booking.attendees):
        return Actor.CLIENT
    if booking.organizer is not None and by == mail_address(booking.organizer.email):
        return Actor.SALON
    return Actor.UNKNOWN


def _minor(price: object) -> int | None:
    usable = isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < 2**53
    return int(price) if usable and price == int(price) else None  # type: ignore[call-overload]


def _currency(code: object) -> str | None:
    usable = isinstance(code, str) and len(code) == 3 and code.isascii() and code.isalpha()
    return code.upper() if usable and isinstance(code, str) else None


def _rating(rating: object) -> int | None:
    return rating if isinstance(rating, int) and not isinstance(rating, bool) and 1 <= rating <= 5 else None


def intent_of(metadata: object) -> UUID | None:
    """The intent that our chat put into the booking link; a client may have changed it."""
    given = metadata.get("intent") if isinstance(metadata, dict) else None
    try:
        return UUID(given) if isinstance(given, str) else None
    except ValueError:
        return None
