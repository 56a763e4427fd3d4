"""What `bench ingest` compares with stores the same rows: its SQL fits the tables as they are now."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from bench.ingest_stack import BARE, copy_tables
from bench.naive_app import SQL

from tests.infrastructure import Database


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(database.admin_dsn)
    try:
        for schema in ("naive", "bare"):
            await made.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            await copy_tables(made, schema)
        yield made
    finally:
        await made.close()


async def test_every_statement_of_the_naive_app_fits_the_tables(connection: asyncpg.Connection) -> None:
    for sql in SQL.values():
        await connection.prepare(sql)


async def test_bare_batch_stores_as_many_rows_as_it_says(connection: asyncpg.Connection) -> None:
    await connection.execute(BARE.read_text().replace(":batch", "30"))

    for table in ("inbox", "inbox_keys", "raw_items", "outbox"):
        assert await connection.fetchval(f"SELECT count(*) FROM bare.{table}") == 30
    assert await connection.fetchval("SELECT sum(items) FROM bare.fate_counts") == 30


async def test_copied_tables_keep_their_storage_and_row_security(connection: asyncpg.Connection) -> None:
    differing = await connection.fetch(
        """SELECT c.relname FROM pg_class c JOIN pg_class o ON o.relname = c.relname
           WHERE c.relnamespace = 'naive'::regnamespace AND o.relnamespace = 'ingest'::regnamespace AND c.relkind = 'r'
             AND (c.reloptions, c.relrowsecurity, c.relforcerowsecurity)
                 IS DISTINCT FROM (o.reloptions, o.relrowsecurity, o.relforcerowsecurity)"""
    )

    assert differing == []
