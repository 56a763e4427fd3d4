"""From an entity's state to its fact row (design §2.5). Pure.

In: one version of a chain, an intent, a message or a business fact, and the tenant's rules. Out: a typed row whose
fields stand in the order of its table. Promise: the same state and rules give the same row at any time; nothing here
reads a clock. What a row adds to the KPIs is defined once, in SQL: migrations, `rollup.*_contributions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from turnout_common.events import BookingEvent, ChainState, FactState, IntentState, MessageEvent

#: Grows when this file makes other rows out of the same state: every tenant is then rebuilt.
RULES_REVISION = 1


@dataclass(frozen=True)
class Rules:
    """What a tenant's facts depend on besides the entities themselves."""

    timezone: str
    currency: str
    notice_hours: int
    off_peak_before: int
    off_peak_after: int
    grid_minutes: int
    rules_revision: int = RULES_REVISION

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def local(self, at: datetime) -> datetime:
        """`at` on the salon's wall clock."""
        return at.astimezone(self._zone)

    def day(self, at: datetime) -> date:
        return self.local(at).date()

    def is_off_peak(self, start: datetime) -> bool:
        hour = self.local(start).hour
        return hour < self.off_peak_before or hour >= self.off_peak_after

    def is_on_grid(self, start: datetime) -> bool:
        local = self.local(start)
        minute_of_day = local.hour * 60 + local.minute
        return minute_of_day % self.grid_minutes == 0 and not local.second and not local.microsecond

    def is_late(self, cancelled_at: datetime | None, start: datetime) -> bool:
        return cancelled_at is not None and start - cancelled_at < timedelta(hours=self.notice_hours)

    def is_own(self, currency: str | None) -> bool:
        return currency is None or currency == self.currency


class ChainFact(NamedTuple):
    """A row of rollup.chain_facts."""

    tenant_id: str
    booking_id: UUID
    version: int
    day: date
    staff_id: str
    service_id: str
    channel: str
    source: str
    uid: str
    status: str
    merged_into: UUID | None
    client_id: UUID | None
    intent_id: UUID | None
    created_at: datetime
    confirmed_at: datetime | None
    start_at: datetime
    end_at: datetime
    cancelled_at: datetime | None
    cancelled_by: str | None
    cancel_reason: str | None
    no_show: bool
    completed_at: datetime | None
    moves: int
    admin_actions: int
    admin_before_confirmation: bool
    off_peak_suggested: bool
    off_peak_taken: bool
    gross_minor: int
    discount_minor: int
    refund_minor: int
    currency: str | None
    other_currency_payments: int
    rating: int | None
    reachable: bool
    reminder_accepted_at: datetime | None
    reminder_outcome: str | None
    off_peak: bool
    on_grid: bool
    late_cancel: bool
    own_currency: bool


class IntentFact(NamedTuple):
    """A row of rollup.intent_facts."""

    tenant_id: str
    intent_id: UUID
    version: int
    day: date
    staff_id: str
    service_id: str
    channel: str
    client_id: UUID | None
    booking_id: UUID | None
    implicit: bool
    opened_at: datetime
    confirmed_at: datetime | None
    closed_at: datetime | None
    outcome: str | None
    admin_actions: int
    admin_before_confirmation: bool
    off_peak_suggested: bool
    off_peak_taken: bool
    withdrawn: bool


class MessageFact(NamedTuple):
    """A row of rollup.message_facts; `day` is None before the first attempt."""

    tenant_id: str
    message_id: UUID
    version: int
    day: date | None
    channel: str | None
    status: str
    queue: str
    template: str
    gives_receipts: bool
    booking_id: UUID | None
    client_id: UUID | None
    start_at: datetime | None
    first_attempt_at: datetime | None
    accepted_at: datetime | None
    delivered_at: datetime | None
    read_at: datetime | None
    failed_at: datetime | None
    attempts: int
    reason: str | None


class OtherFact(NamedTuple):
    """A row of rollup.other_facts; its clock is a shift's start, else when the thing happened."""

    tenant_id: str
    fact_id: UUID
    version: int
    day: date
    staff_id: str
    channel: str
    fact: str
    at: datetime
    clock_at: datetime
    subject_id: str | None
    booking_id: UUID | None
    start_at: datetime | None
    end_at: datetime | None
    break_minutes: int | None
    rating: int | None
    expected: int | None
    counted: int | None
    quantity: int | None
    gross_minor: int | None
    discount_minor: int | None
    currency: str | None
    own_currency: bool


Fact = ChainFact | IntentFact | MessageFact | OtherFact


