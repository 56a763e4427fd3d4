"""Cal.com bodies that speak of several attendees, taken apart: one body each, whose hash is the key of its item.

In: a body as it was read, and its bytes. Out: nothing where it is one item, else the bytes of its parts. Promise: the
same body gives the same parts, and a part is a body of one item: released from quarantine, it is that item again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from turnout_ingest.providers.calcom_body import Booking, Envelope, Meeting, NoShowEnvelope, Person
from turnout_ingest.providers.provider import Refused

#: No event has more attendees; without bounds a body could hold the process up, and become thousands of times its size.
MOST_PARTS = 1000
MOST_BYTES = 8 * 1024 * 1024
TOO_MANY = "more attendees than a booking has"
#: Answers of one form and what hangs on them: of several seats nobody can tell whose they are.
_ONE_PERSONS = frozenset(
    {"responses", "metadata", "additionalNotes", "smsReminderNumber", "cancellationReason"}
)
_READ = frozenset(Booking.model_fields) - _ONE_PERSONS - {"attendees"}
#: Stands for a first attendee whose own statement is another part.
_NOBODY: dict[str, Any] = {}


def parts_of(body: Envelope | Meeting | NoShowEnvelope, raw: bytes) -> list[bytes]:
    """The parts of a body that is more than one item. Raises Refused when they would come to too much."""
    match body:
        case NoShowEnvelope():
            count = len(body.payload.attendees)
        case Envelope():
            count = len(body.payload.attendees) if body.payload.has_seats else 1
        case Meeting():
            count = len(body.attendees) if body.has_seats else len(_statements(body))
    if count <= 1:
        return []
    if count > MOST_PARTS:
        raise Refused(TOO_MANY, body.triggerEvent)
    whole = from_json(raw)
    if isinstance(body, Meeting):
        shared = {"triggerEvent": body.triggerEvent, **_only(whole, _READ)}
        parts = [{**shared, "attendees": attendees} for attendees in _attendees(body, whole["attendees"])]
    else:
        payload = whole["payload"]
        shared = _only(payload, _READ if isinstance(body, Envelope) else {"bookingUid"})
        frame = _only(whole, {"triggerEvent", "createdAt"})
        parts = [{**frame, "payload": {**shared, "attendees": [each]}} for each in payload["attendees"]]
    if len(parts) * len(to_json(shared)) > MOST_BYTES:
        raise Refused(TOO_MANY, body.triggerEvent)
    return [to_json(part) for part in parts]


def is_mark_only(meeting: Meeting) -> bool:
    """Whether it is a part that only says that an attendee, who is not the first, did not come."""
    return not meeting.has_seats and [each is not meeting.first for each in _statements(meeting)] == [True]


def marked_others(meeting: Meeting) -> list[Person]:
    """Attendees beside the first who are marked as absent; the start of a meeting says that of nobody."""
    if meeting.triggerEvent == "MEETING_STARTED":
        return []
    return [each for each in meeting.attendees if each.noShow and each is not meeting.first]


def _statements(meeting: Meeting) -> list[Person | None]:
    """Of whom a meeting of which nobody knows whether it has seats says something: the first, and who is marked."""
    others = marked_others(meeting)
    if others and meeting.first == Person():
        return [*others]
    return [meeting.first, *others]


def _attendees(meeting: Meeting, given: Sequence[Any]) -> list[list[Any]]:
    """The attendees of each part, as they were given."""
    if meeting.has_seats:
        return [[each] for each in given]
    told = [(each, _place(meeting, each)) for each in _statements(meeting) if each is not None]
    return [[given[at]] if each is meeting.first else [_NOBODY, given[at]] for each, at in told]


def _place(meeting: Meeting, person: Person) -> int:
    return next(at for at, each in enumerate(meeting.attendees) if each is person)


def _only(value: dict[str, Any], names: frozenset[str] | set[str]) -> dict[str, Any]:
    return {name: value[name] for name in value if name in names}
