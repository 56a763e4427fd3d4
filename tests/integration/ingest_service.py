"""Ingest in the test's own process: a real HTTP server on a free port, real Postgres and Kafka, parts within reach."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import uvicorn
from pydantic import SecretStr

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import running, until
from tests.webhook_fixtures import ROUTING_IDS, body_of, delivered
from turnout_cli.webhooks import Webhook, calcom, signed_body, signed_headers
from turnout_common.clock import Clock, SystemClock
from turnout_common.http_protocol import HTTP_OPTIONS
from turnout_common.ids import new_id
from turnout_common.postgres import connect, create_pool
from turnout_common.relay import Relay
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import set_channel
from turnout_ingest.acceptance import Row
from turnout_ingest.app import create_app
from turnout_ingest.inbox import Inbox
from turnout_ingest.relay import QUERIES
from turnout_ingest.settings import IngestSettings

SECRETS = {
    "calcom": "ingest-test-calcom",
    "telegram": "ingest-test-telegram",
    "whatsapp": "ingest-test-whatsapp",
    "instagram": "ingest-test-instagram",
    "vk": "ingest-test-vk",
    "max": "ingest-test-max",
    "events": "whsec_" + base64.b64encode(b"ingest test secret of 32 bytes!!").decode(),
}


WAITS_FOR_A_LOCK = """
SELECT count(*) >= $1 FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'test-%inbox' AND wait_event_type = 'Lock'
"""
HOST = calcom.Host(4101, "Anna Weiss", "anna")
KIND = calcom.EventType(77001, "cut", "Haircut", 45, 4200)
GUEST = calcom.Guest("Igor Petrov", "igor@guest.example", "+493023125001", "ru")
TIMEOUT = aiohttp.ClientTimeout(total=20)


@dataclass(frozen=True)
class Answered:
    """One answer, with what a provider looks at."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Service:
    """A running ingest and a client of it."""

    url: str
    http: aiohttp.ClientSession
    inbox: Inbox
    relay: Relay
    directory: TenantDirectory
    clock: Clock

    async def post(
        self,
        tenant_id: str,
        webhook: Webhook,
        headers: Mapping[str, str] | None = None,
        path: str | None = None,
    ) -> Answered:
        """Posts once, signed unless `headers` are given, to the tenant's own callback unless a `path` is."""
        now = int(self.clock.now().timestamp())
        path, secret = path or f"/webhooks/{webhook.channel}/{tenant_id}", SECRETS[webhook.channel]
        if headers is not None:
            return await self.request("POST", path, webhook.body, headers)
        sent = signed_headers(webhook, secret, now)
        return await self.request("POST", path, signed_body(webhook, secret), sent)

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        async with self.http.request(method, self.url + path, data=body, headers=headers) as answer:
            return Answered(answer.status, await answer.read(), dict(answer.headers))


