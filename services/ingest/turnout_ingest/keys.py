"""Who holds an idempotency key (design §2.2): the first item that brought it, until its window has passed.

In: rows, in the transaction that stores them. Out: the holder of each key. Promise: a key has one holder whatever
runs at the same time; one whose window has passed is free, pruned or not (Telegram's update_id starts again at random);
an item whose commit's answer was lost finds itself the holder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from turnout_common.postgres import Connection, load_queries
from turnout_ingest.acceptance import Row
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.settling import Holder, KeyOf

SQL = load_queries("turnout_ingest")
#: A key outlives the window of the stale rule by two hours, so that nothing that passes that rule finds its key gone: one
#: for times that may lie ahead, one for clocks that differ.
KEPT_HOURS = {provider.channel.value: provider.key_days * 24 + 2 for provider in PROVIDERS.values()}


async def claim(connection: Connection, rows: Sequence[Row]) -> dict[KeyOf, Holder]:
    """Who holds each key of `rows`, and with what content: the first row here that has it, or an item received before."""
    first: dict[KeyOf, Row] = {}
    for row in rows:
        first.setdefault(row.key, row)
    holders = await _insert(connection, first, sorted(first))
    while taken := [key for key in sorted(first) if key not in holders]:
        found = await connection.fetch(SQL["read_keys"], *_columns(taken))
        holders |= {tuple(record[:3]): (record[4], record[3]) for record in found if not record[5]}
        if free := [tuple(record[:3]) for record in found if record[5]]:
            holders |= await _take_over(connection, first, sorted(free))
        if gone := [key for key in taken if key not in holders]:
            holders |= await _insert(connection, first, gone)
    return holders


async def _insert(
    connection: Connection, first: Mapping[KeyOf, Row], keys: list[KeyOf]
) -> dict[KeyOf, Holder]:
    return await _claimed(connection, SQL["claim_keys"], first, keys)


async def _take_over(
    connection: Connection, first: Mapping[KeyOf, Row], keys: list[KeyOf]
) -> dict[KeyOf, Holder]:
    return await _claimed(connection, SQL["take_over_keys"], first, keys)


async def _claimed(
    connection: Connection, sql: str, first: Mapping[KeyOf, Row], keys: list[KeyOf]
) -> dict[KeyOf, Holder]:
    """The keys that are ours now; those missing went to somebody else meanwhile."""
    claimed = await connection.fetch(
        sql, *_columns(keys), [first[key].content_hash for key in keys], [first[key].item_id for key in keys],
        [KEPT_HOURS[key[1]] for key in keys],
    )  # fmt: skip
    ours = {record[0] for record in claimed}
    holders = ((key, first[key]) for key in keys)
    return {key: (row.item_id, row.content_hash) for key, row in holders if row.item_id in ours}


def _columns(keys: Sequence[KeyOf]) -> tuple[list[str], list[str], list[bytes]]:
    return [key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys]
