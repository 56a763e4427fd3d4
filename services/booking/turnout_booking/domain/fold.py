"""The fold: from the SET of a chain's items to its state (design §2.3). Pure.

In: the items, in any order. Out: `Folded`, everything about the chain that its items say. Promise: the same set gives
the same state. `grow` says what new items add to a known set: which events are written, each with the state after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from turnout_booking.domain.attendees import of_the_client
from turnout_booking.domain.items import Item, ItemKind, OwnTrigger
from turnout_booking.domain.links import Links, Position, links_of
from turnout_booking.domain.rules import RULES_BY_NAME, Effect, Rule, Scope
from turnout_common.events.booking import BookingEventType, CancelReason, ChainStatus
from turnout_common.events.inbound import BookingTrigger
from turnout_common.events.values import Actor

#: Of more new items than this for one chain at once, neighbours share a fold.
MOST_STEPS = 32
#: Stands for no start at all.
NEVER = datetime.min.replace(tzinfo=UTC)
#: Their time is the appointment's own, not that at which the source said something.
MEETINGS = frozenset({BookingTrigger.MEETING_STARTED, BookingTrigger.MEETING_ENDED})


@dataclass(frozen=True, slots=True)
class FoldSettings:
    """What a fold depends on besides the items: the tenant's own configuration."""

    currency: str
    staff_map: Mapping[str, str] = field(default_factory=dict)
    service_map: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Folded:
    """A chain as its items tell it. The fields are those of ChainState that need no other entity."""

    status: ChainStatus
    source: str
    uid: str
    channel: str
    client_id: UUID | None
    staff_id: str | None
    service_id: str | None
    pinned_intent_id: UUID | None
    created_at: datetime
    confirmed_at: datetime | None
    start_at: datetime
    end_at: datetime
    cancelled_at: datetime | None
    cancelled_by: Actor | None
    cancel_reason: CancelReason | None
    no_show: bool
    completed_at: datetime | None
    moves: int
    overlaps: int
    admin_actions: int
    admin_before_confirmation: bool
    gross_minor: int
    discount_minor: int
    refund_minor: int
    currency: str | None
    other_currency_payments: int
    rating: int | None
    reminder_accepted_at: datetime | None
    reminder_outcome: str | None


def fold(items: Iterable[Item], settings: FoldSettings) -> Folded | None:
    """The state that the set of `items` stands for, or None while none of them says when the appointment is."""
    told = of_the_client(items)
    links = links_of(told)
    in_order = links.sorted(told)
    chain = _Chain(settings, links)
    # Of copies the first one counts; one that says when the appointment is goes before one that does not.
    with_times = {(item.trigger, item.uid) for item in in_order if item.founds}
    done: dict[tuple[str, str | None], datetime | None] = {}
    for item in in_order:
        rule = RULES_BY_NAME[item.trigger]
        if rule.once:
            said = (item.trigger, item.uid)
            start_at = item.start_at if Effect.PLACE in rule.effects else None
            if done.get(said, NEVER) == start_at or (said in with_times and not item.founds):
                continue
            done[said] = start_at
        chain.take(item, rule)
    return chain.result()


