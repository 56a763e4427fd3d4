"""The relay: one loop per service that moves outbox rows to Kafka (design §2.4).

In: rows of <schema>.outbox, oldest first. Out: records on Kafka, then the rows deleted, in one transaction. It works
where it holds a session advisory lock, so one replica publishes and the order per subject holds. Promise: a row is
deleted only after Kafka acknowledged it; what is published twice is absorbed by the readers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import asyncpg
import structlog
from aiokafka import AIOKafkaProducer

from turnout_common import metrics
from turnout_common.events.envelope import Envelope
from turnout_common.kafka import abandon, create_producer
from turnout_common.postgres import connect, load_queries
from turnout_common.settings import ServiceSettings

log = structlog.get_logger()
SQL = load_queries("turnout_common", "relay.sql")
BATCH_ROWS = 500
#: Failures in a row come every few seconds; this often a log says that they still do.
TELL_SECONDS = 60.0
ACK_SECONDS = 5.0
POLL_SECONDS = 0.2
#: After a round that was not full some more may gather, since a round costs much the same for one row and for many; the
#: first row after a pause waits for nobody.
GATHER_SECONDS = 0.01


@dataclass(frozen=True)
class RelayQueries:
    """A service's outbox. `fetch($1 = limit)` gives outbox_id, record_id, topic, key, type, source, subject,
    tenant_id, occurred_at, payload and age_seconds, oldest first, without a payload where there is nothing left to
    publish; `delete($1 = outbox ids)` removes rows."""

    fetch: str
    delete: str

    @classmethod
    def of_schema(cls, schema: str) -> RelayQueries:
        """For an outbox made by platform.add_outbox, with the payload in the row."""
        return cls(SQL["fetch_outbox"].format(schema=schema), SQL["delete_outbox"].format(schema=schema))


class Relay:
    """`wake()` after a commit that wrote outbox rows; `run()` for ever."""

    def __init__(self, service: str, settings: ServiceSettings, queries: RelayQueries) -> None:
        self._service = service
        self._settings = settings
        self._queries = queries
        self._wakened = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._locked = False
        self._producer: AIOKafkaProducer | None = None
        self._asked = "Postgres"
        self._failing_since = 0.0
        self._told_at = 0.0
        self.published = 0
        self.failures = 0

    def wake(self) -> None:
        self._wakened.set()

    async def run(self) -> None:
        """Publishes until cancelled. Every failure rolls back, takes a new producer and connection, and backs off."""
        failures = 0
        try:
            while True:
                try:
                    taken = await self.publish_batch()
                    self._tell_that_it_goes_on(failures)
                    failures = 0
                except Exception as error:
                    failures += 1
                    self.failures += 1
                    metrics.RELAY_FAILURES.labels(self._service).inc()
                    self._tell_that_it_waits(error, failures)
                    await self._close()
                    await asyncio.sleep(min(0.2 * 2 ** min(failures, 5), 5.0) * random.uniform(0.5, 1.0))
                    continue
                if not taken:
                    await self._wait()
                elif taken < BATCH_ROWS:
                    await asyncio.sleep(GATHER_SECONDS)
        finally:
            await self._close()

    def _tell_that_it_waits(self, error: Exception, failures: int) -> None:
        """The first of a row of failures, and then once in a while."""
        now = monotonic()
        if failures == 1:
            self._failing_since = now
        elif now - self._told_at < TELL_SECONDS:
            return
        self._told_at = now
        log.warning(
            "relay waits, nothing is lost: what is accepted stays in the outbox until it goes out",
            look_at=self._asked,
            error=repr(error)[:300],
            failures=failures,
        )

    def _tell_that_it_goes_on(self, failures: int) -> None:
        if failures:
            away = round(monotonic() - self._failing_since, 1)
            log.info("relay goes on", failures=failures, away_seconds=away)

    async def publish_batch(self) -> int:
        """Publishes at most BATCH_ROWS rows; the number taken out, 0 when there are none or another replica has the lock."""
        self._asked = "Postgres"
        connection = await self._locked_connection()
        if connection is None:
            metrics.OLDEST_UNPUBLISHED.labels(self._service).set(0)  # whoever holds the lock tells
            return 0
        async with connection.transaction():
            rows = await connection.fetch(self._queries.fetch, BATCH_ROWS)
            if not rows:
                metrics.OLDEST_UNPUBLISHED.labels(self._service).set(0)
                return 0
            age = rows[0]["age_seconds"]
            metrics.OLDEST_UNPUBLISHED.labels(self._service).set(age)
            whole = [row for row in rows if row["payload"] is not None]
            if whole:
                self._asked = "Kafka"
                await self._publish(whole)
                self._asked = "Postgres"
            await connection.execute(self._queries.delete, [row["outbox_id"] for row in rows])
        self.published += len(whole)
        if len(whole) < len(rows):
            log.error(
                "outbox rows without a record were dropped: by whose hand did it go?",
                rows=len(rows) - len(whole),
            )
        return len(rows)

    async def _publish(self, rows: Sequence[Any]) -> None:
        if self._producer is None:
            self._producer = create_producer(self._settings.kafka_bootstrap, f"turnout-{self._service}-relay")
            async with asyncio.timeout(ACK_SECONDS):
                await self._producer.start()
        async with asyncio.timeout(ACK_SECONDS):
            sent = [await self._producer.send(**self._record(row)) for row in rows]
            await asyncio.gather(*sent)
        for row in rows:
            metrics.RELAYED.labels(row["topic"]).inc()

    def _record(self, row: Any) -> dict[str, Any]:
        envelope = Envelope(
            id=row["record_id"],
            type=row["type"],
            source=row["source"],
            time=row["occurred_at"],
            subject=row["subject"],
            tenant_id=row["tenant_id"],
        )
        payload = row["payload"]
        return {
            "topic": self._settings.topic(row["topic"]),
            "key": row["key"].encode(),
            "value": payload.encode() if isinstance(payload, str) else payload,
            "headers": envelope.headers(),
        }

    async def _locked_connection(self) -> asyncpg.Connection | None:
        if self._connection is None or self._connection.is_closed():
            self._locked = False
            name = f"turnout-{self._service}-relay"
            self._connection = await connect(self._settings.postgres_dsn.get_secret_value(), name)
        if not self._locked:
            lock = f"{self._settings.topic_prefix}{self._service}"
            self._locked = bool(await self._connection.fetchval(SQL["try_lock"], lock))
        return self._connection if self._locked else None

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wakened.wait()
        except TimeoutError:
            pass
        self._wakened.clear()

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        connection, self._connection = self._connection, None
        for closing in (
            abandon(producer) if producer else None,
            connection.close(timeout=2) if connection else None,
        ):
            if closing is None:
                continue
            try:
                async with asyncio.timeout(3):
                    await closing
            except Exception as error:
                log.debug("closing after a relay failure", error=repr(error)[:200])
