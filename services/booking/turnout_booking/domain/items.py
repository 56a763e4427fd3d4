"""The items that a chain keeps and is folded from.

An item is one statement: of a booking source, a business fact, the outcome of a reminder, or that two clients are one.
It holds ids, enums, numbers and times only. `key` is unique for ever within a tenant, so that a second application of
the same statement is no change of the set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from turnout_common.events.inbound import BookingTrigger, FactType


class ItemKind(StrEnum):
    """Who states it."""

    SOURCE = "source"
    FACT = "fact"
    OUTCOME = "outcome"
    RELINK = "relink"


class OwnTrigger(StrEnum):
    """What happens inside the system itself, next to BookingTrigger and FactType."""

    REMINDER_ACCEPTED = "message.reminder_accepted"
    REMINDER_ENDED = "message.reminder_ended"
    CLIENT_RELINKED = "client.relinked"


Trigger = BookingTrigger | FactType | OwnTrigger


#: Cal.com sends these alike for a booking of several guests and for one of several seats.
SAY_NO_SEAT = frozenset(
    {BookingTrigger.MEETING_STARTED, BookingTrigger.MEETING_ENDED, BookingTrigger.NO_SHOW_UPDATED}
)


@dataclass(frozen=True, slots=True)
class Item:
    """`at` is the source time. `previous_uid` is what `uid` replaces, `root_uid` the first uid of the chain, where the
    source says so. An item with `start_at` and `end_at` founds a chain. `relinked_from` is a client who is `client_id`.
    `attendee` is whom of a booking's attendees it is about, `seat` the same where the source says that each has a seat.
    """

    key: UUID
    kind: ItemKind
    trigger: str
    at: datetime
    source: str
    channel: str
    uid: str | None = None
    previous_uid: str | None = None
    root_uid: str | None = None
    seat: str | None = None
    attendee: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    staff_ref: str | None = None
    service_ref: str | None = None
    client_id: UUID | None = None
    relinked_from: UUID | None = None
    actor: str | None = None
    no_show: bool | None = None
    status: str | None = None
    gross_minor: int | None = None
    discount_minor: int | None = None
    currency: str | None = None
    rating: int | None = None
    intent_id: UUID | None = None
    outcome: str | None = None

    @property
    def founds(self) -> bool:
        """Whether it says when the appointment is, so that a chain can be made of it."""
        return self.kind is ItemKind.SOURCE and self.start_at is not None and self.end_at is not None

    @property
    def leaves_seat_open(self) -> bool:
        """Whether it is about an attendee of whom it does not say whether they hold a seat."""
        return self.attendee is not None and self.seat is None and self.trigger in SAY_NO_SEAT

    @property
    def uids(self) -> tuple[str, ...]:
        """All uids of the source that it names, its own first."""
        named = (self.uid, self.previous_uid, self.root_uid)
        return tuple(dict.fromkeys(uid for uid in named if uid is not None))


_NAMES = tuple(field.name for field in fields(Item))
_TIMES = ("at", "start_at", "end_at")
_KNOWN = frozenset(_NAMES)
_IDS = ("key", "client_id", "relinked_from", "intent_id")


def item_to_json(item: Item) -> str:
    """The stored form: what is None is left out."""
    values: dict[str, Any] = {}
    for name in _NAMES:
        value = getattr(item, name)
        if value is not None:
            values[name] = value
    for name in _TIMES:
        if name in values:
            values[name] = values[name].isoformat()
    for name in _IDS:
        if name in values:
            values[name] = values[name].hex
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def item_from_json(text: str) -> Item:
    """The item that `item_to_json` wrote; fields of a newer build are ignored."""
    values = json.loads(text)
    for name in _TIMES:
        if name in values:
            values[name] = datetime.fromisoformat(values[name])
    for name in _IDS:
        if name in values:
            values[name] = UUID(hex=values[name])
    values["kind"] = ItemKind(values["kind"])
    return Item(**{name: value for name, value in values.items() if name in _KNOWN})


def utc(at: datetime) -> datetime:
    """`at` in UTC, so that equal times look equal when stored."""
    return at.astimezone(UTC)


def maybe_utc(at: datetime | None) -> datetime | None:
    return at.astimezone(UTC) if at is not None else None
