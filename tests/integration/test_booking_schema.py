"""booking's tables: who may see and change what, that the truth is append-only, and that every query fits."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from importlib.resources import files

import asyncpg
import pytest

from tests.infrastructure import ROLES, Database
from tests.integration.booking_world import (
    DAY,
    NOW,
    START,
    Booking,
    booking,
    booking_on,
    fact,
    life,
    message,
    new_tenant,
    person,
)
from turnout_booking.operations import WATCHES
from turnout_booking.tenant_rules import SQL
from turnout_common.recovery import SQL as RECOVERY
from turnout_common.recovery import Watch

#: What each role may do with the tables themselves; views are tested below.
TABLES_OF = {
    "booking": None,
    "maintenance": None,
    "sender": {"chains", "client_chats", "applied", "read_marks"},
    "ingest": {"applied", "read_marks"},
    "rollup": {"booking_events"},
    "kpi": {"read_marks"},
    "platform": set[str](),
}


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


@pytest.fixture
async def salon(world: Booking, tenant_id: str) -> str:
    """A tenant with one of everything."""
    await world.apply(
        message(tenant_id, "chat", NOW, phone="+491"),
        *life(tenant_id, contact=person("+491")),
        fact(tenant_id, "inventory.counted", NOW, subject_id="wax", expected=1, counted=1),
        fact(tenant_id, "service.completed", NOW, "unknown"),
    )
    return tenant_id


@pytest.mark.parametrize("name", sorted(SQL))
async def test_every_query_prepares(world: Booking, name: str) -> None:
    async with world.pool.acquire() as connection:
        assert await connection.prepare(SQL[name])


def test_every_query_is_used_and_by_one_name() -> None:
    package = files("turnout_booking")
    code = "".join(p.read_text(encoding="utf-8") for p in package.iterdir() if p.name.endswith(".py"))

    assert {name for name in SQL if f'"{name}"' not in code} == set()


@pytest.mark.parametrize("watch", WATCHES, ids=lambda watch: watch.name)
async def test_the_recovery_check_may_read_what_it_needs(database: Database, watch: Watch) -> None:
    connection = await asyncpg.connect(database.dsn("booking"))
    try:
        for text in RECOVERY.values():
            assert await connection.prepare(text.format(schema="booking", reader=watch.reader_schema))
    finally:
        await connection.close()


async def test_every_table_is_protected_and_belongs_to_nobody_who_logs_in(world: Booking) -> None:
    tables = await world.admin.fetch(
        "SELECT relname, relrowsecurity AND relforcerowsecurity AS forced, rolcanlogin OR rolsuper AS logs_in"
        " FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner"
        " WHERE relnamespace = 'booking'::regnamespace AND relkind IN ('r', 'p')"
    )

    assert len(tables) > 20
    assert [row["relname"] for row in tables if not row["forced"] or row["logs_in"]] == []


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_sees_only_the_tables_that_it_needs(
    world: Booking, database: Database, salon: str, role: str
) -> None:
    """By trying: a walk over all tables of the schema, partitions among them."""
    tables = await world.admin.fetch(
        "SELECT oid, relname FROM pg_class WHERE relnamespace = 'booking'::regnamespace AND relkind IN ('r', 'p')"
    )
    connection = await asyncpg.connect(database.dsn(role))
    readable = set()
    try:
        for table in tables:
            columns = await connection.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1 AND attnum > 0"
                " AND has_column_privilege(attrelid, attnum, 'SELECT')", table["oid"],
            )  # fmt: skip
            if columns:
                await connection.fetch(
                    f"SELECT {columns[0]['attname']} FROM booking.{table['relname']} LIMIT 1"
                )
                readable.add(table["relname"])
    finally:
        await connection.close()

    partitions = {row["relname"] for row in tables if re.fullmatch(r"booking_events_.*", row["relname"])}
    wanted = TABLES_OF[role]
    assert readable == ({row["relname"] for row in tables} - partitions if wanted is None else wanted)


async def test_the_sender_sees_chats_and_heads_and_no_other_contact(
    world: Booking, database: Database, salon: str
) -> None:
    connection = await asyncpg.connect(database.dsn("sender"))
    try:
        chats = await connection.fetch("SELECT * FROM booking.contactable WHERE tenant_id = $1", salon)
        heads = await connection.fetch("SELECT * FROM booking.heads WHERE tenant_id = $1", salon)
        for query in (
            "SELECT state FROM booking.chains",
            "SELECT * FROM booking.client_contacts",
            "SELECT * FROM booking.notes",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(query)
    finally:
        await connection.close()

    assert [dict(row) for row in chats] == [
        {"tenant_id": salon, "client_id": chats[0]["client_id"], "channel": "telegram", "chat_sealed": "sealed-chat",
         "opted_out": False, "promotions_opted_out": False, "locale": None}
    ]  # fmt: skip
    state = await world.chain(salon)
    assert [(str(row["booking_id"]), row["status"]) for row in heads] == [(state["booking_id"], "cancelled")]


async def test_rollup_sees_the_whole_truth(world: Booking, database: Database, salon: str) -> None:
    connection = await asyncpg.connect(database.dsn("rollup"))
    try:
        rows = await connection.fetch("SELECT * FROM booking.truth WHERE tenant_id = $1", salon)
    finally:
        await connection.close()

    assert len(rows) == await world.admin.fetchval(
        "SELECT count(*) FROM booking.booking_events WHERE tenant_id = $1", salon
    )
    assert json.loads(rows[0]["payload"])


async def test_kpi_api_sees_one_tenants_bookings_only(world: Booking, database: Database, salon: str) -> None:
    other = await new_tenant(database)
    await world.apply(booking(other, "created", "O", NOW))
    connection = await asyncpg.connect(database.dsn("kpi"))
    seen = {}
    try:
        for tenant in ("", salon, other):
            async with connection.transaction():
                await connection.execute("SELECT set_config('turnout.tenant_id', $1, true)", tenant)
                seen[tenant] = {
                    row["tenant_id"] for row in await connection.fetch("SELECT * FROM booking.read_bookings")
                }
        assert await connection.fetchval("SELECT oldest_at FROM booking.oldest_unpublished") is not None
    finally:
        await connection.close()

    assert seen == {"": set(), salon: {salon}, other: {other}}


@pytest.mark.parametrize("role", [None, "booking", "maintenance", "rollup"])
@pytest.mark.parametrize("change", [
    "UPDATE booking.booking_events SET version = 99", "DELETE FROM booking.booking_events", "TRUNCATE booking.booking_events",
])  # fmt: skip
async def test_the_truth_is_append_only(
    world: Booking, database: Database, salon: str, role: str | None, change: str
) -> None:
    """Only the deletion of a tenant by the maintenance role removes rows (design §6)."""
    connection = await asyncpg.connect(database.admin_dsn if role is None else database.dsn(role))
    try:
        async with connection.transaction():
            if role == "maintenance" and change.startswith("DELETE"):
                assert await connection.execute(f"{change} WHERE tenant_id = $1", salon) != "DELETE 0"
            else:
                with pytest.raises((asyncpg.RestrictViolationError, asyncpg.InsufficientPrivilegeError)):
                    await connection.execute(change)
    finally:
        await connection.close()


async def test_no_partition_of_the_truth_can_be_emptied(world: Booking) -> None:
    partitions = await world.admin.fetch(
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' AND relnamespace = 'booking'::regnamespace"
    )

    assert len(partitions) >= 5
    for partition in partitions:
        with pytest.raises(asyncpg.RestrictViolationError):
            await world.admin.execute(f"TRUNCATE booking.{partition['relname']}")


async def test_a_year_of_partitions_can_be_made_and_each_is_protected(world: Booking) -> None:
    async with world.pool.acquire() as connection:
        made = await connection.fetchval("SELECT booking.add_event_partitions(11)")
        again = await connection.fetchval("SELECT booking.add_event_partitions(11)")
    partitions = await world.admin.fetch(
        "SELECT relname, relforcerowsecurity, relacl FROM pg_class WHERE relispartition AND relkind = 'r'"
        " AND relnamespace = 'booking'::regnamespace"
    )

    assert (made, again) == (8, 0)
    assert len(partitions) == 13
    assert all(row["relforcerowsecurity"] and row["relacl"] is None for row in partitions)
    assert await world.upkeep.add_partitions() == 0


async def test_rows_of_a_month_without_a_partition_are_kept_in_the_default_one(
    world: Booking, tenant_id: str
) -> None:
    await world.admin.execute(
        "INSERT INTO booking.booking_events (event_id, tenant_id, entity_kind, entity_id, version, event_type, source,"
        " occurred_at, payload, created_at) VALUES (gen_random_uuid(), $1, 'fact', gen_random_uuid(), 1, 'x', 'x', now(),"
        " '{}', now() + interval '20 months')", tenant_id,
    )  # fmt: skip

    async with world.pool.acquire() as connection:
        assert await connection.fetchval("SELECT booking.add_event_partitions(24)") > 0
    assert (
        await world.admin.fetchval(
            "SELECT count(*) FROM booking.booking_events_default WHERE tenant_id = $1", tenant_id
        )
        == 1
    )
    await world.apply(booking(tenant_id, "created", "O", NOW - DAY, START))
    assert (
        await world.admin.fetchval(
            "SELECT count(*) FROM booking.booking_events_default WHERE tenant_id = $1", tenant_id
        )
        == 1
    )
