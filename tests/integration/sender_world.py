"""A salon with a bot, the mock providers really listening, and the sender's parts put together as main.py does it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
from aiohttp import web
from pydantic import SecretStr

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import until
from turnout_cli.embedded.process import free_port
from turnout_common.clock import Clock, SystemClock
from turnout_common.consumer import Received
from turnout_common.events import (
    Channel,
    ConsentScope,
    Envelope,
    MessagePlanned,
    MessageWithdrawn,
    Queue,
    ReceiptItem,
)
from turnout_common.events.outbound import MessageTemplate
from turnout_common.ids import derived_id, new_id
from turnout_common.kafka import create_producer
from turnout_common.postgres import create_pool
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import create_tenant, set_channel
from turnout_mock_providers.app import create_app
from turnout_sender.channels import ADAPTERS
from turnout_sender.channels.http import Http
from turnout_sender.channels.port import Adapter
from turnout_sender.claims import Claimer
from turnout_sender.handlers import OutboundHandler
from turnout_sender.sending import SendLoop
from turnout_sender.settings import SenderSettings

Said = MessagePlanned | MessageWithdrawn | ReceiptItem


@dataclass(frozen=True)
class MockProviders:
    """The mock providers' admin API."""

    url: str
    session: aiohttp.ClientSession

    async def behave(self, token: str, *behaviours: dict[str, Any]) -> None:
        body = {"token": token, "behaviours": list(behaviours)}
        async with self.session.put(f"{self.url}/_admin/telegram/behaviours", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def sent(self, token: str) -> list[dict[str, Any]]:
        return await self._rows("sent", "messages", token)

    async def calls(self, token: str) -> list[dict[str, Any]]:
        return await self._rows("calls", "calls", token)

    async def _rows(self, path: str, key: str, token: str) -> list[dict[str, Any]]:
        async with self.session.get(f"{self.url}/_admin/telegram/{path}", params={"token": token}) as answer:
            rows: list[dict[str, Any]] = (await answer.json())[key]
            return rows


@asynccontextmanager
async def mock_providers(tokens: frozenset[str] | None = None) -> AsyncIterator[MockProviders]:
    runner = web.AppRunner(create_app(SystemClock(), tokens), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession() as session:
            yield MockProviders(f"http://{host}:{port}", session)
    finally:
        await runner.cleanup()


@dataclass
class Appointment:
    """A booking in booking's tables, and what booking would say about it."""

    salon: Salon
    booking_id: UUID
    client_id: UUID
    chat_id: str
    start_at: datetime
    version: int = 1

    def planned(self, template: str = "confirmation", **changes: Any) -> MessagePlanned:
        slot_key = f"{self.salon.tenant_id}:{self.booking_id}:{template}"
        start_at = changes.pop("start_at", self.start_at)
        sent_key = f"{slot_key}:{start_at.isoformat()}"
        now = SystemClock().now()
        fields: dict[str, Any] = {
            "message_id": derived_id("message", sent_key),
            "tenant_id": self.salon.tenant_id,
            "slot_key": slot_key,
            "sent_key": sent_key,
            "queue": Queue.TX,
            "template": MessageTemplate(template),
            "client_id": self.client_id,
            "booking_id": self.booking_id,
            "booking_version": self.version,
            "start_at": start_at,
            "not_before": now - timedelta(seconds=1),
            "expires_at": now + timedelta(hours=1),
        }
        return MessagePlanned(**(fields | changes))

    def withdrawn(self, template: str = "confirmation", version: int | None = None) -> MessageWithdrawn:
        return MessageWithdrawn(
            tenant_id=self.salon.tenant_id,
            slot_key=f"{self.salon.tenant_id}:{self.booking_id}:{template}",
            client_id=self.client_id,
            booking_id=self.booking_id,
            booking_version=version or self.version,
        )

    async def becomes(self, status: str, start_at: datetime | None = None) -> None:
        """Booking's own table moves on, one version further."""
        self.version += 1
        self.start_at = start_at or self.start_at
        await self.salon.admin.execute(
            "UPDATE booking.chains SET status = $2, version = $3, start_at = $4, merged_into = $5 WHERE booking_id = $1",
            self.booking_id, status, self.version, self.start_at, uuid4() if status == "merged" else None,
        )  # fmt: skip


@dataclass
class Salon:
    """A tenant with a telegram bot. `admin` is a superuser's connection."""

    tenant_id: str
    token: str
    admin: asyncpg.Connection
    directory: TenantDirectory
    chats: int = field(default_factory=lambda: random.randrange(10**9, 10**10))

    async def appointment(
        self, *, reachable: bool = True, locale: str | None = None, chat_sealed: str | None = None
    ) -> Appointment:
        now = SystemClock().now()
        self.chats += 1
        booked = Appointment(self, uuid4(), uuid4(), str(self.chats), now + timedelta(days=1))
        await insert_row(
            self.admin, "booking.chains", booking_id=booked.booking_id, tenant_id=self.tenant_id, version=1,
            status="confirmed", client_id=booked.client_id, start_at=booked.start_at,
        )  # fmt: skip
        if reachable:
            await self.add_chat(booked.client_id, booked.chat_id, locale, chat_sealed)
        return booked

    async def add_chat(
        self,
        client_id: UUID,
        chat_id: str,
        locale: str | None = None,
        chat_sealed: str | None = None,
        channel: str = "telegram",
    ) -> None:
        tenant = self.directory.get(self.tenant_id)
        assert tenant is not None
        keys = tenant.sealing_keys()
        await insert_row(
            self.admin, "booking.client_chats", tenant_id=self.tenant_id, channel=channel, client_id=client_id,
            chat_hash=keys.contact_hash(channel, chat_id), chat_sealed=chat_sealed or keys.seal_text("chat", chat_id),
            locale=locale,
        )  # fmt: skip

    async def opt_out(self, booked: Appointment, scope: ConsentScope = "all") -> None:
        await self.admin.execute(
            "UPDATE booking.client_chats SET opted_out = $2, promotions_opted_out = true WHERE client_id = $1",
            booked.client_id, scope == "all",
        )  # fmt: skip


@dataclass
class SenderProcess:
    """A sender of its own process. `output` holds its log once it has ended."""

    process: asyncio.subprocess.Process
    url: str
    session: aiohttp.ClientSession
    output: list[str] = field(default_factory=list)

    async def is_ready(self) -> bool:
        assert self.process.returncode is None, "the sender ended"
        try:
            async with self.session.get(f"{self.url}/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def status(self) -> dict[str, Any]:
        async with self.session.get(f"{self.url}/status") as answer:
            found: dict[str, Any] = await answer.json()
            return found


@dataclass
class World:
    """The sender's database, the mock providers, and replicas of the sender's parts."""

    database: Database
    infrastructure: Infrastructure
    prefix: str
    mock: MockProviders
    admin: asyncpg.Connection
    pool: asyncpg.Pool
    directory: TenantDirectory

    def settings(self, **changes: Any) -> SenderSettings:
        fields: dict[str, Any] = {
            "env": "development",
            "postgres_dsn": SecretStr(self.database.dsn("sender")),
            "kafka_bootstrap": self.infrastructure.kafka,
            "topic_prefix": self.prefix,
            "provider_base_url": self.mock.url,
            "retry_base_seconds": 0.2,
            "retry_most_seconds": 0.5,
        }
        return SenderSettings(**(fields | changes))

    async def salon(self, timezone: str = "Europe/Berlin", locale: str = "en") -> Salon:
        number = random.randrange(10**8, 10**9)
        tenant_id, token = f"t{number}", f"{number}:sender-test-token"
        connection = await asyncpg.connect(self.database.dsn("platform"))
        try:
            await create_tenant(connection, MASTER_KEY, tenant_id, timezone, locale=locale, actor="test")
            await set_channel(connection, MASTER_KEY, tenant_id, "telegram", secret="s", api_token=token)
        finally:
            await connection.close()
        await self.directory.reload()
        return Salon(tenant_id, token, self.admin, self.directory)

    async def say(self, *events: MessagePlanned | MessageWithdrawn, clock: Clock | None = None) -> None:
        """Applies what booking says, as one batch of the consumer would."""
        handler = OutboundHandler(clock or SystemClock())
        received = [Received(envelope_of(event), event, None) for event in events]  # type: ignore[arg-type]
        async with self.pool.acquire() as connection, connection.transaction():
            await handler(connection, received)

    async def publish(self, topic: str, *events: Said) -> list[UUID]:
        """Really publishes events; gives their record ids."""
        return await self.publish_as(topic, [(envelope_of(event), event) for event in events])

    async def publish_as(self, topic: str, records: Sequence[tuple[Envelope, Said]]) -> list[UUID]:
        producer = create_producer(self.infrastructure.kafka, "test")
        await producer.start()
        try:
            for envelope, event in records:
                await producer.send_and_wait(
                    self.prefix + topic, event.model_dump_json().encode(),
                    key=f"{event.tenant_id}:{envelope.subject}".encode(), headers=envelope.headers(),
                )  # fmt: skip
        finally:
            await producer.stop()
        return [envelope.id for envelope, _ in records]

    @asynccontextmanager
    async def sending(
        self, *, adapters: dict[Channel, Adapter] | None = None, clock: Clock | None = None, **changes: Any
    ) -> AsyncIterator[SendLoop]:
        """One replica's send loop, on connections of its own."""
        settings = self.settings(**changes)
        clock = clock or SystemClock()
        async with AsyncExitStack() as stack:
            pool = await create_pool(self.database.dsn("sender"), "test-sender", 4)
            stack.push_async_callback(pool.close)
            http = await stack.enter_async_context(Http(settings))
            claimer = Claimer(pool, self.directory, adapters or dict(ADAPTERS), settings, clock)
            loop = SendLoop(pool, claimer, http, settings, clock, random.Random(1), lambda: None)
            task = asyncio.create_task(loop.run())
            try:
                yield loop
            finally:
                if task.done():
                    task.result()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def process(self, **environment: str) -> AsyncIterator[SenderProcess]:
        """A real sender process, ready; it must stop cleanly unless the test killed it."""
        port = free_port()
        variables = {
            "TURNOUT_ENV": "development",
            "TURNOUT_POSTGRES_DSN": self.database.dsn("sender"),
            "TURNOUT_KAFKA_BOOTSTRAP": self.infrastructure.kafka,
            "TURNOUT_TOPIC_PREFIX": self.prefix,
            "TURNOUT_HTTP_PORT": str(port),
            "TURNOUT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
            "TURNOUT_TENANT_RELOAD_SECONDS": "0.5",
            "TURNOUT_PROVIDER_BASE_URL": self.mock.url,
        }
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "turnout_sender.main", env={**os.environ, **variables, **environment},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        sender = SenderProcess(running, f"http://127.0.0.1:{port}", self.mock.session)
        try:
            await until(sender.is_ready, "the sender to be ready")
            yield sender
        finally:
            if running.returncode is None:
                running.terminate()
            output = (await running.communicate())[0].decode()
            sender.output.append(output)
        assert running.returncode in (0, -signal.SIGKILL), f"{running.returncode}: {output[-3000:]}"

    async def delivery(self, plan: MessagePlanned) -> asyncpg.Record:
        row = await self.admin.fetchrow(
            "SELECT * FROM sender.deliveries WHERE message_id = $1", plan.message_id
        )
        assert row is not None
        return row

    async def states(self, *plans: MessagePlanned) -> list[tuple[str, str | None]]:
        rows = [await self.delivery(plan) for plan in plans]
        return [(row["status"], row["reason"]) for row in rows]

    async def log_of(self, plan: MessagePlanned) -> list[str]:
        """The statuses that the message's log went through; its versions are 1, 2, 3 …"""
        rows = await self.admin.fetch(
            "SELECT version, status FROM sender.message_log WHERE message_id = $1 ORDER BY version",
            plan.message_id,
        )
        assert [row["version"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["status"] for row in rows]

    async def until_status(self, plan: MessagePlanned, *statuses: str, seconds: float = 30) -> str:
        async def reached() -> bool:
            row = await self.admin.fetchrow(
                "SELECT status FROM sender.deliveries WHERE message_id = $1", plan.message_id
            )
            return row is not None and row["status"] in statuses

        await until(reached, f"{plan.template} to be {' or '.join(statuses)}", seconds)
        return str((await self.delivery(plan))["status"])


#: For columns of booking's that the sender never sees.
NEUTRAL = {
    "integer": "0",
    "timestamp with time zone": "now()",
    "jsonb": "'{}'",
    "text": "''",
    "uuid": "gen_random_uuid()",
}


async def insert_row(admin: asyncpg.Connection, table: str, **values: Any) -> None:
    """Inserts a row into a table of another service: `values`, and something neutral where more is required."""
    rows = await admin.fetch(
        """SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute
        WHERE attrelid = $1::text::regclass AND attnum > 0 AND attnotnull AND NOT atthasdef AND attidentity = '' AND NOT attisdropped
          AND attname <> ALL ($2::text[])""",
        table, list(values),
    )  # fmt: skip
    columns = [*values, *(row["name"] for row in rows)]
    given = [f"${n}" for n in range(1, len(values) + 1)] + [NEUTRAL[row["type"]] for row in rows]
    await admin.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(given)})", *values.values()
    )


def envelope_of(event: Said) -> Envelope:
    item = event.item_id if isinstance(event, ReceiptItem) else new_id()
    return Envelope(item, event.type, "test", SystemClock().now(), "subject", event.tenant_id)


@asynccontextmanager
async def sender_world(
    database: Database, infrastructure: Infrastructure, prefix: str
) -> AsyncIterator[World]:
    async with mock_providers() as mock:
        admin = await asyncpg.connect(database.admin_dsn)
        pool = await create_pool(database.dsn("sender"), "test", 4)
        directory = TenantDirectory(pool, MASTER_KEY)
        try:
            yield World(database, infrastructure, prefix, mock, admin, pool, directory)
        finally:
            await pool.close()
            await admin.close()


def payloads(rows: Sequence[asyncpg.Record]) -> list[dict[str, Any]]:
    return [json.loads(row["payload"]) for row in rows]
