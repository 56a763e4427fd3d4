"""The recovery check: what was lost after publishing is found and published again (design §2.6).

In: the ids that this service published, its readers' `applied` and read marks. Out: rows in `missing`, and outbox rows
for those that a reader has passed over. A slow reader causes none: its mark stands before the record's publishing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import structlog

from turnout_common import metrics
from turnout_common.postgres import DRIVER_FAULTS, Connection, load_queries
from turnout_common.settings import ServiceSettings

log = structlog.get_logger()
SQL = load_queries("turnout_common", "recovery.sql")
WALK_ROWS = 5000


@dataclass(frozen=True)
class Watch:
    """One reader of one topic that this service publishes.

    `walk($1 = seq, $2 = age interval, $3 = limit)` gives seq and record_id of what was written for the topic above seq
    and is older than the age, in order. `republish($1 = record ids)` inserts outbox rows for them again.
    """

    topic: str
    reader_schema: str
    walk: str
    republish: str

    @property
    def name(self) -> str:
        return f"{self.topic}>{self.reader_schema}"


class RecoveryCheck:
    """Runs every `recovery_interval_seconds` for each watch of the service that owns `schema`."""

    def __init__(
        self,
        schema: str,
        settings: ServiceSettings,
        pool: asyncpg.Pool,
        watches: tuple[Watch, ...],
        after_commit: Callable[[], None],
    ) -> None:
        self._schema = schema
        self._settings = settings
        self._pool = pool
        self._watches = watches
        self._after_commit = after_commit
        self.recovered = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.recovery_interval_seconds * random.uniform(0.9, 1.1))
            try:
                await self.check()
            except (OSError, TimeoutError, asyncpg.PostgresError, *DRIVER_FAULTS) as error:
                log.warning("recovery check waits", error=repr(error)[:300])

    async def check(self) -> int:
        """One round over all watches; the number of records published again."""
        published = 0
        for watch in self._watches:
            async with self._pool.acquire() as connection:
                published += await self._check(connection, watch)
        if published:
            self.recovered += published
            self._after_commit()
        return published

    async def _check(self, connection: Connection, watch: Watch) -> int:
        sql = {
            name: text.format(schema=self._schema, reader=watch.reader_schema) for name, text in SQL.items()
        }
        age = timedelta(seconds=self._settings.recovery_age_seconds)
        if await connection.fetchval(sql["relay_is_behind"], watch.topic, age):
            return 0
        while await self._walk(connection, watch, sql, age) == WALK_ROWS:
            pass
        async with connection.transaction():
            await connection.execute(sql["forget_applied"], watch.name)
            metrics.MISSING.labels(watch.name).set(
                await connection.fetchval(sql["count_missing"], watch.name)
            )
            every = timedelta(seconds=self._settings.recovery_republish_seconds)
            rows = await connection.fetch(sql["due"], watch.name, watch.topic, age, every)
            if not rows:
                return 0
            ids = [row["record_id"] for row in rows]
            await connection.execute(watch.republish, ids)
        metrics.RECOVERED.labels(watch.name).inc(len(ids))
        log.warning(
            "records that a reader never applied are published again", watch=watch.name, records=len(ids)
        )
        return len(ids)

    async def _walk(self, connection: Connection, watch: Watch, sql: dict[str, str], age: timedelta) -> int:
        async with connection.transaction():
            mark = await connection.fetchval(sql["read_mark"], watch.name) or 0
            rows = await connection.fetch(watch.walk, mark, age, WALK_ROWS)
            if rows:
                await connection.execute(sql["note_missing"], watch.name, [row["record_id"] for row in rows])
                await connection.execute(sql["set_mark"], watch.name, rows[-1]["seq"])
        return len(rows)
