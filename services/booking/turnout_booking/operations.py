"""What the service says of itself: whether it is ready, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from turnout_booking.handlers import BookingHandler
from turnout_booking.tenant_rules import SQL
from turnout_common.consumer import BatchConsumer
from turnout_common.health import Status
from turnout_common.recovery import Watch
from turnout_common.topics import BOOKING_EVENTS, OUTBOUND

#: Who reads what booking publishes, for the recovery check.
WATCHES = (
    Watch(BOOKING_EVENTS, "rollup", SQL["walk_events"], SQL["republish_events"]),
    Watch(OUTBOUND, "sender", SQL["walk_outbound"], SQL["republish_outbound"]),
)


def status(
    pool: asyncpg.Pool, consumers: Sequence[BatchConsumer], handlers: Sequence[BookingHandler]
) -> Status:
    """Lag, records applied, events written, what waits for its booking, and how fresh the last batch was."""

    async def figures() -> dict[str, Any]:
        fresh = [h.freshness_seconds for h in handlers if h.freshness_seconds is not None]
        row = await pool.fetchrow(SQL["status_figures"])
        return {
            "lag": sum(consumer.marks.lag for consumer in consumers),
            "applied": sum(consumer.applied for consumer in consumers),
            "events": sum(handler.events_written for handler in handlers),
            "freshness_seconds": max(fresh, default=None),
            **dict(row or {}),
        }

    return figures
