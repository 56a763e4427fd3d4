"""A consumer's own liveness: it ends its process when only that helps, and not while others are to blame."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaConnectionError
from pydantic import SecretStr

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import add_probe_schema, probe_settings
from turnout_cli.embedded.process import free_port
from turnout_common import metrics
from turnout_common.dead_letters import Raw
from turnout_common.postgres import create_pool
from turnout_common.read_marks import ReadMarks, Stalled


class StandingConsumer:
    """A consumer whose partitions hold `waiting` records that nobody reads; in its group since `generation`."""

    def __init__(self, waiting: dict[int, int], *, generation: int = 1, left: bool = False) -> None:
        self.waiting = waiting
        self.read: dict[int, int] = {}
        self.asked = 0
        taking_part = SimpleNamespace(done=lambda: left)
        self._coordinator = SimpleNamespace(generation=generation, _coordination_task=taking_part)

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("in", partition) for partition in self.waiting}

    def partitions_for_topic(self, _: str) -> set[int]:
        return set(self.waiting)

    async def end_offsets(self, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.waiting[tp.partition] for tp in partitions}

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def committed(self, partition: TopicPartition) -> int | None:
        self.asked += 1
        return self.read.get(partition.partition)


class UnansweredConsumer(StandingConsumer):
    """A consumer whose client asks in vain."""

    async def end_offsets(self, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
        raise TimeoutError(f"no answer for {len(partitions)}")


@pytest.fixture(scope="module", autouse=True)
async def schema(database: Database) -> None:
    await add_probe_schema(database)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    created = await create_pool(database.dsn("booking"), "test")
    yield created
    await created.close()


def marks_of(
    consumer: StandingConsumer, pool: asyncpg.Pool, database: Database, kafka: Infrastructure, **changes: Any
) -> ReadMarks:
    settings = probe_settings(database, kafka, "", stall_exit_seconds=0.001).model_copy(update=changes)
    marks = ReadMarks("probe", "in", pool, settings, lambda: cast(Any, consumer))
    marks._moved_at -= 1
    return marks


async def test_consumer_that_does_not_move_though_all_answer_ends_its_process(
    pool: asyncpg.Pool, database: Database, infrastructure: Infrastructure
) -> None:
    marks = marks_of(StandingConsumer({0: 7}), pool, database, infrastructure)

    with pytest.raises(Stalled, match="7 records wait"):
        await marks._tick()


async def test_consumer_that_waits_for_postgres_goes_on_waiting(
    pool: asyncpg.Pool, database: Database, infrastructure: Infrastructure
) -> None:
    away = SecretStr(f"postgresql://x@127.0.0.1:{free_port()}/x")
    marks = marks_of(StandingConsumer({0: 7}), pool, database, infrastructure, postgres_dsn=away)

    with pytest.raises(OSError, match="onnect"):
        await marks._tick()


@pytest.mark.parametrize(
    ("consumer", "words"),
    [
        (UnansweredConsumer({0: 7}), "but not this consumer"),
        (StandingConsumer({}, generation=-1), "not taken this consumer into its group"),
        (StandingConsumer({}, left=True), "not taken this consumer into its group"),
    ],
)
async def test_consumer_that_kafka_does_not_answer_ends_its_process_if_kafka_answers_others(
    pool: asyncpg.Pool,
    database: Database,
    infrastructure: Infrastructure,
    consumer: StandingConsumer,
    words: str,
) -> None:
    away = f"127.0.0.1:{free_port()}"
    waits = marks_of(consumer, pool, database, infrastructure, kafka_bootstrap=away)
    marks = marks_of(consumer, pool, database, infrastructure)

    with pytest.raises(KafkaConnectionError):
        await waits._tick()
    with pytest.raises(Stalled, match=words):
        await marks._tick()


async def test_idle_partition_is_asked_for_once_and_not_at_each_tick(
    pool: asyncpg.Pool, database: Database, infrastructure: Infrastructure
) -> None:
    consumer = StandingConsumer({0: 7, 1: 9})
    consumer.read = dict(consumer.waiting)
    marks = marks_of(consumer, pool, database, infrastructure)

    await marks._tick()
    await marks._tick()

    assert (marks.lag, consumer.asked) == (0, 2)


async def test_spare_replica_is_ready_and_goes_on_waiting(
    pool: asyncpg.Pool, database: Database, infrastructure: Infrastructure
) -> None:
    marks = marks_of(StandingConsumer({}), pool, database, infrastructure)
    marks.polled_at -= 100

    await marks._tick()

    assert monotonic() - marks.polled_at < 100


async def test_lag_of_a_partition_that_another_replica_took_is_shown_no_more(
    pool: asyncpg.Pool, database: Database, infrastructure: Infrastructure
) -> None:
    consumer = StandingConsumer({0: 7, 1: 9})
    marks = marks_of(consumer, pool, database, infrastructure, stall_exit_seconds=100.0)
    await marks._tick()
    shown = {s.labels["partition"]: s.value for s in _lag_samples()}
    consumer.waiting = {0: 7}
    await marks._tick()

    assert shown == {"0": 7, "1": 9}
    assert {s.labels["partition"]: s.value for s in _lag_samples()} == {"0": 7}


async def test_mark_never_goes_back_though_a_paused_replica_writes_late(
    pool: asyncpg.Pool, database: Database, infrastructure: Infrastructure
) -> None:
    marks = marks_of(StandingConsumer({5: 0}), pool, database, infrastructure)
    for milliseconds in (2_000_000_000_000, 1_000_000_000_000):
        record: Raw = ConsumerRecord("in", 5, 1, milliseconds, 0, None, b"", None, 0, 0, ())
        async with pool.acquire() as connection:
            await marks.write(connection, [record])

    marked = await pool.fetchval("SELECT read_until FROM probe.read_marks WHERE partition = 5")
    assert marked.timestamp() == 2_000_000_000


def _lag_samples() -> list[Any]:
    return [s for m in metrics.CONSUMER_LAG.collect() for s in m.samples if s.labels["topic"] == "in"]
