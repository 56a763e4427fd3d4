"""Whether a consuming service is ready."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import asyncpg

from turnout_common.consumer import BatchConsumer
from turnout_common.health import Readiness

POLL_AGE_SECONDS = 30.0


def consumer_readiness(pool: asyncpg.Pool, consumers: Sequence[BatchConsumer]) -> Readiness:
    """Of a consuming service: Postgres must answer now, and Kafka have been heard lately."""

    async def faults() -> dict[str, str]:
        found = {}
        try:
            await pool.fetchval("SELECT 1", timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            found["postgres"] = f"does not answer: {type(error).__name__}"
        for consumer in consumers:
            age = monotonic() - consumer.marks.polled_at
            if age > POLL_AGE_SECONDS:
                found[consumer.topic] = f"Kafka was last heard {age:.0f} s ago"
        return found

    return faults
