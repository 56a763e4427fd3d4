"""`turnout reconcile calcom`: bookings that Cal.com has and no webhook told, since it sends each webhook only once.

In: the tenants' API keys, Cal.com's list of changed bookings, the chains that we have. Out: the gap report; what is
missing is taken in like a webhook (turnout_ingest.reconcile).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

import aiohttp
import asyncpg
from cyclopts import Parameter
from pydantic import ValidationError
from pydantic_core import to_json

from turnout_cli.actor import who
from turnout_cli.calcom_api import API, TIMEOUT, CalcomRefused, changed_bookings
from turnout_cli.connection import Target, TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.inbox_selection import moment, wait_for_room
from turnout_cli.output import Json, print_json, print_table, say
from turnout_common.clock import SystemClock
from turnout_common.events.values import Channel
from turnout_common.postgres import create_pool, load_queries
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import Tenant, audit_act
from turnout_ingest.acceptance import Row
from turnout_ingest.providers.provider import ChannelContext, Delivery, Fate
from turnout_ingest.reconcile import (
    Listed,
    Name,
    Shown,
    Statement,
    rows_for,
    statements_of,
    take_in,
    without_known,
)

SQL = load_queries("turnout_cli", "reconcile_calcom.sql")
_HEADINGS = ("tenant_id", "state", "listed", "known", "recent", "unreadable", "missing", "injected")

State = Literal["done", "no_token", "failed"]


@dataclass
class Gap:
    """What one tenant's list came to. `listed` is the sum of the bookings that are `known`, too `recent` to judge,
    `unreadable`, and those of `bookings`; `missing` counts statements by what they mend, `injected` those taken in now.
    """

    tenant_id: str
    state: State = "done"
    listed: int = 0
    known: int = 0
    recent: int = 0
    unreadable: int = 0
    bookings: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    injected: int = 0
    detail: str = ""


def reconcile_calcom(
    *,
    since: str = "7d",
    tenant: str | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    settled: str = "10m",
    api: Annotated[str, Parameter(env_var="TURNOUT_CALCOM_API_URL")] = API,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Compare Cal.com's bookings with ours, and take in what no webhook told; exit status 1 when a list was not read whole.

    Parameters
    ----------
    since
        Bookings that changed at this time (2026-11-24T08:00Z) or later, or an age: 30m, 2h, 7d.
    tenant
        Only this tenant; otherwise every active one with a Cal.com channel; each needs an API key (tenant channel set --api-token).
    dry_run
        Take nothing in; tell what is missing.
    settled
        What changed more recently than this is left for the next run: its webhook may be on its way.
    api
        Cal.com's API; another for the mock providers.
    """
    now = SystemClock().now()
    place = resolve(target)
    gaps = run(_reconcile(place, tenant, moment(since, now), moment(settled, now), dry_run, api.rstrip("/")))
    if as_json:
        print_json([asdict(gap) for gap in gaps])
    else:
        print_table(_HEADINGS, ([_cell(gap, name) for name in _HEADINGS] for gap in gaps))
    bad = [gap for gap in gaps if gap.state != "done" or gap.unreadable]
    for gap in bad:
        say(f"✗ {gap.tenant_id}: {gap.detail}")
    missing, injected = sum(sum(gap.missing.values()) for gap in gaps), sum(gap.injected for gap in gaps)
    say(
        f"{sum(gap.listed for gap in gaps)} bookings listed, {missing} statements missing, {injected} taken in"
    )
    return 1 if bad else 0


def _cell(gap: Gap, name: str) -> Any:
    value = getattr(gap, name)
    return (
        [f"{number} {what}" for what, number in sorted(value.items())] if isinstance(value, dict) else value
    )


async def _reconcile(
    place: Target, tenant_id: str | None, since: datetime, settled: datetime, dry_run: bool, api: str
) -> list[Gap]:
    tenants = await _tenants(place, tenant_id)
    gaps = []
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session, place.maintenance() as connection:
        for tenant in tenants:
            gap = Gap(tenant.tenant_id)
            gaps.append(gap)
            token = tenant.channels["calcom"].api_token
            if token is None:
                gap.state, gap.detail = "no_token", f"no API key: ./turnout tenant channel set {tenant.tenant_id} calcom --api-token …"  # fmt: skip
                continue
            try:
                rows = await changed_bookings(session, api, token, since)
            except CalcomRefused as refused:
                gap.state, gap.detail = "failed", str(refused)
                continue
            await _mend(connection, tenant, rows, gap, settled, dry_run)
            if gap.injected:
                async with place.platform() as platform:
                    told = {"listed": gap.listed, "injected": gap.injected}
                    await audit_act(platform, tenant.tenant_id, who(), "reconcile.calcom", told)
    return gaps


