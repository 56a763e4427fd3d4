"""A whole system for fault tests: embedded servers of its own, and the five services as processes that can be killed.

The ages of the recovery check are seconds here instead of minutes; their ratios are those of production.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, new_database, new_topics
from tests.integration.probe import until
from tests.resilience import dying
from turnout_cli.embedded.process import free_port
from turnout_cli.embedded.stack import Stack, embedded_stack
from turnout_cli.services import SERVICES
from turnout_cli.supervisor import ProcessSpec, ServiceProcess
from turnout_common.tenants import TenantSettings, create_api_token, create_tenant, set_channel

#: In the order in which a tenant gets its channels: who waits until ingest knows the last knows that it knows all.
SECRETS = {
    "telegram": "fault-test-telegram",
    "events": "whsec_" + base64.b64encode(b"fault-test-standard-webhooks-sec").decode(),
    "calcom": "fault-test-calcom",
}
TELEGRAM_TOKEN = "100000002:fault-test-bot"
RECOVERY_AGE = 4.0
ROLES = {service.name: (service.role or "").removeprefix("turnout_") for service in SERVICES}

#: Everything that was accepted has gone all the way; asked of the tables, not of the services.
SETTLED = """
SELECT NOT EXISTS (SELECT FROM ingest.outbox)
  AND NOT EXISTS (SELECT FROM booking.outbox)
  AND NOT EXISTS (SELECT FROM sender.outbox)
  AND NOT EXISTS (SELECT FROM ingest.inbox i WHERE i.fate = 'published'
                  AND NOT EXISTS (SELECT FROM booking.applied a WHERE a.record_id = i.item_id))
  AND NOT EXISTS (SELECT FROM booking.booking_events e
                  WHERE NOT EXISTS (SELECT FROM rollup.applied a WHERE a.record_id = e.event_id))
