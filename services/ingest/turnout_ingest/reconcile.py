"""What a booking source's own list shows and no webhook told: made into statements, taken in like those of webhooks.

In: bookings as Cal.com's API lists them, and how our chains show them. Out: for each difference a statement of the time at
which it came to be, as far as the list says it; items of kind `reconciled`. Promise: a webhook that arrives after all is
the same statement, which the fold absorbs (in either order); the same list a second time takes nothing in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from turnout_common.events import Actor, BookingItem, BookingTrigger, Key
from turnout_common.events.booking import ChainStatus
from turnout_common.events.values import Channel
from turnout_common.ids import new_id
from turnout_common.postgres import Connection
from turnout_common.security import TenantKeys
from turnout_ingest.acceptance import Row, rows_of
from turnout_ingest.contacts import mail_address, sealed_contact, sealed_text
from turnout_ingest.inbox import BATCH_ROWS, SQL
from turnout_ingest.keys import claim
from turnout_ingest.providers.calcom import SOURCE, email_hash, intent_of
from turnout_ingest.providers.calcom_body import MaybeKey
from turnout_ingest.providers.provider import (
    Delivery,
    Fate,
    Headers,
    Item,
    Provider,
    Text,
    Time,
    event_fields,
    hash16,
)
from turnout_ingest.settling import columns, settle

#: Where fate_counts keeps what no provider sent: it is no sign that a channel speaks.
RECONCILED = -2
#: A webhook says when it was sent, the list when the booking was made: so far apart they are not of one moment.
LATE = timedelta(minutes=10)


class Missing(StrEnum):
    """What a chain did not show."""

    BOOKING = "booking"
    CONFIRMATION = "confirmation"
    MOVE = "move"
    CANCELLATION = "cancellation"
    NO_SHOW = "no_show"


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Attendee(_Read):
    """`seatUid` where the booking has seats."""

    name: Text | None = None
    email: Text | None = None
    phoneNumber: Text | None = None
    language: Text | None = None
    absent: bool | None = None
    seatUid: Text | None = None


class Host(_Read):
    id: int | None = None
    email: Text | None = None


class EventType(_Read):
    id: int | None = None


class Listed(_Read):
    """A booking in the answer to `GET /v2/bookings` (cal-api-version 2024-08-13), as far as it is read."""

    uid: Key
    status: Literal["accepted", "pending", "cancelled", "rejected"]
    start: Time
    end: Time
    createdAt: Time
    updatedAt: Time
    attendees: list[Attendee] = []
    hosts: list[Host] = []
    eventType: EventType | None = None
    eventTypeId: int | None = None
    rescheduledFromUid: MaybeKey = None
    rescheduledToUid: MaybeKey = None
    cancelledByEmail: Text | None = None
    rescheduledByEmail: Text | None = None
    bookingFieldsResponses: Any = None
    metadata: Any = None

    @property
    def has_seats(self) -> bool:
        return any(attendee.seatUid for attendee in self.attendees)


#: A booking's uid and seat ('' without seats).
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Shown:
    """A chain as it stands: `uid` is its last one."""

    booking_id: UUID
    uid: str
    status: str
    created_at: datetime
    start_at: datetime
    no_show: bool
    admin_actions: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that is missing, about one attendee (None: the list names nobody)."""

    missing: Missing
    trigger: BookingTrigger
    at: datetime
    seat: str
    attendee: Attendee | None = None
    no_show: bool | None = None


def statements_of(
    listed: Listed, shown: Mapping[Name, Shown], keys: TenantKeys, uids: Collection[str]
) -> list[Statement]:
    """What `shown` lacks of a listed booking. `uids` are those that are listed or shown: a booking that was moved to one
    of which nothing is known is left alone, since it would stand at its old time."""
    if listed.rescheduledToUid is not None and listed.rescheduledToUid not in uids:
        return []
    booked: Sequence[Attendee | None] = listed.attendees or [None]
    held = booked if listed.has_seats else booked[:1]
    found: list[Statement] = []
    seats = set()
    for attendee in held:
        seat = (email_hash(keys, attendee.email if attendee else None) or "") if listed.has_seats else ""
        if listed.has_seats and not seat:
            continue
        seats.add(seat)
        known = shown.get((listed.uid, seat))
        found += (
            _founding(listed, seat, attendee)
            if known is None
            else _changes(listed, seat, attendee, known, shown)
        )
    if seats - {""} or listed.status == "cancelled":
        found += _given_up(listed, seats, shown)
    return found


