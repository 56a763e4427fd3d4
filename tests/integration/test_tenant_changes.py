"""Promise: a change of configuration is in force within a second, and no fault of Postgres takes what was known away."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.probe import running, until
from turnout_common import tenant_directory
from turnout_common.clock import SystemClock
from turnout_common.postgres import connect, create_pool
from turnout_common.tenant_changes import KEEPALIVE, PlatformChanges
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import (
    ChannelConfig,
    Tenant,
    create_tenant,
    rotate_secret,
    set_channel,
    set_channel_enabled,
    set_tenant_status,
    update_settings,
)

#: The timer must be of no help: what is seen was told.
NEVER = 3600.0
IN_FORCE_SECONDS = 1.0


@asynccontextmanager
async def following(
    database: Database, role: str = "ingest", name: str = "test-tenants", reload_seconds: float = NEVER
) -> AsyncIterator[TenantDirectory]:
    """A directory that listens already."""
    pool = await create_pool(database.dsn(role), "test")
    directory = TenantDirectory(pool, MASTER_KEY, reload_seconds)
    await directory.reload()
    async with running(directory.run(lambda: connect(database.dsn(role), name))):
        await until(lambda: listens(database, name), "the directory to listen")
        yield directory
    await pool.close()


async def listens(database: Database, name: str) -> bool:
    """Whether it has read all since it began to listen: its last statement ended a transaction."""
    return await ask(
        database,
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND state = 'idle' "
        "AND query LIKE 'COMMIT%')",
        name,
    )


async def ask(database: Database, sql: str, *arguments: object) -> bool:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        return bool(await connection.fetchval(sql, *arguments))
    finally:
        await connection.close()


@pytest.fixture
async def platform(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.dsn("platform"))
    yield connection
    await connection.close()


async def in_force(condition: Callable[[], bool], seconds: float = IN_FORCE_SECONDS) -> float:
    """The seconds until it is so. Fails after `seconds`."""
    started = monotonic()

    async def asked() -> bool:
        return condition()

    await until(asked, "the change to be in force", seconds)
    return monotonic() - started


def tenant_of(directory: TenantDirectory, tenant_id: str) -> Tenant:
    found = directory.get(tenant_id)
    assert found is not None
    return found


async def test_every_change_is_in_force_within_a_second(
    database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    new = f"{tenant_id}-new"

    def config(channel: str = "calcom") -> ChannelConfig:
        return tenant_of(directory, new).channels[channel]

    async with following(database) as directory:
        acts: list[tuple[Awaitable[object], Callable[[], bool]]] = [
            (create_tenant(platform, MASTER_KEY, new, "UTC"), lambda: directory.get(new) is not None),
            (
                set_channel(platform, MASTER_KEY, new, "calcom", secret="one"),
                lambda: tenant_of(directory, new).channels.keys() == {"calcom"},
            ),
            (
                rotate_secret(platform, MASTER_KEY, new, "calcom", "two", timedelta(hours=1)),
                lambda: config().secrets == ("two", "one"),
            ),
            (
                rotate_secret(platform, MASTER_KEY, new, "calcom", "three", timedelta()),
                lambda: config().secrets == ("three",),
            ),
            (set_channel_enabled(platform, new, "calcom", False), lambda: not config().enabled),
            (
                update_settings(platform, new, {"raw_days": 7}),
                lambda: tenant_of(directory, new).settings.raw_days == 7,
            ),
            (set_tenant_status(platform, new, "suspended"), lambda: not tenant_of(directory, new).active),
            (platform.execute("DELETE FROM platform.data_keys WHERE tenant_id = $1", new), lambda: tenant_of(directory, new).keys is None),
            (platform.execute("UPDATE platform.tenants SET status = 'deleted' WHERE tenant_id = $1", new), lambda: directory.get(new) is None),
        ]  # fmt: skip
        for act, seen in acts:
            await act
            await in_force(seen)


async def test_account_leads_to_its_tenant_from_the_change_on(
    database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    account = str(int.from_bytes(os.urandom(5), "big"))
    async with following(database) as directory:
        assert directory.by_routing_id("vk", account) is None
        await set_channel(platform, MASTER_KEY, tenant_id, "vk", secret="s", routing_id=account)
        await in_force(lambda: directory.by_routing_id("vk", account) is directory.get(tenant_id))
        assert directory.by_routing_id("whatsapp", account) is None


async def test_terminated_listener_listens_again_and_misses_nothing(
    database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    async with following(database, name="test-ended") as directory:
        before = await ask(database, "SELECT pid FROM pg_stat_activity WHERE application_name = 'test-ended'")
        ended = await ask(
            database,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'test-ended'",
        )
        await set_tenant_status(platform, tenant_id, "suspended")

        assert before and ended
        await in_force(lambda: not tenant_of(directory, tenant_id).active)


def readings_from_now_on(monkeypatch: pytest.MonkeyPatch) -> list[list[str] | None]:
    """The ids that each reading asks for; None for all."""
    readings: list[list[str] | None] = []
    read_rows = tenant_directory._read_rows

    async def counted(connection: asyncpg.Connection, ids: list[str] | None, *, with_keys: bool) -> object:
        readings.append(ids)
        return await read_rows(connection, ids, with_keys=with_keys)

    monkeypatch.setattr(tenant_directory, "_read_rows", counted)
    return readings


async def test_tenants_made_in_a_loop_are_read_together_and_each_at_most_once_more_than_needed(
    database: Database, platform: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(database) as directory:
        readings = readings_from_now_on(monkeypatch)
        names = [f"{tenant_id}-{number}" for number in range(100)]
        started = monotonic()
        for name in names:
            await create_tenant(platform, MASTER_KEY, name, "UTC")
        took = monotonic() - started
        await in_force(lambda: all(directory.get(name) for name in names))

    assert None not in readings, "all tenants were read because some changed"
    assert len(readings) <= took / 0.05 + 2


async def test_flood_of_changes_is_one_reading_of_all(
    database: Database, platform: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{tenant_id}-{number}" for number in range(300)]
    async with following(database) as directory:
        readings = readings_from_now_on(monkeypatch)
        await platform.execute(
            "INSERT INTO platform.tenants (tenant_id, timezone) SELECT name, 'UTC' FROM unnest($1::text[]) AS name",
            names,
        )
        await in_force(lambda: all(directory.get(name) for name in names))
        await platform.execute("DELETE FROM platform.tenants WHERE tenant_id = ANY ($1)", names)
        await in_force(lambda: not any(directory.get(name) for name in names))

    assert None in readings


async def test_tenant_that_did_not_change_stays_the_same_object(
    database: Database, platform: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{tenant_id}-other"
    await create_tenant(platform, MASTER_KEY, other, "UTC")
    for name in (tenant_id, other):
        await set_channel(platform, MASTER_KEY, name, "calcom", secret="s", api_token="t")
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY)
    await directory.reload()
    before, changed = directory.get(tenant_id), directory.get(other)
    await set_tenant_status(platform, other, "suspended")
    made: list[str] = []
    make = tenant_directory._tenant

    def noted(rows: tenant_directory._Rows, keys: Any, now: Any) -> tuple[Tenant, bool]:
        made.append(rows.tenant["tenant_id"])
        return make(rows, keys, now)

    monkeypatch.setattr(tenant_directory, "_tenant", noted)
    await directory.reload()
    await pool.close()

    assert made == [other]

    assert before is not None and directory.get(tenant_id) is before
    assert changed is not None and directory.get(other) is not changed
    assert tenant_of(directory, other).keys is changed.keys


async def test_what_nobody_told_is_read_by_the_timer(
    database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    async with following(database, reload_seconds=0.3) as directory:
        await admin.execute("SET session_replication_role = replica")  # no triggers
        await admin.execute(
            "UPDATE platform.tenants SET status = 'suspended' WHERE tenant_id = $1", tenant_id
        )
        await in_force(lambda: not tenant_of(directory, tenant_id).active, 3)
    await admin.close()


async def test_secret_dies_at_its_expiry_without_anybody_reading(
    database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    await set_channel(platform, MASTER_KEY, tenant_id, "calcom", secret="old")
    rotation = await rotate_secret(platform, MASTER_KEY, tenant_id, "calcom", "new", timedelta(seconds=1.5))
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY)
    await directory.reload()
    await pool.close()
    assert tenant_of(directory, tenant_id).channels["calcom"].secrets == ("new", "old")
    assert rotation.old_until is not None
    await asyncio.sleep((rotation.old_until - SystemClock().now()).total_seconds() - 0.2)
    assert tenant_of(directory, tenant_id).channels["calcom"].secrets == ("new", "old")

    await in_force(lambda: tenant_of(directory, tenant_id).channels["calcom"].secrets == ("new",), 0.4)


@pytest.mark.parametrize("role", ["rollup", "kpi", "sender"])
async def test_role_that_may_not_read_all_follows_what_it_may(
    database: Database, platform: asyncpg.Connection, tenant_id: str, role: str
) -> None:
    async with following(database, role, f"test-{role}") as directory:
        await set_channel(platform, MASTER_KEY, tenant_id, "telegram", secret="s", api_token="1:x")
        await set_tenant_status(platform, tenant_id, "suspended")
        if role == "kpi":
            assert directory.all() == []
            return
        await in_force(lambda: not tenant_of(directory, tenant_id).active)
        channels = tenant_of(directory, tenant_id).channels

    assert {name: channel.api_token for name, channel in channels.items()} == (
        {"telegram": "1:x"} if role == "sender" else {}
    )


async def test_server_that_does_not_answer_blocks_nobody_and_ends_the_reading(
    database: Database, platform: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout_common.tenant_changes.READ_SECONDS", 0.3)
    admin = await asyncpg.connect(database.admin_dsn)
    async with following(database, name="test-stuck") as directory:
        held = admin.transaction()
        await held.start()
        await admin.execute("LOCK TABLE platform.channels IN ACCESS EXCLUSIVE MODE")
        pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'test-stuck' ORDER BY backend_start DESC LIMIT 1"
        first = await admin.fetchval(pid)
        async with platform.transaction():
            await platform.execute("SELECT pg_notify('platform_changed', $1)", tenant_id)
        started = monotonic()
        while monotonic() - started < 1:
            assert directory.get(tenant_id) is not None
            await asyncio.sleep(0.01)
        await held.rollback()
        await set_tenant_status(platform, tenant_id, "suspended")

        await in_force(lambda: not tenant_of(directory, tenant_id).active, 6)
        assert await admin.fetchval(pid) != first, "the reading was not ended"
    await admin.close()


async def test_older_reading_does_not_replace_a_newer_one(
    database: Database, platform: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_rows, has_read, go_on = tenant_directory._read_rows, asyncio.Event(), asyncio.Event()

    async def slow(connection: asyncpg.Connection, ids: list[str] | None, *, with_keys: bool) -> object:
        rows = await read_rows(connection, ids, with_keys=with_keys)
        if not has_read.is_set():
            has_read.set()
            await go_on.wait()
        return rows

    pool = await create_pool(database.dsn("ingest"), "test", 2)
    directory = TenantDirectory(pool, MASTER_KEY)
    monkeypatch.setattr(tenant_directory, "_read_rows", slow)
    older = asyncio.create_task(directory.reload())
    await has_read.wait()
    await set_tenant_status(platform, tenant_id, "suspended")
    newer = asyncio.create_task(directory.reload())
    await asyncio.wait([newer], timeout=0.3)
    go_on.set()
    await asyncio.gather(older, newer)
    await pool.close()

    assert not tenant_of(directory, tenant_id).active


async def test_who_only_listens_probes_its_peer(database: Database) -> None:
    """It sends nothing: without probes it would not notice that there is nobody left."""
    connection = await connect(database.dsn("ingest"), "test-probes")

    async def given() -> asyncpg.Connection:
        return connection

    async def read(_: asyncpg.Connection, ids: list[str] | None) -> None:
        has_read.set()

    has_read = asyncio.Event()
    async with running(PlatformChanges(given, read, NEVER).run()):
        await has_read.wait()
        peer = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        probes = [peer.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name, _ in KEEPALIVE]
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert probes == [value for _, value in KEEPALIVE]


class Line:
    """A line to Postgres that can go dead: what is sent over it then arrives nowhere, and nothing closes it."""

    def __init__(self, dsn: str) -> None:
        address = urlsplit(dsn)
        self._to = (address.hostname, address.port)
        self._dsn = address
        self._alive = asyncio.Event()
        self._alive.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.dials = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """The DSN by way of this line."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        user = f"{self._dsn.username}:{self._dsn.password}"
        try:
            yield self._dsn._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def die(self) -> None:
        self._alive.clear()

    def live(self) -> None:
        self._alive.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dials += 1
        there, back = await asyncio.open_connection(*self._to)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while part := await source.read(65536):
                    await self._alive.wait()
                    sink.write(part)
        finally:
            sink.close()


async def test_line_that_went_dead_is_given_up_and_followed_again_when_it_lives(
    database: Database, platform: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout_common.tenant_changes.READ_SECONDS", 0.3)
    line = Line(database.dsn("ingest"))
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY, 0.2)
    await directory.reload()
    async with line.open() as dsn, running(directory.run(lambda: connect(dsn, "test-line"))):
        await until(lambda: listens(database, "test-line"), "the directory to listen")
        line.die()

        async def dialled_again() -> bool:
            assert directory.get(tenant_id) is not None
            return line.dials > 1

        await until(dialled_again, "the dead line to be given up", 5)
        await set_tenant_status(platform, tenant_id, "suspended")
        assert tenant_of(directory, tenant_id).active
        line.live()
        await in_force(lambda: not tenant_of(directory, tenant_id).active, 10)
    await pool.close()
