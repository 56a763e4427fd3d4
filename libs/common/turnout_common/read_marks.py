"""Read marks: per partition, the publish time up to which a consumer has read (design §2.6), and its lag.

An idle partition is read until now. Written in the transaction of each batch, and every few seconds for idle
partitions. Also the consumer's own liveness: lag that grows while the position stands still ends the process (§2.9).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from turnout_common import metrics
from turnout_common.clock import Clock, SystemClock
from turnout_common.kafka import is_member
from turnout_common.postgres import DRIVER_FAULTS, Connection, connect, load_queries
from turnout_common.settings import ServiceSettings

log = structlog.get_logger()
TICK_SECONDS = 2.0
ANSWER_SECONDS = 10.0


class Stalled(RuntimeError):
    """There is work, database and broker answer, and yet nothing moves: only a restart helps."""


class ReadMarks:
    """The marks of one consumer on one topic."""

    def __init__(
        self,
        schema: str,
        topic: str,
        pool: asyncpg.Pool,
        settings: ServiceSettings,
        consumer: Callable[[], AIOKafkaConsumer | None],
        clock: Clock | None = None,
    ) -> None:
        self._sql = load_queries("turnout_common", "consumer.sql")["write_marks"].format(schema=schema)
        self._topic = topic
        self._pool = pool
        self._stall_seconds = settings.stall_exit_seconds
        self._dsn = settings.postgres_dsn
        self._bootstrap = settings.kafka_bootstrap
        self._consumer = consumer
        self._clock = clock or SystemClock()
        self._next: dict[TopicPartition, int] = {}
        self._moved_at = monotonic()
        self._partitions = 0
        self._shown: set[int] = set()
        self.lag = 0
        self.polled_at = monotonic()

    def done(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """Notes that `records` are committed in Postgres."""
        for record in records:
            self._next[TopicPartition(record.topic, record.partition)] = record.offset + 1
        self._moved_at = monotonic()

    async def write(self, connection: Connection, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """Writes the marks that `records` give, in the caller's transaction."""
        if not self._partitions and (consumer := self._consumer()):
            self._partitions = len(consumer.partitions_for_topic(records[0].topic) or ())
        until: dict[int, int] = {}
        for record in records:
            until[record.partition] = max(until.get(record.partition, 0), record.timestamp)
        times = [datetime.fromtimestamp(ms / 1000, UTC) for ms in until.values()]
        await connection.execute(self._sql, self._topic, list(until), times, self._partitions)

    async def run(self) -> None:
        """Marks idle partitions for ever. Raises Stalled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._tick()
            except (
                KafkaError,
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                *DRIVER_FAULTS,
            ) as error:
                self._moved_at = monotonic()  # while database or broker do not answer nobody can move
                log.debug("read marks wait", topic=self._topic, error=repr(error)[:200])

    async def _tick(self) -> None:
        consumer = self._consumer()
        if consumer is None:
            self._moved_at = monotonic()
            return
        if not (assigned := consumer.assignment()):
            self._show_lag({})
            await self._without_partitions(consumer)
            return
        now = self._clock.now()
        self._partitions = len(consumer.partitions_for_topic(next(iter(assigned)).topic) or ())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                ends: dict[TopicPartition, int] = await consumer.end_offsets(assigned)
                behind = {tp: await self._behind(consumer, tp, end) for tp, end in ends.items()}
        except (KafkaError, TimeoutError) as error:
            await self._ask_kafka()
            self._end_if_still(f"Kafka answers, but not this consumer ({error!r})")
            return
        self.polled_at = monotonic()
        self._show_lag({tp.partition: lag for tp, lag in behind.items()})
        idle = [tp.partition for tp, lag in behind.items() if lag == 0]
        if idle:
            await self._pool.execute(self._sql, self._topic, idle, [now] * len(idle), self._partitions)
        if self.lag == 0:
            self._moved_at = monotonic()
        elif self._still():
            await self._ask_postgres()
            self._end_if_still(f"{self.lag} records wait and none was applied")

    async def _without_partitions(self, consumer: AIOKafkaConsumer) -> None:
        """A member of the group may have none since others have all of them; who is no member waits to become one."""
        if is_member(consumer):
            self._moved_at = self.polled_at = monotonic()
            return
        await self._ask_kafka()
        self._end_if_still("Kafka answers, but has not taken this consumer into its group")

    def _still(self) -> bool:
        return monotonic() - self._moved_at > self._stall_seconds

    def _end_if_still(self, words: str) -> None:
        if self._still():
            raise Stalled(f"{self._topic}: {words} for {self._stall_seconds:.0f} s")

    def _show_lag(self, behind: dict[int, int]) -> None:
        """A partition that another replica took is its lag to show, not ours."""
        for partition in self._shown - set(behind):
            metrics.CONSUMER_LAG.remove(self._topic, partition)
        for partition, lag in behind.items():
            metrics.CONSUMER_LAG.labels(self._topic, partition).set(lag)
        self._shown = set(behind)
        self.lag = sum(behind.values())

    async def _ask_postgres(self) -> None:
        """On a connection of its own: the pool's may all be held by what stands still. Raises what `connect` does."""
        connection = await connect(self._dsn.get_secret_value(), "turnout-stall-check")
        await connection.close(timeout=2)

    async def _ask_kafka(self) -> None:
        """On a connection of its own: the consumer's client may be what stands still. Raises KafkaError, TimeoutError."""
        client = AIOKafkaClient(
            bootstrap_servers=self._bootstrap.split(","),
            client_id="turnout-stall-check",
            request_timeout_ms=4_000,  # twice within our own limit, after which a connection would be left open
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await client.bootstrap()
        finally:
            await client.close()

    async def _behind(self, consumer: Any, partition: TopicPartition, end: int) -> int:
        position = self._next.get(partition, 0)
        if position < end:
            # Another replica may have read on while it held the partition, and what the broker deleted unread is gone:
            # the recovery check brings it back, but only once the partition counts as read.
            starts = await consumer.beginning_offsets([partition])
            position = max(position, await consumer.committed(partition) or 0, starts[partition])
            # Who holds many idle partitions need not ask for each of them at each tick.
            self._next[partition] = position
        return max(end - position, 0)
