"""Ingest with an inbox that answers at once: what HTTP, signature, schema, sealing and encoding cost by themselves."""

from __future__ import annotations

from typing import Any

import asyncpg
import uvicorn

from turnout_common.clock import SystemClock
from turnout_common.http_protocol import HTTP_OPTIONS
from turnout_common.log_setup import configure_logging
from turnout_common.tenant_directory import TenantDirectory
from turnout_ingest.acceptance import Row
from turnout_ingest.inbox import Inbox
from turnout_ingest.providers.provider import Fate
from turnout_ingest.settings import IngestSettings
from turnout_ingest.webhook import WebhookEndpoint


class AtOnce(Inbox):
    """Stores nothing."""

    async def accept(self, rows: list[Row]) -> list[Fate]:
        return [row.fate for row in rows]


async def _nowhere() -> asyncpg.Connection:
    raise RuntimeError("this inbox has no database")


class Application:
    """The webhook endpoint; its tenants are read at the server's start."""

    def __init__(self) -> None:
        self._endpoint: WebhookEndpoint | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self._start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif self._endpoint is not None:
            await self._endpoint(scope, receive, send)

    async def _start(self) -> None:
        settings = IngestSettings()
        configure_logging("no-storage", settings.log_level, settings.log_format)
        async with asyncpg.create_pool(settings.postgres_dsn.get_secret_value(), min_size=0) as pool:
            directory = TenantDirectory(pool, settings.master_keys())
            await directory.reload()
        inbox = AtOnce(_nowhere, queue_items=settings.inbox_queue_items)
        self._endpoint = WebhookEndpoint(directory, inbox, settings, SystemClock())


app = Application()

if __name__ == "__main__":
    port = IngestSettings().http_port
    options = HTTP_OPTIONS | {"lifespan": "on"}
    uvicorn.run("bench.ingest_no_storage:app", host="127.0.0.1", port=port, workers=2, **options)
