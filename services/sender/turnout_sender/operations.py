"""What the sender says of itself, and who reads what it publishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from fastapi import FastAPI

from turnout_common.consumer import BatchConsumer
from turnout_common.health import Status, health_router
from turnout_common.postgres import load_queries
from turnout_common.readiness import consumer_readiness
from turnout_common.recovery import Watch
from turnout_common.relay import Relay
from turnout_common.topics import MESSAGE_EVENTS
from turnout_sender.sending import SendLoop

SQL = load_queries("turnout_sender")
#: rollup counts messages; booking notes on the chain what became of a reminder.
WATCHES = tuple(
    Watch(MESSAGE_EVENTS, reader, SQL["walk"], SQL["publish"]) for reader in ("rollup", "booking")
)


def create_app(
    pool: asyncpg.Pool, consumers: Sequence[BatchConsumer], sending: SendLoop, relay: Relay
) -> FastAPI:
    """The operations routes of every service; the sender has no others."""
    app = FastAPI(title="Turnout sender", openapi_url=None)
    figures = status(consumers, sending, relay)
    app.include_router(health_router("sender", consumer_readiness(pool, consumers), figures))
    return app


def status(consumers: Sequence[BatchConsumer], sending: SendLoop, relay: Relay) -> Status:
    """`lag`, `events` published since the start, and `due`: messages that wait though their time has come."""

    async def figures() -> dict[str, Any]:
        return {
            "lag": sum(consumer.marks.lag for consumer in consumers),
            "events": relay.published,
            "due": sending.due,
        }

    return figures
