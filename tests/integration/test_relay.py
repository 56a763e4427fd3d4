"""The relay on a real Kafka and Postgres: a row leaves the outbox only when Kafka has it, in order, from one replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from time import monotonic
from uuid import UUID

import asyncpg
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import (
    AT,
    add_probe_schema,
    create_topic,
    probe_settings,
    read_all,
    running,
    until,
)
from turnout_cli.embedded.process import free_port
from turnout_common import metrics
from turnout_common.ids import new_id
from turnout_common.postgres import create_pool
from turnout_common.relay import SQL, Relay, RelayQueries
from turnout_common.settings import ServiceSettings

QUERIES = RelayQueries.of_schema("probe")
INSERT = SQL["insert_outbox"].format(schema="probe")


@pytest.fixture(scope="module", autouse=True)
async def schema(database: Database) -> None:
    await add_probe_schema(database)


@pytest.fixture
async def settings(database: Database, infrastructure: Infrastructure) -> ServiceSettings:
    prefix = f"relay.{new_id().hex[-12:]}."
    await create_topic(infrastructure.kafka, prefix + "out", partitions=3)
    return probe_settings(database, infrastructure, prefix)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    created = await create_pool(database.dsn("booking"), "test", size=2)
    yield created
    await created.close()


async def write(pool: asyncpg.Pool, count: int, key: str = "tenant:a") -> list[UUID]:
    ids = [new_id() for _ in range(count)]
    await pool.execute(
        INSERT, ids, ["out"] * count, [key] * count, ["inbound.consent"] * count, ["test"] * count, ["s"] * count,
        ["tenant"] * count, [AT] * count, [f'{{"n":{n}}}' for n in range(count)],
    )  # fmt: skip
    return ids


async def left(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM probe.outbox"))


async def test_rows_reach_kafka_in_order_with_their_envelope_and_leave_the_outbox(
    settings: ServiceSettings, pool: asyncpg.Pool
) -> None:
    relay = Relay("probe", settings, QUERIES)
    ids = await write(pool, 1200)

    async with running(relay.run()):
        await until(lambda: _empty(pool), "an empty outbox")

    records = await read_all(settings.kafka_bootstrap, settings.topic("out"), 1200)
    assert [dict(r.headers)["ce_id"].decode() for r in records] == [str(i) for i in ids]
    assert dict(records[0].headers)["ce_tenantid"] == b"tenant"
    assert records[0].key == b"tenant:a"


async def test_row_stays_while_kafka_is_away_and_goes_when_it_is_back(
    settings: ServiceSettings, pool: asyncpg.Pool, infrastructure: Infrastructure
) -> None:
    away = settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    relay = Relay("probe", away, QUERIES)
    ids = await write(pool, 3)

    async with running(relay.run()):
        await until(lambda: _failed(relay), "a failed round")
        assert await left(pool) == 3

    async with running(Relay("probe", settings, QUERIES).run()):
        await until(lambda: _empty(pool), "an empty outbox")
    records = await read_all(settings.kafka_bootstrap, settings.topic("out"), 3)
    assert [dict(r.headers)["ce_id"].decode() for r in records] == [str(i) for i in ids]


async def test_two_replicas_publish_each_row_once(settings: ServiceSettings, pool: asyncpg.Pool) -> None:
    first, second = Relay("probe", settings, QUERIES), Relay("probe", settings, QUERIES)

    async with running(first.run(), second.run()):
        for _ in range(5):
            await write(pool, 100)
            await until(lambda: _empty(pool), "an empty outbox")

    assert sorted([first.published, second.published]) == [0, 500]


async def test_replica_that_lost_the_lock_tells_no_old_age(
    settings: ServiceSettings, pool: asyncpg.Pool
) -> None:
    """It may have lost it in the middle of an outage: whoever has it now tells."""
    holder, other = Relay("probe", settings, QUERIES), Relay("probe", settings, QUERIES)
    assert await holder.publish_batch() == 0
    metrics.OLDEST_UNPUBLISHED.labels("probe").set(300)

    assert await other.publish_batch() == 0

    await holder._close()
    await other._close()
    assert metrics.OLDEST_UNPUBLISHED.labels("probe")._value.get() == 0


async def test_second_replica_takes_over_when_the_first_loses_its_connection(
    settings: ServiceSettings, pool: asyncpg.Pool, database: Database
) -> None:
    first, second = Relay("probe", settings, QUERIES), Relay("probe", settings, QUERIES)
    async with running(first.run()) as tasks:
        await write(pool, 10)
        await until(lambda: _empty(pool), "an empty outbox")
        async with running(second.run()):
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await write(pool, 10)
            await until(lambda: _empty(pool), "an empty outbox after the takeover")

    assert (first.published, second.published) == (10, 10)


async def test_terminated_connection_costs_no_row(
    settings: ServiceSettings, pool: asyncpg.Pool, database: Database
) -> None:
    relay = Relay("probe", settings, QUERIES)
    admin = await asyncpg.connect(database.admin_dsn)
    async with running(relay.run()):
        await write(pool, 10)
        await until(lambda: _empty(pool), "an empty outbox")
        ended = await admin.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'turnout-probe-relay' AND datname = current_database()"
        )
        await write(pool, 10)
        await until(lambda: _empty(pool), "an empty outbox after the reconnect")
    await admin.close()

    assert ended == 1
    assert relay.published == 20


class Noting(Relay):
    """Notes of each round when it began, what it took, and when it ended."""

    def __init__(self, settings: ServiceSettings) -> None:
        super().__init__("probe", settings, QUERIES)
        self.rounds: list[tuple[float, int, float]] = []

    async def publish_batch(self) -> int:
        began = monotonic()
        taken = await super().publish_batch()
        self.rounds.append((began, taken, monotonic()))
        return taken


async def test_rows_gather_after_a_round_that_was_not_full_and_after_no_other(
    settings: ServiceSettings, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wake does not shorten it: it comes with every commit."""
    monkeypatch.setattr("turnout_common.relay.GATHER_SECONDS", 1.0)
    monkeypatch.setattr("turnout_common.relay.BATCH_ROWS", 10)
    relay = Noting(settings)
    await write(pool, 25)

    async with running(relay.run()):
        await until(lambda: _has_published(relay, 25), "the first rows to go out")
        await write(pool, 5)
        relay.wake()
        await until(lambda: _has_published(relay, 30), "the others to go out")

    assert [taken for _, taken, _ in relay.rounds[:4]] == [10, 10, 5, 5]
    pauses = [after[0] - before[2] for before, after in pairwise(relay.rounds)]
    assert max(pauses[:2]) < 0.9 < pauses[2]


async def _has_published(relay: Relay, rows: int) -> bool:
    return relay.published == rows


async def _empty(pool: asyncpg.Pool) -> bool:
    return await left(pool) == 0


async def _failed(relay: Relay) -> bool:
    return relay.failures > 0


async def test_producer_whose_broker_hangs_is_let_go_whole(
    settings: ServiceSettings, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each round of a long pause leaves one behind, and all of them send what they hold when it ends."""
    monkeypatch.setattr("turnout_common.relay.ACK_SECONDS", 1.0)
    relay = Relay("probe", settings, QUERIES)
    async with running(relay.run()):
        await write(pool, 1)
        await until(lambda: _empty(pool), "an empty outbox")
        hanging = relay._producer
        assert hanging is not None
        monkeypatch.setattr(hanging.client, "send", _never)
        await write(pool, 3)
        await until(lambda: _empty(pool), "an empty outbox by another producer")

        assert relay.failures >= 1
        assert relay._producer is not hanging
        assert hanging._sender.sender_task.done()
        assert hanging.client._sync_task is None


async def _never(*_: object, **__: object) -> None:
    await asyncio.Event().wait()
