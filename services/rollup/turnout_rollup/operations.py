"""What the service says of itself: whether it is ready, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnout_common.consumer import BatchConsumer
from turnout_common.health import Status
from turnout_rollup.handlers import FactHandler


def status(consumers: Sequence[BatchConsumer], handlers: Sequence[FactHandler]) -> Status:
    """Lag, events applied, and how old the oldest record of the last batch was when it was committed."""

    async def figures() -> dict[str, Any]:
        fresh = [h.freshness_seconds for h in handlers if h.freshness_seconds is not None]
        return {
            "lag": sum(consumer.marks.lag for consumer in consumers),
            "events": sum(consumer.applied for consumer in consumers),
            "freshness_seconds": max(fresh, default=None),
        }

    return figures
