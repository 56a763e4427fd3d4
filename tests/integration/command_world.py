"""What tests of commands share: a look into the database, from code that runs no event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from turnout_common.postgres import create_pool
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import Tenant

T = TypeVar("T")


def with_connection(dsn: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    async def run() -> T:
        connection = await asyncpg.connect(dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def stored(database: Database, name: str) -> Tenant:
    async def read() -> Tenant | None:
        pool = await create_pool(database.dsn("platform"), "test", 1)
        try:
            directory = TenantDirectory(pool, MASTER_KEY)
            await directory.reload()
            return directory.get(name)
        finally:
            await pool.close()

    found = asyncio.run(read())
    assert found is not None
    return found


def acts(database: Database, name: str) -> list[str]:
    rows = with_connection(
        database.admin_dsn,
        lambda c: c.fetch(
            "SELECT action FROM platform.audit_log WHERE tenant_id = $1 ORDER BY audit_id", name
        ),
    )
    return [row["action"] for row in rows]
