"""`turnout booking refold`: applies changed rules and settings to stored items, online (design §2.3).

In: chains whose `fold_basis` is not the one in force. Out: new versions where the state is another one now. Pages of
chains in transactions of their own, under the same locks as the consumers: it may be stopped and started at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from turnout_booking.batch import Task, apply
from turnout_booking.tenant_rules import SQL, TenantRules, read_rules
from turnout_common.clock import Clock, SystemClock
from turnout_common.postgres import Connection
from turnout_common.tenants import UnknownTenant

PAGE_CHAINS = 200
FIRST = UUID(int=0)
#: Called with (done, total).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Refolded:
    """How many chains were folded again, and how many events that wrote."""

    chains: int
    events: int


async def refold(
    pool: asyncpg.Pool,
    tenant_id: str | None = None,
    progress: Progress = lambda done, total: None,
    *,
    everything: bool = False,
    clock: Clock | None = None,
) -> Refolded:
    """Folds again what older rules or settings made, of one tenant or of all; `everything`: every chain.

    `pool` is role turnout_booking's. The events go out by the running service's relay. Raises UnknownTenant.
    """
    async with pool.acquire() as connection:
        rules = await read_rules(connection, None if tenant_id is None else [tenant_id])
        if tenant_id is not None and tenant_id not in rules:
            raise UnknownTenant(f"there is no tenant {tenant_id!r}")
        total = 0
        for each in rules.values():
            total += await connection.fetchval(
                SQL["count_to_refold"], each.tenant_id, each.fold_basis, everything
            )
        done = Refolded(0, 0)
        for each in rules.values():
            before = done.chains

            def report(part: Refolded, before: int = before) -> None:
                progress(before + part.chains, total)

            part = await refold_tenant(connection, each, clock or SystemClock(), report, everything)
            done = Refolded(done.chains + part.chains, done.events + part.events)
        return done


async def refold_tenant(
    connection: Connection,
    rules: TenantRules,
    clock: Clock,
    report: Callable[[Refolded], None] = lambda done: None,
    everything: bool = False,
) -> Refolded:
    """One tenant, page by page."""
    after, done = FIRST, Refolded(0, 0)
    while True:
        page = await connection.fetch(
            SQL["next_to_refold"], rules.tenant_id, after, rules.fold_basis, everything, PAGE_CHAINS
        )
        if not page:
            return done
        ids = [row["booking_id"] for row in page]
        events = await _refold_page(connection, rules.tenant_id, ids, clock.now())
        after = ids[-1]
        done = Refolded(done.chains + len(ids), done.events + events)
        report(done)


async def _refold_page(connection: Connection, tenant_id: str, ids: list[UUID], now: datetime) -> int:
    """A page as one transaction; chain by chain when one of them was merged meanwhile."""
    task = Task(refold=ids, tenant_ids=frozenset({tenant_id}))
    try:
        async with connection.transaction():
            return (await apply(connection, task, now)).events
    except asyncpg.SerializationError:
        if len(ids) == 1:
            return 0
    return sum([await _refold_page(connection, tenant_id, [booking_id], now) for booking_id in ids])
