"""Schema `ingest`: every query prepares, every table is protected, every role sees what the design gives it, and what
was lost after publishing is found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

import turnout_ingest
from tests.infrastructure import ROLES, Database, Infrastructure
from tests.integration.ingest_service import inbox_of, now, row, value
from tests.integration.probe import running
from turnout_common.postgres import create_pool, load_queries
from turnout_common.recovery import RecoveryCheck
from turnout_ingest.relay import QUERIES, WATCHES, create_relay
from turnout_ingest.settings import IngestSettings

SQL = load_queries("turnout_ingest")
#: What a role may read of schema ingest; the writer and maintenance see all tables.
READABLE = {
    "kpi": {"oldest_unpublished"},
    "booking": set(),
    "sender": set(),
    "rollup": set(),
    "platform": set(),
}
VIEWS = {"oldest_unpublished", "inbox_list", "fates"}


@pytest.fixture
async def admin(database: Database) -> asyncpg.Connection:  # type: ignore[misc]
    connection = await asyncpg.connect(database.admin_dsn)
    yield connection
    await connection.close()


async def relations(admin: asyncpg.Connection, kinds: str) -> set[str]:
    found = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'ingest'::regnamespace AND relkind = ANY ($1::text[]::\"char\"[])",
        list(kinds),
    )
    return {record["relname"] for record in found}


@pytest.mark.parametrize("name", sorted(SQL))
async def test_query_prepares_as_the_role_that_runs_it(database: Database, name: str) -> None:
    connection = await asyncpg.connect(database.dsn("ingest"))
    try:
        await connection.prepare(SQL[name])
    finally:
        await connection.close()


async def test_delete_of_the_shared_relay_fits_the_slim_outbox(database: Database) -> None:
    connection = await asyncpg.connect(database.dsn("ingest"))
    await connection.prepare(QUERIES.delete)
    await connection.close()


async def test_every_table_has_row_level_security_that_binds_its_owner(admin: asyncpg.Connection) -> None:
    tables = await admin.fetch(
        "SELECT relname, relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner) AS owner FROM pg_class "
        "WHERE relnamespace = 'ingest'::regnamespace AND relkind IN ('r', 'p')"
    )

    assert {table["relname"] for table in tables} == {
        "inbox", "inbox_keys", "raw_items", "fate_counts", "outbox", "recovery_marks", "missing",
    }  # fmt: skip
    assert all(table["relrowsecurity"] and table["relforcerowsecurity"] for table in tables)
    assert {table["owner"] for table in tables} == {"turnout_owner"}


@pytest.mark.parametrize("role", ROLES)
async def test_role_reads_what_the_design_gives_it(
    database: Database, admin: asyncpg.Connection, role: str
) -> None:
    every = await relations(admin, "rpvm")
    connection = await asyncpg.connect(database.dsn(role))
    readable = set()
    for name in every:
        try:
            await connection.fetch(f'SELECT * FROM ingest."{name}" LIMIT 1')
            readable.add(name)
        except asyncpg.InsufficientPrivilegeError:
            continue
    await connection.close()

    expected = {"ingest": every - VIEWS, "maintenance": every} | READABLE
    assert readable == expected[role]


@pytest.mark.parametrize("role", [role for role in ROLES if role not in ("ingest", "maintenance")])
async def test_role_writes_nothing(database: Database, admin: asyncpg.Connection, role: str) -> None:
    connection = await asyncpg.connect(database.dsn(role))
    for name in await relations(admin, "rp"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f'DELETE FROM ingest."{name}"')
    await connection.close()


async def test_view_for_the_kpis_tells_a_time_only(
    database: Database, admin: asyncpg.Connection, tenant_id: str
) -> None:
    connection = await asyncpg.connect(database.dsn("kpi"))
    assert await connection.fetch("SELECT * FROM ingest.oldest_unpublished") == []
    made = inbox_of(database)
    async with running(made.run()):
        await made.accept([row(tenant_id)])
        await made.accept([row(tenant_id)])

    (only,) = await connection.fetch("SELECT * FROM ingest.oldest_unpublished")
    await connection.close()

    assert list(only.keys()) == ["oldest_at"]
    assert only["oldest_at"] == await admin.fetchval("SELECT min(created_at) FROM ingest.outbox")
    await admin.execute("DELETE FROM ingest.outbox")


async def test_row_of_the_outbox_whose_item_is_gone_is_dropped_and_holds_nobody_up(
    database: Database, admin: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old row that stayed would hold back the recovery check and the time up to which figures are whole."""
    await admin.execute(
        "INSERT INTO ingest.outbox (item_id) SELECT gen_random_uuid() FROM generate_series(1, 600)"
    )
    made = inbox_of(database)
    kept = row(tenant_id)
    async with running(made.run()):
        await made.accept([kept])

    settings = IngestSettings(postgres_dsn=database.dsn("ingest"), topic_prefix=f"{tenant_id}.")  # type: ignore[arg-type]
    relay = create_relay(settings)
    published: list[object] = []

    async def publish(rows: Sequence[asyncpg.Record]) -> None:
        published.extend(record["record_id"] for record in rows)

    monkeypatch.setattr(relay, "_publish", publish)
    while await relay.publish_batch():
        pass
    await relay._close()

    assert published == [kept.item_id]
    assert relay.published == 1
    assert await admin.fetchval("SELECT count(*) FROM ingest.outbox") == 0


