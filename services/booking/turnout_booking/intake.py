"""From the events of a batch to what booking works with: items, facts, and what clients say in chats. Pure.

In: valid events of `inbound_webhooks` and `message_events`. Out: `Intake`. Contact data leaves here only as hashes and
sealed values, on their way to the client tables and the notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from turnout_booking.domain.items import Item, ItemKind, OwnTrigger, maybe_utc, utc
from turnout_common.consumer import Received
from turnout_common.events import (
    BookingItem,
    Channel,
    ConsentItem,
    ConsentScope,
    Contact,
    FactItem,
    FactState,
    FactType,
    InboundItem,
    MessageEvent,
    MessageItem,
    MessageKind,
    MessageStatus,
    MessageTemplate,
)
from turnout_common.ids import derived_id


class Ref(NamedTuple):
    """A source's own name of a booking (design §4); `seat` is '' or the attendee's hash."""

    tenant_id: str
    source: str
    uid: str
    seat: str = ""

    @property
    def whole(self) -> Ref:
        """The name of the booking as a whole: all that there is, where it has no seats."""
        return self if not self.seat else self._replace(seat="")


class ContactKey(NamedTuple):
    """A contact by its keyed hash. `kind` is phone, email or chat; a chat's hash covers its channel."""

    tenant_id: str
    kind: str
    hash: str


@dataclass(frozen=True, slots=True)
class Person:
    """Who an item is about, by the surest contact that it names."""

    key: ContactKey
    sealed: str | None = None


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item with what is kept beside it. `booking_id` is set when the item names the chain itself."""

    tenant_id: str
    record_id: UUID
    item: Item
    ref: Ref | None = None
    person: Person | None = None
    notes_sealed: str | None = None
    fact: FactState | None = None
    booking_id: UUID | None = None

    @property
    def refs(self) -> tuple[Ref, ...]:
        """All names of the booking that it states, its own first. What leaves open whether there are seats states names
        of a booking without; where it belongs (`ref`) is decided by what is known."""
        if self.ref is None:
            return ()
        own = self.ref.whole if self.item.leaves_seat_open else self.ref
        return tuple(own._replace(uid=uid) for uid in self.item.uids)


@dataclass(frozen=True, slots=True)
class NewFact:
    """A fact about no booking."""

    tenant_id: str
    item_key: UUID
    state: FactState


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """Something that a client or a human did in a chat. `opens` a wish to book, `answers` one, or changes the consent.

    `phone` is a number that the messenger itself vouches for; `chat_sealed` is None where only the hash is known.
    """

    tenant_id: str
    item_key: UUID
    channel: str
    chat: ContactKey
    at: datetime
    chat_sealed: str | None = None
    locale: str | None = None
    opens: bool = False
    answers: bool = False
    opted_in: bool | None = None
    scope: ConsentScope = "all"
    phone: ContactKey | None = None
    phone_sealed: str | None = None


@dataclass(frozen=True, slots=True)
class Intake:
    """One batch."""

    items: list[NewItem] = field(default_factory=list)
    facts: list[NewFact] = field(default_factory=list)
    chats: list[ChatEvent] = field(default_factory=list)

    @property
    def tenant_ids(self) -> set[str]:
        groups: tuple[Sequence[NewItem | NewFact | ChatEvent], ...] = (self.items, self.facts, self.chats)
        return {new.tenant_id for group in groups for new in group}

    def only(self, tenant_ids: Iterable[str]) -> Intake:
        """What is of these tenants."""
        wanted = set(tenant_ids)
        return Intake(
            [new for new in self.items if new.tenant_id in wanted],
            [new for new in self.facts if new.tenant_id in wanted],
            [new for new in self.chats if new.tenant_id in wanted],
        )


def intake_of(events: Iterable[Received]) -> Intake:
    """Sorts out a batch. What does not concern booking leaves no trace."""
    intake = Intake()
    for received in events:
        match received.event:
            case BookingItem() as event:
                intake.items.append(_booking(event))
            case FactItem() as event:
                _take_fact(intake, event)
            case MessageItem() as event:
                intake.chats.append(_message(event))
            case ConsentItem() as event:
                intake.chats.append(_consent(event))
            case MessageEvent() as event:
                intake.items.extend(_reminder_outcomes(event, received.envelope.id))
    return intake


def item_key(event: InboundItem) -> UUID:
    """The key of an item (design §2.2: tenant, channel, 16-byte hash); the same body for two tenants is two items."""
    return derived_id("item", event.tenant_id, event.channel, event.key_hash)


def _booking(event: BookingItem) -> NewItem:
    founds = event.start_at is not None and event.end_at is not None
    item = Item(
        key=item_key(event),
        kind=ItemKind.SOURCE,
        trigger=str(event.trigger),
        at=utc(event.occurred_at),
        source=event.source,
        channel=str(event.channel),
        uid=event.uid,
        previous_uid=event.previous_uid,
        root_uid=event.root_uid,
        seat=event.seat,
        attendee=event.attendee,
        start_at=maybe_utc(event.start_at) if founds else None,
        end_at=maybe_utc(event.end_at) if founds else None,
        staff_ref=event.staff_ref,
        service_ref=event.service_ref,
        actor=str(event.actor),
        no_show=event.no_show,
        gross_minor=event.price_minor,
        currency=event.currency,
        rating=event.rating,
        intent_id=event.intent_id,
    )
    seat = event.seat or (item.attendee if item.leaves_seat_open else None)
    return NewItem(
        tenant_id=event.tenant_id,
        record_id=event.item_id,
        item=item,
        ref=Ref(event.tenant_id, event.source, event.uid, seat or ""),
        person=_person(event.tenant_id, event.contact) if founds else None,
        notes_sealed=event.notes_sealed,
        fact=_meeting_feedback(event),
    )


def _person(tenant_id: str, contact: Contact | None) -> Person | None:
    if contact is None:
        return None
    hashes = (("phone", contact.phone_hash), ("email", contact.email_hash))
    keys = [ContactKey(tenant_id, kind, hashed) for kind, hashed in hashes if hashed is not None]
    return Person(keys[0], contact.sealed) if keys else None


def _meeting_feedback(event: BookingItem) -> FactState | None:
    """A rating that came with a meeting's end is feedback as any other. One per uid: a copy is no second one."""
    if event.rating is None:
        return None
    return FactState(
        fact_id=rating_id(event.tenant_id, event.source, event.uid, event.seat),
        fact="feedback",
        at=utc(event.occurred_at),
        channel=event.channel,
        rating=event.rating,
    )


