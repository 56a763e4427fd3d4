"""Postgres killed, restarted, cut off, full: ingest answers 503 in time or goes on, and afterwards nothing is missing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.integration.probe import running, until
from tests.resilience.ledger import Provider
from tests.resilience.scenario import Scenario, known_to_ingest, new_scenario
from tests.resilience.small_disk import on_small_disk
from tests.resilience.world import SECRETS, World
from turnout_cli.webhooks import calcom, telegram
from turnout_common.clock import SystemClock

pytestmark = pytest.mark.slow

TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND usename = 'turnout_ingest'
"""
WRITERS_SYNCS = """
SELECT coalesce(sum(io.fsyncs), 0) FROM pg_stat_activity a, pg_stat_get_backend_io(a.pid) io
WHERE a.datname = current_database() AND a.application_name = 'turnout-ingest-inbox' AND io.object = 'wal'
"""
MIB = 1024 * 1024


async def test_success_answer_means_a_sync_of_the_log(world: World) -> None:
    """kill -9 alone proves none: what a killed process wrote stays in the page cache."""
    settings = (
        "SELECT string_agg(setting, ',') FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit')"
    )
    weaker = "SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text ~ 'synchronous_commit|fsync'"
    assert await world.value(settings) == "on,on"
    assert await world.count(weaker) == 0
    tenant_id, _ = await world.new_tenant()
    provider = Provider(world.url("ingest"), tenant_id, SECRETS, concurrency=1)
    await known_to_ingest(provider)
    now = SystemClock().now()
    messages = [telegram.text(number, telegram.Chat(9, "S"), number, now, "word") for number in range(200)]

    before, commits = await world.count(WRITERS_SYNCS), await _commits(world)
    await provider.send(messages)
    commits = await _commits(world) - commits

    async def each_was_synced() -> bool:
        """The writer alone may sync its commits here, save for the few that the relay's commits take along; a backend
        tells of its syncs with a commit, at most once a second."""
        await provider.send([calcom.ping(SystemClock().now())])
        return await world.count(WRITERS_SYNCS) - before >= 0.8 * commits

    assert provider.ledger.attempts == {"ok": len(messages)}
    assert commits >= len(messages)
    await until(each_was_synced, f"a sync for each of {commits} commits", 5)


async def test_postgres_killed_under_load_recovers_and_lost_nothing(world: World) -> None:
    scenario = await new_scenario(world, seed=61)
    postgres, mark = world.stack.postgres, world.mark(world.stack.postgres.log_path)

    async with scenario.sending():
        await scenario.progress(0.3)
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        assert await postgres.wait() == -signal.SIGKILL
        await _refused(scenario, 20)
        await postgres.start()
        assert await world.mend() == [], "a service did not outlive the outage"

    assert "was not properly shut down; automatic recovery in progress" in world.said_since(mark)
    scenario.check_answers()
    await scenario.check()


async def test_postgres_restarted_under_load_costs_no_webhook(world: World) -> None:
    scenario = await new_scenario(world, seed=62)
    postgres, mark = world.stack.postgres, world.mark(world.stack.postgres.log_path)

    async with scenario.sending():
        for share in (0.2, 0.4):
            await scenario.progress(share)
            await postgres.stop()
            await postgres.start()
        assert await world.mend() == [], "a service did not outlive the outage"

    assert world.said_since(mark).count("received fast shutdown request") == 2
    scenario.check_answers()
    await scenario.check()


async def test_connections_terminated_under_load_are_not_noticed_outside(world: World) -> None:
    scenario = await new_scenario(world, seed=63)
    terminated = []

    async with scenario.sending():
        for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
            await scenario.progress(share)
            terminated.append(await world.count(TERMINATE))

    assert all(terminated), terminated
    assert scenario.attempts.keys() == {"ok"}
    await scenario.check()


async def test_no_connection_to_be_had_is_503_and_no_loss(world: World) -> None:
    scenario = await new_scenario(world, seed=64)
    mark = world.mark(world.log("ingest"))

    async with scenario.sending():
        await scenario.progress(0.3)
        async with _all_connections_taken(world):
            await _refused(scenario, 20)
        assert await world.mend() == [], "a service did not outlive the outage"

    assert "TooManyConnectionsError 53300" in world.said_since(mark)
    scenario.check_answers()
    await scenario.check()


async def test_full_disk_is_503_and_no_loss(world: World) -> None:
    scenario = await new_scenario(world, seed=65)
    mark = world.mark(world.log("ingest"))

    async with on_small_disk(world.stack.postgres, 48 * MIB) as disk:
        assert await world.mend() == [], "a service did not outlive the outage"
        async with scenario.sending():
            await scenario.progress(0.3)
            await disk.fill()
            await _refused(scenario, 20)
            await disk.free()

        assert "DiskFullError 53100" in world.said_since(mark)
        scenario.check_answers()
        await scenario.check()
    assert await world.mend() == [], "a service did not outlive the outage"


async def test_no_space_for_the_log_stops_postgres_and_loses_nothing(world: World) -> None:
    """Without room for its write-ahead log the server panics, and cannot recover before there is room again."""
    scenario = await new_scenario(world, seed=66)
    postgres, mark = world.stack.postgres, world.mark(world.stack.postgres.log_path)

    async with on_small_disk(postgres, 48 * MIB) as disk:
        assert await world.mend() == [], "a service did not outlive the outage"
        async with scenario.sending():
            await scenario.progress(0.3)
            await disk.fill()
            await until(lambda: _panicked(world), "a panic for want of space", 20)
            await _refused(scenario, 20)
            await disk.free()
            if postgres.pid is None:
                await postgres.start()
            assert await world.mend() == [], "a service did not outlive the outage"

        assert "No space left on device" in world.said_since(mark)
        scenario.check_answers()
        await scenario.check()
    assert await world.mend() == [], "a service did not outlive the outage"


async def _commits(world: World) -> int:
    return int(await world.metric("ingest", "turnout_inbox_commit_rows_count"))


async def _refused(scenario: Scenario, more: int) -> None:
    """Waits until so many more attempts were answered 503: the fault is felt."""
    before = scenario.attempts["503"]

    async def felt() -> bool:
        return scenario.attempts["503"] - before >= more

    await until(felt, f"{more} answers 503", 30)


async def _panicked(world: World) -> bool:
    """Goes through the segments of the log that there are, so that the server needs a new one."""
    try:
        await world.value("SELECT pg_switch_wal() FROM (SELECT pg_logical_emit_message(true, 'fill', 'up'))")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return "PANIC" in world.stack.postgres.log_path.read_text(errors="replace")
    return False


@asynccontextmanager
async def _all_connections_taken(world: World) -> AsyncIterator[None]:
    """Others hold every connection that is not kept for the superuser, those of ingest too."""
    held: list[asyncpg.Connection] = []

    async def taken() -> bool:
        """Whether ingest has none left; takes what is free."""
        await world.count(TERMINATE)
        try:
            while True:
                held.append(await asyncpg.connect(world.database.dsn("maintenance")))
        except asyncpg.TooManyConnectionsError:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'turnout_ingest'"
            return not await world.count(sql)

    async def keep_taking() -> None:
        """A server process that was ending at the first look gives its place free a moment later."""
        while True:
            await taken()
            await asyncio.sleep(0.1)

    try:
        await until(taken, "all connections to be taken")
        async with running(keep_taking()):
            yield
    finally:
        await asyncio.gather(*(connection.close() for connection in held))
