"""A batch consumer on a topic of its own, whose handler can be told to fail, and what became of its records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
from faststream.kafka import KafkaBroker

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import create_topic, probe_settings, running
from turnout_common.consumer import BatchConsumer, Outcome, Received
from turnout_common.kafka import create_broker
from turnout_common.postgres import Connection, create_pool

WANTED = frozenset({"inbound.consent"})


class Probe:
    """A consumer on a topic of its own, with a handler that can be told to fail."""

    def __init__(
        self, pool: asyncpg.Pool, broker: KafkaBroker, infrastructure: Infrastructure, settings: object
    ) -> None:
        self.pool = pool
        self.broker = broker
        self.kafka = infrastructure.kafka
        self.poison: set[UUID] = set()
        self.transient_failures = 0
        self.fault: Exception | None = None
        self.faults_in_turn: list[Exception | None] = []
        self.seconds_each = 0.0
        self.batches: list[int] = []
        self.consumer: BatchConsumer
        self.running: asyncio.Future[None]
        self.topic = ""

    async def handle(self, connection: Connection, events: Sequence[Received]) -> Mapping[UUID, Outcome]:
        self.batches.append(len(events))
        if self.transient_failures:
            self.transient_failures -= 1
            raise asyncpg.DeadlockDetectedError("planted")
        if self.faults_in_turn and (planned := self.faults_in_turn.pop(0)) is not None:
            raise planned
        if self.fault is not None:
            raise self.fault
        if self.seconds_each:
            await connection.execute("SELECT pg_sleep($1)", self.seconds_each * len(events))
        await connection.executemany(
            "INSERT INTO probe.effects (record_id, tenant_id) VALUES ($1, $2)",
            [(e.envelope.id, e.envelope.tenant_id) for e in events],
        )
        if any(e.envelope.id in self.poison for e in events):
            raise ValueError("planted poison")
        return {}

    async def effects(self) -> list[UUID]:
        return [
            r["record_id"] for r in await self.pool.fetch("SELECT record_id FROM probe.effects ORDER BY seq")
        ]

    async def dead(self) -> list[asyncpg.Record]:
        topic = self.consumer._broker_topic
        return await self.pool.fetch(
            "SELECT * FROM probe.dead_letters WHERE topic = $1 ORDER BY record_offset", topic
        )

    async def applied(self, ids: Sequence[UUID]) -> dict[UUID, str]:
        rows = await self.pool.fetch(
            "SELECT record_id, outcome FROM probe.applied WHERE record_id = ANY ($1)", ids
        )
        return {row["record_id"]: row["outcome"] for row in rows}


@asynccontextmanager
async def start_probe(
    database: Database, infrastructure: Infrastructure, prefix: str, *, create: bool = True
) -> AsyncIterator[Probe]:
    settings = probe_settings(database, infrastructure, prefix)
    if create:
        await create_topic(infrastructure.kafka, prefix + "in", partitions=2)
    pool = await create_pool(database.dsn("booking"), "probe", size=4)
    broker = create_broker(infrastructure.kafka, "probe")
    found = Probe(pool, broker, infrastructure, settings)
    found.topic = prefix + "in"
    found.consumer = BatchConsumer(
        broker=broker,
        settings=settings,
        pool=pool,
        schema="probe",
        topic="in",
        handler=found.handle,
        wanted=WANTED,
    )
    await broker.start()
    try:
        async with running(found.consumer.run()) as loops:
            found.running = loops[0]
            yield found
    finally:
        await broker.stop()
        await pool.close()


async def has(probe: Probe, record_id: UUID) -> bool:
    return record_id in await probe.effects()


async def dead(probe: Probe, count: int) -> bool:
    return len(await probe.dead()) >= count
