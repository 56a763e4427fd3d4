"""`turnout migrate` on given servers: from nothing to complete, twice the same, and honest about what is missing."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.infrastructure import ROLE_PASSWORD, ROLES, Infrastructure, with_database
from turnout_cli.embedded.process import free_port
from turnout_cli.migrate import dbmate_url, migration_folders
from turnout_common.topics import load_topics


@dataclass(frozen=True)
class Target:
    """An empty database, a topic prefix without topics, and the environment that names both."""

    database: str
    admin_dsn: str
    prefix: str
    environment: dict[str, str]

    async def migrate(self, *arguments: str, **changed: str) -> tuple[int, Any, str]:
        """Exit status, JSON of stdout and text of stderr of one run of the command."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "turnout_cli.main", "migrate", "--json", *arguments,
            env={**os.environ, **self.environment, **changed},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode or 0, json.loads(out) if out else None, err.decode()


@pytest.fixture
async def target(infrastructure: Infrastructure) -> AsyncIterator[Target]:
    name, prefix = f"migrate_{secrets.token_hex(4)}", f"m{secrets.token_hex(4)}."
    connection = await asyncpg.connect(infrastructure.postgres)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        dsn = with_database(infrastructure.postgres, name)
        passwords = {f"TURNOUT_PASSWORD_{role.upper()}": ROLE_PASSWORD for role in ROLES}
        addresses = {"TURNOUT_ADMIN_DSN": dsn, "TURNOUT_KAFKA_BOOTSTRAP": infrastructure.kafka}
        settings = {"TURNOUT_KAFKA_REPLICATION": "1", "TURNOUT_TOPIC_PREFIX": prefix}
        yield Target(name, dsn, prefix, passwords | addresses | settings)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


async def test_migrate_brings_empty_servers_up_to_date_and_then_has_nothing_to_do(
    target: Target, infrastructure: Infrastructure
) -> None:
    files = [file for folder in migration_folders() for file in folder.glob("[0-9]*_*.sql")]
    everything = {
        "migrations": sorted(file.name.split("_")[0] for file in files),
        "topics": [target.prefix + name for name in load_topics()],
    }

    assert await target.migrate("--status") == (1, everything, "")
    assert await target.migrate() == (0, everything, "")
    assert await target.migrate() == (0, {"migrations": [], "topics": []}, "")
    assert await target.migrate("--status") == (0, {"migrations": [], "topics": []}, "")

    await assert_roles_can_log_in(target)
    admin = AIOKafkaAdminClient(bootstrap_servers=infrastructure.kafka)
    await admin.start()
    try:
        assert set(everything["topics"]) <= set(await admin.list_topics())
        await admin.delete_topics(everything["topics"])
    finally:
        await admin.close()


async def assert_roles_can_log_in(target: Target) -> None:
    host = target.admin_dsn.split("@")[1]
    for role in ROLES:
        connection = await asyncpg.connect(f"postgresql://turnout_{role}:{ROLE_PASSWORD}@{host}")
        assert await connection.fetchval("SELECT current_user") == f"turnout_{role}"
        await connection.close()


async def test_two_migrate_jobs_at_once_both_succeed(target: Target) -> None:
    results = await asyncio.gather(target.migrate(), target.migrate())

    assert [status for status, _, _ in results] == [0, 0]
    applied = sorted(len(report["migrations"]) for _, report, _ in results)
    assert applied == [0, len([f for folder in migration_folders() for f in folder.glob("[0-9]*_*.sql")])]


async def test_a_server_that_is_not_there_is_waited_for_and_then_named(target: Target) -> None:
    nowhere = f"postgresql://postgres:hidden-word@127.0.0.1:{free_port()}/turnout"

    status, report, words = await target.migrate("--wait", "2", TURNOUT_ADMIN_DSN=nowhere)

    assert (status, report) == (1, None)
    assert "Postgres" in words
    assert "hidden-word" not in words
    assert "Traceback" not in words


async def test_a_missing_setting_is_named(target: Target) -> None:
    status, _, words = await target.migrate(TURNOUT_KAFKA_REPLICATION="0")

    assert status == 1
    assert "TURNOUT_KAFKA_REPLICATION" in words


def test_dbmate_gets_the_password_as_it_is_and_the_tls_mode_that_was_asked_for() -> None:
    url = dbmate_url("postgresql://admin:p%40ss%2Fword@db.example:6432/turnout?sslmode=verify-full")

    assert url == (
        "postgres://admin:p%40ss%2Fword@db.example:6432/turnout?sslmode=verify-full&role=turnout_owner"
    )
