"""What `bench ingest` runs on: one Postgres and one Kafka as `up` starts them, and the servers that are compared.

All servers stay up during the whole run; the tables are emptied before each measurement, so that none meets the other's.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import asyncpg

from bench.ingest_bodies import requests
from bench.machine import cpu_seconds
from bench.system import LOOPBACK, SECRET
from turnout_cli.embedded import placement
from turnout_cli.embedded.process import free_port, spawn, stop_process, tail
from turnout_cli.embedded.stack import Stack, embedded_stack
from turnout_cli.migrate import migrate
from turnout_cli.services import DATABASE
from turnout_cli.state import new_passwords, write_private
from turnout_cli.system import create_database
from turnout_cli.topics import create_topics
from turnout_common.security import new_data_key, read_master_key
from turnout_common.tenants import create_tenant, set_channel

TENANTS = [f"bench{number:02d}" for number in range(20)]
TABLES = ("inbox", "inbox_keys", "raw_items", "fate_counts", "outbox")
BARE = Path(__file__).with_name("ingest_bare.sql")
SCHEMA_OF = {"ours": "ingest", "naive": "naive", "naive_tuned": "naive"}
SCHEMAS = ("ingest", "naive", "bare")
UVICORN = ("--host", LOOPBACK, "--workers", "2", "--loop", "uvloop", "--http", "httptools", "--no-access-log")


@dataclass(frozen=True)
class Server:
    """One server that is compared. `processes` are its pids by name."""

    name: str
    port: int
    schema: str | None
    processes: dict[str, int] = field(repr=False)


@dataclass(frozen=True)
class Bed:
    """The two databases and the servers."""

    stack: Stack = field(repr=False)
    servers: dict[str, Server]
    dsn: str = field(repr=False)
    ingest_dsn: str = field(repr=False)

    def cpu(self, server: Server | None) -> dict[str, float]:
        pids = {"postgres": self.stack.postgres.pid or 0, "kafka": self.stack.kafka.pid or 0}
        return cpu_seconds(pids | (server.processes if server else {}))

    async def empty_tables(self) -> None:
        """Every measurement begins with empty tables and nothing left to write from the one before."""
        tables = [f"{schema}.{table}" for schema in SCHEMAS for table in reversed(TABLES)]
        # One at a time: a relay that looks just then holds one table and wants another.
        await self._execute(*(f"TRUNCATE {table}" for table in tables), "CHECKPOINT")

    async def _execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@asynccontextmanager
async def test_bed(names: Sequence[str]) -> AsyncIterator[Bed]:
    """Starts everything, and stops it and deletes its data whatever happens."""
    folder = _new_folder()
    try:
        async with embedded_stack(folder) as stack, AsyncExitStack() as stopped:
            environment, dsn, ingest_dsn = await _prepare(stack, folder)
            start = Starter(environment, folder, stopped)
            servers = {name: await start.server(name) for name in names}
            yield Bed(stack, servers, dsn, ingest_dsn)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="turnout-bench-"))
    folder.chmod(0o711)  # under root, Postgres runs as another user and passes through here
    return folder


async def _prepare(stack: Stack, folder: Path) -> tuple[dict[str, str], str, str]:
    """The environment of the servers, and the DSNs of the superuser and of ingest's role."""
    passwords = new_passwords({})
    await create_database(stack.postgres.dsn)
    dsn = stack.postgres.dsn_for(DATABASE)
    await migrate(dsn, passwords)
    await create_topics(stack.kafka_bootstrap)
    key_file = folder / "master.key"
    write_private(key_file, base64.b64encode(new_data_key()).decode())
    key = read_master_key(None, key_file)
    connection = await asyncpg.connect(dsn)
    try:
        for schema in SCHEMAS[1:]:
            await copy_tables(connection, schema)
        for tenant in TENANTS:
            await create_tenant(connection, key, tenant, "Europe/Berlin", actor="bench")
            await set_channel(connection, key, tenant, "calcom", secret=SECRET, actor="bench")
    finally:
        await connection.close()
    address = f"{LOOPBACK}:{stack.postgres.port}/{DATABASE}"
    ingest_dsn = f"postgresql://turnout_ingest:{passwords['turnout_ingest']}@{address}"
    environment = os.environ | {
        "TURNOUT_ENV": "development",
        "TURNOUT_POSTGRES_DSN": ingest_dsn,
        "TURNOUT_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
        "TURNOUT_MASTER_KEY_FILE": str(key_file),
        "TURNOUT_HTTP_HOST": LOOPBACK,
        "TURNOUT_WORKERS": "2",
        # Nobody reads the topic here, so that the recovery check would take everything for lost.
        "TURNOUT_RECOVERY_INTERVAL_SECONDS": "86400",
    }
    return environment, dsn, ingest_dsn


