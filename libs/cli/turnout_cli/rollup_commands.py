"""`turnout rollup`: the aggregates against the truth, made anew, and the scheduled check that mends."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import asyncpg
from cyclopts import App, Parameter

from turnout_cli.connection import TargetOption, resolve
from turnout_cli.connection import run as run_here
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, print_json, progress_bar, say
from turnout_common.tenants import UnknownTenant
from turnout_rollup.rebuild import Progress as Told
from turnout_rollup.rebuild import rebuild as rebuild_tenant
from turnout_rollup.repair import Granularity, Run
from turnout_rollup.repair import run as run_check
from turnout_rollup.verify import Report, tenant_ids
from turnout_rollup.verify import verify as verify_tenants

app = App(name="rollup", help="The aggregates: verify, rebuild, the scheduled run.")
SHOWN = 20
Resume = Annotated[bool, Parameter(negative=())]


@app.command
def verify(
    *,
    tenant: str | None = None,
    wait: float = 10.0,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Compare facts and day cells with the logs by independent SQL; exit status 0 only where nothing differs.

    Parameters
    ----------
    tenant
        One tenant; all without it.
    wait
        Seconds to give events that are still on their way before they count as missing.
    """
    with progress_bar("tenants") as told:
        report = run_here(_verify(target, tenant, wait, told))
    if as_json:
        print_json(report.as_dict())
    show(report)
    return 0 if report.ok else 1


@app.command
def rebuild(
    *,
    tenant: str | None = None,
    resume: Resume = False,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Make facts and day cells anew from the logs, while everything runs on.

    Parameters
    ----------
    tenant
        One tenant; all without it.
    resume
        Go on where a rebuild was cut off instead of beginning again.
    """
    started = time.monotonic()
    with progress_bar("entities") as told:
        mended = run_here(_rebuild(target, tenant, resume, told))
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        print_json({"mended": mended, "seconds": seconds})
    rows = f"{sum(mended.values()):,} facts were not what the logs say"
    say(f"✓ {len(mended)} tenants rebuilt in {seconds} s; {rows}")
    return 0


@app.command
def run(
    *,
    granularity: Granularity,
    tenant: str | None = None,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Verify the recent window and mend what drifted; exit status 1 when anything had, mended or not.

    Parameters
    ----------
    granularity
        `hourly` looks at the last 2 days, `daily` at the last 35.
    """
    with progress_bar("tenants") as told:
        result = run_here(_run(target, granularity, tenant, told))
    if as_json:
        print_json(result.as_dict())
    show(result.found)
    if not result.found.ok:
        left = len(result.left.drift) + len(result.left.missing) + len(result.left.outdated)
        say(f"✗ {left} of it could not be mended" if left else "✓ all of it is mended")
    return 0 if result.ok else 1


async def _verify(target: TargetOption, tenant: str | None, wait: float, told: Told) -> Report:
    deadline = time.monotonic() + wait
    async with resolve(target).maintenance() as connection:
        await known(connection, tenant)
        while True:
            report = await verify_tenants(connection, tenant, progress=told)
            on_its_way = report.missing and not report.drift
            if not on_its_way or time.monotonic() > deadline:
                return report
            await asyncio.sleep(1.0)


async def _rebuild(target: TargetOption, tenant: str | None, resume: bool, told: Told) -> dict[str, int]:
    async with resolve(target).maintenance() as connection:
        tenants = await known(connection, tenant)
        return {name: await rebuild_tenant(connection, name, told, resume=resume) for name in tenants}


async def _run(target: TargetOption, granularity: Granularity, tenant: str | None, told: Told) -> Run:
    async with resolve(target).maintenance() as connection:
        await known(connection, tenant)
        return await run_check(connection, granularity, tenant, told)


async def known(connection: asyncpg.Connection, tenant: str | None) -> list[str]:
    """The tenants that are meant. Raises CommandError for one that is not there."""
    try:
        return await tenant_ids(connection, tenant)
    except UnknownTenant as error:
        raise CommandError(f"there is no tenant {tenant!r}; `./turnout tenant list` shows them") from error


def show(report: Report) -> None:
    """What was found, in words."""
    for name in report.outdated:
        say(
            f"✗ {name}: facts are not made by its present settings; the service makes them anew, or `rollup rebuild`"
        )
    for found in (report.drift, report.missing):
        for each in found[:SHOWN]:
            say(f"✗ {each}")
        if len(found) > SHOWN:
            say(f"✗ and {len(found) - SHOWN:,} more")
    looked_at = f"{report.facts:,} facts of {report.tenants} tenants, and their day cells"
    if report.ok:
        say(f"✓ {looked_at}, are what the logs say")
    else:
        say(f"✗ {looked_at}: {len(report.drift):,} drifted, {len(report.missing):,} missing")
