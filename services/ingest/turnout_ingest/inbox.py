"""The inbox: rows in, fates out, once they are committed (design §2.1, §2.2, §2.8).

Natural group commit: the one writer connection takes what gathered while its last commit ran, at most 500 rows. Promise:
`accept` returns after the commit or raises; an item that is stored twice by a lost answer counts once; a row that
Postgres cannot hold fails alone; no wait is endless.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from uuid import UUID

import asyncpg
import structlog

from turnout_common import metrics
from turnout_common.postgres import Connection, load_queries
from turnout_ingest.acceptance import Row, sealed_headers
from turnout_ingest.keys import KEPT_HOURS, claim
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import Fate, hash16
from turnout_ingest.settling import Settled, columns, settle

log = structlog.get_logger()
SQL = load_queries("turnout_ingest")
BATCH_ROWS = 500
#: What one commit carries beyond its first request: more could not be written within COMMIT_SECONDS, for anybody in it.
BATCH_BYTES = 8 * 1024 * 1024
#: A commit that takes longer loses its connection: the webhooks that wait for it must be answered within 2 seconds.
COMMIT_SECONDS = 1.2
SHARDS = 8
#: What is wrong with a value and not with the database: it stays wrong however often it is tried. The driver raises
#: DataError as well for what it cannot encode.
POISON = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)

Opener = Callable[[], Awaitable[asyncpg.Connection]]


class InboxFull(Exception):
    """More waits for a commit than may: try again a little later."""


class NotStored(Exception):
    """An item could not be stored, not even as quarantined."""


@dataclass(slots=True)
class Waiting:
    """Rows of one request, and where their fates are awaited."""

    rows: list[Row]
    fates: asyncio.Future[list[Fate]]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(row.payload or "") + len(row.sealed or b"") for row in self.rows)


class Inbox:
    """`accept` from any number of requests; `run` for ever, once a process."""

    def __init__(
        self,
        open_connection: Opener,
        *,
        queue_items: int,
        after_commit: Callable[[], None] = lambda: None,
        shard: int | None = None,
    ) -> None:
        self._open_connection = open_connection
        self._queue_items = queue_items
        self._after_commit = after_commit
        self._shard = shard if shard is not None else random.randrange(SHARDS)
        self._queue: deque[Waiting] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self.durable = True
        self.accepted = 0
        self.commits = 0

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def accept(self, rows: list[Row]) -> list[Fate]:
        """The fates of `rows`, after they are on disk. Raises InboxFull, NotStored; the caller sets the time limit."""
        if self._queued + len(rows) > self._queue_items:
            raise InboxFull
        loop = asyncio.get_running_loop()
        parts = [
            Waiting(rows[at : at + BATCH_ROWS], loop.create_future())
            for at in range(0, len(rows), BATCH_ROWS)
        ]
        self._queue.extend(parts)
        self._queued += len(rows)
        self._arrived.set()
        if len(parts) == 1:
            return await parts[0].fates
        return [fate for fates in await asyncio.gather(*(part.fates for part in parts)) for fate in fates]

    async def run(self) -> None:
        """Commits what arrives until cancelled."""
        try:
            await self._try_to_connect()
            while True:
                batch = self._take()
                if batch:
                    await self._commit(batch)
                else:
                    self._arrived.clear()
                    await self._arrived.wait()
        finally:
            await self._close()

    def _take(self) -> list[Waiting]:
        """What gathered, oldest first, as much as one commit may carry; what nobody waits for any more is left out."""
        batch: list[Waiting] = []
        rows = size = 0
        while self._queue and rows + len(self._queue[0].rows) <= BATCH_ROWS and size < BATCH_BYTES:
            waiting = self._queue.popleft()
            self._queued -= len(waiting.rows)
            if not waiting.fates.done():
                batch.append(waiting)
                rows += len(waiting.rows)
                size += waiting.size
        return batch

    async def _commit(self, batch: list[Waiting]) -> None:
        """Stores `batch` and answers; while Postgres does not, tries again until nobody of it waits any more."""
        failures = 0
        for channel, number in Counter(row.channel for waiting in batch for row in waiting.rows).items():
            metrics.ITEMS_RECEIVED.labels(channel).inc(number)
        while batch := [waiting for waiting in batch if not waiting.fates.done()]:
            rows = [row for waiting in batch for row in waiting.rows]
            started = monotonic()
            try:
                fates = await self._store(rows)
            except Exception as error:
                failures += 1
                log.warning(
                    "the inbox could not commit, nothing is lost", error=_named(error), failures=failures
                )
                await self._close()
                await asyncio.sleep(min(0.02 * 2 ** min(failures, 6), 1.0) * random.uniform(0.5, 1.0))
            else:
                self._answer(batch, fates)
                took = round((monotonic() - started) * 1000, 1)
                log.info(
                    "inbox", items=len(rows), fates=dict(Counter(f.value for f in fates.values())), ms=took
                )
                return

    def _answer(self, batch: list[Waiting], fates: dict[UUID, Fate]) -> None:
        for waiting in batch:
            if waiting.fates.done():
                continue
            if all(row.item_id in fates for row in waiting.rows):
                waiting.fates.set_result([fates[row.item_id] for row in waiting.rows])
            else:
                waiting.fates.set_exception(NotStored())

    async def _store(self, rows: Sequence[Row]) -> dict[UUID, Fate]:
        """The fates of `rows`, committed. A row that cannot be stored is found by halving and quarantined."""
        try:
            settled = await self._write(rows)
        except POISON as error:
            if len(rows) == 1:
                return await self._store_poison(rows[0], error)
            middle = len(rows) // 2
            return await self._store(rows[:middle]) | await self._store(rows[middle:])
        self._count(settled)
        return {each.row.item_id: each.fate for each in settled}

    async def _store_poison(self, row: Row, error: BaseException) -> dict[UUID, Fate]:
        log.error("an item cannot be stored", channel=row.channel, item=str(row.item_id), error=_named(error))
        key = hash16(b"poison:" + row.key_hash)
        headers = PROVIDERS[row.channel].kept_headers
        kept = replace(
            row, kind="none", event_type="unknown", fate=Fate.QUARANTINED, reason="the database cannot hold it",
            kafka_key="-", subject="-", occurred_at=row.received_at, payload=None, key_hash=key, content_hash=key,
            sealed_headers=sealed_headers(row.delivery, headers) if row.delivery else row.sealed_headers,
        )  # fmt: skip
        try:
            settled = await self._write([kept])
        except POISON as again:
            log.error("nor can it be quarantined", item=str(row.item_id), error=_named(again))
            return {}
        self._count(settled)
        return {each.row.item_id: each.fate for each in settled}

    async def _write(self, rows: Sequence[Row]) -> list[Settled]:
        """`rows` committed: in one statement those whose keys nobody holds, mostly all; then the others. Order of arrival
        holds within each part: a take-over, which needs an id that came again after its window, may come after a
        younger item, and the readers compare the channel's own order."""
        connection = await self._connected()
        limit = asyncio.get_running_loop().call_later(COMMIT_SECONDS, connection.terminate)
        try:
            settled = await self._write_new(connection, rows)
            if len(settled) < len(rows):
                written = {each.row.item_id for each in settled}
                held = [row for row in rows if row.item_id not in written]
                settled += await self._write_held(connection, held)
            await erase_words(connection, rows)
        finally:
            limit.cancel()
        self.commits += 1
        return settled

    async def _write_new(self, connection: asyncpg.Connection, rows: Sequence[Row]) -> list[Settled]:
        """Those of `rows` that hold their key now, committed."""
        new = [Settled(row, row.fate, row.reason, None) for row in rows]
        content, hours = [row.content_hash for row in rows], [KEPT_HOURS[row.channel] for row in rows]
        written = await connection.fetch(SQL["store_new_items"], *columns(new), self._shard, content, hours)
        if len(written) == len(rows):
            return new
        ids = {record[0] for record in written}
        return [each for each in new if each.row.item_id in ids]

    async def _write_held(self, connection: asyncpg.Connection, rows: Sequence[Row]) -> list[Settled]:
        """`rows` whose keys were held already: by another item, by one whose window has passed, or by themselves, when
        the answer to their commit was lost."""
        async with connection.transaction():
            settled = settle(rows, await claim(connection, rows))
            await connection.execute(SQL["store_items"], *columns(settled), self._shard)
        return settled

    def _count(self, settled: Sequence[Settled]) -> None:
        self.accepted += len(settled)
        metrics.COMMIT_ROWS.observe(len(settled))
        counts = Counter((each.row.channel, each.fate.value) for each in settled)
        for (channel, fate), number in counts.items():
            metrics.ITEMS.labels(channel, fate).inc(number)
        if any(fate == Fate.PUBLISHED for _, fate in counts):
            self._after_commit()

    async def _try_to_connect(self) -> None:
        try:
            await self._connected()
        except Exception as error:
            log.warning("the inbox waits for Postgres", error=_named(error))

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._open_durable()
        return self._connection

    async def _open_durable(self) -> asyncpg.Connection:
        """A connection is used only after it was told to write through."""
        connection = await self._open_connection()
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                self.durable = await connection.fetchval(SQL["make_durable"])
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def erase_words(connection: Connection, rows: Sequence[Row]) -> None:
    """Erases what `rows` take back. Again for a row that was stored before: its answer may have been lost on the way here."""
    keys = [(row.tenant_id, row.channel, key) for row in rows for key in row.takes_back]
    if keys:
        await connection.execute(SQL["erase_words"], *map(list, zip(*keys, strict=True)))


def _named(error: BaseException) -> str:
    """The error without the values that Postgres puts into its words."""
    return f"{type(error).__name__} {getattr(error, 'sqlstate', '') or ''}".strip()
