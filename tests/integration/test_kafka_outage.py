"""Kafka away for seconds: consumers and the relay wait at a measured pace, say so once, and go on when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any

import asyncpg
import pytest
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest
from structlog.testing import capture_logs

from tests.infrastructure import Database, Infrastructure
from tests.integration.consumer_probe import Probe, has, start_probe
from tests.integration.probe import (
    AT,
    add_probe_schema,
    consent,
    create_topic,
    probe_settings,
    publish,
    running,
    until,
)
from tests.integration.wire import Wire, wire_to
from turnout_common.ids import new_id
from turnout_common.kafka import create_producer
from turnout_common.kafka_outage import LOOK_SECONDS
from turnout_common.log_setup import RepeatedLines
from turnout_common.postgres import create_pool
from turnout_common.read_marks import Stalled
from turnout_common.relay import SQL, Relay, RelayQueries
from turnout_common.runtime import run_process

AWAY_SECONDS = 5.0
#: A look each 0.1 s, and those of the coordinator, the fetcher and the read marks.
LOOKS_A_SECOND = 40
GONE, BACK = "Kafka does not answer", "Kafka answers again"


@pytest.fixture(scope="module", autouse=True)
async def schema(database: Database) -> None:
    await add_probe_schema(database)


class Dialled:
    """Connections that clients of this process asked for; they lead through the wire whatever the broker's name."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.count = 0


@pytest.fixture
async def dialled(infrastructure: Infrastructure, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dialled]:
    async with wire_to(f"kafka://{infrastructure.kafka.split(',')[0]}") as wire:
        made = Dialled(wire)

        async def through_the_wire(_host: str, _port: int, **options: Any) -> Any:
            made.count += 1
            return await create_conn("127.0.0.1", wire.port, **options)

        monkeypatch.setattr("aiokafka.client.create_conn", through_the_wire)
        yield made


class Lines(logging.Handler):
    """What a service's log would hold of the libraries' lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(RepeatedLines())
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    logging.getLogger().addHandler(made)
    yield made
    logging.getLogger().removeHandler(made)


def without_leaders(probe: Probe) -> None:
    """What a broker that stops tells last, and what makes a client look for one."""
    cluster = probe.consumer._subscriber.consumer._client.cluster
    for partitions in cluster._partitions.values():
        for number, told in list(partitions.items()):
            partitions[number] = told._replace(leader=-1)


async def test_consumer_without_kafka_waits_at_a_measured_pace_and_is_back_when_kafka_is(
    database: Database, infrastructure: Infrastructure, dialled: Dialled, lines: Lines
) -> None:
    first, second = consent(), consent()
    async with start_probe(database, infrastructure, f"away.{new_id().hex[-12:]}.") as probe:
        await publish(probe.kafka, probe.topic, first)
        await until(lambda: has(probe, first.item_id), "the record before")
        lines.written.clear()
        with capture_logs() as logged:
            without_leaders(probe)
            dialled.wire.cut()
            dialled.count = 0
            await asyncio.sleep(AWAY_SECONDS)
            looked = dialled.count
            dialled.wire.mend()
            await publish(probe.kafka, probe.topic, second)
            await until(lambda: has(probe, second.item_id), "the record after", seconds=5)

    said = [(entry["log_level"], entry["event"].split(":")[0].split(",")[0]) for entry in logged]
    assert said.count(("warning", GONE)) == said.count(("info", BACK)) == 1
    assert 1 <= looked <= LOOKS_A_SECOND * AWAY_SECONDS
    assert 1 <= len(lines.written) <= 24


def test_write_to_a_connection_that_the_broker_just_closed_is_a_broken_connection_on_the_services_loop(
    infrastructure: Infrastructure,
) -> None:
    """Not a RuntimeError: by that the consumer's tasks end, and it stands still for good."""
    host, _, port = infrastructure.kafka.split(",")[0].rpartition(":")

    async def write() -> int:
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
        connection = await create_conn(host, int(port))
        connection._read_task.cancel()
        connection._reader.feed_data(b"a part of an answer")
        connection._writer.transport.abort()
        await connection._closed_fut
        assert connection.connected()
        with pytest.raises(KafkaConnectionError):
            await connection.send(MetadataRequest([]))
        return 0

    assert run_process(write()) == 0


async def test_consumer_whose_client_stands_still_ends_its_process(
    database: Database, infrastructure: Infrastructure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout_common.read_marks.ANSWER_SECONDS", 0.5)
    async with start_probe(database, infrastructure, f"still.{new_id().hex[-12:]}.") as probe:
        await publish(probe.kafka, probe.topic, first := consent())
        await until(lambda: has(probe, first.item_id), "a record")
        probe.consumer.marks._stall_seconds = 1.0
        client = probe.consumer._subscriber.consumer._client
        client._sync_task.cancel()
        client.force_metadata_update()

        with pytest.raises(Stalled, match="but not this consumer"):
            await asyncio.wait_for(probe.running, 20)


async def test_client_that_finds_kafka_and_no_leader_asks_again_at_a_measured_pace(
    infrastructure: Infrastructure,
) -> None:
    topic = f"asked.{new_id().hex[-12:]}"
    await create_topic(infrastructure.kafka, topic, partitions=1)
    producer = create_producer(infrastructure.kafka, "test")
    await producer.start()
    await producer.partitions_for(topic)
    looks, since = 0, monotonic()
    while monotonic() < since + 1:
        assert await producer.client.force_metadata_update()
        looks += 1
    took = monotonic() - since
    await producer.stop()

    assert looks <= took / LOOK_SECONDS + 1


async def test_relay_without_kafka_says_once_that_it_waits_and_once_that_it_goes_on(
    database: Database, infrastructure: Infrastructure, dialled: Dialled, lines: Lines
) -> None:
    prefix = f"away.{new_id().hex[-12:]}."
    await create_topic(infrastructure.kafka, prefix + "out", partitions=3)
    pool = await create_pool(database.dsn("booking"), "test", size=2)
    relay = Relay("probe", probe_settings(database, infrastructure, prefix), RelayQueries.of_schema("probe"))

    async def empty() -> bool:
        return int(await pool.fetchval("SELECT count(*) FROM probe.outbox")) == 0

    with capture_logs() as logged:
        async with running(relay.run()):
            await write(pool)
            await until(empty, "an empty outbox")
            lines.written.clear()
            dialled.wire.cut()
            dialled.count = 0
            await write(pool)
            await until(lambda: failed(relay, 3), "three failures")
            looked = dialled.count
            dialled.wire.mend()
            await until(empty, "an empty outbox again", seconds=10)

    said = [(entry["log_level"], entry["event"].split(":")[0]) for entry in logged]
    assert said == [("warning", "relay waits, nothing is lost"), ("info", "relay goes on")]
    assert logged[0]["look_at"] == "Kafka"
    assert 1 <= looked <= 200
    assert 1 <= len(lines.written) <= 24


async def write(pool: asyncpg.Pool) -> None:
    await pool.execute(
        SQL["insert_outbox"].format(schema="probe"), [new_id()], ["out"], ["tenant:a"], ["inbound.consent"], ["test"],
        ["s"], ["tenant"], [AT], ["{}"],
    )  # fmt: skip


async def failed(relay: Relay, times: int) -> bool:
    return relay.failures >= times
