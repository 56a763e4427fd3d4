"""The HTTP application: the webhook route in front, FastAPI for the rest, OpenAPI of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import asyncpg
from fastapi import FastAPI

from turnout_common.clock import Clock
from turnout_common.health import Readiness, Status, health_router
from turnout_common.operations import Operations
from turnout_common.postgres import load_queries
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.workers import Worker
from turnout_ingest.inbox import Inbox
from turnout_ingest.openapi import security_schemes, webhook_paths
from turnout_ingest.settings import IngestSettings
from turnout_ingest.silence import Silence
from turnout_ingest.webhook import PREFIX, WebhookEndpoint

SQL = load_queries("turnout_ingest")
ANSWER_SECONDS = 2.0
NOT_READY = {"description": "What is not ready, by name."}
NOT_NEAR = {"description": "Asked from a public address or by way of a proxy."}


class IngestApp(FastAPI):
    """FastAPI, save that webhooks pass its layers by: they were measured to cost more than all that a webhook needs."""

    def __init__(
        self, webhooks: WebhookEndpoint | None, worker: Worker | None, silence: Silence | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._webhooks = webhooks
        self._silence = silence
        self._operations = Operations(super().__call__, worker)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._webhooks is not None and scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._webhooks(scope, receive, send)
        else:
            await self._operations(scope, receive, send)

    def loops(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What must run beside it."""
        spool = self._webhooks.spool if self._webhooks is not None else None
        parts = {"spool": spool, "silence": self._silence}
        return {name: part.run() for name, part in parts.items() if part is not None}

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            document["paths"] = webhook_paths() | document["paths"]
            document["paths"]["/ready"]["get"]["responses"]["503"] = NOT_READY
            document["paths"]["/status"]["get"]["responses"]["404"] = NOT_NEAR
            document.setdefault("components", {})["securitySchemes"] = security_schemes()
        assert self.openapi_schema is not None
        return self.openapi_schema


class Question:
    """One query that an operator's request asks, never twice at a time.

    A server that does not answer makes the driver wait even for its own cancellation, so what takes too long is left to
    itself and whoever asks meanwhile gets TimeoutError too.
    """

    def __init__(self, pool: asyncpg.Pool, sql: str) -> None:
        self._pool = pool
        self._sql = sql
        self._asking: asyncio.Task[Any] | None = None

    async def ask(self) -> Any:
        """The one row. Raises TimeoutError, and what asyncpg raises."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._pool.fetchrow(self._sql))
        done, _ = await asyncio.wait({self._asking}, timeout=ANSWER_SECONDS)
        if not done:
            raise TimeoutError
        return self._asking.result()


def create_app(
    settings: IngestSettings,
    clock: Clock,
    pool: asyncpg.Pool,
    directory: TenantDirectory,
    inbox: Inbox,
    worker: Worker | None = None,
) -> IngestApp:
    """Everything that ingest answers on HTTP."""
    alive, backlog = Question(pool, SQL["alive"]), Question(pool, SQL["backlog"])

    async def readiness() -> dict[str, str]:
        """Without Kafka ingest is ready: what it accepts waits in the outbox. With a spool also without Postgres."""
        try:
            await alive.ask()
        except Exception as error:
            if webhooks.spool is not None and webhooks.spool.has_room:
                return {}
            return {"postgres": f"does not answer ({type(error).__name__})"}
        if not inbox.durable:
            return {"postgres": "fsync is off: what is accepted would not survive a power cut"}
        return {}

    async def status() -> dict[str, Any]:
        figures: dict[str, Any] = {"accepted": inbox.accepted, "tenants": len(directory.all())}
        if silence is not None:
            figures["silent_channels"] = silence.channels
        try:
            found = await backlog.ask()
        except Exception as error:
            return figures | {"fault": f"postgres does not answer ({type(error).__name__})"}
        return figures | {"lag": found["waiting"], "oldest_unpublished_seconds": found["oldest_seconds"]}

    webhooks = WebhookEndpoint(directory, inbox, settings, clock)
    silence = Silence(pool) if worker is None or worker.first else None
    return _application(webhooks, worker, silence, readiness, status)


def _application(
    webhooks: WebhookEndpoint | None,
    worker: Worker | None,
    silence: Silence | None,
    readiness: Readiness,
    status: Status,
) -> IngestApp:
    app = IngestApp(
        webhooks, worker, silence, title="Turnout ingest", version="1", docs_url=None, redoc_url=None
    )
    app.include_router(health_router("ingest", readiness, status))
    return app


def openapi_text() -> str:
    """contracts/openapi/ingest.json, made without a database."""

    async def nothing() -> dict[str, Any]:
        return {}

    document = _application(None, None, None, nothing, nothing).openapi()
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
