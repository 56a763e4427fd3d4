"""Facts into Postgres, and the day cells that follow from them (design §2.5).

In: facts, several versions of an entity among them. Out: rows of rollup.*_facts at the highest version, the cells of
every day that a fact left or entered, and a higher change counter of each tenant touched. Promise: at commit each
such cell is the sum over its facts, whoever else writes at the same time; a lower version never overwrites.

Locks are always taken in one order: facts of a kind by key, then its days by key, kind after kind, then the tenants.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from turnout_common.postgres import Connection, load_queries
from turnout_rollup.facts import ChainFact, Fact, IntentFact, MessageFact, OtherFact

SQL = load_queries("turnout_rollup")
#: The kinds of facts in lock order.
KINDS: dict[type[Fact], str] = {
    ChainFact: "chain",
    IntentFact: "intent",
    OtherFact: "other",
    MessageFact: "message",
}
Day = tuple[str, date]


@dataclass(frozen=True)
class Written:
    """What an upsert changed: how many rows, the days that they left or entered, and whose they are."""

    rows: int
    days: set[Day]
    tenants: set[str]


async def write_facts(connection: Connection, facts: Iterable[Fact]) -> None:
    """Writes `facts`, at most one per entity, where their version is higher, and sums up the days that changed."""
    by_kind: dict[str, list[Fact]] = {kind: [] for kind in KINDS.values()}
    for fact in facts:
        by_kind[KINDS[type(fact)]].append(fact)
    tenants: set[str] = set()
    for kind, rows in by_kind.items():
        written = await upsert_facts(connection, kind, rows)
        await sum_days(connection, kind, written.days)
        tenants |= written.tenants
    await count_changes(connection, tenants)


async def upsert_facts(
    connection: Connection, kind: str, facts: Sequence[Fact], *, mend: bool = False
) -> Written:
    """Rows of one kind, the higher version wins; with `mend` also what differs at the same version."""
    if not facts:
        return Written(0, set(), set())
    rows = await connection.fetch(SQL[f"upsert_{kind}_facts"], *zip(*facts, strict=True), mend)
    days = {(row["tenant_id"], row[side]) for row in rows for side in ("old_day", "new_day") if row[side]}
    return Written(len(rows), days, {row["tenant_id"] for row in rows})


async def sum_days(connection: Connection, kind: str, days: Collection[Day]) -> None:
    """Makes the cells of `days` the sums over their facts, holding the days until commit."""
    if not days:
        return
    tenant_ids, dates = zip(*sorted(days), strict=True)
    await connection.execute(SQL["lock_days"], kind, tenant_ids, dates)
    # A new statement, so that it sees what the last holder of a day committed.
    await connection.execute(SQL[f"sum_{kind}_days"], tenant_ids, dates)
    await connection.execute(SQL[f"drop_empty_{kind}_days"], tenant_ids, dates)


async def count_changes(connection: Connection, tenant_ids: Collection[str]) -> None:
    """Raises the change counter of each tenant; the last lock of a transaction."""
    if tenant_ids:
        await connection.execute(SQL["count_changes"], sorted(tenant_ids))
