"""`turnout inbox channels`: when each channel last brought something, and which ones used to and do not."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.inbox_selection import SQL
from turnout_cli.output import Json, print_json, print_table, say

_HEADINGS = ("tenant_id", "channel", "last_seen", "items_7_days", "silent")


def channels(
    *,
    tenant: str | None = None,
    silent: Annotated[bool, Parameter(negative=())] = False,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """When each channel that is on last brought an item, and which ones fell silent.

    Parameters
    ----------
    silent
        Only the silent ones: they spoke on 8 of the 14 days up to their last item, and nothing came for their longest
        way from one such day to the next and half a day.
    """
    rows = run(_channels(tenant, silent, target))
    if as_json:
        print_json(rows)
        return 0
    print_table(_HEADINGS, ([row[name] for name in _HEADINGS] for row in rows))
    say(f"{len(rows)} channels, {sum(row['silent'] for row in rows)} of them silent")
    return 0


async def _channels(tenant: str | None, silent: bool, target: TargetOption) -> list[dict[str, Any]]:
    async with resolve(target).maintenance() as connection:
        return [dict(row) for row in await connection.fetch(SQL["channels"], tenant, silent)]