"""


@dataclass
class World:
    """A running system under test."""

    stack: Stack
    kafka_bootstrap: str
    database: Database
    prefix: str
    folder: Path
    ports: dict[str, int]
    processes: dict[str, ServiceProcess] = field(default_factory=dict)

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    async def start(self, *services: str, dies: str | None = None, **environment: str) -> None:
        """Starts services that do not run, and waits until they are ready.

        `name@replica` is one more replica of a service. One that `dies` at that point of dying.py waits for `order_death`.
        """
        await asyncio.gather(*(self._start(service, dies, environment) for service in services))

    async def _start(self, service: str, dies: str | None, environment: Mapping[str, str]) -> None:
        self.ports.setdefault(service, free_port())
        self.processes[service] = ServiceProcess(self._spec(service, dies, environment))
        await self.processes[service].start()

    async def kill(self, service: str) -> None:
        """kill -9, and proof that it died of it."""
        process = self.processes[service]
        assert process.pid is not None, f"{service} does not run"
        os.kill(process.pid, signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL

    async def order_death(self, service: str) -> list[UUID]:
        """Waits until a service that `dies` has died at its point; gives the ids that it held there."""
        order = self._death_order(service)
        order.touch()
        try:
            assert await asyncio.wait_for(self.processes[service].wait(), 30) == -signal.SIGKILL
        finally:
            order.unlink()
        return [UUID(each) for each in json.loads(order.with_suffix(".died").read_text())]

    async def mend(self) -> list[str]:
        """Starts again what has ended, as a supervisor does; gives its names. A further replica is not missed."""
        if self.stack.postgres.pid is None:
            await self.stack.postgres.start()
        if self.stack.kafka.pid is None:
            await self.stack.kafka.start()
        ended = [each for each, process in self.processes.items() if process.pid is None and "@" not in each]
        await self.start(*ended)
        return ended

    @asynccontextmanager
    async def commits_held(self) -> AsyncIterator[None]:
        """No inbox commits in the block: what is sent gathers, until `ingest` gives up after 1.2 s."""
        connection = await asyncpg.connect(self.database.admin_dsn)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE ingest.inbox_keys IN SHARE MODE")
                yield
        finally:
            await connection.close()

    def mark(self, log: Path) -> tuple[Path, int]:
        """The end of a log as it is now, for `said_since`."""
        return log, log.stat().st_size

    def said_since(self, mark: tuple[Path, int]) -> str:
        log, size = mark
        with log.open("rb") as file:
            file.seek(size if size <= log.stat().st_size else 0)
            return file.read().decode(errors="replace")

    async def stop(self, service: str) -> int:
        """SIGTERM; the exit status."""
        await self.processes[service].stop()
        return await self.processes[service].wait()

    def log(self, name: str) -> Path:
        """The log of a service (all its starts)."""
        return self.folder / f"{name}.log"

    def send_signal(self, service: str, number: signal.Signals) -> None:
        pid = self.processes[service].pid
        assert pid is not None, f"{service} does not run"
        os.kill(pid, number)

    async def stop_all(self) -> None:
        await asyncio.gather(*(process.stop() for process in self.processes.values()))

    async def metric(self, service: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry `labels`."""
        async with aiohttp.ClientSession() as session, session.get(self.url(service) + "/metrics") as answer:
            lines = (await answer.text()).splitlines()
        found = [
            line
            for line in lines
            if line.startswith((name + "{", name + " "))
            and all(f'{k}="{v}"' in line for k, v in labels.items())
        ]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    async def value(self, sql: str, *arguments: object) -> object:
        """One value, asked by the superuser."""
        connection = await asyncpg.connect(self.database.admin_dsn)
        try:
            return await connection.fetchval(sql, *arguments)
        finally:
            await connection.close()

    async def count(self, sql: str, *arguments: object) -> int:
        return int(str(await self.value(sql, *arguments)))

    async def settled(self, seconds: float = 60) -> None:
        """Waits until all that was accepted has gone all the way."""

        async def done() -> bool:
            return bool(await self.value(SETTLED))

        await until(done, "everything accepted to arrive in the rollup", seconds)

    async def new_tenant(
        self, settings: TenantSettings | None = None, timezone: str = "Europe/Berlin"
    ) -> tuple[str, str]:
        """A tenant with all channels, known to ingest; gives its id and an owner's token."""
        tenant_id = "f" + os.urandom(6).hex()
        connection = await asyncpg.connect(self.database.dsn("platform"))
        try:
            await create_tenant(connection, MASTER_KEY, tenant_id, timezone, settings=settings, actor="test")
            for channel, secret in SECRETS.items():
                token = TELEGRAM_TOKEN if channel == "telegram" else None
                await set_channel(connection, MASTER_KEY, tenant_id, channel, secret=secret, api_token=token)
            token = await create_api_token(connection, tenant_id, "owner", actor="test")
        finally:
            await connection.close()
        return tenant_id, token

    def _death_order(self, service: str) -> Path:
        return self.folder / f"{service}.dies"

    def _spec(self, name: str, dies: str | None, changes: Mapping[str, str]) -> ProcessSpec:
        service, _, replica = name.partition("@")
        module = next(each.module for each in SERVICES if each.name == service)
        command = (
            ["-m", module]
            if dies is None
            else [str(dying.__file__), dies, str(self._death_order(name)), module]
        )
        environment = {
            **os.environ,
            "TURNOUT_ENV": "development",
            "TURNOUT_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "TURNOUT_TOPIC_PREFIX": self.prefix,
            "TURNOUT_HTTP_PORT": str(self.ports[name]),
            "TURNOUT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
            "TURNOUT_REPLICA": replica or "only",
            "TURNOUT_TENANT_RELOAD_SECONDS": "0.5",
            "TURNOUT_TENANT_REQUESTS_PER_SECOND": "0",
            "TURNOUT_RECOVERY_AGE_SECONDS": str(RECOVERY_AGE),
            "TURNOUT_RECOVERY_INTERVAL_SECONDS": "1",
            "TURNOUT_RECOVERY_REPUBLISH_SECONDS": "15",
            "TURNOUT_PROVIDER_BASE_URL": self.url("mock-providers"),
            **changes,
        }
        if ROLES[service]:
            environment["TURNOUT_POSTGRES_DSN"] = self.database.dsn(ROLES[service])
        ready = self.url(name) + "/ready"
        return ProcessSpec(name, [sys.executable, *command], environment, ready, self.log(name))


@asynccontextmanager
async def running_world(folder: Path) -> AsyncIterator[World]:
    """The whole system on servers of its own; the logs stay in `folder`."""
    async with embedded_stack(folder) as stack, world_on(stack, stack.kafka_bootstrap, folder) as world:
        yield world


@asynccontextmanager
async def world_on(
    stack: Stack, kafka_bootstrap: str, folder: Path, *, replication: int = 1
) -> AsyncIterator[World]:
    """The services, on servers that run; `kafka_bootstrap` may name more brokers than the stack's."""
    async with new_database(stack.postgres_dsn) as database:
        prefix = await new_topics(kafka_bootstrap, partitions=4, replication=replication)
        ports = {service.name: free_port() for service in SERVICES}
        world = World(stack, kafka_bootstrap, database, prefix, folder, ports)
        try:
            await world.start(*world.ports)
            yield world
        finally:
            await world.stop_all()
