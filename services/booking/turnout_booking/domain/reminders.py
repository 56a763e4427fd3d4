"""What a client is to be told about a booking, and when. Pure: the clock is given.

In: the booking's state before and after a change, what is planned already, when the change was caused. Out: what to
plan and what to withdraw. Promises: imports and backlogs text nobody (the cause is under an hour old), nothing lies in
the past or in quiet hours, a move replaces the reminder, a cancellation, no-show or merge withdraws it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from turnout_common.events.booking import ChainState, ChainStatus
from turnout_common.events.outbound import MessageTemplate

FRESH_FOR = timedelta(hours=1)
REMIND_BEFORE = timedelta(hours=24)
SPREAD_SECONDS = 15 * 60


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """The tenant's zone, and the local hours in which it does not write."""

    zone: ZoneInfo
    quiet_from: int
    quiet_until: int


@dataclass(frozen=True, slots=True)
class Planned:
    """Tell the client, not before `not_before`; `sent_key` is told at most once."""

    template: MessageTemplate
    slot_key: str
    sent_key: str
    start_at: datetime
    not_before: datetime
    client_id: UUID

    @property
    def slot_value(self) -> str:
        """What the slot holds then: another start or another client makes another plan."""
        return f"{self.sent_key} {self.client_id}"


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Tell the client no more what stands under `slot_key`."""

    template: MessageTemplate
    slot_key: str


@dataclass(frozen=True, slots=True)
class Change:
    """A booking before and after one transaction. `caused_at` is the newest source time of what may make us write."""

    tenant_id: str
    before: ChainState | None
    after: ChainState
    caused_at: datetime | None


def plan(
    change: Change, slots: Mapping[str, str], settings: PlannerSettings, now: datetime
) -> list[Planned | Withdrawn]:
    """What changes at the sender; `slots` is what is planned there: template -> what `slot_value` gives."""
    wanted = {
        MessageTemplate.CONFIRMATION: _confirmation(change, slots, now),
        MessageTemplate.REMINDER_24H: _reminder(change, slots, settings, now),
    }
    decided: list[Planned | Withdrawn] = []
    for template, planned in wanted.items():
        current = slots.get(template)
        if planned is not None and current != planned.slot_value:
            decided.append(planned)  # replaces what stands in the slot by itself
        elif planned is None and current is not None and not _is_over(change, template, current, now):
            decided.append(Withdrawn(template, _slot_key(change, template)))
    return decided


def slots_after(slots: Mapping[str, str], decided: list[Planned | Withdrawn]) -> dict[str, str]:
    """`slots` once `decided` is carried out."""
    after = dict(slots)
    for decision in decided:
        if isinstance(decision, Planned):
            after[decision.template] = decision.slot_value
        else:
            after.pop(decision.template, None)
    return after


def _confirmation(change: Change, slots: Mapping[str, str], now: datetime) -> Planned | None:
    """At once, for the first confirmation; it stands as long as the booking stands at that time."""
    planned = _planned(change, MessageTemplate.CONFIRMATION, now, now)
    if planned is None or _holds(slots, planned):
        return planned
    is_first = change.before is None or change.before.confirmed_at is None
    return planned if is_first and _is_fresh(change.after.confirmed_at, now) else None


def _reminder(
    change: Change, slots: Mapping[str, str], settings: PlannerSettings, now: datetime
) -> Planned | None:
    """A day ahead; when the client can be written to only later, from then on."""
    after = change.after
    not_before = reminder_time(after.start_at, after.booking_id, settings)
    planned = _planned(change, MessageTemplate.REMINDER_24H, not_before, now)
    if planned is None or _holds(slots, planned):
        return planned
    is_ahead = after.start_at - REMIND_BEFORE > now and not_before < after.start_at
    return planned if is_ahead and _is_fresh(change.caused_at, now) else None


def _planned(
    change: Change, template: MessageTemplate, not_before: datetime, now: datetime
) -> Planned | None:
    """The message as it would be planned, or None when the client is not to be written to about this booking."""
    after = change.after
    stands = after.status is ChainStatus.CONFIRMED and after.start_at > now
    if not (stands and after.reachable) or after.client_id is None:
        return None
    slot_key = _slot_key(change, template)
    return Planned(
        template=template,
        slot_key=slot_key,
        sent_key=_sent_key(slot_key, after.start_at),
        start_at=after.start_at,
        not_before=not_before,
        client_id=after.client_id,
    )


def _holds(slots: Mapping[str, str], planned: Planned) -> bool:
    """Whether the slot holds this message already, for this client or for who the client was before a merge."""
    return slots.get(planned.template, "").startswith(planned.sent_key + " ")


def _is_over(change: Change, template: MessageTemplate, current: str, now: datetime) -> bool:
    """Whether what stands in the slot has expired by itself: the start that it was for is past."""
    sent_key = _sent_key(_slot_key(change, template), change.after.start_at)
    return current.startswith(sent_key + " ") and change.after.start_at <= now


def reminder_time(start_at: datetime, booking_id: UUID, settings: PlannerSettings) -> datetime:
    """24 h before the start, spread over 15 minutes by the booking's id; out of quiet hours, to their end."""
    spread = int.from_bytes(hashlib.sha256(booking_id.bytes).digest()[:4]) % SPREAD_SECONDS
    offset = timedelta(seconds=spread)
    at = start_at - REMIND_BEFORE + offset
    end = _quiet_end(at, settings)
    return at if end is None else end + offset


def _quiet_end(at: datetime, settings: PlannerSettings) -> datetime | None:
    """When the quiet hours that `at` falls into end, or None when it falls into none."""
    begin, end = settings.quiet_from % 24, settings.quiet_until % 24
    local = at.astimezone(settings.zone)
    if begin < end:
        days = 0 if begin <= local.hour < end else None
    elif begin > end:
        days = 1 if local.hour >= begin else 0 if local.hour < end else None
    else:
        days = None
    if days is None:
        return None
    wall = datetime.combine(local.date() + timedelta(days=days), time(end), settings.zone)
    return wall.astimezone(at.tzinfo)


def _is_fresh(caused_at: datetime | None, now: datetime) -> bool:
    return caused_at is not None and now - caused_at < FRESH_FOR


def _slot_key(change: Change, template: MessageTemplate) -> str:
    return f"{change.tenant_id}:{change.after.booking_id}:{template}"


def _sent_key(slot_key: str, start_at: datetime) -> str:
    return f"{slot_key}:{int(start_at.timestamp())}"
