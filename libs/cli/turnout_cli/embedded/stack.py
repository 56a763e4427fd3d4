"""Postgres and Kafka together, for tests and tools that need both for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from turnout_cli.embedded.kafka import EmbeddedKafka
from turnout_cli.embedded.postgres import EmbeddedPostgres
from turnout_cli.embedded.process import free_port


@dataclass(frozen=True)
class Stack:
    """Two running servers; a fault test may stop and start them."""

    postgres: EmbeddedPostgres
    kafka: EmbeddedKafka

    @property
    def postgres_dsn(self) -> str:
        """Superuser `postgres`, database `postgres`."""
        return self.postgres.dsn

    @property
    def kafka_bootstrap(self) -> str:
        return self.kafka.bootstrap_servers


@contextlib.asynccontextmanager
async def embedded_stack(
    folder: Path, *, postgres_settings: Mapping[str, str] | None = None
) -> AsyncIterator[Stack]:
    """Start both servers on data of their own; stop them and delete the data at the end.

    Enter it on the main thread: the servers end with the thread that started them.
    """
    postgres = EmbeddedPostgres(folder / "postgres", free_port(), settings=postgres_settings)
    kafka = EmbeddedKafka(folder / "kafka", free_port())
    try:
        await asyncio.gather(postgres.start(), kafka.start())
        yield Stack(postgres, kafka)
    finally:
        await asyncio.gather(postgres.stop(), kafka.stop())
        postgres.destroy()
        kafka.destroy()
