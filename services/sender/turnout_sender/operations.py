"""What /ready and /status say of the sender."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any

import asyncpg

from turnout_common.consumer import BatchConsumer
from turnout_common.relay import Relay
from turnout_sender.sending import SendLoop

POLL_AGE_SECONDS = 60.0


class Operations:
    def __init__(
        self, pool: asyncpg.Pool, consumers: Sequence[BatchConsumer], sending: SendLoop, relay: Relay
    ) -> None:
        self._pool = pool
        self._consumers = consumers
        self._sending = sending
        self._relay = relay

    async def readiness(self) -> dict[str, str]:
        """What is not ready: Postgres that does not answer, topics that were not polled for a minute."""
        faults: dict[str, str] = {}
        try:
            async with asyncio.timeout(2):
                await self._pool.fetchval("SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            faults["postgres"] = f"does not answer: {type(error).__name__}"
        for consumer in self._consumers:
            age = monotonic() - consumer.marks.polled_at
            if age > POLL_AGE_SECONDS:
                faults[consumer.topic] = f"was last polled {age:.0f} s ago"
        return faults

    async def status(self) -> dict[str, Any]:
        """`lag` of its topics, `events` published since the start, `due` = messages that wait though their time has come."""
        return {
            "lag": sum(consumer.marks.lag for consumer in self._consumers),
            "events": self._relay.published,
            "due": self._sending.due,
        }
