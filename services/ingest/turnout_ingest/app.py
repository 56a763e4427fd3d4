"""The HTTP application: the webhook route in front, FastAPI for the rest, OpenAPI of both."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from fastapi import FastAPI

from turnout_common.clock import Clock
from turnout_common.health import health_router
from turnout_common.operations import Operations
from turnout_common.postgres import load_queries
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.workers import Worker
from turnout_ingest.inbox import Inbox
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.settings import IngestSettings
from turnout_ingest.webhook import PREFIX, WebhookEndpoint

SQL = load_queries("turnout_ingest")
ANSWER_SECONDS = 2.0


class IngestApp(FastAPI):
    """FastAPI, save that webhooks pass its layers by: they were measured to cost more than all that a webhook needs."""

    def __init__(self, webhooks: WebhookEndpoint, worker: Worker | None, **options: Any) -> None:
        super().__init__(**options)
        self._webhooks = webhooks
        self._operations = Operations(super().__call__, worker)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._webhooks(scope, receive, send)
        else:
            await self._operations(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document["paths"].setdefault(PREFIX + "{channel}/{tenant_id}", {"post": WEBHOOK_OPERATION})
        return document


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
        """Without Kafka ingest is ready: what it accepts waits in the outbox."""
        try:
            await alive.ask()
        except Exception as error:
            return {"postgres": f"does not answer ({type(error).__name__})"}
        if not inbox.durable:
            return {"postgres": "fsync is off: what is accepted would not survive a power cut"}
        return {}

    async def status() -> dict[str, Any]:
        figures: dict[str, Any] = {"accepted": inbox.accepted, "tenants": len(directory.all())}
        try:
            found = await backlog.ask()
        except Exception as error:
            return figures | {"fault": f"postgres does not answer ({type(error).__name__})"}
        return figures | {"lag": found["waiting"], "oldest_unpublished_seconds": found["oldest_seconds"]}

    webhooks = WebhookEndpoint(directory, inbox, settings, clock)
    app = IngestApp(webhooks, worker, title="Turnout ingest", version="1", docs_url=None, redoc_url=None)
    app.include_router(health_router("ingest", readiness, status))
    return app


def _said(text: str) -> dict[str, str]:
    return {"description": text}


#: Written by hand: the route is no FastAPI route.
WEBHOOK_OPERATION: dict[str, Any] = {
    "tags": ["webhooks"],
    "operationId": "receive_webhook",
    "summary": "Receive a webhook of a provider",
    "description": (
        "Verified over the raw bytes with the channel's secret: calcom `X-Cal-Signature-256`, telegram "
        "`X-Telegram-Bot-Api-Secret-Token`, events `webhook-id`, `webhook-timestamp` and `webhook-signature` (Standard "
        "Webhooks v1). A success answer is sent after the commit; a repeated delivery gets the same answer as the first."
    ),
    "parameters": [
        {
            "name": "channel",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "enum": sorted(PROVIDERS)},
        },
        {
            "name": "tenant_id",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"},
        },
    ],
    "requestBody": {
        "required": True,
        "description": "The provider's own body, JSON. For `events` see docs/FACTS.md.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
    "responses": {
        "200": _said("telegram: stored, ignored or quarantined; empty, since a body would be a call of the Bot API."),
        "202": _said("calcom, events: stored durably, or known and not needed."),
        "400": _said("calcom, events: verified, but not the provider's envelope; kept in quarantine."),
        "401": _said("Signature or secret missing or wrong, or tenant or channel unknown or suspended."),
        "404": _said("No such path; with STRICT_TENANT_CONFIG off also an unknown tenant or channel."),
        "405": _said("Any method but POST."),
        "408": _said("The body came too slowly."),
        "409": _said("events: this webhook-id was received before with other content."),
        "413": _said("The body is larger than TURNOUT_MAX_BODY_BYTES."),
        "503": _said("Not stored: the queue is full or Postgres does not answer. Send again after Retry-After."),
    },
}  # fmt: skip