async def copy_tables(connection: asyncpg.Connection, schema: str) -> None:
    """The inbox once more: the same columns, checks, indexes, storage and row-level security."""
    await connection.execute(f"CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO turnout_ingest")
    for table in TABLES:
        await connection.execute(f"CREATE TABLE {schema}.{table} (LIKE ingest.{table} INCLUDING ALL)")
        await connection.execute("SELECT platform.protect($1, 'turnout_ingest')", f"{schema}.{table}")
        options = await connection.fetchval(
            "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = $1::text::regclass",
            f"ingest.{table}",
        )
        if options:
            await connection.execute(f"ALTER TABLE {schema}.{table} SET ({options})")


class Starter:
    """Starts the servers that are compared, and has them stopped at the end."""

    def __init__(self, environment: dict[str, str], folder: Path, stopped: AsyncExitStack) -> None:
        self._environment = environment
        self._folder = folder
        self._stopped = stopped
        self._relay: int | None = None

    async def server(self, name: str) -> Server:
        port, python = free_port(), [sys.executable, "-m"]
        argv = {
            "ours": [*python, "turnout_ingest.main"],
            "no_storage": [*python, "bench.ingest_no_storage"],
        }.get(name, [*python, "uvicorn", f"bench.naive_app:{name}", *UVICORN, "--port", str(port)])
        pids = {"ingest": await self._spawn(name, argv, port)}
        if name.startswith("naive"):
            pids["relay"] = await self._naive_relay()
        await _wait_until_answered(name, port, self._folder / f"{name}.log")
        return Server(name, port, SCHEMA_OF.get(name), pids)

    async def _naive_relay(self) -> int:
        """One for both naive apps, which write to the same tables."""
        if self._relay is None:
            argv = [sys.executable, "-m", "bench.ingest_relay"]
            self._relay = await self._spawn("naive-relay", argv, 0)
        return self._relay

    async def _spawn(self, name: str, argv: list[str], port: int) -> int:
        log, checkout = self._folder / f"{name}.log", Path(__file__).parents[1]
        environment = self._environment | {"TURNOUT_HTTP_PORT": str(port)}
        process = await spawn(argv, log=log, cwd=checkout, env=environment)
        self._stopped.push_async_callback(stop_process, process, signal.SIGTERM, timeout_seconds=20)
        return process.pid


async def _wait_until_answered(name: str, port: int, log: Path) -> None:
    for _ in range(600):
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://{LOOPBACK}:{port}/webhooks/calcom/{TENANTS[0]}"
                async with session.post(url, data=b"", headers={"x-cal-signature-256": "none"}) as answer:
                    if answer.status == 401:
                        return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{name} does not answer:\n{tail(log)}")


async def require_same_answers(bed: Bed) -> None:
    """What is compared must do the same: a new item, its repetition, a forged one; and where it stores, the same rows."""
    for server in bed.servers.values():
        await bed.empty_tables()
        (request,) = requests(TENANTS[:1], 0, 1)
        forged = request[:-2] + b" }"
        answers = [await _answer(server.port, raw) for raw in (request, request, forged)]
        if answers != [202, 202, 401]:
            raise RuntimeError(f"{server.name} answers {answers} where 202, 202 and 401 are right")
        if server.schema is not None:
            found = await _stored(bed.dsn, server.schema)
            if found != (["duplicate", "published"], 1, 1, 2):
                raise RuntimeError(f"{server.name} stored other rows than it should: {found}")


async def _answer(port: int, request: bytes) -> int:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head[9:12])


async def _stored(dsn: str, schema: str) -> tuple[list[str], int, int, int]:
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            f"""SELECT (SELECT array_agg(fate ORDER BY fate) FROM {schema}.inbox),
                       (SELECT count(*) FROM {schema}.inbox_keys), (SELECT count(*) FROM {schema}.raw_items),
                       (SELECT sum(items)::int FROM {schema}.fate_counts)"""
        )
    finally:
        await connection.close()
    assert row is not None
    return tuple(row)


async def bare_rows_per_second(bed: Bed, batch: int, seconds: float) -> float:
    """pgbench: two connections that each insert `batch` rows a transaction into the same tables, made in the server."""
    program = placement.binaries(placement.server_account()) / "pgbench"
    argv = [
        str(program),
        "-n",
        "-f",
        str(BARE),
        "-D",
        f"batch={batch}",
        "-c",
        "2",
        "-j",
        "1",
        "-M",
        "prepared",
    ]
    process = await asyncio.create_subprocess_exec(
        *argv, "-T", str(max(1, round(seconds))), bed.ingest_dsn,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    found = [line for line in output.decode().splitlines() if line.startswith("tps = ")]
    if process.returncode != 0 or not found:
        raise RuntimeError(f"pgbench ended with {process.returncode}:\n{output.decode()}")
    return float(found[0].split()[2]) * batch
