"""`turnout inbox replay`: published items once more on the topic; what a reader applied stays applied."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import asyncpg
from cyclopts import Parameter

from turnout_cli.actor import who
from turnout_cli.connection import Target, TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.inbox_selection import SQL, Selection, selection, wait_for_room
from turnout_cli.output import Json, Told, print_json, progress_bar, say
from turnout_cli.tenant_channels import ChannelName
from turnout_common.ids import least_id
from turnout_common.tenants import audit_act

BATCH_ITEMS = 1000
Flag = Annotated[bool, Parameter(negative=())]
Ids = Annotated[list[UUID] | None, Parameter(name="ID", negative=())]


def replay(
    item_ids: Ids = None,
    *,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    tenant: str | None = None,
    channel: ChannelName | None = None,
    event_type: str | None = None,
    since: str | None = None,
    until: str | None = None,
    dry_run: Flag = False,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Publish items again, under the ids that they have: what a service applied stays applied.

    Parameters
    ----------
    item_ids
        Which ones; or by what they have in common; or --all.
    every
        All published items whose payload is kept.
    since
        Received at this time (2026-11-24T08:00Z) or later, or an age: 30m, 2h, 7d.
    until
        Received before this time, or an age.
    dry_run
        Change nothing; tell how many are meant.
    """
    wanted = selection(
        item_ids, every, tenant=tenant, channel=channel, event_type=event_type, since=since, until=until
    )
    with progress_bar("items") as told:
        meant, queued = run(_replay(resolve(target), wanted, dry_run, told))
    if as_json:
        print_json({"meant": meant, "queued": queued, "dry_run": dry_run})
    say(f"{meant:,} items would be published again" if dry_run else f"✓ {queued:,} items are published again")
    return 0


async def _replay(place: Target, wanted: Selection, dry_run: bool, told: Told) -> tuple[int, int]:
    async with place.maintenance() as connection:
        conditions = _conditions(wanted, await _lowest_seq(connection, wanted))
        meant = int(await connection.fetchval(SQL["count_replay"], *conditions))
        if wanted.item_ids and meant < len(set(wanted.item_ids)):
            missing = len(set(wanted.item_ids)) - meant
            raise CommandError(
                f"{missing} of them cannot be published again: not there, never published, or their payload was erased"
            )
        if dry_run or not meant:
            return meant, 0
        return meant, await _queue(place, connection, wanted, conditions, meant, told)


async def _queue(
    place: Target,
    connection: asyncpg.Connection,
    wanted: Selection,
    conditions: list[Any],
    meant: int,
    told: Told,
) -> int:
    """Inserts into the outbox, batch by batch, as fast as the relay takes it; notes the act even when it is cut off."""
    queued = 0
    async with place.platform() as platform:
        try:
            while True:
                await wait_for_room(connection)
                row = await connection.fetchrow(SQL["queue_replay"], *conditions, BATCH_ITEMS)
                if row is None or row["last_seq"] is None:
                    return queued
                queued += row["items"]
                conditions[0] = row["last_seq"]
                told(queued, max(meant, queued))
        finally:
            await audit_act(
                platform, wanted.tenant, who(), "inbox.replay", wanted.described() | {"items": queued}
            )


async def _lowest_seq(connection: asyncpg.Connection, wanted: Selection) -> int:
    """Where to begin: seq follows arrival, so what was received since a time lies beyond its first item."""
    if wanted.since is None:
        return 0
    return int(await connection.fetchval(SQL["seq_before"], least_id(wanted.since)) or 0)


def _conditions(wanted: Selection, after: int) -> list[Any]:
    return [
        after, wanted.item_ids, wanted.tenant, wanted.channel, wanted.event_type, wanted.since, wanted.until,
    ]  # fmt: skip
