"""Claiming: which due messages may go out now, decided, limited and marked in one short transaction.

In: due rows of sender.deliveries, booking.heads and booking.contactable, the limits. Out: claims, each with its text,
address and time slot, whose attempt is committed before any request; all others ended or put off. Promise: a message
whose booking was cancelled, or whose client had opted out, when its attempt was committed is not sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from uuid import UUID

import asyncpg
import structlog

from turnout_common.clock import Clock
from turnout_common.events import Channel
from turnout_common.ids import new_id
from turnout_common.postgres import Connection, load_queries
from turnout_common.security import SecretError
from turnout_common.tenant_directory import TenantDirectory
from turnout_sender.channels.port import Adapter
from turnout_sender.decisions import Due, End, Send, Wait, decide, next_day
from turnout_sender.deliveries import end, log_versions
from turnout_sender.due import read_contacts, read_due
from turnout_sender.limits import Ask, DayCounts, DayKey, take_slots
from turnout_sender.settings import SenderSettings
from turnout_sender.templates import choose_locale, render

log = structlog.get_logger()
SQL = load_queries("turnout_sender")
PROBE_SPARE_SECONDS = 5.0


@dataclass(frozen=True)
class Claim:
    """One message whose attempt is committed; the request is to begin at `slot_at` of the monotonic clock."""

    claim_id: UUID
    due: Due
    adapter: Adapter
    ask: Ask
    slot_at: float
    claimed_at: float
    token: str = field(repr=False)
    address: str = field(repr=False)
    text: str = field(repr=False)


@dataclass
class _Round:
    """What one claim transaction does with what it found."""

    now: datetime
    ends: list[End] = field(default_factory=list)
    put_off: list[tuple[UUID, datetime | None, str | None]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def later(self, due: Due, seconds: float, channel: str | None = None) -> None:
        self.put_off.append((due.message_id, self.now + timedelta(seconds=seconds), channel))

    def blocked(self, send: Send) -> None:
        """Its channel takes nothing now; noted, so that the next look leaves it out."""
        if send.due.channel != send.adapter.channel:
            self.put_off.append((send.due.message_id, None, str(send.adapter.channel)))


@dataclass(frozen=True)
class Claimed:
    """`found` rows were looked at; `claims` are to be sent."""

    found: int
    claims: Sequence[Claim]


class Claimer:
    """Makes claims. `lead` learns how long a claim takes to commit, so that its first slot is not past by then."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        directory: TenantDirectory,
        adapters: Mapping[Channel, Adapter],
        settings: SenderSettings,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._directory = directory
        self._adapters = adapters
        self._settings = settings
        self._clock = clock
        self._lead = 0.02

    async def claim(self, busy: Sequence[str]) -> Claimed:
        """One round. `busy` tenants have enough requests under way."""
        current = _Round(self._clock.now())
        async with self._pool.acquire() as connection, connection.transaction():
            due = await read_due(connection, current.now, busy)
            if not due:
                return Claimed(0, ())
            sends = await self._decide(connection, due, current)
            sends = await self._past_circuits(connection, sends, current)
            if sends:
                await self._take(connection, sends, current)
            await _write(connection, current)
        if current.claims:
            took = monotonic() - current.claims[0].claimed_at
            self._lead = min(max(0.5 * self._lead + 0.5 * (1.5 * took + 0.005), 0.01), 1.0)
        return Claimed(len(due), current.claims)

    async def another_slot(self, claim: Claim) -> float | None:
        """A new slot for a claim that missed its own, None when the bot has none near."""
        async with self._pool.acquire() as connection, connection.transaction():
            slots = await take_slots(connection, [replace(claim.ask, holds_chat=True)], self._lead)
        return slots.granted.get(claim.due.message_id)

    async def _decide(self, connection: Connection, due: Sequence[Due], current: _Round) -> list[Send]:
        contacts = await read_contacts(connection, due)
        sends: list[Send] = []
        for message in due:
            of_client = contacts.get((message.tenant_id, message.client_id), ())
            tenant = self._directory.get(message.tenant_id)
            match decide(message, tenant, of_client, self._adapters, current.now):
                case Send() as send:
                    sends.append(send)
                case End() as ended:
                    current.ends.append(ended)
                case Wait() as wait:
                    current.later(wait.due, wait.seconds)
        return sends

    async def _past_circuits(
        self, connection: Connection, sends: Sequence[Send], current: _Round
    ) -> list[Send]:
        """Those whose provider is not left alone; of a circuit whose time is over one message tries."""
        keys = sorted({(send.due.tenant_id, str(send.adapter.channel)) for send in sends})
        columns = [t for t, _ in keys], [c for _, c in keys]
        rows = await connection.fetch(SQL["lock_circuits"], *columns)
        open_until = {(row["tenant_id"], row["channel"]): row["open_until"] for row in rows}
        if not open_until:
            return list(sends)
        passed, probes = [], set()
        for send in sends:
            key = send.due.tenant_id, str(send.adapter.channel)
            until = open_until.get(key)
            if until is not None and (until > current.now or key in probes):
                current.blocked(send)
                continue
            if until is not None:
                probes.add(key)
            passed.append(send)
        if probes:
            held = current.now + timedelta(seconds=self._settings.send_timeout_seconds + PROBE_SPARE_SECONDS)
            await connection.execute(
                SQL["hold_circuits"], [t for t, _ in probes], [c for _, c in probes], held
            )
        return passed

    async def _take(self, connection: Connection, sends: Sequence[Send], current: _Round) -> None:
        """Counts the day, takes slots, and begins the attempts that have both."""
        days = {send.due.message_id: _day(send, current.now) for send in sends}
        uncounted = {days[send.due.message_id] for send in sends if not send.due.counted}
        counts = await DayCounts.lock(connection, uncounted)
        fitting = [send for send in sends if self._fits_the_day(send, days, counts, current)]
        if not fitting:
            return
        slots = await take_slots(connection, [_ask(send) for send in fitting], self._lead)
        claim_id = new_id()
        for send in fitting:
            message_id = send.due.message_id
            if message_id in slots.later:
                current.later(send.due, slots.later[message_id], str(send.adapter.channel))
            elif message_id not in slots.granted:
                current.blocked(send)
            elif claim := _prepare(send, claim_id, slots.granted[message_id], slots.taken_at, current):
                current.claims.append(claim)
                if not send.due.counted:
                    counts.count(days[message_id])
        await counts.write(connection)
        await _begin(connection, claim_id, current, days)

    def _fits_the_day(
        self, send: Send, days: Mapping[UUID, DayKey], counts: DayCounts, current: _Round
    ) -> bool:
        """Over the day's limit a message waits for the next day; one that is useless by then is `limited`."""
        limit = self._settings.day_limit(send.due.queue)
        if send.due.counted or counts.has_room(days[send.due.message_id], limit):
            return True
        tomorrow = next_day(current.now, send.tenant)
        if tomorrow >= send.due.expires_at:
            current.ends.append(End(send.due, "limited", "day_limit"))
        else:
            current.put_off.append((send.due.message_id, tomorrow, None))
        return False


