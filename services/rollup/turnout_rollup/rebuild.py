"""Facts again from the logs, while the consumers go on (design §2.5).

In: each entity's highest version in booking.truth and sender.truth. Out: facts and cells that equal them. Promises: a
row that is right already is left alone; a page is one transaction, so a rebuild that was cut off goes on where it
stopped; a newer version that a consumer brings meanwhile wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from turnout_common.events import ChainState, FactState, IntentState, MessageEvent
from turnout_common.postgres import Connection, load_queries
from turnout_rollup.facts import Fact, Rules, chain_fact, intent_fact, message_fact, other_fact
from turnout_rollup.store import KINDS, count_changes, sum_days, upsert_facts
from turnout_rollup.tenant_rules import adopt_rules, begin_rebuild, share_rules

SQL = load_queries("turnout_rollup", "rebuild.sql")
PAGE = 2000
STEPS = (*KINDS.values(), "days", "done")
START = UUID(int=0)

#: Called with how many entities are done and how many there are, roughly.
Progress = Callable[[int, int], None]


def silent(_done: int, _total: int) -> None:
    """Reports nothing."""


async def rebuild(
    connection: Connection, tenant_id: str, progress: Progress = silent, *, resume: bool = False
) -> int:
    """Makes the tenant's facts and cells anew by its present settings; how many rows were not what the log says.

    With `resume` an unfinished rebuild goes on. Raises UnknownTenant.
    """
    changed_rules = await adopt_rules(connection, tenant_id)
    if not resume and not changed_rules:
        await begin_rebuild(connection, tenant_id)
    total = await connection.fetchval(SQL["count_entities"], tenant_id)
    while await rebuild_page(connection, tenant_id):
        row = await connection.fetchrow(SQL["rebuild_progress"], tenant_id)
        assert row is not None
        progress(min(row["entities"], total), total)
    row = await connection.fetchrow(SQL["rebuild_progress"], tenant_id)
    progress(total, total)
    return int(row["mended"]) if row else 0


async def rebuild_page(connection: Connection, tenant_id: str) -> bool:
    """Does the next page of the tenant's rebuild; False when there is none."""
    async with connection.transaction():
        rules = (await share_rules(connection, [tenant_id]))[tenant_id]
        at = await connection.fetchrow(SQL["claim_rebuild"], tenant_id)
        if at is None:
            return False
        step, after = at["step"], at["after_id"]
        if step == "days":
            await _sum_all_days(connection, tenant_id)
            await connection.execute(SQL["note_page"], tenant_id, "done", START, 0, 0)
            return True
        rows = await connection.fetch(SQL[f"next_{step}_ids"], tenant_id, after, PAGE)
        ids = [row["id"] for row in rows]
        mended = await remake(connection, tenant_id, step, ids, rules)
        last = len(ids) < PAGE
        following = STEPS[STEPS.index(step) + 1] if last else step
        await connection.execute(
            SQL["note_page"], tenant_id, following, START if last else ids[-1], len(ids), mended
        )
    return True


async def remake(connection: Connection, tenant_id: str, kind: str, ids: Sequence[UUID], rules: Rules) -> int:
    """Makes the facts of these entities what the log says, in the open transaction; how many were not."""
    dropped = await connection.fetch(SQL[f"drop_unknown_{kind}_facts"], tenant_id, ids)
    heads = await connection.fetch(SQL[f"{kind}_heads"], tenant_id, ids)
    facts = [_fact(tenant_id, kind, head, rules) for head in heads]
    written = await upsert_facts(connection, kind, facts, mend=True)
    dropped_days = {(tenant_id, row["day"]) for row in dropped if row["day"]}
    await sum_days(connection, kind, written.days | dropped_days)
    await count_changes(connection, [tenant_id] if written.rows or dropped else [])
    unknown = {row["id"] for row in dropped} - {head["id"] for head in heads}
    return written.rows + len(unknown)


async def _sum_all_days(connection: Connection, tenant_id: str) -> None:
    for kind in KINDS.values():
        rows = await connection.fetch(SQL[f"{kind}_days"], tenant_id)
        await sum_days(connection, kind, [(tenant_id, row["day"]) for row in rows])
    await count_changes(connection, [tenant_id])


def _fact(tenant_id: str, kind: str, head: Any, rules: Rules) -> Fact:
    entity, version, state = head["id"], head["version"], head["state"]
    match kind:
        case "chain":
            chain = ChainState.model_validate_json(state, extra="ignore")
            return chain_fact(tenant_id, entity, version, chain, rules)
        case "intent":
            intent = IntentState.model_validate_json(state, extra="ignore")
            return intent_fact(tenant_id, entity, version, intent, rules)
        case "other":
            fact = FactState.model_validate_json(state, extra="ignore")
            return other_fact(tenant_id, entity, version, fact, rules)
        case _:
            return message_fact(MessageEvent.model_validate_json(state, extra="ignore"), rules)