async def _tenants(place: Target, tenant_id: str | None) -> list[Tenant]:
    """The active tenants with a Cal.com channel. Raises CommandError when the one that is asked for has none."""
    pool = await create_pool(place.platform_dsn, "turnout-cli", 1)
    try:
        directory = TenantDirectory(pool, place.master_key)
        await directory.reload()
    finally:
        await pool.close()
    found = [
        t for t in directory.all() if t.active and "calcom" in t.channels and t.channels["calcom"].enabled
    ]
    if tenant_id is None:
        return sorted(found, key=lambda each: each.tenant_id)
    wanted = [tenant for tenant in found if tenant.tenant_id == tenant_id]
    if not wanted:
        raise CommandError(f"there is no active tenant {tenant_id!r} with a Cal.com channel")
    if wanted[0].channels["calcom"].api_token is None:
        raise CommandError(f"tenant {tenant_id!r} has no API key: ./turnout tenant channel set {tenant_id} calcom --api-token …")  # fmt: skip
    return wanted


async def _mend(
    connection: asyncpg.Connection,
    tenant: Tenant,
    listed: Sequence[dict[str, Any]],
    gap: Gap,
    settled: datetime,
    dry_run: bool,
) -> None:
    """Compares one tenant's list, and takes in what is missing."""
    settled = await connection.fetchval(SQL["settled_until"], settled)
    bookings, bodies = _read(listed, gap)
    shown = await _shown(connection, tenant.tenant_id, bookings)
    uids = {booking.uid for booking in bookings} | {uid for uid, _ in shown}
    keys, now = tenant.sealing_keys(), SystemClock().now()
    context = ChannelContext(tenant.tenant_id, Channel.CALCOM, (), keys)
    judged: list[list[tuple[Statement, Row]]] = []
    for booking, body in zip(bookings, bodies, strict=True):
        if booking.updatedAt > settled:
            gap.recent += 1
            continue
        statements = statements_of(booking, shown, keys, uids)
        rows = rows_for(Delivery(context, {}, body, now), booking, statements)
        judged.append(list(zip(statements, rows, strict=True)))
    new = await without_known(connection, [row for made in judged for _, row in made])
    ids = {row.item_id for row in new}
    gap.bookings = sum(any(row.item_id in ids for _, row in made) for made in judged)
    gap.known = len(judged) - gap.bookings
    gap.missing = dict(Counter(st.missing.value for made in judged for st, row in made if row.item_id in ids))
    if not dry_run and new:
        await wait_for_room(connection)
        gap.injected = (await take_in(connection, new)).count(Fate.PUBLISHED)


def _read(listed: Sequence[dict[str, Any]], gap: Gap) -> tuple[list[Listed], list[bytes]]:
    """The bookings that can be read, with their bytes."""
    bookings, bodies = [], []
    gap.listed = len(listed)
    for row in listed:
        body = to_json(row)
        try:
            bookings.append(Listed.model_validate_json(body))
        except ValidationError:
            gap.unreadable += 1
        else:
            bodies.append(body)
    if gap.unreadable:
        gap.detail = f"{gap.unreadable} listed bookings are not as this version knows them"
    return bookings, bodies


async def _shown(
    connection: asyncpg.Connection, tenant_id: str, bookings: Sequence[Listed]
) -> dict[Name, Shown]:
    names = {
        uid for each in bookings for uid in (each.uid, each.rescheduledFromUid, each.rescheduledToUid) if uid
    }
    return {
        (row["uid"], row["seat"]): Shown(
            row["booking_id"], row["last_uid"], row["status"], row["created_at"], row["start_at"], row["no_show"],
            row["admin_actions"],
        )
        for row in await connection.fetch(SQL["shown"], tenant_id, sorted(names))
    }  # fmt: skip
