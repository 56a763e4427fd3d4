"""Postgres and Kafka by testcontainers, with the images that docker-compose.yml names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

os.environ.setdefault(
    "TESTCONTAINERS_RYUK_DISABLED", "true"
)  # the reaper's image cannot be pulled everywhere

from testcontainers.core.container import DockerContainer

from turnout_cli.embedded.process import free_port

POSTGRES_IMAGE = "postgres:18"
KAFKA_IMAGE = "apache/kafka:4.3.1"
START_SECONDS = 120.0


@asynccontextmanager
async def start_containers() -> AsyncIterator[tuple[str, str]]:
    """An administrator's DSN and the bootstrap servers of two fresh containers, removed at the end."""
    postgres_port, kafka_port = free_port(), free_port()
    postgres = DockerContainer(POSTGRES_IMAGE).with_env("POSTGRES_PASSWORD", "test")
    postgres.with_bind_ports(5432, postgres_port).with_command("postgres -c max_connections=200")
    kafka = DockerContainer(KAFKA_IMAGE).with_bind_ports(kafka_port, kafka_port)
    for name, value in kafka_environment(kafka_port).items():
        kafka.with_env(name, value)
    dsn, bootstrap = (
        f"postgresql://postgres:test@127.0.0.1:{postgres_port}/postgres",
        f"127.0.0.1:{kafka_port}",
    )
    with postgres, kafka:
        await _answers(lambda: _ask_postgres(dsn), (OSError, asyncpg.PostgresError))
        await _answers(lambda: _ask_kafka(bootstrap), (OSError, KafkaError))
        yield dsn, bootstrap


async def _answers(ask: Callable[[], Awaitable[None]], not_yet: tuple[type[Exception], ...]) -> None:
    deadline = monotonic() + START_SECONDS
    while True:
        try:
            await ask()
        except not_yet:
            if monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def _ask_postgres(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=5)
    await connection.close()


async def _ask_kafka(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
    finally:
        await admin.close()


def kafka_environment(port: int) -> dict[str, str]:
    """A single KRaft node that is reached from the host at 127.0.0.1:`port`."""
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{port},CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
