"""The batch consumer that every service wraps round its handler (design §2.2, §2.7, §2.9).

In: raw records of one topic. Each is validated alone; the events go to the service's handler in one transaction with
their `applied` rows, the dead letters and the read marks; then the offsets are committed to Kafka. Promises: a record
takes effect exactly once, a poison record stops nobody, a transient failure never dead-letters, no wait is endless.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import Protocol
from uuid import UUID

import asyncpg
import structlog
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaMessage

from turnout_common import metrics
from turnout_common.dead_letters import Dead, Floods, Raw, columns, safe_words, stored_record
from turnout_common.events.envelope import Envelope, InvalidEvent, from_headers, parse_event
from turnout_common.events.values import WireModel
from turnout_common.kafka import subscribe
from turnout_common.postgres import Connection, is_ours, is_transient, load_queries
from turnout_common.read_marks import ReadMarks
from turnout_common.settings import ServiceSettings

log = structlog.get_logger()
SQL = load_queries("turnout_common", "consumer.sql")
#: Failures in a row after which a batch is tried in halves: it may be too much for one transaction.
TRIES_WHOLE = 3


class Outcome(StrEnum):
    """What became of a record; `dead` is written by the consumer itself."""

    APPLIED = "applied"
    IGNORED = "ignored"
    PARKED = "parked"
    DEAD = "dead"


@dataclass(frozen=True)
class Received:
    """One valid event: its envelope, its model, and the record that brought it."""

    envelope: Envelope
    event: WireModel
    record: Raw

    @property
    def published_at(self) -> datetime:
        return datetime.fromtimestamp(self.record.timestamp / 1000, UTC)


@dataclass(frozen=True)
class Batch:
    """What a poll brought, sorted out: events for the handler, ids that this consumer does not want, dead records."""

    events: tuple[Received, ...]
    ignored: tuple[UUID, ...]
    dead: tuple[Dead, ...]
    replayed: tuple[int, ...] = ()


class Handler(Protocol):
    """Applies `events`, none of which was applied before, inside the open transaction.

    Gives the outcomes that are not `applied`, by record id. May raise: a transient error is tried again, another one
    is narrowed down to the record that causes it.
    """

    def __call__(
        self, connection: Connection, events: Sequence[Received], /
    ) -> Awaitable[Mapping[UUID, Outcome] | None]: ...


class BatchConsumer:
    """Consumes `topic` as the schema's owner. `after_commit` is called after each transaction (to wake the relay)."""

    def __init__(
        self,
        *,
        broker: KafkaBroker,
        settings: ServiceSettings,
        pool: asyncpg.Pool,
        schema: str,
        topic: str,
        handler: Handler,
        wanted: frozenset[str],
        after_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.topic = topic
        self._pool = pool
        self._handler = handler
        self._wanted = wanted
        self._after_commit = after_commit
        self._sql = {name: text.format(schema=schema) for name, text in SQL.items()}
        self._broker_topic = settings.topic(topic)
        group = settings.group(f"{schema}.{topic}")
        self._subscriber = subscribe(broker, self._broker_topic, group, settings.replica)
        self._subscriber(self._consume)
        self.marks = ReadMarks(schema, topic, pool, settings, lambda: self._subscriber.consumer)
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.applied = 0
        self._floods = Floods(topic)

    async def run(self) -> None:
        """Runs until the consumer must stop. Raises PoisonFlood or Stalled; the process exits to be restarted."""
        watching = asyncio.create_task(self.marks.run())
        replaying = asyncio.create_task(self._replay_requested())
        try:
            done, _ = await asyncio.wait(
                {watching, replaying, self.fatal}, return_when=asyncio.FIRST_COMPLETED
            )
            for finished in done:
                finished.result()
        finally:
            watching.cancel()
            replaying.cancel()

    async def _consume(self, message: KafkaMessage) -> None:
        records: Sequence[Raw] = message.raw_message  # type: ignore[assignment]
        started = monotonic()
        try:
            await self.process(records)
        except Exception as error:
            log.error(
                "consumer stops, the batch is not passed over", topic=self.topic, error=repr(error)[:500]
            )
            if not self.fatal.done():
                self.fatal.set_exception(error)
            await (
                asyncio.Event().wait()
            )  # nothing after this batch may be read, or a later ack would pass over it
        try:
            await message.ack()
        except KafkaError as error:
            # The effect is in Postgres: what Kafka delivers again is absorbed by `applied`.
            log.warning(
                "offsets not committed, records will come again", topic=self.topic, error=repr(error)[:200]
            )
        log.debug(
            "batch done", topic=self.topic, records=len(records), seconds=round(monotonic() - started, 3)
        )

    async def process(self, records: Sequence[Raw]) -> None:
        """Applies `records` once each and writes their marks; returns when all of it is committed."""
        await self._apply(self._decode(records, self._floods), records)
        self.marks.done(records)

    def _decode(self, records: Sequence[Raw], floods: Floods | None = None) -> Batch:
        events: list[Received] = []
        ignored: list[UUID] = []
        dead: list[Dead] = []
        for record in records:
            envelope = None
            try:
                envelope = from_headers(record.headers)
                if envelope.type in self._wanted:
                    events.append(Received(envelope, parse_event(envelope.type, record.value or b""), record))
                else:
                    ignored.append(envelope.id)
                if floods:
                    floods.well_formed()
            except InvalidEvent as error:
                dead.append(Dead(record, str(error), envelope))
                if floods:
                    floods.malformed(dead[-1])
        return Batch(tuple(events), tuple(ignored), tuple(dead))

    async def _apply(self, batch: Batch, marks: Sequence[Raw]) -> None:
        """Commits `batch`, its marks with the last part of it; a record that fails for good is found by halving."""
        failed = await self._retried(batch, marks)
        if failed is None:
            return
        if not batch.events or is_ours(failed):
            raise failed
        if len(batch.events) == 1:
            found = self._given_up(batch, failed)
            await self._apply(Batch((), batch.ignored, (*batch.dead, found)), marks)
            return
        middle = len(batch.events) // 2
        await self._apply(Batch(batch.events[:middle], (), ()), ())
        await self._apply(Batch(batch.events[middle:], batch.ignored, batch.dead), marks)

    def _given_up(self, batch: Batch, failed: Exception) -> Dead:
        received = batch.events[0]
        found = Dead(received.record, f"{type(failed).__name__}: {safe_words(failed)}", received.envelope)
        log.error(
            "record dead-lettered", topic=self.topic, reason=found.reason, record=str(received.envelope.id)
        )
        if not batch.replayed:
            self._floods.unapplied(found)
        return found

    async def _retried(self, batch: Batch, marks: Sequence[Raw]) -> Exception | None:
        """Commits `batch`, waiting out what goes away by itself; the error that does not, or None.

        A batch of several that fails again and again comes back too: it may be too much for one transaction.
        """
        failures = 0
        while True:
            try:
                await self._transaction(batch, marks)
            except Exception as error:
                if not is_transient(error):
                    return error
                failures += 1
                metrics.BATCH_RETRIES.labels(self.topic).inc()
                log.warning(
                    "batch is tried again", topic=self.topic, error=repr(error)[:300], failures=failures
                )
                if failures >= TRIES_WHOLE and len(batch.events) > 1:
                    return error
                await asyncio.sleep(min(0.1 * 2 ** min(failures, 6), 5.0) * random.uniform(0.5, 1.0))
            else:
                return None

    async def _transaction(self, batch: Batch, marks: Sequence[Raw]) -> None:
        outcomes: Mapping[UUID, Outcome] = {}
        async with self._pool.acquire() as connection, connection.transaction():
            if batch.replayed:
                await connection.execute(self._sql["take_replays"], list(batch.replayed))
            fresh = await self._claim(connection, batch.events)
            if fresh:
                outcomes = await self._handler(connection, fresh) or {}
            if outcomes:
                await connection.execute(
                    self._sql["set_outcomes"], list(outcomes), [str(o) for o in outcomes.values()]
                )
            if batch.ignored:
                await connection.execute(
                    self._sql["claim_as"], sorted(set(batch.ignored)), str(Outcome.IGNORED)
                )
            if batch.dead:
                await self._bury(connection, batch.dead)
            if marks:
                await self.marks.write(connection, marks)
        self._count(batch, fresh, outcomes)
        if fresh:
            if not batch.replayed:
                self._floods.applied()
            self._after_commit()

    async def _claim(self, connection: Connection, events: Sequence[Received]) -> list[Received]:
        """Writes `applied` for all, in key order so that two consumers cannot deadlock; gives those that were new."""
        by_id = {received.envelope.id: received for received in reversed(events)}
        if not by_id:
            return []
        rows = await connection.fetch(self._sql["claim"], sorted(by_id))
        new = {row["record_id"] for row in rows}
        taken: set[UUID] = set()
        fresh = []
        for received in events:
            record_id = received.envelope.id
            if record_id in new and record_id not in taken:
                taken.add(record_id)
                fresh.append(received)
        return fresh

    async def _bury(self, connection: Connection, dead: Sequence[Dead]) -> None:
        ids = sorted({d.envelope.id for d in dead if d.envelope is not None})
        await connection.execute(self._sql["claim_as"], ids, str(Outcome.DEAD))
        await connection.executemany(self._sql["insert_dead_letter"], [columns(d) for d in dead])

    def _count(self, batch: Batch, fresh: Sequence[Received], outcomes: Mapping[UUID, Outcome]) -> None:
        applied = len(fresh) - len(outcomes)
        self.applied += applied
        metrics.RECORDS.labels(self.topic, Outcome.APPLIED).inc(applied)
        metrics.RECORDS.labels(self.topic, Outcome.IGNORED).inc(len(batch.ignored))
        for outcome in outcomes.values():
            metrics.RECORDS.labels(self.topic, outcome).inc()
        metrics.DUPLICATES.labels(self.topic).inc(len(batch.events) - len(fresh))
        for found in batch.dead:
            metrics.RECORDS.labels(self.topic, Outcome.DEAD).inc()
            metrics.DEAD_LETTERS.labels(self.topic, found.tenant_id).inc()

    async def _replay_requested(self) -> None:
        """Applies dead letters that `dlq replay` asked for, from their stored bytes, as if they had just arrived."""
        while True:
            await asyncio.sleep(2.0)
            try:
                rows = await self._pool.fetch(self._sql["requested_replays"], self._broker_topic)
                for row in rows:
                    batch = self._decode([stored_record(row)])
                    await self._apply(replace(batch, replayed=(row["dead_letter_id"],)), ())
                if rows:
                    log.info("dead letters replayed", topic=self.topic, records=len(rows))
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("replay waits", topic=self.topic, error=repr(error)[:200])
