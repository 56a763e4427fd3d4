"""Where the tests' Postgres and Kafka come from: an address in the environment, else testcontainers where a Docker
engine runs, else the embedded parts. One of each a run; a database from a template and topics of its own per module.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from turnout_cli.migrate import migrate, migration_folders
from turnout_cli.topics import create_topics

POSTGRES_VARIABLE = "TURNOUT_TEST_POSTGRES"
KAFKA_VARIABLE = "TURNOUT_TEST_KAFKA"
BACKEND_VARIABLE = "TURNOUT_TEST_BACKEND"
ROLES = ("ingest", "booking", "sender", "rollup", "kpi", "platform", "maintenance")
ROLE_PASSWORD = "test"


@dataclass(frozen=True)
class Infrastructure:
    """Addresses of the run's servers; `postgres` is an administrator's DSN."""

    postgres: str
    kafka: str
    backend: str


@dataclass(frozen=True)
class Database:
    """A migrated database of a test module's own."""

    name: str
    admin_dsn: str

    def dsn(self, role: str) -> str:
        """The DSN of a service's role: `ingest`, `booking`, `sender`, `rollup`, `kpi`, `platform`, `maintenance`."""
        parts = urlsplit(self.admin_dsn)
        host = f"{parts.hostname}:{parts.port}"
        return urlunsplit((parts.scheme, f"turnout_{role}:{ROLE_PASSWORD}@{host}", parts.path, "", ""))


def docker_runs() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


@asynccontextmanager
async def start_infrastructure(folder: Path) -> AsyncIterator[Infrastructure]:
    """Servers for the run, stopped at its end unless they were given."""
    postgres, kafka = os.environ.get(POSTGRES_VARIABLE), os.environ.get(KAFKA_VARIABLE)
    backend = os.environ.get(BACKEND_VARIABLE) or ("testcontainers" if docker_runs() else "embedded")
    if postgres and kafka:
        yield Infrastructure(postgres, kafka, "environment")
    elif backend == "testcontainers":
        from tests.containers import start_containers

        async with start_containers() as (postgres, kafka):
            yield Infrastructure(postgres, kafka, backend)
    else:
        from turnout_cli.embedded.stack import embedded_stack

        async with embedded_stack(folder) as stack:
            yield Infrastructure(stack.postgres_dsn, stack.kafka_bootstrap, backend)


def with_database(dsn: str, name: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, ""))


def migrations_digest() -> str:
    files = sorted(file for folder in migration_folders() for file in folder.glob("*.sql"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


async def ensure_template(admin_dsn: str) -> str:
    """The name of a migrated template database, made once per state of the migrations."""
    name = f"template_{migrations_digest()}"
    connection = await asyncpg.connect(admin_dsn)
    try:
        await connection.execute("SELECT pg_advisory_lock(1, 1)")
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            await connection.execute(f'CREATE DATABASE "{name}_new"')
            await migrate(
                with_database(admin_dsn, f"{name}_new"), {f"turnout_{role}": ROLE_PASSWORD for role in ROLES}
            )
            await connection.execute(f'ALTER DATABASE "{name}_new" RENAME TO "{name}"')
    except BaseException:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}_new" WITH (FORCE)')
        raise
    finally:
        await connection.close()
    return name


@asynccontextmanager
async def new_database(admin_dsn: str) -> AsyncIterator[Database]:
    """A database made from the template, dropped at the end."""
    template = await ensure_template(admin_dsn)
    name = f"test_{secrets.token_hex(6)}"
    # A database's own grants are not copied from its template.
    roles = ", ".join(f"turnout_{role}" for role in ROLES)
    await _execute(
        admin_dsn,
        f'CREATE DATABASE "{name}" TEMPLATE "{template}"',
        f'GRANT CONNECT ON DATABASE "{name}" TO {roles}',
    )
    try:
        yield Database(name, with_database(admin_dsn, name))
    finally:
        await _execute(admin_dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _execute(dsn: str, *statements: str) -> None:
    """On a connection of their own: between two calls a fault test may have restarted the server."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def new_topics(kafka: str, partitions: int | None = None, replication: int = 1) -> str:
    """Creates the topics under a prefix of their own and gives the prefix."""
    prefix = f"t{secrets.token_hex(4)}."
    await create_topics(kafka, prefix=prefix, partitions=partitions, replication=replication)
    return prefix
