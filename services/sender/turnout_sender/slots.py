"""Which message of a slot may be sent: the highest booking version wins, in whatever order the plans came. Pure.

A slot is tenant:booking:template. Booking says "send this" (a plan) or "send nothing" (a withdrawal), each at a version
of the booking; a message stands for one start of the appointment, so a move back to an old start names an old message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from turnout_common.events import MessagePlanned, MessageWithdrawn

#: Statuses that a plan under a higher version wakes up again: the client certainly has no message.
UNSENT = frozenset({"cancelled"})
#: These too, as long as no request was ever begun.
UNTRIED = frozenset({"failed", "limited"})


@dataclass(frozen=True)
class SlotKey:
    tenant_id: str
    slot_key: str


@dataclass(frozen=True)
class Word:
    """What booking said last: `message_id` is to be sent, or nothing is."""

    booking_version: int
    message_id: UUID | None

    def beats(self, other: Word) -> bool:
        """At one version a withdrawal beats a plan; two plans cannot be, yet either order must end the same."""
        return self._rank() > other._rank()

    def _rank(self) -> tuple[int, bool, int]:
        return self.booking_version, self.message_id is None, self.message_id.int if self.message_id else 0


NOTHING_SAID = Word(0, None)


@dataclass(frozen=True)
class Known:
    """A delivery of the slot as it stands in the database."""

    message_id: UUID
    status: str
    booking_version: int
    attempts: int = 0

    @property
    def can_revive(self) -> bool:
        return self.status in UNSENT or (self.status in UNTRIED and self.attempts == 0)


@dataclass(frozen=True)
class NewDelivery:
    """A plan that was not known yet; `reason` is set when something newer cancelled it before it came."""

    plan: MessagePlanned
    reason: str | None


@dataclass
class Changes:
    """What to write. `revived` are planned again; `refreshed` keep their state and take the newer plan's times."""

    words: dict[SlotKey, Word] = field(default_factory=dict)
    new: list[NewDelivery] = field(default_factory=list)
    cancelled: dict[UUID, str] = field(default_factory=dict)
    revived: list[MessagePlanned] = field(default_factory=list)
    refreshed: list[MessagePlanned] = field(default_factory=list)


def settle(
    key: SlotKey,
    before: Word,
    known: Mapping[UUID, Known],
    said: Sequence[MessagePlanned | MessageWithdrawn],
    changes: Changes,
) -> None:
    """Adds to `changes` what `said` means for a slot. The result does not depend on the order of what was said."""
    plans = _newest_plans(said)
    word = before
    for event in said:
        heard = Word(event.booking_version, event.message_id if isinstance(event, MessagePlanned) else None)
        if heard.beats(word):
            word = heard
    if word != before:
        changes.words[key] = word
    why = "withdrawn" if word.message_id is None else "superseded"
    for message_id, plan in plans.items():
        if message_id not in known:
            changes.new.append(NewDelivery(plan, None if message_id == word.message_id else why))
        elif plan.booking_version > known[message_id].booking_version:
            revives = message_id == word.message_id and known[message_id].can_revive
            (changes.revived if revives else changes.refreshed).append(plan)
    for message_id, delivery in known.items():
        if delivery.status == "planned" and message_id != word.message_id:
            changes.cancelled[message_id] = why


def _newest_plans(said: Iterable[MessagePlanned | MessageWithdrawn]) -> dict[UUID, MessagePlanned]:
    newest: dict[UUID, MessagePlanned] = {}
    for event in said:
        if isinstance(event, MessagePlanned):
            held = newest.get(event.message_id)
            if held is None or event.booking_version > held.booking_version:
                newest[event.message_id] = event
    return newest
