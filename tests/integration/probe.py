"""A schema `probe` with what a consuming and publishing service has, owned by turnout_booking, for tests of libs/common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from pydantic import SecretStr

from tests.infrastructure import Database, Infrastructure
from turnout_common.events import ConsentItem, Envelope
from turnout_common.events.values import Channel
from turnout_common.ids import new_id
from turnout_common.kafka import create_producer
from turnout_common.settings import ServiceSettings

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
MIGRATION = """
CREATE SCHEMA probe AUTHORIZATION turnout_owner;
GRANT USAGE ON SCHEMA probe TO turnout_booking, turnout_maintenance;
SET ROLE turnout_owner;
SELECT platform.add_consumer('probe', 'turnout_booking', 'turnout_booking');
SELECT platform.add_outbox('probe', 'turnout_booking');
SELECT platform.add_recovery('probe', 'turnout_booking');
CREATE TABLE probe.effects (seq bigint GENERATED ALWAYS AS IDENTITY, record_id uuid NOT NULL, tenant_id text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now());
SELECT platform.protect('probe.effects', 'turnout_booking');
RESET ROLE;
"""


async def add_probe_schema(database: Database) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute(MIGRATION)
    finally:
        await connection.close()


def probe_settings(
    database: Database, infrastructure: Infrastructure, prefix: str, **changes: float
) -> ServiceSettings:
    return ServiceSettings(
        env="development",
        postgres_dsn=SecretStr(database.dsn("booking")),
        kafka_bootstrap=infrastructure.kafka,
        topic_prefix=prefix,
        **changes,  # type: ignore[arg-type]
    )


def consent(tenant_id: str = "salon") -> ConsentItem:
    """A small valid event."""
    return ConsentItem(
        tenant_id=tenant_id,
        item_id=new_id(),
        channel=Channel.TELEGRAM,
        key_hash="0" * 32,
        occurred_at=AT,
        received_at=AT,
        chat_hash="a" * 32,
        chat_sealed="sealed",
        opted_in=True,
    )


def envelope_of(item: ConsentItem) -> Envelope:
    return Envelope(item.item_id, item.type, "test", item.occurred_at, "subject", item.tenant_id)


async def create_topic(kafka: str, name: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(name, partitions, 1)])
    await admin.close()


async def delete_records(kafka: str, topic: str) -> None:
    """Empties a topic, as a broker that lost its disk would."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        partitions = [
            TopicPartition(topic, p)
            for p in (consumer.partitions_for_topic(topic) or await _partitions(consumer, topic))
        ]
        ends = await consumer.end_offsets(partitions)
        await admin.delete_records({tp: RecordsToDelete(end) for tp, end in ends.items()})
    finally:
        await consumer.stop()
        await admin.close()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    await consumer._client.force_metadata_update()
    consumer.subscribe([topic])
    await consumer._client.force_metadata_update()
    return set(consumer.partitions_for_topic(topic) or ())


async def read_all(
    kafka: str, topic: str, count: int, seconds: float = 15
) -> list[ConsumerRecord[bytes, bytes]]:
    """The first `count` records of a topic, partition by partition. Fails when they do not come."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    found: list[ConsumerRecord[bytes, bytes]] = []
    try:
        async with asyncio.timeout(seconds):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found.extend(records)
    finally:
        await consumer.stop()
    return found


async def publish(kafka: str, topic: str, *items: ConsentItem | bytes) -> list[UUID]:
    """Publishes items, or bytes that are no event under the headers of one; gives the record ids."""
    producer = create_producer(kafka, "test")
    await producer.start()
    ids = []
    try:
        for item in items:
            model = item if isinstance(item, ConsentItem) else consent()
            value = item if isinstance(item, bytes) else model.model_dump_json().encode()
            ids.append(model.item_id)
            await producer.send_and_wait(
                topic, value, key=model.tenant_id.encode(), headers=envelope_of(model).headers()
            )
    finally:
        await producer.stop()
    return ids


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 30) -> None:
    """Waits for a condition. Fails with `what` was awaited."""
    deadline = monotonic() + seconds
    while not await condition():
        assert monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def running(*loops: Awaitable[None]) -> AsyncIterator[Sequence[asyncio.Future[None]]]:
    """Runs loops in the background and cancels them at the end."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
