"""Channels that used to speak and do not: each minute the database is asked, by the rule of view ingest.silent_channels.

In: when each channel last brought an item. Out: a gauge, and a line in the log when one falls silent or speaks again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import asyncpg
import structlog

from turnout_common import metrics
from turnout_common.postgres import DRIVER_FAULTS, load_queries
from turnout_ingest.providers import PROVIDERS

log = structlog.get_logger()
SQL = load_queries("turnout_ingest")
EVERY_SECONDS = 60.0


class Silence:
    """`run()` in one process of a service; every replica has it, since none need know of another."""

    def __init__(self, pool: asyncpg.Pool, every_seconds: float = EVERY_SECONDS) -> None:
        self._pool = pool
        self._every_seconds = every_seconds
        self._silent: set[tuple[str, str]] = set()

    @property
    def channels(self) -> int:
        """How many were silent at the last look."""
        return len(self._silent)

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except (OSError, TimeoutError, asyncpg.PostgresError, *DRIVER_FAULTS) as error:
                log.warning("it is not known which channels are silent", error=type(error).__name__)
            await asyncio.sleep(self._every_seconds)

    async def look(self) -> None:
        """One round."""
        rows = await self._pool.fetch(SQL["silent_channels"])
        silent = {(row["tenant_id"], row["channel"]): row for row in rows}
        for tenant_id, channel in sorted(silent.keys() - self._silent):
            last_at = silent[tenant_id, channel]["last_at"].isoformat()
            log.warning("a channel fell silent", tenant_id=tenant_id, channel=channel, last_at=last_at)
        for tenant_id, channel in sorted(self._silent - silent.keys()):
            log.info("a channel is silent no more", tenant_id=tenant_id, channel=channel)
        self._silent = set(silent)
        _set_gauge(channel for _, channel in silent)


def _set_gauge(channels: Iterable[str]) -> None:
    counts = Counter(channels)
    for channel in PROVIDERS:
        metrics.CHANNELS_SILENT.labels(channel).set(counts[channel])
