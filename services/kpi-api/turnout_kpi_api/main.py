"""kpi-api: serves KPIs. In: HTTP. Out: JSON, read from rollup's tables by a role that can only read.

Promise: a caller sees their own tenant's rows, and every number is exact as of the `asOf` that comes with it.
"""

from __future__ import annotations

import sys

from turnout_common.clock import SystemClock
from turnout_common.postgres import create_pool
from turnout_common.runtime import run_process, serve, settings_to_start
from turnout_kpi_api.app import Parts, create_app
from turnout_kpi_api.auth import Access
from turnout_kpi_api.reads import Reads
from turnout_kpi_api.settings import KpiApiSettings


async def run(settings: KpiApiSettings) -> int:
    """Runs until a signal; gives the exit status."""
    clock = SystemClock()
    pool = await create_pool(settings.postgres_dsn.get_secret_value(), "kpi-api", settings.kpi_pool_size)
    try:
        access = Access(pool, demo_is_open=settings.demo_is_open)
        return await serve(create_app(Parts(Reads(pool, clock), access, clock)), settings, {})
    finally:
        await pool.close()


if __name__ == "__main__":
    sys.exit(run_process(run(settings_to_start("kpi-api", KpiApiSettings))))
