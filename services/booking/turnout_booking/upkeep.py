"""What booking does from time to time, beside its consumers; safe in every replica at once.

Parked items whose uid was founded while they were being parked are linked; those that waited for 72 h are quarantined.
Changed settings and rules are applied to stored chains. The next months' partitions of booking_events are made.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import timedelta

import asyncpg
import structlog

from turnout_booking.batch import ChainTooLong, Task, apply
from turnout_booking.intake import Ref
from turnout_booking.refold import refold_tenant
from turnout_booking.tenant_rules import SQL, read_rules
from turnout_common.clock import Clock
from turnout_common.postgres import Connection, is_transient

log = structlog.get_logger()
PARKED_FOR = timedelta(hours=72)
LINK_ROWS = 500


class Upkeep:
    """`after_commit` is called when events were written (to wake the relay)."""

    def __init__(
        self, pool: asyncpg.Pool, clock: Clock, every_seconds: float, after_commit: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._every_seconds = every_seconds
        self._after_commit = after_commit

    async def run(self) -> None:
        while True:
            for duty in (self.add_partitions, self.link_parked, self.quarantine_parked, self.refold_changed):
                try:
                    await duty()
                except Exception as error:
                    if not is_transient(error):
                        raise
                    log.warning("upkeep waits", duty=duty.__name__, error=repr(error)[:300])
            await asyncio.sleep(self._every_seconds * random.uniform(0.9, 1.1))

    async def add_partitions(self) -> int:
        return int(await self._pool.fetchval(SQL["add_partitions"]))

    async def link_parked(self) -> int:
        """Applies what was parked in the moment in which its uid was founded elsewhere."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(SQL["linkable_parked"], LINK_ROWS)
            return await self._link(connection, sorted({Ref(*row) for row in rows}))

    async def _link(self, connection: Connection, refs: Sequence[Ref]) -> int:
        """All as one transaction; ref by ref where a chain is full, whose items are then quarantined."""
        try:
            async with connection.transaction():
                applied = await apply(connection, Task(unpark=refs), self._clock.now())
        except ChainTooLong as error:
            if len(refs) > 1:
                return sum([await self._link(connection, [ref]) for ref in refs])
            await connection.execute(SQL["quarantine_ref"], *refs[0], self._clock.now())
            log.warning("items are quarantined", tenant_id=refs[0].tenant_id, reason=str(error))
            return 0
        if applied.events:
            self._after_commit()
        return applied.chains

    async def quarantine_parked(self) -> int:
        now = self._clock.now()
        rows = await self._pool.fetch(SQL["quarantine_parked"], now - PARKED_FOR, now)
        if rows:
            tenants = sorted({row["tenant_id"] for row in rows})
            log.warning(
                "items about bookings that nobody knows are quarantined", items=len(rows), tenants=tenants
            )
        return len(rows)

    async def refold_changed(self) -> int:
        """Twice for each change: the second pass finds what transactions made that had read the settings before."""
        refolded = 0
        async with self._pool.acquire() as connection:
            known = {row["tenant_id"]: row for row in await connection.fetch(SQL["read_tenant_folds"])}
            for rules in (await read_rules(connection, None)).values():
                row = known.get(rules.tenant_id)
                same = row is not None and row["fold_basis"] == rules.fold_basis
                if row is not None and same and (row["settled"] or not row["may_settle"]):
                    continue
                done = await refold_tenant(connection, rules, self._clock)
                await connection.execute(SQL["write_tenant_fold"], rules.tenant_id, rules.fold_basis, same)
                if done.chains:
                    log.info(
                        "bookings folded again",
                        tenant_id=rules.tenant_id,
                        chains=done.chains,
                        events=done.events,
                    )
                    self._after_commit()
                refolded += done.chains
        return refolded
