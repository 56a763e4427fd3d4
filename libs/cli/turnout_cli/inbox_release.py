"""`turnout inbox release`: quarantined items through today's adapters, after the schema was mended."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated, Literal

import asyncpg
from cyclopts import Parameter

from turnout_cli.actor import who
from turnout_cli.connection import Target, TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.inbox_replay import Flag, Ids
from turnout_cli.inbox_selection import Selection, selection, wait_for_room
from turnout_cli.output import Json, Told, print_json, print_table, progress_bar, say
from turnout_cli.tenant_channels import ChannelName
from turnout_common.tenants import audit_act
from turnout_ingest.providers.provider import Fate
from turnout_ingest.release import Outcome, Release, Wanted

SHOWN = 50


def release(
    item_ids: Ids = None,
    *,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    fate: Literal["quarantined", "wrong_tenant"] = "quarantined",
    tenant: str | None = None,
    channel: ChannelName | None = None,
    event_type: str | None = None,
    since: str | None = None,
    until: str | None = None,
    dry_run: Flag = False,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Take quarantined items in, now that the schema is mended: their bytes go through today's adapters.

    Exit status 1 when an item that was named by its id still does not fit.

    Parameters
    ----------
    item_ids
        Which ones; or by what they have in common; or --all.
    every
        All quarantined items.
    fate
        `wrong_tenant`: after a channel's routing id was mended.
    since
        Received at this time (2026-11-24T08:00Z) or later, or an age: 30m, 2h, 7d.
    until
        Received before this time, or an age.
    dry_run
        Change nothing; tell what would become of each.
    """
    wanted = selection(
        item_ids, every, tenant=tenant, channel=channel, event_type=event_type, since=since, until=until
    )
    with progress_bar("items") as told:
        outcomes = run(_release(resolve(target), wanted, Fate(fate), dry_run, told))
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        _show(outcomes)
    moved = Counter(fate for outcome in outcomes if outcome.moved for fate in outcome.fates)
    words = ", ".join(f"{number:,} {name}" for name, number in sorted(moved.items())) or "none"
    kept = sum(not outcome.moved for outcome in outcomes)
    say(
        f"{len(outcomes):,} items {'would be' if dry_run else 'were'} judged anew: {words}; {kept:,} stay {fate}"
    )
    return 1 if item_ids and kept else 0


async def _release(place: Target, wanted: Selection, fate: Fate, dry_run: bool, told: Told) -> list[Outcome]:
    meant = Wanted(
        fate, wanted.item_ids, wanted.tenant, wanted.channel, wanted.event_type, wanted.since, wanted.until
    )  # fmt: skip
    async with place.maintenance() as connection:
        releasing = Release(connection, place.master_key, meant, dry_run=dry_run)
        total = await releasing.count()
        if wanted.item_ids and total < len(set(wanted.item_ids)):
            raise CommandError(
                f"{len(set(wanted.item_ids)) - total} of them are not there, or not {fate.value}"
            )
        outcomes: list[Outcome] = []
        if dry_run:
            while batch := await releasing.batch():
                _note(batch, outcomes, total, told)
            return outcomes
        async with place.platform() as platform:
            try:
                while batch := await _paced(connection, releasing):
                    _note(batch, outcomes, total, told)
            finally:
                released = sum(outcome.moved for outcome in outcomes)
                details = wanted.described() | {"fate": fate.value, "released": released}
                await audit_act(platform, wanted.tenant, who(), "inbox.release", details)
        return outcomes


async def _paced(connection: asyncpg.Connection, releasing: Release) -> list[Outcome]:
    await wait_for_room(connection)
    return await releasing.batch()


def _note(batch: list[Outcome], outcomes: list[Outcome], total: int, told: Told) -> None:
    outcomes += batch
    told(len(outcomes), max(total, len(outcomes)))


def _show(outcomes: list[Outcome]) -> None:
    headings = ("item_id", "tenant_id", "channel", "event_type", "was", "fates", "reason")
    rows = ([getattr(outcome, name) for name in headings] for outcome in outcomes[:SHOWN])
    print_table(headings, rows)
    if len(outcomes) > SHOWN:
        say(f"and {len(outcomes) - SHOWN:,} more (--json prints all)")