async def test_walk_ends_before_the_first_item_that_is_too_young(
    database: Database, admin: asyncpg.Connection, tenant_id: str
) -> None:
    made = inbox_of(database)
    items = [row(tenant_id) for _ in range(4)]
    start = await admin.fetchval("SELECT coalesce(max(seq), 0) FROM ingest.inbox")
    async with running(made.run()):
        await made.accept(items)
    ids = [item.item_id for item in items]
    await admin.execute(
        "UPDATE ingest.inbox SET stored_at = now() - interval '1 h' WHERE item_id = ANY ($1)",
        [ids[0], ids[1], ids[3]],
    )

    walked = await admin.fetch(SQL["walk_published"], start, timedelta(minutes=2), 5000)

    assert [record["record_id"] for record in walked] == ids[:2]
    await admin.execute("DELETE FROM ingest.outbox")


async def test_walk_takes_an_item_for_as_old_as_its_storing(
    database: Database, admin: asyncpg.Connection, tenant_id: str
) -> None:
    """The spool and reconcile bring items of hours ago: behind them a younger seq may not be committed yet."""
    made = inbox_of(database)
    start = await admin.fetchval("SELECT coalesce(max(seq), 0) FROM ingest.inbox")
    async with running(made.run()):
        await made.accept([row(tenant_id, received_at=now() - timedelta(hours=3))])

    assert await admin.fetch(SQL["walk_published"], start, timedelta(minutes=2), 5000) == []
    await admin.execute("DELETE FROM ingest.outbox")


async def test_item_that_a_reader_never_applied_is_published_again_once(
    database: Database, infrastructure: Infrastructure, admin: asyncpg.Connection, tenant_id: str
) -> None:
    lost, known, receipt = (row(tenant_id), row(tenant_id), row(tenant_id, kind="receipt"))
    made = inbox_of(database)
    async with running(made.run()):
        await made.accept([lost, known, receipt])
    await admin.execute("DELETE FROM ingest.outbox")  # published, and then Kafka lost its disk
    await admin.execute("UPDATE ingest.inbox SET stored_at = now() - interval '1 h'")
    for reader, ids in (("booking", [known.item_id, receipt.item_id]), ("sender", [])):
        await admin.execute(f"DELETE FROM {reader}.read_marks")
        await admin.executemany(f"INSERT INTO {reader}.applied (record_id) VALUES ($1)", [(i,) for i in ids])
        await admin.execute(
            f"INSERT INTO {reader}.read_marks (topic, partition, read_until, partitions) "
            "VALUES ('inbound_webhooks', 0, now() + interval '1 h', 1)"
        )
    pool = await create_pool(database.dsn("ingest"), "test-recovery")
    woken: list[None] = []
    settings = IngestSettings(postgres_dsn=database.dsn("ingest"), recovery_age_seconds=1)  # type: ignore[arg-type]
    check = RecoveryCheck("ingest", settings, pool, WATCHES, lambda: woken.append(None))

    first, second = await check.check(), await check.check()
    await pool.close()

    queued = [
        record["item_id"] for record in await admin.fetch("SELECT item_id FROM ingest.outbox ORDER BY 1")
    ]
    mine = [item for item in queued if item in {lost.item_id, known.item_id, receipt.item_id}]
    assert sorted(mine) == sorted(
        [lost.item_id, receipt.item_id]
    )  # booking lacks one, the sender its receipt
    assert (first >= 2, second, bool(woken)) == (True, 0, True)
    watched = await admin.fetch(
        "SELECT watch, record_id FROM ingest.missing WHERE record_id = ANY ($1)", mine
    )
    assert {(w["watch"], w["record_id"]) for w in watched} == {
        ("inbound_webhooks>booking", lost.item_id),
        ("inbound_webhooks>sender", receipt.item_id),
    }


async def test_migration_can_be_taken_back_and_made_again(
    database: Database, admin: asyncpg.Connection
) -> None:
    text = (Path(turnout_ingest.__file__).parent / "migrations" / "20261124001000_ingest.sql").read_text()
    up, down = text.split("-- migrate:down")
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute("SET LOCAL ROLE turnout_owner")
    await admin.execute(down)
    assert await relations(admin, "rpvm") == set()
    await admin.execute(up)
    await transaction.rollback()
    assert await value(database, "SELECT count(*) >= 0 FROM ingest.inbox")