@dataclass(slots=True)
class _Chain:
    """The accumulator of one fold."""

    settings: FoldSettings
    links: Links
    source: str = ""
    channel: str = ""
    created_at: datetime | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    times_from: Position | None = None
    times_are_set: bool = False
    pending: bool | None = None
    confirmed_at: datetime | None = None
    confirmed_uids: set[str | None] = field(default_factory=set)
    witnessed_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancelled_by: Actor | None = None
    cancel_reason: CancelReason | None = None
    explicit_no_show: bool | None = None
    hinted_no_show: bool = False
    completed_at: datetime | None = None
    client_id: UUID | None = None
    staff_ref: str | None = None
    service_ref: str | None = None
    intent_id: UUID | None = None
    manual_moves: int = 0
    admin_actions: int = 0
    first_admin_at: datetime | None = None
    gross: int = 0
    discount: int = 0
    refund: int = 0
    paid_here: bool = False
    paid_elsewhere: int = 0
    rating: int | None = None
    hinted_rating: int | None = None
    reminders: list[Item] = field(default_factory=list)
    relinks: dict[UUID, UUID] = field(default_factory=dict)

    def take(self, item: Item, rule: Rule) -> None:
        if item.kind is ItemKind.SOURCE:
            self._note_source(item, rule)
        if rule.scope is Scope.LAST_UID and item.uid != self.links.last_uid:
            return
        for effect in rule.effects:
            APPLY[effect](self, item)

    def _note_source(self, item: Item, rule: Rule) -> None:
        self.source, self.channel = item.source, item.channel
        if item.trigger not in MEETINGS:
            self.created_at = item.at if self.created_at is None else min(self.created_at, item.at)
        if self.intent_id is None:
            self.intent_id = item.intent_id
        if item.founds and Effect.PLACE not in rule.effects and item.uid is not None:
            position = self.links.positions[item.uid]
            if self.times_from is None or position > self.times_from or not self.times_are_set:
                self.start_at, self.end_at, self.times_from = item.start_at, item.end_at, position
                self.times_are_set = False

    def place(self, item: Item) -> None:
        if item.founds and item.uid is not None:
            self._set_times(item, self.links.positions[item.uid])
        self._stands_again()
        self.explicit_no_show, self.hinted_no_show = None, False

    def move(self, item: Item) -> None:
        if item.start_at is None or item.end_at is None:
            return
        self._set_times(item, (self.links.moves, True))
        self._stands_again()
        self.explicit_no_show, self.hinted_no_show = None, False
        self.manual_moves += 1

    def _set_times(self, item: Item, position: Position) -> None:
        self.start_at, self.end_at, self.times_from = item.start_at, item.end_at, position
        self.times_are_set = True

    def _stands_again(self) -> None:
        self.cancelled_at = self.cancelled_by = self.cancel_reason = self.completed_at = None

    def pend(self, item: Item) -> None:
        if item.uid not in self.confirmed_uids:
            self.pending = True

    def confirm(self, item: Item) -> None:
        self.pending = False
        self.confirmed_uids.add(item.uid)
        self.confirmed_at = item.at if self.confirmed_at is None else min(self.confirmed_at, item.at)

    def confirm_too(self, item: Item) -> None:
        at = min(item.at, item.start_at) if item.start_at is not None else item.at
        if self.pending is None and self.cancelled_at is None:
            self.witnessed_at = at if self.witnessed_at is None else min(self.witnessed_at, at)

    def cancel(self, item: Item, reason: CancelReason = CancelReason.CANCELLED) -> None:
        by = Actor.SALON if item.kind is ItemKind.FACT else Actor(item.actor or Actor.UNKNOWN)
        self.cancelled_at, self.cancelled_by, self.cancel_reason = item.at, by, reason
        self.completed_at = None

    def cancel_to_move(self, item: Item) -> None:
        self.cancel(item, CancelReason.RESCHEDULE_REQUESTED)

    def reject(self, item: Item) -> None:
        self.cancel(item, CancelReason.REJECTED)
        self.cancelled_by = Actor.SALON

    def attendance(self, item: Item) -> None:
        self.explicit_no_show = bool(item.no_show)
        if item.no_show:
            self.completed_at = None

    def attendance_hint(self, item: Item) -> None:
        self.hinted_no_show = self.hinted_no_show or bool(item.no_show)

    def complete(self, item: Item) -> None:
        self._stands_again()
        self.completed_at, self.explicit_no_show = item.at, False

    def override(self, item: Item) -> None:
        if item.status == ChainStatus.CANCELLED:
            self.cancel(item)
        elif item.status == ChainStatus.COMPLETED:
            self.complete(item)
        elif item.status == ChainStatus.NO_SHOW:
            self._stands_again()
            self.explicit_no_show = True
        elif item.status == ChainStatus.CONFIRMED:
            self._stands_again()
            self.explicit_no_show = False
            self.confirm(item)

    def intervene(self, item: Item) -> None:
        self.admin_actions += 1
        self.first_admin_at = item.at if self.first_admin_at is None else min(self.first_admin_at, item.at)

    def details(self, item: Item) -> None:
        self.client_id = item.client_id or self.client_id
        self.staff_ref = item.staff_ref or self.staff_ref
        self.service_ref = item.service_ref or self.service_ref

    def pay(self, item: Item) -> None:
        if self._is_own_currency(item):
            self.gross += item.gross_minor or 0
            self.discount += item.discount_minor or 0

    def pay_back(self, item: Item) -> None:
        if self._is_own_currency(item):
            self.refund += item.gross_minor or 0

    def _is_own_currency(self, item: Item) -> bool:
        if not item.gross_minor and not item.discount_minor:
            return False
        own = item.currency in (None, self.settings.currency)
        self.paid_here = self.paid_here or own
        self.paid_elsewhere += not own
        return own

    def rate(self, item: Item) -> None:
        self.rating = item.rating or self.rating

    def rate_hint(self, item: Item) -> None:
        self.hinted_rating = item.rating or self.hinted_rating

    def remind(self, item: Item) -> None:
        self.reminders.append(item)

    def relink(self, item: Item) -> None:
        if item.relinked_from is not None and item.client_id is not None:
            self.relinks[item.relinked_from] = item.client_id

    def result(self) -> Folded | None:
        if self.start_at is None or self.end_at is None:
            return None
        confirmed_at = self.confirmed_at or self.witnessed_at
        created_at = self.created_at or self.start_at
        no_show = self.hinted_no_show if self.explicit_no_show is None else self.explicit_no_show
        accepted_at, outcome = self._reminder()
        return Folded(
            status=self._status(no_show, confirmed_at),
            source=self.source,
            uid=self.links.last_uid or "",
            channel=self.channel,
            client_id=self._client(),
            staff_id=self.settings.staff_map.get(self.staff_ref or ""),
            service_id=self.settings.service_map.get(self.service_ref or ""),
            pinned_intent_id=self.intent_id,
            created_at=min(created_at, confirmed_at) if confirmed_at is not None else created_at,
            confirmed_at=confirmed_at,
            start_at=self.start_at,
            end_at=self.end_at,
            cancelled_at=self.cancelled_at,
            cancelled_by=self.cancelled_by,
            cancel_reason=self.cancel_reason,
            no_show=no_show,
            completed_at=self.completed_at,
            moves=self.links.moves + self.manual_moves,
            overlaps=self.links.overlaps,
            admin_actions=self.admin_actions,
            admin_before_confirmation=self._admin_before(confirmed_at),
            gross_minor=self.gross,
            discount_minor=self.discount,
            refund_minor=self.refund,
            currency=self.settings.currency if self.paid_here else None,
            other_currency_payments=self.paid_elsewhere,
            rating=self.rating or self.hinted_rating,
            reminder_accepted_at=accepted_at,
            reminder_outcome=outcome,
        )

    def _status(self, no_show: bool, confirmed_at: datetime | None) -> ChainStatus:
        if self.cancelled_at is not None:
            return ChainStatus.CANCELLED
        if self.completed_at is not None:
            return ChainStatus.COMPLETED
        if no_show:
            return ChainStatus.NO_SHOW
        waits = confirmed_at is None if self.pending is None else self.pending
        return ChainStatus.PENDING if waits else ChainStatus.CONFIRMED

    def _client(self) -> UUID | None:
        client, seen = self.client_id, set[UUID]()
        while client is not None and client in self.relinks and client not in seen:
            seen.add(client)
            client = self.relinks[client]
        return client

    def _admin_before(self, confirmed_at: datetime | None) -> bool:
        if self.first_admin_at is None:
            return False
        return confirmed_at is None or self.first_admin_at <= confirmed_at

    def _reminder(self) -> tuple[datetime | None, str | None]:
        """Only what was sent for the start that stands now says anything about this appointment."""
        told = [item for item in self.reminders if item.start_at == self.start_at]
        accepted = [item.at for item in told if item.trigger == OwnTrigger.REMINDER_ACCEPTED]
        ended = [item.outcome for item in told if item.trigger == OwnTrigger.REMINDER_ENDED]
        if ended:
            return min(accepted, default=None), ended[-1]
        return min(accepted, default=None), "accepted" if accepted else None


