"""A whole system of its own for a benchmark: `turnout up` in a folder that is deleted at the end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from turnout_common.security import read_master_key
from turnout_common.tenants import create_tenant, set_channel

SECRET = "bench-secret"
LOOPBACK = "127.0.0.1"
BACKLOG = """
SELECT (SELECT count(*) FROM ingest.inbox i WHERE i.fate = 'published'
        AND NOT EXISTS (SELECT FROM booking.applied a WHERE a.record_id = i.item_id))
     + (SELECT count(*) FROM booking.booking_events e
        WHERE NOT EXISTS (SELECT FROM rollup.applied a WHERE a.record_id = e.event_id))
"""


@dataclass
class BenchSystem:
    """A running system: addresses, process ids, and what its services say of themselves."""

    document: dict[str, Any] = field(repr=False)
    session: aiohttp.ClientSession = field(repr=False)

    @property
    def pids(self) -> dict[str, int]:
        return {name: pid for name, pid in self.document["pids"].items() if name != "mock-providers"}

    @property
    def ingest_port(self) -> int:
        return int(urlsplit(self.document["urls"]["ingest"]).port or 0)

    @property
    def dsn(self) -> str:
        """A superuser's DSN, to look at any table."""
        return str(self.document["postgres"])

    async def backlog(self) -> int:
        """Records on their way: accepted items that booking has not applied, and its events that rollup has not."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return int(await connection.fetchval(BACKLOG))
        finally:
            await connection.close()

    async def create_tenants(self, count: int, prefix: str) -> list[str]:
        """Tenants with a Cal.com channel; all services know them when this returns."""
        key = read_master_key(None, Path(self.document["master_key_file"]))
        names = [f"{prefix}{number}" for number in range(count)]
        connection = await asyncpg.connect(self.document["postgres_roles"]["turnout_platform"])
        try:
            for name in names:
                await create_tenant(connection, key, name, "Europe/Berlin", actor="bench")
                await set_channel(connection, key, name, "calcom", secret=SECRET, actor="bench")
        finally:
            await connection.close()
        return names


@asynccontextmanager
async def bench_system() -> AsyncIterator[BenchSystem]:
    """Starts the system, and stops it and deletes its data whatever happens."""
    home = Path(tempfile.mkdtemp(prefix="turnout-bench-"))
    environment = os.environ | {"TURNOUT_HOME": str(home), "TURNOUT_TENANT_REQUESTS_PER_SECOND": "0"}
    try:
        await _turnout(environment, "up", "--detach", "--no-demo", "--json")
        document = json.loads(await _turnout(environment, "status", "--json"))
        async with aiohttp.ClientSession() as session:
            yield BenchSystem(document, session)
    finally:
        await _turnout(environment, "down")
        shutil.rmtree(home, ignore_errors=True)


async def _turnout(environment: dict[str, str], *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "turnout_cli.main", *arguments, env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(
            f"turnout {' '.join(arguments)} ended with {process.returncode}:\n{output.decode()}"
        )
    return output.decode()
