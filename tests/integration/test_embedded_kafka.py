"""The embedded broker is a real one: it keeps records and offsets over stop, kill and start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from turnout_cli.embedded import kafka_aot
from turnout_cli.embedded.kafka import EmbeddedKafka
from turnout_cli.embedded.kafka_jars import class_path, user_cache
from turnout_cli.embedded.process import EmbeddedError, free_port


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedKafka]:
    """In a folder as people name them, under the plainest locale."""
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("kafka") / "Mon salon, été", free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LC_ALL", "C")
        await kafka.start()
        yield kafka
    await kafka.stop()
    kafka.destroy()


async def create_topic(broker: EmbeddedKafka, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(broker: EmbeddedKafka, topic: str, *values: bytes) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, enable_idempotence=True, acks="all"
    )
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def consume(broker: EmbeddedKafka, topic: str, count: int) -> list[bytes | None]:
    """Read `count` records in one group and commit."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        group_id=f"{topic}-readers",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        values = [(await consumer.getone()).value for _ in range(count)]
        await consumer.commit()
        return values
    finally:
        await consumer.stop()


async def test_records_and_offsets_outlive_stop_and_start(broker: EmbeddedKafka) -> None:
    await create_topic(broker, "kept")
    await produce(broker, "kept", b"1", b"2", b"3")
    assert await consume(broker, "kept", 2) == [b"1", b"2"]

    await broker.stop()
    await broker.start()

    assert await consume(broker, "kept", 1) == [b"3"]


async def test_acknowledged_records_outlive_a_killed_broker(broker: EmbeddedKafka) -> None:
    await create_topic(broker, "survives")
    await produce(broker, "survives", b"acknowledged")
    pid = broker.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    await broker.wait()
    await broker.start()

    assert await consume(broker, "survives", 1) == [b"acknowledged"]


async def test_a_broker_that_an_earlier_run_left_behind_is_replaced(broker: EmbeddedKafka) -> None:
    left_behind = broker.pid
    successor = EmbeddedKafka(broker.folder, broker.port)

    await successor.start()
    try:
        assert successor.pid not in (None, left_behind)
    finally:
        await successor.stop()
    await broker.start()


async def test_no_topic_appears_by_itself(broker: EmbeddedKafka) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        await admin.describe_topics(["never-created"])

        assert "never-created" not in await admin.list_topics()
    finally:
        await admin.close()


async def test_it_listens_on_loopback_only(broker: EmbeddedKafka) -> None:
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")  # Java's sockets speak both families
        for connection in psutil.Process(broker.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }

    assert addresses == {"127.0.0.1"}


async def test_a_taken_port_is_explained(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        with pytest.raises(EmbeddedError, match="in use by another program"):
            await EmbeddedKafka(tmp_path / "other", other.getsockname()[1]).start()


_THREADS_OF_A_JVM = 20


async def test_a_training_that_is_given_up_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Its broker writes the cache when it ends in order, which takes many seconds: `down` would wait for them."""
    jars = class_path()  # fetched, where they are not there yet
    folder = next(parent for parent in jars[0].parents if parent.parent == user_cache())
    shutil.copytree(folder, tmp_path / folder.name)
    training = asyncio.create_task(kafka_aot.train(tmp_path))
    while not (brokers := recording_brokers()):
        assert not training.done()
        await asyncio.sleep(0.02)
    since = time.monotonic()

    training.cancel()
    await asyncio.gather(training, return_exceptions=True)

    assert training.cancelled()
    assert time.monotonic() - since < 2
    assert not any(broker.is_running() for broker in brokers)


def recording_brokers() -> list[psutil.Process]:
    """Children of ours that run a broker in recording mode, and are past the JVM's own start."""
    wanted = {"kafka.Kafka", "-XX:AOTCacheOutput"}
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            arguments = {argument.partition("=")[0] for argument in child.cmdline()}
            if wanted <= arguments and child.num_threads() > _THREADS_OF_A_JVM:
                found.append(child)
    return found