APPLY: Mapping[Effect, Callable[[_Chain, Item], None]] = {
    Effect.DETAILS: _Chain.details,
    Effect.PLACE: _Chain.place,
    Effect.PEND: _Chain.pend,
    Effect.CONFIRM: _Chain.confirm,
    Effect.CONFIRM_TOO: _Chain.confirm_too,
    Effect.CANCEL: _Chain.cancel,
    Effect.CANCEL_TO_MOVE: _Chain.cancel_to_move,
    Effect.REJECT: _Chain.reject,
    Effect.ATTENDANCE: _Chain.attendance,
    Effect.ATTENDANCE_HINT: _Chain.attendance_hint,
    Effect.COMPLETE: _Chain.complete,
    Effect.OVERRIDE: _Chain.override,
    Effect.MOVE: _Chain.move,
    Effect.PAY: _Chain.pay,
    Effect.REFUND: _Chain.pay_back,
    Effect.RATE: _Chain.rate,
    Effect.RATE_HINT: _Chain.rate_hint,
    Effect.INTERVENE: _Chain.intervene,
    Effect.REMINDER: _Chain.remind,
    Effect.RELINK: _Chain.relink,
}


@dataclass(frozen=True, slots=True)
class Step:
    """What one new item makes of a chain: the state of the set that now includes it, and the events it is written as
    if that state is another one than before."""

    item: Item
    folded: Folded
    events: tuple[BookingEventType, ...]


