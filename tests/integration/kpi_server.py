"""A kpi-api on a port of its own, with a clock that stands at the salon's NOW."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog.testing
import uvicorn

from tests.integration.kpi_salon import NOW
from turnout_common.clock import FixedClock
from turnout_common.postgres import create_pool
from turnout_kpi_api.app import Parts, create_app
from turnout_kpi_api.auth import Access
from turnout_kpi_api.reads import Reads


@dataclass
class Api:
    """A running kpi-api; `elapsed` moves the clock of its token cache."""

    url: str
    session: aiohttp.ClientSession
    elapsed: float = 0.0

    async def get(self, path: str, token: str | None = None, **parameters: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.get(self.url + path, params=parameters, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)


@asynccontextmanager
async def running(dsn: str, *, demo_is_open: bool) -> AsyncIterator[Api]:
    pool = await create_pool(dsn, "test", 4)
    # Its log lines would mix with what a command prints.
    with structlog.testing.capture_logs():
        async with aiohttp.ClientSession() as session:
            api = Api("", session)
            access = Access(pool, demo_is_open=demo_is_open, seconds=lambda: api.elapsed)
            clock = FixedClock(NOW)
            config = uvicorn.Config(
                create_app(Parts(Reads(pool, clock), access, clock)),
                host="127.0.0.1",
                port=0,
                log_config=None,
                lifespan="off",
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            api.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            try:
                yield api
            finally:
                server.should_exit = True
                await serving
                await pool.close()
