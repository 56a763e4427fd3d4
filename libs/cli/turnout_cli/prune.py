"""`turnout prune`: what is over its time goes, in small transactions; operators run it once a day.

Promise: nothing goes that anybody may still ask for. `applied` rows outlive every record that can come again and are
deleted behind the mark of the publisher's recovery check only; an item that waits for publishing keeps its payload; two
runs at once do no harm.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

import asyncpg
from cyclopts import Parameter

from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.output import Json, Told, print_json, print_table, progress_bar, say
from turnout_cli.prune_rules import (
    DAY,
    DEAD_LETTER_DAYS,
    INBOX_DAYS,
    OUTBOUND_DAYS,
    READERS,
    Kept,
    Reader,
    in_words,
)
from turnout_common.clock import SystemClock
from turnout_common.ids import least_id
from turnout_common.postgres import load_queries
from turnout_common.tenants import TenantSettings

SQL = load_queries("turnout_cli", "prune.sql")
BATCH_ROWS = 5_000
#: Of the narrow tables that are walked by pages, some 5,000 rows.
BATCH_PAGES = 50
DEFAULT_RAW_DAYS: int = TenantSettings().raw_days
_DELETE = {"act": "DELETE FROM", "counted": "RETURNING 1", "sum": "count(*)"}
_COUNT = {"act": "SELECT count(*) AS n FROM", "counted": "", "sum": "coalesce(sum(n), 0)"}


def prune(
    *,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Delete what is over its time. Run it once a day.

    Parameters
    ----------
    dry_run
        Delete nothing; tell the rules and how many rows would go.
    """
    with progress_bar("tables") as told:
        kept = run(_prune(target, dry_run, told))
    if as_json:
        print_json([asdict(each) | {"dry_run": dry_run} for each in kept])
    else:
        heading = "would go" if dry_run else "deleted"
        print_table(("table", "is kept", heading), ((k.table, k.keeps, f"{k.rows:,}") for k in kept))
    rows = sum(each.rows for each in kept)
    say(f"{rows:,} rows would go" if dry_run else f"✓ {rows:,} rows deleted")
    return 0


async def _prune(target: TargetOption, dry_run: bool, told: Told) -> list[Kept]:
    async with resolve(target).maintenance() as connection:
        return await Pruning(connection, SystemClock().now(), dry_run=dry_run).run(told)