def rating_id(tenant_id: str, source: str, uid: str | None, seat: str | None) -> UUID:
    return derived_id("fact", tenant_id, "rating", source, uid or "", seat or "")


_FACT_NAMES = {
    FactType.FEEDBACK_RECEIVED: "feedback",
    FactType.INVENTORY_COUNTED: "inventory_count",
    FactType.INVENTORY_SOLD: "goods_sale",
    FactType.SHIFT_PLANNED: "shift",
    FactType.PAYMENT_RECEIVED: "payment",
    FactType.PAYMENT_REFUNDED: "refund",
    FactType.ADMIN_REPLY: "admin",
}
#: Entities of their own even when they are about a booking.
_ALWAYS_ENTITIES = frozenset({FactType.FEEDBACK_RECEIVED, FactType.INVENTORY_SOLD})


def _take_fact(intake: Intake, event: FactItem) -> None:
    """A fact about a booking joins its chain; one about a chat its intent; any other is an entity of its own."""
    key = item_key(event)
    if event.booking is not None:
        intake.items.append(_fact_of_booking(event, key))
    elif event.fact is FactType.ADMIN_REPLY and event.chat_hash is not None:
        intake.chats.append(_reply(event, key, event.chat_hash))
    else:
        intake.facts.append(NewFact(event.tenant_id, key, _fact_state(event, key)))


def _fact_of_booking(event: FactItem, key: UUID) -> NewItem:
    assert event.booking is not None
    item = Item(
        key=key,
        kind=ItemKind.FACT,
        trigger=str(event.fact),
        at=utc(event.occurred_at),
        source=str(event.channel),
        channel=str(event.channel),
        uid=event.booking.uid,
        start_at=maybe_utc(event.start_at),
        end_at=maybe_utc(event.end_at),
        status=event.status,
        gross_minor=event.gross_minor,
        discount_minor=event.discount_minor,
        currency=event.currency,
        rating=event.rating,
    )
    return NewItem(
        tenant_id=event.tenant_id,
        record_id=event.item_id,
        item=item,
        ref=Ref(event.tenant_id, event.booking.source, event.booking.uid),
        fact=_fact_state(event, key) if event.fact in _ALWAYS_ENTITIES else None,
    )


