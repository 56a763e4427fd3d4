"""Fixtures that every test layer shares; `infrastructure` says where the servers come from."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.infrastructure import Database, Infrastructure, new_database, new_topics, start_infrastructure
from turnout_common.tenants import TenantSettings, create_tenant

MASTER_KEY = bytes(range(32))


@pytest.fixture(scope="session")
async def infrastructure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Infrastructure]:
    async with start_infrastructure(tmp_path_factory.mktemp("infrastructure")) as servers:
        yield servers


@pytest.fixture(scope="module")
async def database(infrastructure: Infrastructure) -> AsyncIterator[Database]:
    """A migrated database of this module's own."""
    async with new_database(infrastructure.postgres) as created:
        yield created


@pytest.fixture(scope="module")
async def topic_prefix(infrastructure: Infrastructure) -> str:
    """The prefix of topics of this module's own (3 partitions each)."""
    return await new_topics(infrastructure.kafka, partitions=3)


@pytest.fixture
async def tenant_id(database: Database) -> str:
    """A new tenant in the module's database, zone Europe/Berlin, with a data key and no channel."""
    name = "t" + os.urandom(6).hex()
    connection = await asyncpg.connect(database.dsn("platform"))
    try:
        await create_tenant(
            connection, MASTER_KEY, name, "Europe/Berlin", settings=TenantSettings(), actor="test"
        )
    finally:
        await connection.close()
    return name
