"""The tenant of contracts/examples, with the data key that its README gives."""

from __future__ import annotations

import asyncpg

from turnout_common.security import TenantKeys, wrap_key
from turnout_common.tenants import create_tenant

TENANT = "salon-anna"
DATA_KEY = b"turnout-examples-data-key-000001"
KEYS = TenantKeys(TENANT, {1: DATA_KEY})


async def create_salon(platform_dsn: str, master_key: bytes) -> None:
    """Creates the tenant, its data key being the known one."""
    connection = await asyncpg.connect(platform_dsn)
    try:
        await create_tenant(connection, master_key, TENANT, "Europe/Berlin", actor="test")
        await connection.execute(
            "UPDATE platform.data_keys SET wrapped = $2 WHERE tenant_id = $1",
            TENANT,
            wrap_key(master_key, TENANT, 1, DATA_KEY),
        )
    finally:
        await connection.close()
