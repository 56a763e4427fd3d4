"""Rollup's schema: every statement prepares as the role that runs it, and who may read what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.infrastructure import ROLES, Database
from tests.integration.rollup_world import Rollup, chain, fact, intent, message, rollup_on
from turnout_rollup import rebuild, store, verify
from turnout_rollup.facts import ChainFact, IntentFact, MessageFact, OtherFact

FACTS: dict[str, Any] = {"chain": ChainFact, "intent": IntentFact, "message": MessageFact, "other": OtherFact}
TENANT_TABLES = [f"{kind}_{what}" for kind in FACTS for what in ("facts", "days")]
VIEWS = [f"{kind}_contributions" for kind in FACTS] + ["kpi_parts", "kpi_rollup", "staff_kpi_rollup"]
STATEMENTS = (
    {f"store.{name}": sql for name, sql in store.SQL.items()}
    | {f"rebuild.{name}": sql for name, sql in rebuild.SQL.items()}
    | {f"verify.{kind}_drift": sql for kind, sql in verify.DRIFT.items()}
    | {f"verify.{kind}_missing": sql for kind, sql in verify.MISSING.items()}
    | {f"verify.{kind}_count": sql for kind, sql in verify.COUNT.items()}
    | {"verify.tenants": verify.SQL["tenants"]}
)


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    async with rollup_on(database) as started:
        yield started


@pytest.mark.parametrize("role", ["rollup", "maintenance"])
async def test_every_statement_prepares(database: Database, role: str) -> None:
    connection = await asyncpg.connect(database.dsn(role))
    try:
        for name, sql in STATEMENTS.items():
            try:
                await connection.prepare(sql)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{name}: {error}")
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", FACTS)
async def test_a_facts_fields_are_its_tables_columns_and_stand_in_the_statements_order(
    rollup: Rollup, kind: str
) -> None:
    rows = await rollup.admin.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum",
        f"rollup.{kind}_facts",
    )
    columns = [row["attname"] for row in rows]
    fields = list(FACTS[kind]._fields)

    upsert = store.SQL[f"upsert_{kind}_facts"]
    listed = upsert.split("AS f (", 1)[1].split(")", 1)[0].replace("\n", " ").split(",")
    assert [name.strip() for name in listed] == fields
    assert set(columns) - set(fields) <= {"staff_id", "service_id"}  # what this kind does not have
    assert [column for column in columns if column in fields] == fields


@pytest.fixture
async def two_tenants(rollup: Rollup, tenant_id: str) -> tuple[str, str]:
    """Two tenants with one of everything each."""
    other = f"{tenant_id}-b"
    await rollup.admin.execute(
        "INSERT INTO platform.tenants (tenant_id, timezone) VALUES ($1, 'Europe/Berlin')", other
    )
    for name in (tenant_id, other):
        await rollup.apply(chain(name), intent(name), message(name), fact(name, "feedback", rating=5))
    return tenant_id, other


@pytest.mark.parametrize("relation", [*TENANT_TABLES, *VIEWS, "tenant_changes", "tenant_settings"])
async def test_kpi_api_sees_the_tenant_that_its_transaction_is_set_to_and_no_other(
    database: Database, two_tenants: tuple[str, str], relation: str
) -> None:
    connection = await asyncpg.connect(database.dsn("kpi"))
    query = f"SELECT DISTINCT tenant_id FROM rollup.{relation}"
    unset = await connection.fetch(query)
    async with connection.transaction():
        await connection.execute("SELECT set_config('turnout.tenant_id', $1, true)", two_tenants[0])
        confined = await connection.fetch(query)
    await connection.close()

    assert unset == []
    assert [row["tenant_id"] for row in confined] == [two_tenants[0]]


@pytest.mark.parametrize("kind", FACTS)
async def test_kpi_api_sums_parts_of_its_tenant_only(
    database: Database, two_tenants: tuple[str, str], kind: str
) -> None:
    connection = await asyncpg.connect(database.dsn("kpi"))
    async with connection.transaction():
        await connection.execute("SELECT set_config('turnout.tenant_id', $1, true)", two_tenants[1])
        rows = await connection.fetch(f"SELECT tenant_id FROM rollup.{kind}_parts(now())")
    await connection.close()

    assert [row["tenant_id"] for row in rows] == [two_tenants[1]]


@pytest.mark.parametrize("role", [role for role in ROLES if role not in ("rollup", "maintenance", "kpi")])
async def test_other_roles_read_nothing_of_rollup_but_what_the_recovery_check_needs(
    rollup: Rollup, role: str
) -> None:
    rows = await rollup.admin.fetch(
        """SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'rollup'::regnamespace AND c.relkind IN ('r', 'v')
        AND (has_table_privilege($1, c.oid, 'SELECT') OR has_any_column_privilege($1, c.oid, 'SELECT'))""",
        f"turnout_{role}",
    )

    allowed = {"applied", "read_marks"} if role in ("booking", "sender") else set()
    assert {row["relname"] for row in rows} == allowed


@pytest.mark.parametrize("role", ["kpi", "booking", "sender", "ingest", "platform"])
async def test_nobody_else_writes_rollups_tables(rollup: Rollup, role: str) -> None:
    rows = await rollup.admin.fetch(
        """SELECT c.relname, p.privilege FROM pg_class c
        CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p(privilege)
        WHERE c.relnamespace = 'rollup'::regnamespace AND c.relkind IN ('r', 'v')
          AND has_table_privilege($1, c.oid, p.privilege)""",
        f"turnout_{role}",
    )

    assert rows == []


async def test_verify_needs_no_more_rights_than_the_service_has(
    database: Database, rollup: Rollup, tenant_id: str
) -> None:
    event = chain(tenant_id)
    await rollup.write_logs([event])
    await rollup.apply(event)
    connection = await asyncpg.connect(database.dsn("rollup"))

    report = await verify.verify(connection, tenant_id)
    await connection.close()

    assert report.ok and report.facts == 1