def fact_of(event: BookingEvent | MessageEvent, rules: Rules) -> Fact:
    """The row of the entity that `event` is a version of."""
    if isinstance(event, MessageEvent):
        return message_fact(event, rules)
    state = event.payload
    if isinstance(state, ChainState):
        return chain_fact(event.tenant_id, event.entity_id, event.version, state, rules)
    if isinstance(state, IntentState):
        return intent_fact(event.tenant_id, event.entity_id, event.version, state, rules)
    return other_fact(event.tenant_id, event.entity_id, event.version, state, rules)


def chain_fact(tenant_id: str, booking_id: UUID, version: int, state: ChainState, rules: Rules) -> ChainFact:
    return ChainFact(
        tenant_id=tenant_id,
        booking_id=booking_id,
        version=version,
        day=rules.day(state.start_at),
        staff_id=state.staff_id or "",
        service_id=state.service_id or "",
        channel=state.channel,
        source=state.source,
        uid=state.uid,
        status=state.status,
        merged_into=state.merged_into,
        client_id=state.client_id,
        intent_id=state.intent_id,
        created_at=state.created_at,
        confirmed_at=state.confirmed_at,
        start_at=state.start_at,
        end_at=state.end_at,
        cancelled_at=state.cancelled_at,
        cancelled_by=state.cancelled_by,
        cancel_reason=state.cancel_reason,
        no_show=state.no_show,
        completed_at=state.completed_at,
        moves=state.moves,
        admin_actions=state.admin_actions,
        admin_before_confirmation=state.admin_before_confirmation,
        off_peak_suggested=state.off_peak_suggested,
        off_peak_taken=state.off_peak_taken,
        gross_minor=state.gross_minor,
        discount_minor=state.discount_minor,
        refund_minor=state.refund_minor,
        currency=state.currency,
        other_currency_payments=state.other_currency_payments,
        rating=state.rating,
        reachable=state.reachable,
        reminder_accepted_at=state.reminder_accepted_at,
        reminder_outcome=state.reminder_outcome,
        off_peak=rules.is_off_peak(state.start_at),
        on_grid=rules.is_on_grid(state.start_at),
        late_cancel=rules.is_late(state.cancelled_at, state.start_at),
        own_currency=rules.is_own(state.currency),
    )


def intent_fact(
    tenant_id: str, intent_id: UUID, version: int, state: IntentState, rules: Rules
) -> IntentFact:
    return IntentFact(
        tenant_id=tenant_id,
        intent_id=intent_id,
        version=version,
        day=rules.day(state.opened_at),
        staff_id=state.staff_id or "",
        service_id=state.service_id or "",
        channel=state.channel,
        client_id=state.client_id,
        booking_id=state.booking_id,
        implicit=state.implicit,
        opened_at=state.opened_at,
        confirmed_at=state.confirmed_at,
        closed_at=state.closed_at,
        outcome=state.outcome,
        admin_actions=state.admin_actions,
        admin_before_confirmation=state.admin_before_confirmation,
        off_peak_suggested=state.off_peak_suggested,
        off_peak_taken=state.off_peak_taken,
        withdrawn=state.withdrawn,
    )


def message_fact(event: MessageEvent, rules: Rules) -> MessageFact:
    return MessageFact(
        tenant_id=event.tenant_id,
        message_id=event.message_id,
        version=event.version,
        day=rules.day(event.first_attempt_at) if event.first_attempt_at else None,
        channel=event.channel,
        status=event.status,
        queue=event.queue,
        template=event.template,
        gives_receipts=event.gives_receipts,
        booking_id=event.booking_id,
        client_id=event.client_id,
        start_at=event.start_at,
        first_attempt_at=event.first_attempt_at,
        accepted_at=event.accepted_at,
        delivered_at=event.delivered_at,
        read_at=event.read_at,
        failed_at=event.failed_at,
        attempts=event.attempts,
        reason=event.reason,
    )


def other_fact(tenant_id: str, fact_id: UUID, version: int, state: FactState, rules: Rules) -> OtherFact:
    clock_at = state.start_at if state.fact == "shift" and state.start_at else state.at
    return OtherFact(
        tenant_id=tenant_id,
        fact_id=fact_id,
        version=version,
        day=rules.day(clock_at),
        staff_id=state.staff_id or "",
        channel=state.channel,
        fact=state.fact,
        at=state.at,
        clock_at=clock_at,
        subject_id=state.subject_id,
        booking_id=state.booking_id,
        start_at=state.start_at,
        end_at=state.end_at,
        break_minutes=state.break_minutes,
        rating=state.rating,
        expected=state.expected,
        counted=state.counted,
        quantity=state.quantity,
        gross_minor=state.gross_minor,
        discount_minor=state.discount_minor,
        currency=state.currency,
        own_currency=rules.is_own(state.currency),
    )
