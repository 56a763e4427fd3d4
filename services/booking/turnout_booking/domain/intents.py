"""Intents: wishes to book, derived from when a client wrote, when a human answered, and the client's chains. Pure.

In: the SETS of a client's messages, answers and chains. Out: the intents that they amount to, and which chain belongs
to which. One opens with a message when none is open and ends with its chain's confirmation or refusal, or 24 h after
it opened; a chain that finds none open has an implicit one. Promise: the order of arrival does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from turnout_booking.domain.fold import Folded
from turnout_common.events.booking import ChainStatus, IntentOutcome, IntentState
from turnout_common.events.values import Channel

OPEN_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class ChatItem:
    """A client's message, or a human's answer to the client (`reply`)."""

    key: UUID
    at: datetime
    channel: str
    reply: bool = False


@dataclass(frozen=True, slots=True)
class KnownIntent:
    """An intent that has an id already. `opening_key` is the message that opened it; None for an implicit one."""

    intent_id: UUID
    opening_key: UUID | None
    booking_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class ChainWish:
    """What a chain says of its intent."""

    booking_id: UUID
    folded: Folded

    @property
    def opened_at(self) -> datetime:
        return self.folded.created_at

    @property
    def order(self) -> tuple[datetime, str, str, UUID]:
        """By time, and where that is the same by the source's name: ids of ours say only which one came first."""
        return self.opened_at, self.folded.source, self.folded.uid, self.booking_id

    @property
    def refused_at(self) -> datetime | None:
        never = self.folded.confirmed_at is None and self.folded.status is ChainStatus.CANCELLED
        return self.folded.cancelled_at if never else None

    @property
    def decided_at(self) -> datetime | None:
        return self.folded.confirmed_at or self.refused_at


@dataclass(slots=True)
class Wish:
    """One intent as derived: explicit with its opening message, or implicit with its chain only."""

    opened_at: datetime
    channel: str
    opening_key: UUID | None
    replies: int = 0
    chain: ChainWish | None = None
    intent_id: UUID | None = None

    def is_open_at(self, at: datetime) -> bool:
        return at < self.ends_at

    @property
    def ends_at(self) -> datetime:
        ends_at = self.opened_at + OPEN_FOR
        if self.chain is not None and self.chain.decided_at is not None:
            return min(ends_at, max(self.chain.decided_at, self.opened_at))
        return ends_at


def derive(
    chat: Iterable[ChatItem],
    chains: Sequence[ChainWish],
    known: Sequence[KnownIntent],
    new_id: Callable[[], UUID],
) -> list[Wish]:
    """All intents of one client (or of one chain without a client), each with its id: a known one, or a new one."""
    by_opening = {intent.opening_key: intent for intent in known if intent.opening_key is not None}
    explicit = {intent.intent_id for intent in by_opening.values()}
    pinned: dict[UUID, ChainWish] = {}
    unpinned: list[ChainWish] = []
    for chain in sorted(chains, key=lambda chain: chain.order):
        pin = chain.folded.pinned_intent_id
        if pin in explicit and pin is not None and pin not in pinned:
            pinned[pin] = chain
        else:
            unpinned.append(chain)
    wishes = _sweep(chat, unpinned, by_opening, pinned)
    placed = {wish.chain.booking_id for wish in wishes if wish.chain is not None}
    for chain in pinned.values():  # its intent had another chain already, or its messages are gone
        if chain.booking_id not in placed:
            wishes.append(Wish(chain.opened_at, chain.folded.channel, None, chain=chain))
    implicit_of = {intent.booking_id: intent for intent in known if intent.opening_key is None}
    for wish in wishes:
        if wish.opening_key is None and wish.chain is not None and wish.chain.booking_id in implicit_of:
            wish.intent_id = implicit_of[wish.chain.booking_id].intent_id
        wish.intent_id = wish.intent_id or new_id()
    return wishes


def _sweep(
    chat: Iterable[ChatItem],
    chains: Iterable[ChainWish],
    by_opening: Mapping[UUID, KnownIntent],
    pinned: Mapping[UUID, ChainWish],
) -> list[Wish]:
    """Goes through messages, answers and chains in order of time; what is equally old: message, answer, chain."""
    said = sorted(chat, key=lambda item: (item.at, item.reply, item.key))
    made = sorted(chains, key=lambda chain: chain.order)
    moments: list[tuple[datetime, ChatItem | ChainWish]] = [(item.at, item) for item in said]
    moments += [(chain.opened_at, chain) for chain in made]
    wishes: list[Wish] = []
    current: Wish | None = None
    for at, moment in sorted(
        moments, key=lambda m: m[0]
    ):  # stable: what was said stands before what was made
        is_open = current is not None and current.is_open_at(at)
        if isinstance(moment, ChainWish):
            if current is not None and is_open and current.chain is None:
                current.chain = moment
            else:
                wishes.append(Wish(at, moment.folded.channel, None, chain=moment))
        elif moment.reply:
            if current is not None and is_open:
                current.replies += 1
        else:
            if current is None or not is_open:
                current = Wish(at, moment.channel, moment.key)
                wishes.append(current)
            _claim(current, by_opening.get(moment.key), pinned)
    return wishes


def _claim(wish: Wish, intent: KnownIntent | None, pinned: Mapping[UUID, ChainWish]) -> None:
    """Gives `wish` the id of the intent that one of its messages once opened, and the chain that names that id."""
    if intent is None:
        return
    wish.intent_id = wish.intent_id or intent.intent_id
    wish.chain = wish.chain or pinned.get(intent.intent_id)


def intent_state(wish: Wish, client_id: UUID | None) -> IntentState:
    """The state of the entity that `wish` is."""
    assert wish.intent_id is not None
    folded = wish.chain.folded if wish.chain else None
    closed_at = wish.chain.decided_at if wish.chain else None
    outcome = None
    if folded is not None and closed_at is not None:
        outcome = IntentOutcome.CONFIRMED if folded.confirmed_at is not None else IntentOutcome.REFUSED
        closed_at = max(closed_at, wish.opened_at)
    return IntentState(
        intent_id=wish.intent_id,
        channel=Channel(wish.channel),
        client_id=client_id,
        staff_id=folded.staff_id if folded else None,
        service_id=folded.service_id if folded else None,
        booking_id=wish.chain.booking_id if wish.chain else None,
        implicit=wish.opening_key is None,
        opened_at=wish.opened_at,
        confirmed_at=closed_at if outcome is IntentOutcome.CONFIRMED else None,
        closed_at=closed_at,
        outcome=outcome,
        admin_actions=(folded.admin_actions if folded else 0) + wish.replies,
        admin_before_confirmation=wish.replies > 0
        or (folded is not None and folded.admin_before_confirmation),
    )
