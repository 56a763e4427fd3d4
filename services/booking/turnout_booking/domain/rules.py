"""The rules of the fold, as data: what each kind of item does to a chain, and which events it is written as.

docs/BOOKING_RULES.md is generated from this file (`python -m turnout_booking.domain.rules`). After a change here raise
REVISION and run `turnout booking refold`: it applies the changed rules to the stored items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from turnout_booking.domain.items import OwnTrigger, Trigger
from turnout_common.events.booking import BookingEventType as Type
from turnout_common.events.inbound import BookingTrigger, FactType

#: Stands on every chain; a chain with a smaller one was folded by older rules.
REVISION = 1


class Effect(StrEnum):
    """What an item does to the chain. The words are those of the generated table."""

    DETAILS = "takes over staff, service and client"
    PLACE = "sets start and end; takes back a cancellation, a no-show and a completion"
    PEND = "status pending, unless its uid is confirmed already"
    CONFIRM = "status confirmed"
    CONFIRM_TOO = "status confirmed where nothing has said otherwise"
    CANCEL = "status cancelled"
    CANCEL_TO_MOVE = "status cancelled, reason reschedule_requested"
    REJECT = "status cancelled by the salon, reason rejected"
    ATTENDANCE = "marks a no-show, or takes the mark back"
    ATTENDANCE_HINT = "marks a no-show unless someone marked or unmarked it explicitly"
    COMPLETE = "status completed; takes back a cancellation and a no-show"
    OVERRIDE = "sets the status that the item names"
    MOVE = "sets start and end and counts a move; takes back a cancellation, a no-show and a completion"
    PAY = "adds to gross and discount, or counts a payment in another currency"
    REFUND = "adds to refunds, or counts a payment in another currency"
    RATE = "sets the rating"
    RATE_HINT = "sets the rating unless there is explicit feedback"
    INTERVENE = "counts an admin action"
    REMINDER = "notes the outcome of the reminder for the start that stands now"
    RELINK = "the client is now known as another one"


class Scope(StrEnum):
    """Which uid an item speaks of, and so where it is sorted."""

    UID = "its uid"
    LAST_UID = "its uid, as long as no later uid exists"
    CHAIN = "the chain, whichever of its uids is named"


@dataclass(frozen=True)
class Rule:
    """One row of the table. `rank` orders items of one uid and one source time. `once`: further items of the same
    trigger and uid are copies (a second subscriber's) and do nothing. `plans`: it may make us write to the client.
    `flagged_event` is the event of an item with no_show = true.
    """

    rank: int
    effects: tuple[Effect, ...]
    events: tuple[Type, ...]
    scope: Scope = Scope.UID
    once: bool = True
    plans: bool = False
    flagged_event: Type | None = None
    why: str = ""


RULES: Mapping[Trigger, Rule] = {
    BookingTrigger.REQUESTED: Rule(
        10,
        (Effect.DETAILS, Effect.PLACE, Effect.PEND),
        (Type.CREATED,),
        plans=True,
        why="Awaits the salon. With a predecessor it is a move that awaits the salon: the old time is given up at the "
        "source, so the chain is pending again, and the event is booking.rescheduled.",
    ),
    BookingTrigger.PAYMENT_INITIATED: Rule(
        15, (Effect.DETAILS,), (Type.CHANGED,), why="Nothing is paid yet."
    ),
    BookingTrigger.CREATED: Rule(
        20,
        (Effect.DETAILS, Effect.PLACE, Effect.CONFIRM),
        (Type.CREATED, Type.CONFIRMED),
        plans=True,
        why="Only booking.confirmed when a request for the same uid was seen; booking.rescheduled when it names a "
        "predecessor (some sources report a move so).",
    ),
    BookingTrigger.RESCHEDULED: Rule(
        20,
        (Effect.DETAILS, Effect.PLACE, Effect.CONFIRM),
        (Type.RESCHEDULED,),
        plans=True,
        why="The uid is new and replaces its predecessor.",
    ),
    BookingTrigger.PAID: Rule(
        30, (Effect.DETAILS, Effect.CONFIRM_TOO, Effect.PAY), (Type.PAYMENT_RECEIVED,), why="Once per uid."
    ),
    BookingTrigger.CHANGED: Rule(
        40,
        (Effect.DETAILS, Effect.CONFIRM_TOO),
        (Type.CHANGED,),
        once=False,
        why="Another place or another member of staff.",
    ),
    BookingTrigger.MEETING_STARTED: Rule(
        50,
        (Effect.DETAILS, Effect.CONFIRM_TOO),
        (Type.CHANGED,),
        scope=Scope.LAST_UID,
        why="Fires when nobody came too.",
    ),
    BookingTrigger.MEETING_ENDED: Rule(
        60,
        (Effect.DETAILS, Effect.CONFIRM_TOO, Effect.ATTENDANCE_HINT, Effect.RATE_HINT),
        (Type.CHANGED,),
        scope=Scope.LAST_UID,
        flagged_event=Type.NO_SHOW,
        why="Fires when nobody came too, so it completes nothing; its attendees' no-show flag counts as a mark.",
    ),
    BookingTrigger.REJECTED: Rule(
        70,
        (Effect.DETAILS, Effect.REJECT),
        (Type.CANCELLED,),
        scope=Scope.LAST_UID,
        why="The salon refused a request.",
    ),
    BookingTrigger.RESCHEDULE_REQUESTED: Rule(
        70,
        (Effect.DETAILS, Effect.CANCEL_TO_MOVE),
        (Type.CANCELLED,),
        scope=Scope.LAST_UID,
        why="The salon asks the client to choose another time: not a lost booking.",
    ),
    BookingTrigger.CANCELLED: Rule(
        70,
        (Effect.DETAILS, Effect.CANCEL),
        (Type.CANCELLED,),
        scope=Scope.LAST_UID,
        why="By whom the item says.",
    ),
    BookingTrigger.NO_SHOW_UPDATED: Rule(
        80,
        (Effect.ATTENDANCE,),
        (Type.NO_SHOW_REVERTED,),
        scope=Scope.LAST_UID,
        once=False,
        flagged_event=Type.NO_SHOW,
        why="Explicit: stands above the flags of a meeting's end, whenever it came. The last one counts.",
    ),
    FactType.SERVICE_COMPLETED: Rule(
        82,
        (Effect.COMPLETE,),
        (Type.COMPLETED,),
        scope=Scope.CHAIN,
        once=False,
        why="Explicit: a visit at once.",
    ),
    FactType.ADMIN_MANUAL_RESCHEDULE: Rule(
        84,
        (Effect.INTERVENE, Effect.MOVE),
        (Type.ADMIN_MANUAL_RESCHEDULE,),
        scope=Scope.CHAIN,
        once=False,
        plans=True,
    ),
    FactType.ADMIN_MANUAL_CANCEL: Rule(
        85, (Effect.INTERVENE, Effect.CANCEL), (Type.ADMIN_MANUAL_CANCEL,), scope=Scope.CHAIN, once=False
    ),
    FactType.ADMIN_OVERRIDE_BOOKING: Rule(
        86,
        (Effect.INTERVENE, Effect.OVERRIDE),
        (Type.ADMIN_OVERRIDE_BOOKING,),
        scope=Scope.CHAIN,
        once=False,
        plans=True,
    ),
    FactType.ADMIN_REPLY: Rule(
        87, (Effect.INTERVENE,), (Type.ADMIN_REPLY,), scope=Scope.CHAIN, once=False, why="A human answered."
    ),
    FactType.PAYMENT_RECEIVED: Rule(
        90, (Effect.PAY,), (Type.PAYMENT_RECEIVED,), scope=Scope.CHAIN, once=False
    ),
    FactType.PAYMENT_REFUNDED: Rule(
        91, (Effect.REFUND,), (Type.PAYMENT_REFUNDED,), scope=Scope.CHAIN, once=False
    ),
    FactType.FEEDBACK_RECEIVED: Rule(
        92,
        (Effect.RATE,),
        (Type.FEEDBACK_RECEIVED,),
        scope=Scope.CHAIN,
        once=False,
        why="The last one counts.",
    ),
    FactType.INVENTORY_SOLD: Rule(
        93,
        (),
        (Type.INVENTORY_SOLD,),
        scope=Scope.CHAIN,
        once=False,
        why="Goods sold during a visit: the sale is an entity of its own, which learns its booking from the chain.",
    ),
    OwnTrigger.REMINDER_ACCEPTED: Rule(
        95, (Effect.REMINDER,), (Type.CHANGED,), scope=Scope.CHAIN, once=False, why="The sender's word."
    ),
    OwnTrigger.REMINDER_ENDED: Rule(
        96,
        (Effect.REMINDER,),
        (Type.CHANGED,),
        scope=Scope.CHAIN,
        once=False,
        why="Delivered, read or failed.",
    ),
    OwnTrigger.CLIENT_RELINKED: Rule(
        99, (Effect.RELINK,), (Type.CHANGED,), scope=Scope.CHAIN, once=False, why="A shared phone showed it."
    ),
}

#: By the trigger's plain text, which is what an item holds.
RULES_BY_NAME: Mapping[str, Rule] = {str(trigger): rule for trigger, rule in RULES.items()}

_HEAD = """# The rules of a booking

Generated from `services/booking/turnout_booking/domain/rules.py` by `python -m turnout_booking.domain.rules`; a test
fails when this file is stale. Rules revision: {revision}.

A chain is one appointment through all its reschedules. Its state is a pure fold over the set of its items, sorted by
(depth of the item's uid in the link chain O → N1 → N2, source time, rank, item key): the order of arrival does not
matter. An item that speaks of the chain is sorted with its last uid.

- `created_at` is the smallest source time of what the source said (a meeting's: its start). `confirmed_at` is the
  first confirmation; a chain that only a payment, a change or a meeting speaks of counts as confirmed by then, at its
  start at the latest. One of which only the cancellation is known counts as never confirmed.
- Start and end are those of the last item that sets them. Any other item of the source that carries times only fills
  them in where none has spoken for its uid or a later one.
- Status: cancelled, else completed, else no_show, else pending or confirmed. Moves: how deep the last uid lies, and
  each manual reschedule.
- Two successors of one uid: the later one stands, `overlaps` counts it, and `booking.overlap` is written for a human.
- A copy (same trigger and uid, where the table says once) does nothing, unless it sets another start than the one before
  it (a booking with seats may be moved under its uid); the copy with the smallest source time is the one that counts.
- Each seat of a uid is a chain of its own. A meeting or a no-show mark names an attendee and leaves open whether they
  hold a seat: it counts in the chain of that seat, else in that of the booking, if the attendee is the one who booked. A
  guest's absence does nothing.
- An item that changes nothing writes no event. One that does writes those of the table, each with the whole state
  after it, the item's own time, and the next version.

| item | rank | speaks of | once | what it does | events | may cause a message | remarks |
|---|---|---|---|---|---|---|---|
"""


def markdown() -> str:
    """The text of docs/BOOKING_RULES.md."""
    rows = []
    for trigger, rule in sorted(RULES.items(), key=lambda pair: (pair[1].rank, str(pair[0]))):
        events = ", ".join(f"`{event}`" for event in rule.events)
        if rule.flagged_event is not None:
            events += f"; `{rule.flagged_event}` when it marks a no-show"
        rows.append(
            f"| `{trigger}` | {rule.rank} | {rule.scope} | {'yes' if rule.once else 'no'} | "
            f"{'; '.join(rule.effects) or 'nothing'} | {events} | {'yes' if rule.plans else 'no'} | {rule.why} |"
        )
    return _HEAD.format(revision=REVISION) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
