"""`turnout inbox`: what came in and what became of it, in words; the raw body only for who holds the master key."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from cyclopts import App, Parameter
from cyclopts.validators import Number

from turnout_cli.actor import who
from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.inbox_channels import channels
from turnout_cli.inbox_release import release
from turnout_cli.inbox_replay import replay
from turnout_cli.inbox_selection import moment
from turnout_cli.output import Json, cell_text, print_json, print_table, say
from turnout_cli.prune_rules import INBOX_DAYS
from turnout_cli.tenant_channels import ChannelName
from turnout_common.clock import SystemClock
from turnout_common.ids import least_id
from turnout_common.postgres import load_queries
from turnout_common.tenants import UnknownTenant, audit_act, tenant_keys

app = App(name="inbox", help="What came in, and its fate.")
SQL = load_queries("turnout_cli", "inbox.sql")

Fate = Literal["published", "ignored", "duplicate", "conflict", "stale", "wrong_tenant", "quarantined"]
_COUNTED = ("tenant_id", "channel", "fate", "items")
_CHECKED = ("tenant_id", "channel", "day", "fate", "counted", "stored")
_HEADINGS = ("received_at", "tenant_id", "channel", "event_type", "fate", "reason", "item_id")


@app.command(name="list")
def list_items(
    *,
    tenant: str | None = None,
    channel: ChannelName | None = None,
    fate: Fate | None = None,
    since: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1))] = 50,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """The newest items, with why each was or was not published.

    Parameters
    ----------
    since
        A time (2026-11-24T08:00Z) or an age: 30m, 2h, 7d.
    limit
        At most this many.
    """
    after = moment(since, SystemClock().now()) if since else None
    rows = run(_list(tenant, channel, fate, after, limit, target))
    if as_json:
        print_json(rows)
        return 0
    print_table(_HEADINGS, ([row[name] for name in _HEADINGS] for row in rows))
    say(f"{len(rows)} items" + (", older ones are left out (--limit)" if len(rows) == limit else ""))
    return 0


async def _list(
    tenant: str | None,
    channel: str | None,
    fate: Fate | None,
    after: datetime | None,
    limit: int,
    target: TargetOption,
) -> list[dict[str, Any]]:
    async with resolve(target).maintenance() as connection:
        rows = await connection.fetch(SQL["list"], tenant, channel, fate, after, limit)
    return [dict(row) for row in rows]


@app.command
def fates(
    *,
    tenant: str | None = None,
    check: Annotated[bool, Parameter(negative=())] = False,
    days: Annotated[int, Parameter(validator=Number(gte=0, lt=INBOX_DAYS))] = 30,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """How many items met which fate; the sum is what was received.

    Parameters
    ----------
    check
        Count the stored items instead, and compare: exit status 1 where a count is not what is stored.
    days
        With --check: the last so many days.
    """
    rows = run(_check_fates(tenant, days, target) if check else _fates(tenant, target))
    if as_json:
        print_json(rows)
    else:
        headings = _CHECKED if check else _COUNTED
        print_table(headings, ([row[name] for name in headings] for row in rows))
    if not check:
        return 0
    say(f"✗ {len(rows)} counts are not what is stored" if rows else "✓ the counts are what is stored")
    return 1 if rows else 0


async def _fates(tenant: str | None, target: TargetOption) -> list[dict[str, Any]]:
    async with resolve(target).maintenance() as connection:
        return [dict(row) for row in await connection.fetch(SQL["fates"], tenant)]


async def _check_fates(tenant: str | None, days: int, target: TargetOption) -> list[dict[str, Any]]:
    """Whole UTC days only, from the first one; what differs."""
    first = SystemClock().now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)
    async with resolve(target).maintenance() as connection:
        rows = await connection.fetch(
            SQL["check_fates"], tenant, first.date(), least_id(first - timedelta(hours=1))
        )
    return [dict(row) for row in rows]


@app.command
def show(
    item_id: UUID,
    *,
    raw: Annotated[bool, Parameter(negative=())] = False,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """One item: where it came from, its fate, the event that was published (contact data stays sealed).

    Parameters
    ----------
    raw
        Print the bytes as they came, instead: needs the master key, holds contact data, and is noted in the audit log.
    """
    if raw:
        sys.stdout.buffer.write(run(_raw(item_id, target)))
        return 0
    row = run(_show(item_id, target))
    if as_json:
        print_json(row)
    else:
        print_table(("field", "value"), ((name, _shown(value)) for name, value in row.items()))
    return 0


def _shown(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict) else cell_text(value)


async def _show(item_id: UUID, target: TargetOption) -> dict[str, Any]:
    async with resolve(target).maintenance() as connection:
        row = await connection.fetchrow(SQL["show"], item_id)
    if row is None:
        raise CommandError(f"there is no item {item_id}")
    found = dict(row)
    return found | {"payload": json.loads(found["payload"]) if found["payload"] else None}


async def _raw(item_id: UUID, target: TargetOption) -> bytes:
    """The opened bytes, of which the audit log holds that they were asked for."""
    place = resolve(target)
    async with place.maintenance() as connection:
        row = await connection.fetchrow(SQL["raw"], item_id)
        if row is None:
            raise CommandError(
                f"no raw bytes are kept of {item_id}: they go after the tenant's raw_days, and of a duplicate only the first has them"
            )
        try:
            keys = await tenant_keys(connection, place.master_key, row["tenant_id"])
        except UnknownTenant as error:
            raise CommandError(str(error)) from error
    opened = keys.open("raw", row["sealed"])
    async with place.platform() as platform:  # before anybody sees it: what is not noted is not shown
        await audit_act(platform, row["tenant_id"], who(), "inbox.show_raw", {"item_id": str(item_id)})
    return opened


app.command(replay)
app.command(release)
app.command(channels)
