"""Ingest as two worker processes on one port: both serve, one answer for both, they end together, nothing is lost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import SECRETS, TIMEOUT, add_channels, created, now, rows, value
from tests.integration.probe import until
from turnout_cli.embedded.process import free_port
from turnout_cli.supervisor import ProcessSpec, ServiceProcess
from turnout_cli.webhooks import Webhook, signed_headers


class Workers:
    """The processes, and a client that opens a connection a request."""

    def __init__(self, process: ServiceProcess, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    @property
    def parent(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.parent).children()]

    async def post(self, tenant_id: str, webhook: Webhook) -> int:
        headers = signed_headers(webhook, SECRETS[webhook.channel], int(now().timestamp()))
        path = f"/webhooks/{webhook.channel}/{tenant_id}"
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as http,
            http.post(self.url + path, data=webhook.body, headers=headers) as answer,
        ):
            return answer.status

    async def get(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as http,
            http.get(self.url + path) as answer,
        ):
            return answer.status, await answer.text()


@contextlib.asynccontextmanager
async def workers_of(
    database: Database, infrastructure: Infrastructure, prefix: str, folder: Path, count: int, port: int
) -> AsyncIterator[Workers]:
    environment = {
        "PATH": os.environ["PATH"],
        "TURNOUT_ENV": "development",
        "TURNOUT_POSTGRES_DSN": database.dsn("ingest"),
        "TURNOUT_KAFKA_BOOTSTRAP": infrastructure.kafka,
        "TURNOUT_TOPIC_PREFIX": prefix,
        "TURNOUT_HTTP_PORT": str(port),
        "TURNOUT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "TURNOUT_WORKERS": str(count),
        "TMPDIR": str(folder),
    }
    argv = [sys.executable, "-m", "turnout_ingest.main"]
    log = folder / "ingest.log"
    process = ServiceProcess(ProcessSpec("ingest", argv, environment, f"http://127.0.0.1:{port}/ready", log))
    await process.start()
    try:
        yield Workers(process, port)
    finally:
        await process.stop()


@pytest.fixture
async def salon(database: Database, tenant_id: str) -> str:
    await add_channels(database, tenant_id)
    return tenant_id


@pytest.fixture
async def workers(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, tmp_path: Path, salon: str
) -> AsyncIterator[Workers]:
    async with workers_of(database, infrastructure, topic_prefix, tmp_path, 2, free_port()) as started:
        yield started


def left_behind(folder: Path) -> list[Path]:
    return list(folder.glob("turnout-workers-*"))


def alive(*pids: int) -> list[int]:
    """Those that run; one that ended and was not waited for does not."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


async def _gone(pids: list[int]) -> bool:
    return not alive(*pids)


async def writers(database: Database) -> int:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = $2"
    return int(await value(database, sql, database.name, "turnout-ingest-inbox"))


async def test_both_workers_get_requests_and_one_answer_speaks_for_both(
    workers: Workers, database: Database, salon: str
) -> None:
    statuses = await asyncio.gather(*(workers.post(salon, created(f"w-{n}")) for n in range(60)))

    assert Counter(statuses) == {202: 60}
    assert await writers(database) == 2
    shards = "SELECT count(DISTINCT shard) FROM ingest.fate_counts WHERE tenant_id = $1"
    assert await value(database, shards, salon) == 2, "each worker stored some, under a shard of its own"
    for _ in range(8):  # whichever of the two is asked
        figures = json.loads((await workers.get("/status"))[1])
        assert (figures["accepted"], figures["workers"]) == (60, 2)
        text = (await workers.get("/metrics"))[1]
        assert 'turnout_webhooks_total{channel="calcom",status="202"} 60.0' in text
        assert 'turnout_items_total{channel="calcom",fate="published"} 60.0' in text
    assert await workers.get("/ready") == (200, '{"ready": true, "faults": {}}')


async def test_all_that_both_accept_is_published_by_one(
    workers: Workers, database: Database, salon: str
) -> None:
    statuses = await asyncio.gather(*(workers.post(salon, created(f"p-{n}")) for n in range(40)))

    async def published() -> bool:
        return bool(await value(database, "SELECT NOT EXISTS (SELECT FROM ingest.outbox)"))

    await until(published, "the outbox to be published")
    relays = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = $2"
    assert Counter(statuses) == {202: 40}
    assert await value(database, relays, database.name, "turnout-ingest-relay") == 1


