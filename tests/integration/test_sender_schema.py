"""The sender's schema: every query prepares and is used, each role sees its part, the log only grows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

import turnout_sender
from tests.conftest import MASTER_KEY
from tests.contract.salon import TENANT, create_salon
from tests.infrastructure import ROLES, Database, Infrastructure
from tests.integration.sender_world import World, insert_row, sender_world
from turnout_cli import contract_files
from turnout_common.clock import SystemClock
from turnout_common.consumer import Received
from turnout_common.events import ReceiptItem
from turnout_common.events.envelope import from_headers, parse_event
from turnout_common.postgres import load_queries
from turnout_common.recovery import SQL as RECOVERY
from turnout_sender.handlers import HANDLERS, TOPICS
from turnout_sender.operations import WATCHES

QUERIES = load_queries("turnout_sender")
ALL = {"SELECT", "INSERT", "UPDATE", "DELETE"}


@pytest.fixture(scope="module")
async def world(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[World]:
    async with sender_world(database, infrastructure, topic_prefix) as made:
        yield made


@pytest.mark.parametrize("name", QUERIES)
async def test_query_prepares_as_the_senders_role(database: Database, name: str) -> None:
    connection = await asyncpg.connect(database.dsn("sender"))
    try:
        statement = await connection.prepare(QUERIES[name])
        assert statement.get_query() == QUERIES[name]
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("name", "parameters", "condition"),
    [
        ("due", "now(), '{}', '1 second'", "Index Cond: (next_attempt_at <= $1)"),
        ("contacts", "'{t}', '{00000000-0000-0000-0000-000000000001}'", "Index Cond: (client_id = u.i)"),
        ("find_orphans", "now(), '1 minute'", "Index Cond: (claimed_at < "),
    ],
)
async def test_query_of_every_round_goes_by_its_index(
    database: Database, name: str, parameters: str, condition: str
) -> None:
    connection = await asyncpg.connect(database.dsn("sender"))
    await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE looked_at AS {QUERIES[name]}")
    plan = "\n".join(
        r[0] for r in await connection.fetch(f"EXPLAIN (COSTS off) EXECUTE looked_at({parameters})")
    )
    await connection.close()

    assert condition in plan, plan


def test_every_query_is_used() -> None:
    source = "\n".join(path.read_text() for path in Path(turnout_sender.__path__[0]).rglob("*.py"))

    assert [name for name in QUERIES if f'"{name}"' not in source] == []


async def test_recovery_check_may_read_what_its_readers_publish(database: Database) -> None:
    connection = await asyncpg.connect(database.dsn("sender"))
    try:
        for watch in WATCHES:
            for text in RECOVERY.values():
                await connection.prepare(text.format(schema="sender", reader=watch.reader_schema))
    finally:
        await connection.close()

    assert {watch.name for watch in WATCHES} == {"message_events>rollup", "message_events>booking"}


async def test_only_the_sender_and_maintenance_may_touch_its_tables(database: Database) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    rows = await connection.fetch(
        """SELECT c.relname AS name, r.role, p.privilege
        FROM pg_class c, unnest($1::text[]) AS r(role), unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p(privilege)
        WHERE c.relnamespace = 'sender'::regnamespace AND c.relkind IN ('r', 'v')
          AND has_table_privilege('turnout_' || r.role, c.oid, p.privilege)""",
        list(ROLES),
    )  # fmt: skip
    await connection.close()
    granted: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        granted.setdefault(row["name"], {}).setdefault(row["role"], set()).add(row["privilege"])

    assert granted.pop("truth") == {"rollup": {"SELECT"}, "maintenance": {"SELECT"}}
    assert granted.pop("oldest_unpublished") == {"kpi": {"SELECT"}}
    assert granted.pop("message_log") == {
        "sender": {"SELECT", "INSERT"},
        "maintenance": {"SELECT", "INSERT", "DELETE"},
    }
    assert len(granted) >= 12
    assert {
        name: roles for name, roles in granted.items() if roles != {"sender": ALL, "maintenance": ALL}
    } == {}


async def test_log_only_grows_and_a_tenants_deletion_alone_takes_from_it(world: World) -> None:
    await insert_row(
        world.admin, "sender.message_log", tenant_id="gone", message_id=uuid4(), version=1,
        occurred_at=SystemClock().now(), status="accepted", queue="tx", template="confirmation",
        gives_receipts=False, attempts=1,
    )  # fmt: skip
    for statement in (
        "UPDATE sender.message_log SET status = 'failed'",
        "DELETE FROM sender.message_log",
        "TRUNCATE sender.message_log",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await world.admin.execute(statement)
    maintenance = await asyncpg.connect(world.database.dsn("maintenance"))
    done = await maintenance.execute("DELETE FROM sender.message_log WHERE tenant_id = 'gone'")
    await maintenance.close()

    assert done == "DELETE 1"


async def test_views_answer_their_readers(world: World) -> None:
    salon = await world.salon()
    plan = (await salon.appointment()).planned()
    await world.say(plan)
    async with world.sending():
        await world.until_status(plan, "accepted")

    rollup = await asyncpg.connect(world.database.dsn("rollup"))
    kpi = await asyncpg.connect(world.database.dsn("kpi"))
    versions = await rollup.fetch(
        "SELECT version, status FROM sender.truth WHERE message_id = $1 ORDER BY 1", plan.message_id
    )
    oldest = await kpi.fetchval("SELECT oldest_at FROM sender.oldest_unpublished")
    await rollup.close()
    await kpi.close()

    assert [tuple(row) for row in versions] == [(1, "attempted"), (2, "accepted")]
    assert oldest == await world.admin.fetchval("SELECT min(created_at) FROM sender.outbox")


async def test_event_that_is_published_again_is_the_same_event(world: World) -> None:
    salon = await world.salon()
    plan = (await salon.appointment()).planned()
    await world.say(plan)
    async with world.sending():
        await world.until_status(plan, "accepted")
    rows = "SELECT * FROM sender.outbox WHERE subject = $1 ORDER BY outbox_id"
    before = await world.admin.fetch(rows, str(plan.message_id))
    await world.pool.execute("DELETE FROM sender.outbox WHERE subject = $1", str(plan.message_id))

    await world.pool.execute(WATCHES[0].republish, [row["record_id"] for row in before])

    after = await world.admin.fetch(rows, str(plan.message_id))
    left_out = {"outbox_id", "created_at"}
    assert [{k: v for k, v in row.items() if k not in left_out} for row in after] == [
        {k: v for k, v in row.items() if k not in left_out} for row in before
    ]
    assert len(after) == 2


async def test_payloads_hold_no_text_and_no_address(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned()
    await world.say(plan)
    async with world.sending():
        await world.until_status(plan, "accepted")
    text = (await world.mock.sent(salon.token))[0]["text"]

    tables = await world.admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'sender'::regnamespace AND relkind = 'r'"
    )
    for table in tables:
        rows = await world.admin.fetch(f"SELECT to_jsonb(t)::text AS row FROM sender.{table['relname']} t")
        stored = "\n".join(row["row"] for row in rows)
        for secret in (booked.chat_id, text, json.dumps(text)[1:-1], salon.token):
            assert secret not in stored, table["relname"]


async def test_every_example_of_its_topics_goes_through_the_senders_handlers(world: World) -> None:
    await create_salon(world.database.dsn("platform"), MASTER_KEY)
    handlers = {kind: HANDLERS[topic](SystemClock()) for topic, kinds in TOPICS.items() for kind in kinds}
    heard = 0
    for example in contract_files.examples():
        if example.event_type not in handlers:
            continue
        event = parse_event(example.event_type, example.wire_value)
        received = Received(from_headers(example.wire_headers), event, None)  # type: ignore[arg-type]
        async with world.pool.acquire() as connection, connection.transaction():
            await handlers[example.event_type](connection, [received])
        heard += 1
        stored = "early_receipts" if isinstance(event, ReceiptItem) else "slots"
        assert await world.admin.fetchval(
            f"SELECT count(*) FROM sender.{stored} WHERE tenant_id = $1", TENANT
        )

    assert heard >= 5
