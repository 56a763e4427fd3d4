"""The rollup process itself, between a real Kafka and a real Postgres."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import until
from tests.integration.rollup_world import START, Event, Rollup, chain, intent, message, record_of, rollup_on
from turnout_cli.embedded.process import free_port
from turnout_common.kafka import create_producer


@dataclass
class Service:
    """A running rollup process."""

    process: asyncio.subprocess.Process
    url: str
    kafka: str
    prefix: str

    async def publish(self, *events: Event) -> None:
        producer = create_producer(self.kafka, "test")
        await producer.start()
        for event in events:
            record = record_of(event)
            await producer.send(
                self.prefix + record.topic, record.value, key=record.key, headers=list(record.headers)
            )
        await producer.stop()

    async def get(self, path: str) -> tuple[int, dict[str, object]]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.json()

    async def is_ready(self) -> bool:
        try:
            return (await self.get("/ready"))[0] == 200
        except aiohttp.ClientError:
            return False


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    async with rollup_on(database) as started:
        yield started


@pytest.fixture
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[Service]:
    port = free_port()
    environment = os.environ | {
        "TURNOUT_ENV": "development",
        "TURNOUT_POSTGRES_DSN": database.dsn("rollup"),
        "TURNOUT_KAFKA_BOOTSTRAP": infrastructure.kafka,
        "TURNOUT_TOPIC_PREFIX": topic_prefix,
        "TURNOUT_HTTP_PORT": str(port),
        "TURNOUT_TENANT_RELOAD_SECONDS": "0.2",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "turnout_rollup.main", env=environment
    )
    started = Service(process, f"http://127.0.0.1:{port}", infrastructure.kafka, topic_prefix)
    try:
        await until(started.is_ready, "a ready service")
        yield started
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0


async def test_events_of_both_topics_become_facts_and_the_service_says_how_fresh_they_are(
    rollup: Rollup, service: Service, tenant_id: str
) -> None:
    first = chain(tenant_id)
    await service.publish(first, intent(tenant_id), message(tenant_id))
    await service.publish(chain(tenant_id, 2, first.entity_id, gross_minor=100))

    async def all_there() -> bool:
        gross = [cell["gross"] for cell in (await rollup.cells("chain", tenant_id)).values()]
        return gross == [100] and bool(await rollup.cells("message", tenant_id))

    await until(all_there, "both topics' facts")
    _, status = await service.get("/status")

    assert status["events"] == 4
    assert isinstance(status["freshness_seconds"], float) and 0 <= status["freshness_seconds"] < 20
    assert status["lag"] == 0


async def test_read_marks_of_every_partition_move_while_nothing_comes(
    rollup: Rollup, service: Service
) -> None:
    async def marked() -> bool:
        rows = await rollup.admin.fetch(
            "SELECT topic, partition FROM rollup.read_marks WHERE read_until > now() - interval '10 s'"
        )
        return {(row["topic"], row["partition"]) for row in rows} == {
            (topic, partition) for topic in ("booking_events", "message_events") for partition in range(3)
        }

    await until(marked, "fresh marks on both topics")


async def test_changed_time_zone_moves_the_days_while_the_service_runs(
    rollup: Rollup, service: Service, tenant_id: str
) -> None:
    event = chain(tenant_id)
    await rollup.write_logs([event])
    await service.publish(event)
    await until(lambda: _days(rollup, tenant_id, {START.day}), "the first day")

    await rollup.admin.execute(
        "UPDATE platform.tenants SET timezone = 'Pacific/Kiritimati' WHERE tenant_id = $1", tenant_id
    )

    await until(lambda: _days(rollup, tenant_id, {START.day + 1}), "the day in the new zone")


async def _days(rollup: Rollup, tenant_id: str, days: set[int]) -> bool:
    return {day.day for day, _ in await rollup.cells("chain", tenant_id)} == days