def _founding(listed: Listed, seat: str, attendee: Attendee | None) -> Iterator[Statement]:
    """All that is known of a booking that never arrived."""
    yield Statement(Missing.BOOKING, _founder(listed), listed.createdAt, seat, attendee)
    if (closed := _closed(listed)) is not None:
        yield Statement(Missing.BOOKING, closed, listed.updatedAt, seat, attendee)
    if attendee is not None and attendee.absent and closed is None:
        yield Statement(
            Missing.BOOKING, BookingTrigger.NO_SHOW_UPDATED, listed.updatedAt, seat, attendee, True
        )


def _founder(listed: Listed) -> BookingTrigger:
    if listed.status in ("pending", "rejected"):
        return BookingTrigger.REQUESTED
    return BookingTrigger.RESCHEDULED if listed.rescheduledFromUid is not None else BookingTrigger.CREATED


def _closed(listed: Listed) -> BookingTrigger | None:
    """A booking that was moved is listed as cancelled too; its successor says what became of it."""
    if listed.rescheduledToUid is not None:
        return None
    closed = {"cancelled": BookingTrigger.CANCELLED, "rejected": BookingTrigger.REJECTED}
    return closed.get(listed.status)


def _changes(
    listed: Listed, seat: str, attendee: Attendee | None, known: Shown, shown: Mapping[Name, Shown]
) -> Iterator[Statement]:
    """What a chain that we have does not show. What somebody changed here by hand is not undone."""
    if listed.rescheduledFromUid is None and known.created_at > listed.createdAt + LATE:
        yield Statement(Missing.BOOKING, _founder(listed), listed.createdAt, seat, attendee)
    if known.uid != listed.uid or listed.rescheduledToUid is not None:
        return
    if (previous := listed.rescheduledFromUid) is not None:
        before = shown.get((previous, seat))
        if before is None or before.booking_id != known.booking_id:
            yield Statement(Missing.MOVE, _founder(listed), listed.createdAt, seat, attendee)
    if known.status == ChainStatus.CANCELLED:
        return
    if (closed := _closed(listed)) is not None:
        yield Statement(Missing.CANCELLATION, closed, listed.updatedAt, seat, attendee)
        return
    if known.status == ChainStatus.PENDING and listed.status == "accepted":
        yield Statement(Missing.CONFIRMATION, BookingTrigger.CREATED, listed.updatedAt, seat, attendee)
    if known.admin_actions:
        return
    if known.start_at != listed.start:
        yield Statement(Missing.MOVE, BookingTrigger.RESCHEDULED, listed.updatedAt, seat, attendee)
    if attendee is not None and attendee.absent is not None and attendee.absent is not known.no_show:
        mark = BookingTrigger.NO_SHOW_UPDATED
        yield Statement(Missing.NO_SHOW, mark, listed.updatedAt, seat, attendee, attendee.absent)


def _given_up(listed: Listed, seats: set[str], shown: Mapping[Name, Shown]) -> Iterator[Statement]:
    """Seats that we know and the list does not show any more."""
    for (uid, seat), known in sorted(shown.items(), key=lambda each: each[0]):
        stands = known.uid == uid and known.status != ChainStatus.CANCELLED
        if uid == listed.uid and seat and seat not in seats and stands and listed.rescheduledToUid is None:
            yield Statement(Missing.CANCELLATION, BookingTrigger.CANCELLED, listed.updatedAt, seat)


class Reconciled(Provider):
    """Statements that were made of one listed booking; nobody posts them."""

    channel = Channel.CALCOM

    def __init__(self, listed: Listed, statements: Sequence[Statement]) -> None:
        self._listed = listed
        self._statements = statements

    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        return False

    def items(self, delivery: Delivery) -> list[Item]:
        return [_item(delivery, self._listed, statement) for statement in self._statements]


def rows_for(delivery: Delivery, listed: Listed, statements: Sequence[Statement]) -> list[Row]:
    """The rows of a listed booking; `delivery.body` is what the list says of it, kept as the items' bytes."""
    return rows_of(Reconciled(listed, statements), delivery) if statements else []