def _fact_state(event: FactItem, key: UUID) -> FactState:
    """Raises ValueError for a fact that only means something about a booking and names none."""
    name = _FACT_NAMES.get(event.fact)
    if name is None:
        raise ValueError(f"{event.fact} names no booking")
    shift = event.fact is FactType.SHIFT_PLANNED
    replaceable = shift and event.subject_id is not None
    named_by = ("shift", event.subject_id or "") if replaceable else ("item", key.hex)
    taken_back = shift and event.status == "cancelled"
    return FactState(
        fact_id=derived_id("fact", event.tenant_id, *named_by),
        fact=name,  # type: ignore[arg-type]
        at=utc(event.occurred_at),
        channel=event.channel,
        staff_id=event.staff_id,
        subject_id=event.subject_id,
        start_at=None if taken_back else maybe_utc(event.start_at),
        end_at=None if taken_back else maybe_utc(event.end_at),
        break_minutes=event.break_minutes,
        rating=event.rating,
        expected=event.expected,
        counted=event.counted,
        quantity=event.quantity,
        gross_minor=event.gross_minor,
        discount_minor=event.discount_minor,
        currency=event.currency,
    )


def _reply(event: FactItem, key: UUID, chat_hash: str) -> ChatEvent:
    """A human answered in a chat; the address is not needed, the hash finds the client."""
    return ChatEvent(
        tenant_id=event.tenant_id,
        item_key=key,
        channel=str(event.channel),
        chat=ContactKey(event.tenant_id, "chat", chat_hash),
        at=utc(event.occurred_at),
        answers=True,
    )


def _message(event: MessageItem) -> ChatEvent:
    """A button answers a message of ours and an edit is no new word: neither opens an intent."""
    shared = event.contact if event.contact_verified else None
    phone = shared.phone_hash if shared is not None else None
    return ChatEvent(
        tenant_id=event.tenant_id,
        item_key=item_key(event),
        channel=str(event.channel),
        chat=ContactKey(event.tenant_id, "chat", event.chat_hash),
        at=utc(event.sent_at),
        chat_sealed=event.chat_sealed,
        locale=event.locale,
        opens=event.kind is not MessageKind.BUTTON and not event.edited,
        phone=ContactKey(event.tenant_id, "phone", phone) if phone is not None else None,
        phone_sealed=shared.sealed if shared is not None else None,
    )


def _consent(event: ConsentItem) -> ChatEvent:
    return ChatEvent(
        tenant_id=event.tenant_id,
        item_key=item_key(event),
        channel=str(event.channel),
        chat=ContactKey(event.tenant_id, "chat", event.chat_hash),
        at=utc(event.occurred_at),
        chat_sealed=event.chat_sealed,
        opted_in=event.opted_in,
        scope=event.scope,
    )


_ENDS = {
    MessageStatus.DELIVERED: "delivered",
    MessageStatus.READ: "read",
    MessageStatus.FAILED: "failed",
    MessageStatus.DEAD: "failed",
}


def _reminder_outcomes(event: MessageEvent, record_id: UUID) -> list[NewItem]:
    """What a chain hears of its reminder, each at most once: that it was accepted, and how it ended."""
    if (
        event.template is not MessageTemplate.REMINDER_24H
        or event.booking_id is None
        or event.start_at is None
    ):
        return []
    told: list[tuple[OwnTrigger, datetime, str | None]] = []
    if event.accepted_at is not None:
        told.append((OwnTrigger.REMINDER_ACCEPTED, event.accepted_at, None))
    if event.status in _ENDS:
        told.append((OwnTrigger.REMINDER_ENDED, event.occurred_at, _ENDS[event.status]))
    return [
        NewItem(
            tenant_id=event.tenant_id,
            record_id=record_id,
            item=Item(
                key=derived_id("reminder", event.message_id.hex, trigger),
                kind=ItemKind.OUTCOME,
                trigger=str(trigger),
                at=utc(at),
                source="sender",
                channel=str(event.channel or Channel.OWN),
                start_at=utc(event.start_at),
                outcome=outcome,
            ),
            booking_id=event.booking_id,
        )
        for trigger, at, outcome in told
    ]