def grow(known: Iterable[Item], new: Sequence[Item], settings: FoldSettings) -> list[Step]:
    """The states of the set `known` as it grows by `new`, one step an item, in the order of the fold."""
    items = list(known)
    told = of_the_client([*items, *new])
    counting = {item.key for item in told}
    items += [item for item in new if item.key not in counting]
    in_order = links_of(told).sorted(item for item in new if item.key in counting)
    if not any(item.founds for item in items):  # before it is founded a chain has no state
        founder = next((item for item in in_order if item.founds), None)
        in_order.sort(key=lambda item: item is not founder)
    size = -(-len(in_order) // MOST_STEPS) or 1
    steps = []
    for group in (in_order[n : n + size] for n in range(0, len(in_order), size)):
        events = events_of(group[-1], items)
        items.extend(group)
        folded = fold(items, settings)
        if folded is not None:
            steps.append(Step(group[-1], folded, events))
    return steps


def events_of(item: Item, earlier: Iterable[Item]) -> tuple[BookingEventType, ...]:
    """The event types that the rules give `item`, where `earlier` is the set that it joins."""
    rule = RULES_BY_NAME[item.trigger]
    if item.kind is ItemKind.SOURCE:
        seen = {other.trigger for other in earlier if other.uid == item.uid and other.kind is ItemKind.SOURCE}
        if rule.once and item.trigger in seen:
            return (BookingEventType.CHANGED,)
        if item.trigger == BookingTrigger.REQUESTED and BookingTrigger.CREATED in seen:
            return (BookingEventType.CHANGED,)
        if item.trigger == BookingTrigger.CREATED and BookingTrigger.REQUESTED in seen:
            return (BookingEventType.CONFIRMED,)
        if Effect.PLACE in rule.effects and item.previous_uid is not None:
            return (BookingEventType.RESCHEDULED,)
    if item.no_show and rule.flagged_event is not None:
        return (rule.flagged_event,)
    return rule.events
