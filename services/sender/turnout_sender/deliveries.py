"""Deliveries in Postgres: what plans, withdrawals, receipts and outcomes make of them, each change with its row in
message_log and its event in the outbox, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from turnout_common import metrics
from turnout_common.events import MessagePlanned
from turnout_common.postgres import Connection, load_queries
from turnout_sender.channels.port import Answer
from turnout_sender.decisions import Transition
from turnout_sender.receipts import Receipt, Receipted, fold
from turnout_sender.slots import NOTHING_SAID, Changes, Known, SlotKey, Word

SQL = load_queries("turnout_sender")


async def log_versions(connection: Connection, message_ids: Iterable[UUID]) -> None:
    """Writes the present version of each message to the log and the outbox; called after its version was raised."""
    ids = list(message_ids)
    if not ids:
        return
    rows = await connection.fetch(SQL["log"], ids)
    await connection.execute(SQL["publish"], [row["record_id"] for row in rows])
    for row in rows:
        metrics.MESSAGES.labels(row["status"]).inc()


async def lock_slots(
    connection: Connection, keys: Sequence[SlotKey]
) -> tuple[dict[SlotKey, Word], dict[SlotKey, dict[UUID, Known]]]:
    """Locks the slots and their deliveries, in key order, and gives what is known of them."""
    columns = [key.tenant_id for key in keys], [key.slot_key for key in keys]
    await connection.execute(SQL["add_slots"], *columns)
    words = {
        SlotKey(row["tenant_id"], row["slot_key"]): Word(row["booking_version"], row["message_id"])
        for row in await connection.fetch(SQL["lock_slots"], *columns)
    }
    known: dict[SlotKey, dict[UUID, Known]] = {}
    for row in await connection.fetch(SQL["lock_deliveries_of_slots"], *columns):
        of_slot = known.setdefault(SlotKey(row["tenant_id"], row["slot_key"]), {})
        of_slot[row["message_id"]] = Known(
            row["message_id"], row["status"], row["booking_version"], row["attempts"]
        )
    return {key: words.get(key, NOTHING_SAID) for key in keys}, known


async def write_changes(connection: Connection, changes: Changes, now: datetime) -> None:
    """Writes what `slots.settle` found, under the locks of `lock_slots`."""
    if changes.words:
        await connection.execute(
            SQL["set_slots"],
            [key.tenant_id for key in changes.words],
            [key.slot_key for key in changes.words],
            [word.booking_version for word in changes.words.values()],
            [word.message_id for word in changes.words.values()],
        )
    if changes.new:
        await _add_deliveries(connection, changes, now)
    if changes.revived or changes.refreshed:
        await _take_newer_plans(connection, changes, now)
    if changes.cancelled:
        await end(connection, [(i, "cancelled", why) for i, why in changes.cancelled.items()], now)
    late = [new.plan.message_id for new in changes.new if new.reason]
    await log_versions(connection, [*late, *(plan.message_id for plan in changes.revived)])


async def _add_deliveries(connection: Connection, changes: Changes, now: datetime) -> None:
    plans = [new.plan for new in changes.new]
    await connection.execute(
        SQL["add_deliveries"],
        now,
        [p.message_id for p in plans],
        [p.tenant_id for p in plans],
        [p.slot_key for p in plans],
        [p.sent_key for p in plans],
        [str(p.queue) for p in plans],
        [str(p.template) for p in plans],
        [p.client_id for p in plans],
        [p.booking_id for p in plans],
        [p.booking_version for p in plans],
        [p.start_at for p in plans],
        [p.not_before for p in plans],
        [p.expires_at for p in plans],
        [p.locale for p in plans],
        [new.reason for new in changes.new],
    )


async def _take_newer_plans(connection: Connection, changes: Changes, now: datetime) -> None:
    plans: list[MessagePlanned] = [*changes.revived, *changes.refreshed]
    await connection.execute(
        SQL["take_newer_plans"],
        now,
        [p.message_id for p in plans],
        [p.booking_version for p in plans],
        [p.not_before for p in plans],
        [p.expires_at for p in plans],
        [p.locale for p in plans],
        [n < len(changes.revived) for n in range(len(plans))],
    )


async def end(connection: Connection, ends: Sequence[tuple[UUID, str, str]], now: datetime) -> None:
    """Ends planned messages (id, status, reason) without a request; the caller holds their locks."""
    if ends:
        await connection.execute(SQL["end_deliveries"], now, *_columns(ends))
        await log_versions(connection, [message_id for message_id, _, _ in ends])


class ProviderMessage(NamedTuple):
    """How a provider names a message of ours."""

    tenant_id: str
    channel: str
    provider_message_id: str


@dataclass(frozen=True)
class Outcome:
    """What one attempt came to. `receipts_as` is set where receipts may follow, or may be here already."""

    message_id: UUID
    claim_id: UUID
    answer: Answer
    transition: Transition
    at: datetime
    duration_ms: int
    receipts_as: ProviderMessage | None = None


async def settle(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Writes outcomes of attempts. One whose message is neither under way nor `unknown` changes nothing."""
    receipted = sorted({o.receipts_as for o in outcomes if o.receipts_as})
    if receipted:
        await _lock_receipts(connection, receipted)
    ids, claims = [o.message_id for o in outcomes], [o.claim_id for o in outcomes]
    await connection.execute(SQL["lock_deliveries"], ids)
    rows = await connection.fetch(
        SQL["settle_attempts"],
        ids,
        claims,
        [o.transition.status for o in outcomes],
        [o.transition.reason for o in outcomes],
        [o.transition.failures for o in outcomes],
        [o.answer.provider_message_id for o in outcomes],
        [timedelta(seconds=o.transition.retry_in or 0.0) for o in outcomes],
        [o.at for o in outcomes],
    )
    await connection.execute(
        SQL["note_attempts"],
        ids,
        claims,
        [str(o.answer.verdict) for o in outcomes],
        [o.answer.reason for o in outcomes],
        [o.answer.http_status for o in outcomes],
        [o.duration_ms for o in outcomes],
    )
    await log_versions(connection, [row["message_id"] for row in rows if row["changed"]])
    if receipted:
        await _apply_early_receipts(connection, receipted, max(o.at for o in outcomes))