class Pruning:
    """One run, as of `now`."""

    def __init__(self, connection: asyncpg.Connection, now: datetime, *, dry_run: bool = False) -> None:
        self._connection = connection
        self._now = now
        self._dry_run = dry_run
        self._words = _COUNT if dry_run else _DELETE

    async def run(self, told: Told = lambda done, total: None) -> list[Kept]:
        """Each table with its rule and the number of rows that went."""
        raw_days = await self._raw_days()
        longest = max(raw_days.values(), default=DEFAULT_RAW_DAYS)
        since = await self._connection.fetch(SQL["unchecked_since"])
        work: dict[str, Callable[[], Awaitable[int]]] = {
            "ingest.inbox_keys": lambda: self._by_pages("ingest.inbox_keys", SQL["keys"], self._now),
            "ingest.raw_items": lambda: self._bytes(raw_days, _oldest(since, publisher="ingest")),
            "ingest.inbox": lambda: self._by_seq(SQL["items"], self._now - INBOX_DAYS * DAY),
            "booking.outbound": lambda: self._by_seq(SQL["outbound"], self._now - OUTBOUND_DAYS * DAY),
        }
        for reader in READERS:
            before = self._now - reader.keeps(max(longest, DEFAULT_RAW_DAYS))
            unchecked = _oldest(since, reader=reader.schema)
            if unchecked is not None:
                before = min(before, unchecked - DAY)
            work[f"{reader.schema}.applied"] = _bound(self._applied, reader, before)
            work[f"{reader.schema}.dead_letters"] = _bound(self._dead_letters, reader)
        kept = [Kept(table, keeps) for table, keeps in in_words(raw_days.values(), DEFAULT_RAW_DAYS).items()]
        for number, each in enumerate(kept):
            told(number, len(kept))
            kept[number] = replace(each, rows=await work[each.table]())
        return kept

    async def _raw_days(self) -> dict[str, int]:
        """The days of each tenant; the default where the settings cannot be read."""
        rows = await self._connection.fetch(SQL["settings"])
        return {row["tenant_id"]: _days(row["settings"]) for row in rows}

    async def _applied(self, reader: Reader, before: datetime) -> int:
        one, other = reader.publishers
        sql = SQL["applied"].format(reader=reader.schema, one=one, other=other, act=self._words["act"])
        return await self._by_pages(f"{reader.schema}.applied", sql, before)

    async def _dead_letters(self, reader: Reader) -> int:
        sql = SQL["dead_letters"].format(schema=reader.schema, act=self._words["act"])
        return await self._rows(sql, self._now - DEAD_LETTER_DAYS * DAY)

    async def _by_pages(self, table: str, sql: str, before: datetime) -> int:
        """One walk over the table as it is now, some pages a transaction."""
        pages = await self._connection.fetchval(SQL["pages"], table)
        gone = 0
        for page in range(0, pages, BATCH_PAGES):
            first, end = (page, 0), (page + BATCH_PAGES, 0)
            gone += await self._rows(sql.format(act=self._words["act"]), first, end, before)
        return gone

    async def _by_seq(self, sql: str, before: datetime) -> int:
        """From the oldest on, until a batch holds nothing that is over its time."""
        gone, after = 0, 0
        while True:
            row = await self._connection.fetchrow(sql.format(**self._words), after, before, BATCH_ROWS)
            if row is None or row["last_seq"] is None:
                return gone
            gone, after = gone + row["items"], row["last_seq"]

    async def _bytes(self, raw_days: dict[str, int], unchecked: datetime | None) -> int:
        """Bytes and payloads, in the order of their ids."""
        shortest = min([DEFAULT_RAW_DAYS, *raw_days.values()])
        gone, after, end = 0, UUID(int=0), least_id(self._now - timedelta(days=shortest))
        while True:
            looked = await self._connection.fetch(
                SQL["aged_bytes"], after, end, BATCH_ROWS, list(raw_days), list(raw_days.values()), DEFAULT_RAW_DAYS,
                unchecked,
            )  # fmt: skip
            if not looked:
                return gone
            after = looked[-1]["item_id"]
            over = [row["item_id"] for row in looked if row["over"]]
            gone += len(over) if self._dry_run else await self._erase(over)

    async def _erase(self, items: list[UUID]) -> int:
        async with self._connection.transaction():
            await self._connection.execute(SQL["lock_items"], items)
            return await self._rows_deleted(SQL["erase_bytes"], items)

    async def _rows(self, sql: str, *arguments: object) -> int:
        if self._dry_run:
            return int(await self._connection.fetchval(sql, *arguments))
        return await self._rows_deleted(sql, *arguments)

    async def _rows_deleted(self, sql: str, *arguments: object) -> int:
        return int((await self._connection.execute(sql, *arguments)).removeprefix("DELETE "))


def _bound(work: Callable[..., Awaitable[int]], *arguments: object) -> Callable[[], Awaitable[int]]:
    return lambda: work(*arguments)


def _oldest(since: list[asyncpg.Record], **where: str) -> datetime | None:
    """The oldest time of the rows that `where` names; None where their publishers looked at everything."""
    ((name, value),) = where.items()
    return min(
        (row["since"] for row in since if row[name] == value and row["since"] is not None), default=None
    )


def _days(settings: str) -> int:
    try:
        return TenantSettings.model_validate_json(settings, extra="ignore").raw_days
    except ValueError:
        return DEFAULT_RAW_DAYS
