"""Items that were not taken in, through the adapters once more, after a schema or a tenant's account was mended.

In: quarantined items (or those of a wrong tenant) whose bytes are kept. Out: each with the fate that it gets today, by
the clock of the day it was received, save that a message whose key may be gone by now is stale, and that what lay ahead
then and has come now is taken. Promise: one transaction a batch and two batches never at once; what still does not fit
stays as it is, with today's reason; the counts of the fates add up before and after; a key is claimed as for any webhook,
so an item that came in by another way meanwhile is a duplicate or a conflict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from turnout_common.events.values import Channel
from turnout_common.postgres import Connection, load_queries
from turnout_common.security import MasterKey, SecretError
from turnout_common.tenants import UnknownTenant, tenant_keys
from turnout_ingest.acceptance import Row, opened_headers, rows_again
from turnout_ingest.inbox import POISON, erase_words
from turnout_ingest.inbox import SQL as INBOX_SQL
from turnout_ingest.keys import claim
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Delivery, Fate
from turnout_ingest.settling import Settled, columns, settle

SQL = load_queries("turnout_ingest", "release.sql")
BATCH_ITEMS = 200
#: Where fate_counts keeps the moves from one fate to another.
CORRECTIONS = -1
FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which items: `None` leaves a condition out. `since` and `until` are times of receipt."""

    fate: Fate
    item_ids: list[UUID] | None = None
    tenant_id: str | None = None
    channel: str | None = None
    event_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        return (
            self.fate.value, self.item_ids, self.tenant_id, self.channel, self.event_type, self.since, self.until,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: more than one fate where a body that was kept whole holds several items."""

    item_id: UUID
    tenant_id: str
    channel: str
    event_type: str
    was: str
    fates: tuple[str, ...]
    reason: str | None

    @property
    def moved(self) -> bool:
        return self.fates != (self.was,)


class Release:
    """`count()`, then `batch()` until it gives nothing. `dry_run` does everything and takes it back."""

    def __init__(
        self, connection: Connection, master_key: MasterKey, wanted: Wanted, *, dry_run: bool = False
    ) -> None:
        self._connection = connection
        self._master_key = master_key
        self._wanted = wanted
        self._dry_run = dry_run
        self._after = FIRST
        self._contexts: dict[tuple[str, str], ChannelContext | str] = {}

    async def count(self) -> int:
        """How many items are meant."""
        return int(await self._connection.fetchval(SQL["count"], *self._wanted.arguments))

    async def batch(self, limit: int = BATCH_ITEMS) -> list[Outcome]:
        """The outcomes of the next items, committed; empty at the end. An item that fails its batch is left alone."""
        after = self._after
        try:
            return await self._transaction(limit)
        except POISON:
            self._after = after
            if limit > 1:
                return await self.batch(limit // 2)
            return [await self._unstorable()]

    async def _transaction(self, limit: int) -> list[Outcome]:
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            now = await self._connection.fetchval(SQL["one_at_a_time"])
            picked = await self._pick(limit)
            outcomes = await self._released(picked, now)
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if self._dry_run else transaction.commit())
        return outcomes

    async def _pick(self, limit: int) -> list[asyncpg.Record]:
        picked = await self._connection.fetch(SQL["pick"], *self._wanted.arguments, self._after, limit)
        if picked:
            self._after = picked[-1]["item_id"]
        return picked

    async def _unstorable(self) -> Outcome:
        async with self._connection.transaction():
            (record,) = await self._pick(1)
        return _unchanged(record, "the database cannot hold what it is now")

    async def _released(self, picked: Sequence[asyncpg.Record], now: datetime) -> list[Outcome]:
        again = {record["item_id"]: await self._rows(record, now) for record in picked}
        moving = {
            record["item_id"]: rows
            for record in picked
            if isinstance(rows := again[record["item_id"]], list) and _moves(record, rows)
        }
        settled = await self._store(moving)
        outcomes = [
            _outcome(record, settled.get(record["item_id"]) or again[record["item_id"]]) for record in picked
        ]
        judged = [each for each in outcomes if not each.moved and isinstance(again[each.item_id], list)]
        await self._connection.execute(
            SQL["set_reasons"], [each.item_id for each in judged], [each.reason for each in judged]
        )
        return outcomes

    async def _store(self, moving: dict[UUID, list[Row]]) -> dict[UUID, list[Settled]]:
        """Takes the old items out and the new rows in, as any commit of the inbox does."""
        rows = [row for rows in moving.values() for row in rows]
        if not rows:
            return {}
        await self._connection.execute(SQL["take_out"], list(moving), CORRECTIONS)
        settled = settle(rows, await claim(self._connection, rows))
        await self._connection.execute(INBOX_SQL["store_items"], *columns(settled), CORRECTIONS)
        await self._connection.execute(SQL["mark_released"], [row.item_id for row in rows])
        await erase_words(self._connection, rows)
        by_id = {each.row.item_id: each for each in settled}
        return {item_id: [by_id[row.item_id] for row in rows] for item_id, rows in moving.items()}

    async def _rows(self, record: asyncpg.Record, now: datetime) -> list[Row] | str:
        """What the item comes to today, or why it cannot be told."""
        if record["sealed"] is None:
            return "its bytes are not kept any more"
        context = await self._context(record["tenant_id"], record["channel"])
        if isinstance(context, str):
            return context
        try:
            body = context.keys.open("raw", record["sealed"])
            headers = opened_headers(context.keys, record["sealed_headers"])
        except SecretError:
            return "its bytes cannot be opened: they are damaged, or their key is gone"
        delivery = Delivery(context, headers, body, record["received_at"])
        provider = PROVIDERS[record["channel"]]
        rows = rows_again(provider, delivery, record["item_id"], record["request_id"], now)
        return rows or "its bytes hold no item any more"

    async def _context(self, tenant_id: str, channel: str) -> ChannelContext | str:
        """The channel as it is configured today; nobody's secret is needed, since the bytes were verified."""
        found = self._contexts.get((tenant_id, channel))
        if found is None:
            found = self._contexts[tenant_id, channel] = await self._read_context(tenant_id, channel)
        return found

    async def _read_context(self, tenant_id: str, channel: str) -> ChannelContext | str:
        if channel not in PROVIDERS:
            return "its channel is not known to this version"
        try:
            keys = await tenant_keys(self._connection, self._master_key, tenant_id)
        except UnknownTenant:
            return "its tenant's keys are gone"
        except SecretError:
            return "its tenant's keys cannot be opened with this master key"
        row = await self._connection.fetchrow(SQL["account"], tenant_id, channel)
        sealed = row["sealed_handshake"] if row else None
        try:
            handshake = keys.open("handshake", sealed) if sealed else None
        except SecretError:
            return "its channel's handshake cannot be opened: set it again"
        routing_id = row["routing_id"] if row else None
        return ChannelContext(tenant_id, Channel(channel), (), keys, routing_id, handshake=handshake)


def _moves(record: asyncpg.Record, rows: Sequence[Row]) -> bool:
    return [row.fate.value for row in rows] != [record["fate"]]


def _outcome(record: asyncpg.Record, found: Sequence[Row | Settled] | str) -> Outcome:
    if isinstance(found, str):
        return _unchanged(record, found)
    first = found[0]
    event_type = first.row.event_type if isinstance(first, Settled) else first.event_type
    return Outcome(
        record["item_id"], record["tenant_id"], record["channel"], event_type, record["fate"],
        tuple(each.fate.value for each in found), first.reason,
    )  # fmt: skip


def _unchanged(record: asyncpg.Record, reason: str) -> Outcome:
    return Outcome(
        record["item_id"], record["tenant_id"], record["channel"], record["event_type"], record["fate"],
        (record["fate"],), reason,
    )  # fmt: skip
