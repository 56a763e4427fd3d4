"""What one would write for this with FastAPI and asyncpg: the same checks, the same rows, inserted in each request.

A route with dependencies, a pool of ten connections, one transaction a request, and the answer after its commit. The
signature, the schema, the encryption and the item's fields are those of ingest (its adapter is called), and so are
the rows: key, item, raw bytes, outbox, count. The counter is split in eight as in ingest, and comes last, so that its lock
is held as shortly as can be. `naive_tuned` is the same with all rows in one statement: one way to Postgres and back instead
of seven. Served by uvicorn with uvloop and httptools.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from turnout_common.clock import SystemClock
from turnout_common.postgres import load_queries
from turnout_common.tenant_directory import TenantDirectory
from turnout_ingest.acceptance import Row, rows_of
from turnout_ingest.inbox import SHARDS
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import Delivery, Fate
from turnout_ingest.routes import Route, Routes
from turnout_ingest.settings import IngestSettings

POOL = 10
CALCOM = PROVIDERS["calcom"]
clock = SystemClock()

SQL = load_queries("bench", "naive_app.sql")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = IngestSettings()
    dsn = settings.postgres_dsn.get_secret_value()
    async with asyncpg.create_pool(dsn, min_size=POOL, max_size=POOL) as pool:
        directory = TenantDirectory(pool, settings.master_keys())
        await directory.reload()
        app.state.routes = Routes(directory, settings)
        app.state.pool = pool
        yield


async def known_route(request: Request, tenant_id: str) -> Route:
    route: Route | None = request.app.state.routes.of("calcom", tenant_id)
    if route is None:
        raise HTTPException(401)
    return route


async def verified_delivery(request: Request, route: Annotated[Route, Depends(known_route)]) -> Delivery:
    body, headers = await request.body(), dict(request.headers.raw)
    now = clock.now()
    if not CALCOM.verify(headers, body, route.context.secrets, now):
        raise HTTPException(401)
    return Delivery(route.context, headers, body, now)


async def insert(connection: PoolConnectionProxy, row: Row) -> None:
    """A statement a table."""
    fate, reason, first = row.fate, row.reason, None
    claimed = await connection.fetchval(SQL["claim_key"], *row.key, row.content_hash, row.item_id)
    if claimed is None:
        holder = await connection.fetchrow(SQL["read_key"], *row.key)
        assert holder is not None
        first, same = holder["item_id"], holder["content_hash"] == row.content_hash
        fate, reason = (Fate.DUPLICATE if same else Fate.CONFLICT), "received before"
    published = fate is Fate.PUBLISHED
    await connection.execute(
        SQL["insert_item"], row.item_id, row.request_id, row.tenant_id, row.channel, row.kind, row.event_type, fate.value, reason,
        row.kafka_key, row.subject, row.occurred_at, row.received_at, row.key_hash, first,
        row.payload if published else None,
    )  # fmt: skip
    if fate is not Fate.DUPLICATE:
        await connection.execute(SQL["insert_raw"], row.item_id, row.tenant_id, row.sealed, row.received_at)
    if published:
        await connection.execute(SQL["insert_outbox"], row.item_id)
    shard = random.randrange(SHARDS)
    await connection.execute(
        SQL["count_item"], row.tenant_id, row.channel, row.received_at, fate.value, shard
    )


async def insert_at_once(connection: PoolConnectionProxy, row: Row) -> None:
    """All tables in one statement; a duplicate is told by its giving nothing, and takes the other way."""
    shard = random.randrange(SHARDS)
    stored = await connection.fetchval(
        SQL["insert_at_once"], *row.key, row.content_hash, row.item_id, row.request_id, row.kind, row.event_type, row.fate.value,
        row.reason, row.kafka_key, row.subject, row.occurred_at, row.received_at, row.payload, row.sealed, shard,
    )  # fmt: skip
    if stored is None:
        async with connection.transaction():
            await insert(connection, row)


async def in_a_transaction(connection: PoolConnectionProxy, row: Row) -> None:
    async with connection.transaction():
        await insert(connection, row)


def create(store: Callable[[PoolConnectionProxy, Row], Awaitable[None]]) -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.post("/webhooks/calcom/{tenant_id}", status_code=202)
    async def receive(
        request: Request, delivery: Annotated[Delivery, Depends(verified_delivery)]
    ) -> Response:
        """A duplicate is answered as the first was."""
        (row,) = rows_of(CALCOM, delivery)
        async with request.app.state.pool.acquire() as connection:
            await store(connection, row)
        quarantined = row.fate is Fate.QUARANTINED
        return Response(status_code=CALCOM.answers.quarantined if quarantined else CALCOM.answers.success)

    return app


naive = create(in_a_transaction)
naive_tuned = create(insert_at_once)
