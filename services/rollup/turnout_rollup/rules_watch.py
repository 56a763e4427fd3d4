"""Notices that a tenant's settings changed, and makes its facts anew, beside the consumers.

In: platform.tenants, every `tenant_reload_seconds`; rebuilds that were begun and not finished, whoever began them. Out:
facts by the rules that are configured now.
"""

from __future__ import annotations

import asyncio
import random

import asyncpg
import structlog

from turnout_common import metrics
from turnout_common.postgres import is_transient
from turnout_common.tenants import UnknownTenant
from turnout_rollup.rebuild import SQL, rebuild_page
from turnout_rollup.tenant_rules import adopt_rules, tenants_with_new_rules

log = structlog.get_logger()


class RulesWatch:
    """One loop in every replica; two on the same rebuild take turns, page by page."""

    def __init__(self, pool: asyncpg.Pool, every_seconds: float) -> None:
        self._pool = pool
        self._every_seconds = every_seconds

    async def run(self) -> None:
        while True:
            try:
                await self.check()
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("the watch on settings waits", error=repr(error)[:300])
            await asyncio.sleep(self._every_seconds * random.uniform(0.9, 1.1))

    async def check(self) -> int:
        """One round; how many tenants were rebuilt."""
        async with self._pool.acquire() as connection:
            for tenant_id in await tenants_with_new_rules(connection):
                await adopt_rules(connection, tenant_id)
            unfinished = [row["tenant_id"] for row in await connection.fetch(SQL["unfinished_rebuilds"])]
            for row in await connection.fetch(SQL["last_runs"]):
                metrics.ROLLUP_DRIFT.labels(row["granularity"]).set(row["drift"] + row["missing"])
        for tenant_id in unfinished:
            await self._rebuild(tenant_id)
        return len(unfinished)

    async def _rebuild(self, tenant_id: str) -> None:
        more = True
        try:
            while more:
                async with self._pool.acquire() as connection:
                    more = await rebuild_page(connection, tenant_id)
        except UnknownTenant:
            return
        log.info("facts made anew", tenant_id=tenant_id)