async def _begin(
    connection: Connection, claim_id: UUID, current: _Round, days: Mapping[UUID, DayKey]
) -> None:
    if current.claims:
        await connection.execute(
            SQL["begin_attempts"],
            claim_id,
            current.now,
            [claim.due.message_id for claim in current.claims],
            [str(claim.adapter.channel) for claim in current.claims],
            [claim.adapter.channel.gives_receipts for claim in current.claims],
            [days[claim.due.message_id].day for claim in current.claims],
        )


def _day(send: Send, now: datetime) -> DayKey:
    return DayKey(send.due.tenant_id, now.astimezone(send.tenant.zone).date(), send.due.queue)


def _ask(send: Send) -> Ask:
    adapter = send.adapter
    return Ask(
        send.due.message_id, send.due.tenant_id, str(adapter.channel), send.due.client_id, adapter.per_second
    )


def _prepare(send: Send, claim_id: UUID, slot_at: float, taken_at: float, current: _Round) -> Claim | None:
    """The claim with its address opened and its text written; a fault in that is ours, and ends the message."""
    due, tenant = send.due, send.tenant
    try:
        address = tenant.sealing_keys().open_text("chat", send.contact.chat_sealed)
        locale = choose_locale(due.locale, send.contact.locale, tenant.locale)
        text = render(due.template, locale, due.start_at, tenant.zone)
    except (SecretError, ValueError, LookupError) as error:
        reason = "address_unreadable" if isinstance(error, SecretError) else "text_unwritable"
        log.error("message is dead", message=str(due.message_id), reason=reason, error=type(error).__name__)
        current.ends.append(End(due, "dead", reason))
        return None
    return Claim(claim_id, due, send.adapter, _ask(send), slot_at, taken_at, send.token, address, text)


async def _write(connection: Connection, current: _Round) -> None:
    if current.put_off:
        await connection.execute(SQL["put_off"], *(list(c) for c in zip(*current.put_off, strict=True)))
    await end(connection, [(e.due.message_id, e.status, e.reason) for e in current.ends], current.now)
    await log_versions(connection, [claim.due.message_id for claim in current.claims])