async def _apply_early_receipts(
    connection: Connection, names: Sequence[ProviderMessage], now: datetime
) -> None:
    keys = _columns(names)
    receipts: dict[ProviderMessage, list[Receipt]] = {}
    for row in await connection.fetch(SQL["take_early_receipts"], *keys):
        name = ProviderMessage(row["tenant_id"], row["channel"], row["provider_message_id"])
        receipts.setdefault(name, []).append(Receipt(row["status"], row["occurred_at"], row["reason"]))
    if receipts:
        await _fold_receipts(connection, receipts, now)


async def apply_receipts(
    connection: Connection, receipts: Mapping[ProviderMessage, Sequence[Receipt]], now: datetime
) -> set[ProviderMessage]:
    """Applies receipts to their messages; gives those whose message is not known yet, which are kept."""
    await _lock_receipts(connection, receipts)
    early = set(receipts) - await _fold_receipts(connection, receipts, now)
    rows = [(*name, r.status, r.occurred_at, r.reason) for name in sorted(early) for r in receipts[name]]
    if rows:
        await connection.execute(SQL["keep_early_receipts"], now, *_columns(rows))
    return early


async def _lock_receipts(connection: Connection, names: Collection[ProviderMessage]) -> None:
    await connection.execute(SQL["lock_receipts"], *_columns(names))


def _columns(rows: Collection[tuple[Any, ...]]) -> list[list[Any]]:
    """One list a column, as unnest takes them."""
    return [list(column) for column in zip(*rows, strict=True)]


async def _fold_receipts(
    connection: Connection, receipts: Mapping[ProviderMessage, Sequence[Receipt]], now: datetime
) -> set[ProviderMessage]:
    """Folds receipts into the messages that are known, and gives their names."""
    known: set[ProviderMessage] = set()
    changed: list[tuple[UUID, Receipted]] = []
    for row in await connection.fetch(SQL["lock_receipted"], *_columns(receipts)):
        name = ProviderMessage(row["tenant_id"], row["channel"], row["provider_message_id"])
        known.add(name)
        state = Receipted(row["status"], row["delivered_at"], row["read_at"], row["failed_at"], row["reason"])
        folded = fold(state, receipts[name])
        if folded != state:
            changed.append((row["message_id"], folded))
    if changed:
        await connection.execute(
            SQL["set_receipted"],
            now,
            [message_id for message_id, _ in changed],
            [state.status for _, state in changed],
            [state.delivered_at for _, state in changed],
            [state.read_at for _, state in changed],
            [state.failed_at for _, state in changed],
            [state.reason for _, state in changed],
        )
        await log_versions(connection, [message_id for message_id, _ in changed])
    return known


async def release(connection: Connection, claims: Sequence[tuple[UUID, UUID]], now: datetime) -> None:
    """Gives back claims (message id, claim id) for which no request was begun."""
    await connection.execute(SQL["lock_deliveries"], [message_id for message_id, _ in claims])
    rows = await connection.fetch(SQL["release_attempts"], *_columns(claims), now)
    await log_versions(connection, [row["message_id"] for row in rows])


async def find_orphans(connection: Connection, now: datetime, age: timedelta) -> int:
    """Ends as `unknown` what a sender claimed that has died since; the number of them."""
    rows = await connection.fetch(SQL["find_orphans"], now, age)
    await log_versions(connection, [row["message_id"] for row in rows])
    return len(rows)
