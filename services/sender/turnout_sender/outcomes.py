"""Writing outcomes: what gathered while the last commit ran is the next transaction (as the inbox does it).

In: outcomes of attempts and claims given back. Out: deliveries, attempts, circuits, paused bots, message_log and outbox
in one transaction. Promise: as long as the process lives an outcome is written, however long Postgres is away.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import structlog

from turnout_common.clock import Clock
from turnout_common.postgres import Connection, is_transient, load_queries
from turnout_sender.channels.port import Verdict
from turnout_sender.decisions import throttled_for
from turnout_sender.deliveries import Outcome, release, settle
from turnout_sender.settings import SenderSettings

log = structlog.get_logger()
SQL = load_queries("turnout_sender")
BATCH = 200
#: The provider did not do its work: what opens a circuit.
SICK = frozenset({Verdict.FAILED, Verdict.LOST})


@dataclass(frozen=True)
class Settled:
    """An outcome and the bot that it is of."""

    tenant_id: str
    channel: str
    outcome: Outcome


@dataclass(frozen=True)
class Released:
    """A claim for which no request was begun."""

    message_id: UUID
    claim_id: UUID


class OutcomeWriter:
    """`put` from any task; `run` writes for ever. `after_commit` is called after each transaction."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        settings: SenderSettings,
        clock: Clock,
        chance: random.Random,
        after_commit: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._after_commit = after_commit
        self._queue: asyncio.Queue[Settled | Released] = asyncio.Queue()

    def put(self, result: Settled | Released) -> None:
        """Never waits: there are at most as many results as requests in flight."""
        self._queue.put_nowait(result)

    async def drained(self) -> None:
        """Returns when all that was put is committed."""
        await self._queue.join()

    async def run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._write_retried(batch)
            for _ in batch:
                self._queue.task_done()
            self._after_commit()

    async def _write_retried(self, batch: Sequence[Settled | Released]) -> None:
        failures = 0
        while True:
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    await self._write(connection, batch)
                return
            except Exception as error:
                if not is_transient(error):
                    raise
                failures += 1
                log.warning("outcomes wait for Postgres", error=repr(error)[:300], failures=failures)
                pause = min(0.1 * 2.0 ** min(failures, 6), 5.0)
                await asyncio.sleep(pause * self._chance.uniform(0.5, 1.0))

    async def _write(self, connection: Connection, batch: Sequence[Settled | Released]) -> None:
        now = self._clock.now()
        released = [(r.message_id, r.claim_id) for r in batch if isinstance(r, Released)]
        settled = [s for s in batch if isinstance(s, Settled)]
        if released:
            await release(connection, released, now)
        if settled:
            await settle(connection, [s.outcome for s in settled])
            await self._write_health(connection, settled, now)

    async def _write_health(self, connection: Connection, settled: Sequence[Settled], now: datetime) -> None:
        """Circuits and pauses: what the answers say about the bots, for all replicas."""
        settings = self._settings
        of: dict[tuple[str, str], list[Outcome]] = {}
        for one in settled:
            of.setdefault((one.tenant_id, one.channel), []).append(one.outcome)
        refused = {k for k, os in of.items() if any(o.answer.verdict is Verdict.TOKEN_REFUSED for o in os)}
        healthy = sorted(k for k, os in of.items() if k not in refused and any(map(_answered, os)))
        if healthy:
            await connection.execute(SQL["close_circuits"], [t for t, _ in healthy], [c for _, c in healthy])
        sick = Counter({k: sum(o.answer.verdict in SICK for o in os) for k, os in of.items()})
        failing = sorted(k for k, n in sick.items() if n and k not in refused and k not in healthy)
        if failing:
            reasons = [next(o.answer.reason for o in of[k] if o.answer.verdict in SICK) for k in failing]
            await connection.execute(
                SQL["count_failures"],
                now,
                settings.circuit_failures,
                timedelta(seconds=settings.circuit_seconds),
                [t for t, _ in failing],
                [c for _, c in failing],
                [sick[k] for k in failing],
                reasons,
            )
        for tenant_id, channel in sorted(refused):
            until = now + timedelta(seconds=settings.token_pause_seconds)
            await connection.execute(SQL["open_circuit"], tenant_id, channel, until, "token_refused")
            log.error("provider refuses the tenant's token", tenant=tenant_id, channel=channel)
        await self._pause_bots(connection, of)

    async def _pause_bots(self, connection: Connection, of: dict[tuple[str, str], list[Outcome]]) -> None:
        for (tenant_id, channel), outcomes in sorted(of.items()):
            waits = [
                throttled_for(o.answer, self._settings)
                for o in outcomes
                if o.answer.verdict is Verdict.THROTTLED
            ]
            if waits:
                await connection.execute(SQL["pause_bot"], tenant_id, channel, timedelta(seconds=max(waits)))


def _answered(outcome: Outcome) -> bool:
    return outcome.answer.verdict in (Verdict.ACCEPTED, Verdict.REFUSED, Verdict.THROTTLED) or (
        outcome.answer.verdict is Verdict.FAULT and outcome.answer.http_status is not None
    )
