"""What to do with a message that is due, and with what became of a request. Pure: the clock and chance are given."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from uuid import UUID

from turnout_common.events import ChainStatus, Channel, Queue
from turnout_common.tenants import Tenant
from turnout_sender.channels.port import Adapter, Answer, Verdict
from turnout_sender.settings import SenderSettings

#: A booking in one of these is not reminded of.
OVER = frozenset({ChainStatus.CANCELLED, ChainStatus.NO_SHOW, ChainStatus.MERGED, ChainStatus.COMPLETED})
UNKNOWN_TENANT_SECONDS = 30.0


@dataclass(frozen=True)
class Head:
    """The booking as it stands now."""

    version: int
    status: str
    start_at: datetime


@dataclass(frozen=True)
class Contact:
    """An address of the client on one channel, sealed."""

    channel: str
    chat_sealed: str
    opted_out: bool
    promotions_opted_out: bool
    locale: str | None

    def refuses(self, queue: str) -> bool:
        """Whether the client wants no messages of `queue` here. Who wants none at all refuses promotions too."""
        return self.promotions_opted_out if queue == Queue.MK else self.opted_out


@dataclass(frozen=True)
class Due:
    """A planned message whose time has come. `slot_message_id` is the one that its slot allows; None = none."""

    message_id: UUID
    tenant_id: str
    queue: str
    template: str
    client_id: UUID
    booking_version: int
    start_at: datetime
    expires_at: datetime
    locale: str | None
    channel: str | None
    failures: int
    counted: bool
    slot_message_id: UUID | None
    head: Head | None


@dataclass(frozen=True)
class Send:
    """May be sent, over `adapter` to `contact`, as far as limits allow."""

    due: Due
    tenant: Tenant
    adapter: Adapter
    contact: Contact
    token: str


@dataclass(frozen=True)
class End:
    """Will not be sent."""

    due: Due
    status: str
    reason: str


@dataclass(frozen=True)
class Wait:
    """Looked at again after `seconds`."""

    due: Due
    seconds: float


def decide(
    due: Due,
    tenant: Tenant | None,
    contacts: Sequence[Contact],
    adapters: Mapping[Channel, Adapter],
    now: datetime,
) -> Send | End | Wait:
    """Whether a due message may go out: asked again before every attempt."""
    if reason := _not_wanted(due):
        return End(due, "cancelled", reason)
    if now >= due.expires_at:
        return End(due, "failed", "expired")
    if tenant is None:  # new and not read yet, or deleted
        return Wait(due, UNKNOWN_TENANT_SECONDS)
    if not tenant.active:
        return End(due, "cancelled", "tenant_suspended")
    return _choose_channel(due, tenant, contacts, adapters)


def _not_wanted(due: Due) -> str | None:
    if due.slot_message_id != due.message_id:
        return "withdrawn" if due.slot_message_id is None else "superseded"
    if due.head is None:
        return "booking_gone"
    if due.head.status in OVER:
        return f"booking_{due.head.status}"
    # A booking gets versions for many reasons (paid, a reminder accepted …); only another start makes the text wrong.
    if due.head.version != due.booking_version and due.head.start_at != due.start_at:
        return "booking_moved"
    return None


def _choose_channel(
    due: Due, tenant: Tenant, contacts: Sequence[Contact], adapters: Mapping[Channel, Adapter]
) -> Send | End:
    by_channel = {contact.channel: contact for contact in contacts}
    reason = "unreachable"
    for channel, adapter in adapters.items():
        contact = by_channel.get(channel)
        if contact is None:
            continue
        if contact.refuses(due.queue):
            reason = "opted_out"
            continue
        config = tenant.channels.get(channel)
        if config is None or not config.enabled or not config.api_token:
            reason = "channel_not_set_up" if reason == "unreachable" else reason
            continue
        return Send(due, tenant, adapter, contact, config.api_token)
    return End(due, "cancelled" if reason == "opted_out" else "failed", reason)


def next_day(now: datetime, tenant: Tenant) -> datetime:
    """When the tenant's next local day begins for messages: at the end of its quiet hours."""
    local = now.astimezone(tenant.zone)
    hour = tenant.settings.quiet_until % 24
    return datetime.combine(local.date() + timedelta(days=1), time(hour), tenant.zone)


def backoff(failures: int, settings: SenderSettings, chance: random.Random) -> float:
    """Seconds until the next attempt after the n-th failure: doubling, with jitter down to the half."""
    longest = min(settings.retry_base_seconds * 2.0 ** min(failures - 1, 30), settings.retry_most_seconds)
    return longest * chance.uniform(0.5, 1.0)


@dataclass(frozen=True)
class Transition:
    """What an answer makes of a delivery. `retry_in` is set when it is planned again."""

    status: str
    reason: str | None
    failures: int
    retry_in: float | None = None


def after(answer: Answer, failures: int, settings: SenderSettings, chance: random.Random) -> Transition:
    """The state after one attempt. Being throttled or having a refused token is no failure of the message."""
    match answer.verdict:
        case Verdict.ACCEPTED:
            return Transition("accepted", None, failures)
        case Verdict.REFUSED:
            return Transition("failed", answer.reason, failures)
        case Verdict.LOST:
            return Transition("unknown", answer.reason, failures)
        case Verdict.FAULT:
            return Transition("dead", answer.reason, failures)
        case Verdict.THROTTLED:
            return Transition("planned", answer.reason, failures, throttled_for(answer, settings))
        case Verdict.TOKEN_REFUSED:
            return Transition("planned", answer.reason, failures, settings.token_pause_seconds)
        case Verdict.FAILED:
            failures += 1
            if failures >= settings.max_attempts:
                return Transition("failed", answer.reason, failures)
            wait = max(backoff(failures, settings, chance), answer.retry_after or 0.0)
            return Transition("planned", answer.reason, failures, wait)


def throttled_for(answer: Answer, settings: SenderSettings) -> float:
    """How long a bot pauses that was told to slow down."""
    return answer.retry_after if answer.retry_after is not None else settings.retry_base_seconds
