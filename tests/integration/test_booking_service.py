"""Whole booking processes on a real Kafka: events come out once and in order, and a kill in the middle loses nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.booking_world import (
    MINUTE,
    NOW,
    Booking,
    Event,
    booking_on,
    life,
    new_tenant,
    record_of,
)
from tests.integration.probe import read_all, until
from tests.integration.test_booking_order import salon_day
from turnout_cli.embedded.process import free_port
from turnout_common.events import BookingEvent
from turnout_common.events.envelope import from_headers, parse_event
from turnout_common.kafka import create_producer


@dataclass
class Process:
    """A running booking process."""

    process: asyncio.subprocess.Process
    url: str

    async def get(self, path: str) -> tuple[int, dict[str, object]]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.json()

    async def is_ready(self) -> bool:
        try:
            return (await self.get("/ready"))[0] == 200
        except aiohttp.ClientError:
            return False


@dataclass
class World:
    """Kafka, Postgres, and processes of booking between them."""

    database: Database
    kafka: str
    prefix: str
    service: Booking

    async def publish(self, events: Sequence[Event]) -> None:
        producer = create_producer(self.kafka, "test")
        await producer.start()
        try:
            for event in events:
                record = record_of(event)
                await producer.send(
                    self.prefix + record.topic, record.value, key=record.key, headers=list(record.headers)
                )
        finally:
            await producer.stop()

    @asynccontextmanager
    async def process(self, *, killed: bool = False) -> AsyncIterator[Process]:
        port = free_port()
        environment = os.environ | {
            "TURNOUT_ENV": "development",
            "TURNOUT_POSTGRES_DSN": self.database.dsn("booking"),
            "TURNOUT_KAFKA_BOOTSTRAP": self.kafka,
            "TURNOUT_TOPIC_PREFIX": self.prefix,
            "TURNOUT_HTTP_PORT": str(port),
            "TURNOUT_BOOKING_UPKEEP_SECONDS": "0.5",
        }
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "turnout_booking.main", env=environment
        )
        process = Process(started, f"http://127.0.0.1:{port}")
        try:
            await until(process.is_ready, "a ready service")
            yield process
        finally:
            if started.returncode is None:
                started.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await started.wait() == (-signal.SIGKILL if killed else 0)

    async def until_applied(self, tenants: Sequence[str], events: Sequence[Event]) -> None:
        """Until every record has an outcome and everything that it came to is published."""

        async def done() -> bool:
            applied = None not in await self.service.outcomes(*events)
            waiting = await self.service.admin.fetchval(
                "SELECT count(*) FROM booking.outbox WHERE tenant_id = ANY ($1::text[])", list(tenants)
            )
            return applied and waiting == 0

        await until(done, "everything applied and published", 90)


@pytest.fixture(scope="module")
async def world(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[World]:
    async with booking_on(database) as service:
        yield World(database, infrastructure.kafka, topic_prefix, service)


async def test_events_come_out_once_and_in_order_of_their_versions(world: World, tenant_id: str) -> None:
    events = list(life(tenant_id))
    async with world.process() as process:
        await world.publish(events)
        await world.until_applied([tenant_id], events)
        _, status = await process.get("/status")
    count = await world.service.admin.fetchval("SELECT count(*) FROM booking.booking_events")
    records = await read_all(world.kafka, world.prefix + "booking_events", count)

    told = [parse_event(from_headers(record.headers).type, record.value or b"") for record in records]
    chain = [
        event
        for event in told
        if isinstance(event, BookingEvent) and event.tenant_id == tenant_id and event.entity_kind == "chain"
    ]
    assert [event.version for event in chain] == list(range(1, len(chain) + 1))
    assert chain[-1].payload.model_dump(mode="json") == await world.service.chain(tenant_id)
    assert (status["lag"], status["applied"], status["parked"], status["dead_letters"]) == (
        0,
        len(events),
        0,
        0,
    )


@pytest.mark.slow
async def test_a_replica_that_is_killed_under_load_loses_and_doubles_nothing(world: World) -> None:
    expected_of = await new_tenant(world.database)
    await world.service.one_by_one(*sorted(salon_day(expected_of), key=lambda event: event.occurred_at))
    expected = await world.service.picture(expected_of)
    tenants = [await new_tenant(world.database) for _ in range(30)]
    events = [event for tenant in tenants for event in salon_day(tenant)]
    random.Random(5).shuffle(events)
    twice = events + random.Random(6).sample(events, len(events) // 2)

    async with world.process() as survivor:
        async with world.process(killed=True) as victim:
            await world.publish(twice[: len(twice) // 2])

            async def is_working() -> bool:
                return int(str((await victim.get("/status"))[1]["applied"])) > 0

            await until(is_working, "a victim in the middle of its work")
            await world.publish(twice[len(twice) // 2 :])
        await world.until_applied(tenants, events)
        assert await survivor.is_ready()

    gaps = await world.service.admin.fetch(
        "SELECT entity_id FROM booking.booking_events GROUP BY 1"
        " HAVING max(version) <> count(*) OR count(DISTINCT version) <> count(*)"
    )
    assert gaps == []
    for tenant in tenants:
        assert await world.service.picture(tenant) == expected


async def test_a_shift_of_the_clock_or_an_idle_hour_writes_nothing(world: World, tenant_id: str) -> None:
    """Nothing ticks: upkeep on a quiet system leaves the truth as it is."""
    await world.service.apply(*life(tenant_id))
    before = await world.service.types(tenant_id)
    world.service.clock.at = NOW + 600 * MINUTE
    async with world.process():
        for duty in (world.service.upkeep.link_parked, world.service.upkeep.refold_changed):
            await duty()
    world.service.clock.at = NOW

    assert await world.service.types(tenant_id) == before
