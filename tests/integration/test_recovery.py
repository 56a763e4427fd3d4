"""The recovery check: what Kafka lost after publishing comes back, and a slow reader causes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from tests.infrastructure import Infrastructure, new_database
from tests.integration.probe import (
    add_probe_schema,
    consent,
    create_topic,
    delete_records,
    probe_settings,
    running,
    until,
)
from turnout_common.consumer import BatchConsumer, Outcome, Received
from turnout_common.ids import new_id
from turnout_common.kafka import create_broker
from turnout_common.postgres import Connection, create_pool
from turnout_common.recovery import RecoveryCheck, Watch
from turnout_common.relay import Relay, RelayQueries
from turnout_common.settings import ServiceSettings

WALK = """SELECT seq, record_id FROM probe.sources WHERE seq > $1 AND created_at < now() - $2::interval
ORDER BY seq LIMIT $3"""
REPUBLISH = """INSERT INTO probe.outbox (record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload)
SELECT record_id, 'out', 'k', 'inbound.consent', 'test', 's', 'salon', created_at, payload FROM probe.sources
WHERE record_id = ANY ($1::uuid[])"""
SOURCES = """
SET ROLE turnout_owner;
CREATE TABLE probe.sources (seq bigint GENERATED ALWAYS AS IDENTITY, record_id uuid NOT NULL, payload text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now());
SELECT platform.protect('probe.sources', 'turnout_booking');
RESET ROLE;
"""


@dataclass
class World:
    """A publishing and a reading side on one schema, with a recovery check whose ages are a second."""

    settings: ServiceSettings
    pool: asyncpg.Pool
    relay: Relay
    check: RecoveryCheck
    applied: list[UUID]

    async def handle(self, connection: Connection, events: Sequence[Received]) -> Mapping[UUID, Outcome]:
        self.applied.extend(e.envelope.id for e in events)
        return {}

    async def write(self, count: int) -> list[UUID]:
        items = [consent() for _ in range(count)]
        ids = [item.item_id for item in items]
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.executemany(
                "INSERT INTO probe.sources (record_id, payload) VALUES ($1, $2)",
                [(item.item_id, item.model_dump_json()) for item in items],
            )
            await connection.execute(REPUBLISH, ids)
        async with running(self.relay.run()):
            await until(self._published, "an empty outbox")
        return ids

    async def _published(self) -> bool:
        return bool(await self.pool.fetchval("SELECT NOT EXISTS (SELECT FROM probe.outbox)"))

    async def reading(self) -> AsyncIterator[None]:
        broker = create_broker(self.settings.kafka_bootstrap, "probe")
        consumer = BatchConsumer(
            broker=broker, settings=self.settings, pool=self.pool, schema="probe", topic="out", handler=self.handle,
            wanted=frozenset({"inbound.consent"}),
        )  # fmt: skip
        await broker.start()
        async with running(consumer.run()):
            yield
        await broker.stop()


@pytest.fixture
async def world(infrastructure: Infrastructure) -> AsyncIterator[World]:
    async with new_database(infrastructure.postgres) as database:
        await add_probe_schema(database)
        admin = await asyncpg.connect(database.admin_dsn)
        await admin.execute(SOURCES)
        await admin.close()
        prefix = f"recovery.{new_id().hex[-12:]}."
        await create_topic(infrastructure.kafka, prefix + "out", partitions=2)
        settings = probe_settings(
            database, infrastructure, prefix, recovery_age_seconds=1.0, recovery_republish_seconds=4.0
        )
        pool = await create_pool(database.dsn("booking"), "test", size=4)
        relay = Relay("probe", settings, RelayQueries.of_schema("probe"))
        watch = Watch("out", "probe", WALK, REPUBLISH)
        yield World(settings, pool, relay, RecoveryCheck("probe", settings, pool, (watch,), relay.wake), [])
        await pool.close()


async def test_records_of_an_emptied_topic_are_published_again_and_applied_once(world: World) -> None:
    ids = await world.write(20)
    await delete_records(world.settings.kafka_bootstrap, world.settings.topic("out"))

    async def recovered() -> bool:
        await world.check.check()
        return world.check.recovered >= 20

    async for _ in world.reading():
        await until(recovered, "twenty records published again")
        async with running(world.relay.run()):
            await until(lambda: _applied(world, ids), "all twenty applied")

    assert sorted(world.applied) == sorted(ids)
    assert await world.check.check() == 0
    assert await world.pool.fetchval("SELECT count(*) FROM probe.missing") == 0


async def test_what_a_reader_with_a_committed_offset_lost_comes_back_too(world: World) -> None:
    async for _ in world.reading():
        await until(partial(_applied, world, await world.write(5)), "the reader has read and committed")
    lost = await world.write(20)
    await delete_records(world.settings.kafka_bootstrap, world.settings.topic("out"))

    async def recovered() -> bool:
        await world.check.check()
        return world.check.recovered >= 20

    async for _ in world.reading():
        await until(recovered, "twenty records published again")
        async with running(world.relay.run()):
            await until(partial(_applied, world, lost), "all twenty applied")

    assert len(world.applied) == 25


async def test_stopped_reader_causes_no_recovery_however_long(world: World) -> None:
    async for _ in world.reading():
        await until(partial(_applied, world, await world.write(2)), "the reader has read once")
        await until(partial(_marked, world), "a mark on both partitions")
    late = await world.write(5)

    async def noticed() -> bool:
        await world.check.check()
        return bool(await world.pool.fetchval("SELECT count(*) FROM probe.missing") == 5)

    await until(noticed, "five records noted as missing")
    await world.pool.execute("UPDATE probe.missing SET found_at = found_at - interval '10 minutes'")
    await world.pool.execute("UPDATE probe.read_marks SET read_until = read_until - interval '10 minutes'")

    assert await world.check.check() == 0
    async for _ in world.reading():
        await until(partial(_applied, world, late), "the reader catches up")
    assert world.check.recovered == 0


async def test_what_still_waits_for_publishing_is_not_missing(world: World) -> None:
    items = [consent() for _ in range(5)]
    await world.pool.executemany(
        "INSERT INTO probe.sources (record_id, payload, created_at) VALUES ($1, $2, now() - interval '5 s')",
        [(item.item_id, item.model_dump_json()) for item in items],
    )
    await world.pool.execute(REPUBLISH, [item.item_id for item in items])
    await world.pool.execute("UPDATE probe.outbox SET created_at = now() - interval '5 s'")
    await world.pool.execute(
        "INSERT INTO probe.read_marks (topic, partition, read_until, partitions) "
        "SELECT 'out', p, now() + interval '1 h', 2 FROM unnest('{0,1}'::int[]) p"
    )

    assert await world.check.check() == 0
    assert await world.pool.fetchval("SELECT count(*) FROM probe.missing") == 0


async def test_partition_without_a_mark_forbids_every_conclusion(world: World) -> None:
    await world.write(5)
    await delete_records(world.settings.kafka_bootstrap, world.settings.topic("out"))
    await world.pool.execute(
        "INSERT INTO probe.read_marks (topic, partition, read_until, partitions) "
        "VALUES ('out', 0, now() + interval '1 h', 2)"
    )

    async def noticed() -> bool:
        await world.check.check()
        return bool(await world.pool.fetchval("SELECT count(*) FROM probe.missing") == 5)

    await until(noticed, "five records noted as missing")

    assert await world.check.check() == 0
    await world.pool.execute(
        "INSERT INTO probe.read_marks (topic, partition, read_until, partitions) "
        "VALUES ('out', 1, now() + interval '1 h', 2)"
    )
    assert await world.check.check() == 5


async def test_missing_record_is_published_again_at_most_every_interval(world: World) -> None:
    await world.write(3)
    await delete_records(world.settings.kafka_bootstrap, world.settings.topic("out"))
    await world.pool.execute(
        "INSERT INTO probe.read_marks (topic, partition, read_until, partitions) "
        "SELECT 'out', p, now() + interval '1 h', 2 FROM unnest('{0,1}'::int[]) p"
    )

    async def recovered() -> bool:
        return await world.check.check() == 3

    await until(recovered, "three records published again")
    await world.pool.execute("DELETE FROM probe.outbox")

    assert await world.check.check() == 0
    await until(recovered, "published again after the interval")
    assert await world.pool.fetchval("SELECT min(attempts) FROM probe.missing") == 2


async def _applied(world: World, ids: Sequence[UUID]) -> bool:
    return set(ids) <= set(world.applied)


async def _marked(world: World) -> bool:
    return bool(await world.pool.fetchval("SELECT count(*) FROM probe.read_marks") == 2)