def _item(delivery: Delivery, listed: Listed, statement: Statement) -> Item:
    told = (
        "reconcile",
        listed.uid,
        statement.seat,
        listed.updatedAt.isoformat(),
        listed.status,
        statement.trigger,
    )
    key, item_id, keys = hash16("|".join(told).encode()), new_id(), delivery.context.keys
    is_mark = statement.trigger is BookingTrigger.NO_SHOW_UPDATED
    fields = {"no_show": statement.no_show} if is_mark else _booking_fields(keys, listed, statement)
    person = statement.attendee
    event = BookingItem(
        **event_fields(delivery, item_id, key, statement.at),
        source=SOURCE,
        trigger=statement.trigger,
        uid=listed.uid,
        seat=statement.seat or None,
        attendee=statement.seat or email_hash(keys, person.email if person is not None else None),
        actor=_actor(listed, statement),
        **fields,
    )
    return Item(
        event_type="reconciled", key=key, content=key, occurred_at=statement.at, raw=delivery.body, item_id=item_id,
        event=event, subject=listed.uid, kafka_key=delivery.context.tenant_id,
    )  # fmt: skip


def _booking_fields(keys: TenantKeys, listed: Listed, statement: Statement) -> dict[str, Any]:
    service = listed.eventType.id if listed.eventType is not None else listed.eventTypeId
    host, answers = next(iter(listed.hosts), None), listed.bookingFieldsResponses
    notes = answers.get("notes") if isinstance(answers, dict) and not listed.has_seats else None
    return {
        "previous_uid": listed.rescheduledFromUid,
        "start_at": listed.start,
        "end_at": listed.end,
        "staff_ref": str(host.id) if host is not None and host.id is not None else None,
        "service_ref": str(service) if service is not None else None,
        "contact": _contact(keys, listed, statement.attendee),
        "intent_id": intent_of(listed.metadata),
        "notes_sealed": sealed_text(
            keys, "notes", notes if isinstance(notes, str) and "\x00" not in notes else None
        ),
    }


def _contact(keys: TenantKeys, listed: Listed, person: Attendee | None) -> Any:
    if person is None:
        return None
    answers = listed.bookingFieldsResponses if isinstance(listed.bookingFieldsResponses, dict) else {}
    phones = [person.phoneNumber]
    if not listed.has_seats:
        phones += [answers.get("attendeePhoneNumber"), answers.get("smsReminderNumber")]
    phone = next((text for text in phones if isinstance(text, str) and text and "\x00" not in text), None)
    return sealed_contact(keys, name=person.name, email=person.email, phone=phone, locale=person.language)


def _actor(listed: Listed, statement: Statement) -> Actor:
    if statement.trigger in (BookingTrigger.REJECTED, BookingTrigger.NO_SHOW_UPDATED):
        return Actor.SALON
    moved = statement.trigger is BookingTrigger.RESCHEDULED
    closed = statement.trigger is BookingTrigger.CANCELLED
    by = mail_address(listed.rescheduledByEmail if moved else listed.cancelledByEmail if closed else None)
    if by is None:
        return Actor.UNKNOWN
    if any(by == mail_address(attendee.email) for attendee in listed.attendees):
        return Actor.CLIENT
    return Actor.SALON if any(by == mail_address(host.email) for host in listed.hosts) else Actor.UNKNOWN


async def without_known(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """The rows that were not taken in by an earlier run."""
    if not rows:
        return []
    keys = zip(*(row.key for row in rows), strict=True)
    found = await connection.fetch(SQL["read_keys"], *map(list, keys))
    known = {tuple(record[:3]) for record in found if not record["expired"]}
    return [row for row in rows if row.key not in known]


async def take_in(connection: Connection, rows: Sequence[Row]) -> list[Fate]:
    """The rows' fates, committed: keys, items, sealed bytes, counts and outbox as for any webhook."""
    fates: list[Fate] = []
    for at in range(0, len(rows), BATCH_ROWS):
        batch = rows[at : at + BATCH_ROWS]
        async with connection.transaction():
            settled = settle(batch, await claim(connection, batch))
            await connection.execute(SQL["store_items"], *columns(settled), RECONCILED)
        fates += [each.fate for each in settled]
    return fates