class Server(uvicorn.Server):
    """Leaves the test runner's signal handlers alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def ingest(
    database: Database,
    infrastructure: Infrastructure,
    prefix: str,
    *,
    dsn: str | None = None,
    kafka: str | None = None,
    relay: bool = True,
    follow: bool = False,
    clock: Clock | None = None,
    **changes: Any,
) -> AsyncIterator[Service]:
    """A running ingest. `dsn` and `kafka` replace the addresses; without `relay` nothing is published, with
    `follow` changed configuration is read."""
    address = dsn or database.dsn("ingest")
    settings = IngestSettings(
        env="development",
        postgres_dsn=SecretStr(address),
        kafka_bootstrap=kafka or infrastructure.kafka,
        topic_prefix=prefix,
        **{"master_key": SecretStr(base64.b64encode(MASTER_KEY).decode())} | changes,
    )
    pool = await create_pool(address, "test-ingest")
    directory = TenantDirectory(
        pool, settings.master_keys(), settings.tenant_reload_seconds, read_again=settings.master_keys
    )
    await directory.reload()
    moved = Relay("ingest", settings, QUERIES)
    inbox = Inbox(
        lambda: connect(address, "test-ingest-inbox"),
        queue_items=settings.inbox_queue_items,
        after_commit=moved.wake,
    )
    app = create_app(settings, clock or SystemClock(), pool, directory, inbox)
    loops = [inbox.run(), *app.loops().values()] + ([moved.run()] if relay else [])
    if follow:
        loops.append(directory.run(lambda: connect(address, "test-ingest-tenants")))
    async with running(*loops), serving(app) as url, aiohttp.ClientSession(timeout=TIMEOUT) as http:
        yield Service(url, http, inbox, moved, directory, clock or SystemClock())
    await pool.close()


@contextlib.asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[str]:
    """The application on a free port of this machine; its URL. `options` replace those of our servers."""
    server = Server(uvicorn.Config(app, port=0, **HTTP_OPTIONS | options))
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: _started(server), "the server to listen")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.force_exit = server.should_exit = True
        await task


async def _started(server: Server) -> bool:
    return bool(server.started)


async def add_channels(database: Database, tenant_id: str, secrets: Mapping[str, str] = SECRETS) -> None:
    """Turns the tenant's channels on. An account that the fixtures name goes over to it from another test's tenant."""
    connection = await asyncpg.connect(database.dsn("platform"))
    try:
        for channel, secret in secrets.items():
            account = ROUTING_IDS.get(channel)
            await connection.execute(
                "UPDATE platform.channels SET routing_id = NULL WHERE channel = $1 AND routing_id = $2",
                channel,
                account,
            )
            await set_channel(
                connection, MASTER_KEY, tenant_id, channel, secret=secret, routing_id=account, actor="test"
            )
    finally:
        await connection.close()


async def rows(database: Database, tenant_id: str) -> list[asyncpg.Record]:
    """The tenant's inbox in order, seen by the superuser."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        return await connection.fetch(
            "SELECT * FROM ingest.inbox WHERE tenant_id = $1 ORDER BY seq", tenant_id
        )
    finally:
        await connection.close()


async def value(database: Database, sql: str, *arguments: object) -> Any:
    """One value, asked by the superuser."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


def now() -> datetime:
    return datetime.now(UTC)


async def fates(database: Database, tenant_id: str) -> list[str]:
    """What became of the tenant's items, in order."""
    return [stored["fate"] for stored in await rows(database, tenant_id)]


async def counted(database: Database, tenant_id: str) -> dict[str, int]:
    """The tenant's items by fate, as they were counted."""
    connection = await asyncpg.connect(database.dsn("maintenance"))
    try:
        found = await connection.fetch(
            "SELECT fate, sum(items)::int AS items FROM ingest.fates WHERE tenant_id = $1 GROUP BY fate",
            tenant_id,
        )
        return {record["fate"]: record["items"] for record in found}
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def held(
    database: Database, sql: str, *arguments: object
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A third party's transaction that ran `sql` and keeps its locks until what is given is called, or the block ends."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(sql, *arguments)
        yield transaction.rollback
    finally:
        await connection.close()


async def waiting_for_locks(database: Database, writers: int = 1) -> bool:
    """Whether so many writers of inboxes wait for a lock."""
    return bool(await value(database, WAITS_FOR_A_LOCK, writers))


async def outbox_is_empty(database: Database) -> bool:
    return bool(await value(database, "SELECT NOT EXISTS (SELECT FROM ingest.outbox)"))


def created(uid: str) -> Webhook:
    """A booking at Cal.com, made now."""
    at = now()
    return calcom.created(calcom.Booking(uid, 9, at + timedelta(days=2), HOST, KIND, GUEST, at), at)


def row(tenant_id: str, key: bytes | None = None, **changes: Any) -> Row:
    """A good row with a key of its own."""
    item_id = new_id()
    own = key or item_id.bytes
    made = replace(
        delivered("calcom", body_of("calcom", "created")),
        item_id=item_id, tenant_id=tenant_id, key_hash=own, content_hash=own, received_at=now(),
    )  # fmt: skip
    return replace(made, **changes)


def inbox_of(database: Database, dsn: str | None = None, queue_items: int = 5000, shard: int = 0) -> Inbox:
    """An inbox without a service round it."""
    return Inbox(
        lambda: connect(dsn or database.dsn("ingest"), "test-inbox"), queue_items=queue_items, shard=shard
    )