async def test_connections_of_a_worker_stay_within_the_budget(
    workers: Workers, database: Database, salon: str
) -> None:
    await asyncio.gather(*(workers.post(salon, created(f"b-{n}")) for n in range(40)))
    await asyncio.gather(*(workers.get(path) for path in ("/ready", "/status") for _ in range(10)))

    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE 'turnout-ingest%'"
    )
    assert 2 < int(await value(database, sql, database.name)) <= 9


async def test_worker_that_is_killed_ends_all_and_nothing_accepted_is_lost(
    workers: Workers, database: Database, salon: str
) -> None:
    accepted: list[str] = []
    refused: list[str] = []

    async def post(number: int) -> None:
        for again in range(1_000):
            uid = f"k-{number}-{again}"
            try:
                status = await workers.post(salon, created(uid))
            except (aiohttp.ClientError, OSError):
                refused.append(uid)
                return
            assert status == 202
            accepted.append(uid)

    pids = workers.pids()
    posting = [asyncio.create_task(post(number)) for number in range(8)]
    await until(lambda: _at_least(accepted, 50), "webhooks to be accepted")
    os.kill(pids[1], signal.SIGKILL)

    assert await workers.process.wait() == 1
    await asyncio.gather(*posting)
    assert len(pids) == 2 and not alive(*pids)
    assert refused, "the death was noticed"
    stored = [row["subject"] for row in await rows(database, salon)]
    uids = Counter(subject.rsplit(":", 1)[-1] for subject in stored)
    assert not [uid for uid in accepted if uids[uid] != 1]


async def _at_least(found: list[Any], number: int) -> bool:
    return len(found) >= number


async def test_parent_that_is_killed_leaves_no_orphan(
    workers: Workers, database: Database, salon: str, tmp_path: Path
) -> None:
    pids = workers.pids()
    os.kill(workers.parent, signal.SIGKILL)
    await workers.process.wait()

    await until(lambda: _gone(pids), "the workers to end", seconds=20)


async def test_stop_drains_all_workers_and_leaves_nothing_behind(
    workers: Workers, database: Database, salon: str, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    pids = workers.pids()
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE ingest.inbox_keys IN EXCLUSIVE MODE")
            posting = [asyncio.create_task(workers.post(salon, created(f"d-{n}"))) for n in range(20)]
            waiting = (
                "SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
            )
            await until(lambda: value(database, waiting, database.name), "both workers to wait for a commit")
            os.kill(workers.parent, signal.SIGTERM)
            await until(lambda: _refuses(workers), "the port to be closed")
        statuses = [await each for each in posting]
    finally:
        await connection.close()

    assert await workers.process.wait() == 0
    assert Counter(statuses) == {202: 20}
    assert not alive(*pids)
    assert left_behind(tmp_path) == []


async def _refuses(workers: Workers) -> bool:
    try:
        await workers.get("/health")
    except aiohttp.ClientError:
        return True
    return False


async def test_worker_that_hangs_makes_the_service_not_ready(workers: Workers) -> None:
    pids = workers.pids()
    os.kill(pids[1], signal.SIGSTOP)
    try:
        status, text = 0, ""
        for _ in range(20):  # a connection that falls to the worker that hangs is not answered at all
            try:
                async with asyncio.timeout(5):
                    status, text = await workers.get("/ready")
                break
            except TimeoutError:
                continue
        assert (status, json.loads(text)["ready"]) == (503, False)
        assert "does not answer" in text
    finally:
        os.kill(pids[1], signal.SIGCONT)


async def test_taken_port_is_refused_and_not_shared(
    workers: Workers, database: Database, infrastructure: Infrastructure, topic_prefix: str, tmp_path: Path
) -> None:
    port = int(workers.url.rsplit(":", 1)[1])

    # It is taken for ready at once, by the answer of those who have the port: its own end tells.
    async with workers_of(database, infrastructure, topic_prefix, tmp_path, 3, port) as second:
        assert await asyncio.wait_for(second.process.wait(), 30) == 1
    assert "address already in use" in (tmp_path / "ingest.log").read_text().lower()
