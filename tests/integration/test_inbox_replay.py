"""Promise: what is published again has no second effect, and is never more than the relay can take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import Service, created, now, rows, value
from tests.integration.probe import running, until
from turnout_booking.handlers import TOPICS, BookingHandler
from turnout_booking.settings import BookingSettings
from turnout_cli import inbox_replay, inbox_selection
from turnout_cli.errors import CommandError
from turnout_cli.webhooks import calcom, facts
from turnout_common import metrics
from turnout_common.clock import SystemClock
from turnout_common.consumer import BatchConsumer
from turnout_common.kafka import create_broker
from turnout_common.postgres import create_pool
from turnout_common.topics import INBOUND

pytestmark = pytest.mark.usefixtures("command_environment")


@pytest.fixture
async def salon(salon: str, database: Database) -> str:
    """The salon, and an empty outbox."""
    await value(database, "DELETE FROM ingest.outbox")
    return salon


@asynccontextmanager
async def booking(
    database: Database, infrastructure: Infrastructure, prefix: str
) -> AsyncIterator[BatchConsumer]:
    """The booking service's consumer of the topic, in this process."""
    settings = BookingSettings(
        env="development", postgres_dsn=SecretStr(database.dsn("booking")), kafka_bootstrap=infrastructure.kafka,
        topic_prefix=prefix,
    )  # fmt: skip
    pool = await create_pool(database.dsn("booking"), "test-booking", 4)
    broker = create_broker(settings.kafka_bootstrap, "test-booking")
    consumer = BatchConsumer(
        broker=broker, settings=settings, pool=pool, schema="booking", topic=INBOUND,
        handler=BookingHandler(SystemClock()), wanted=TOPICS[INBOUND],
    )  # fmt: skip
    await broker.start()
    async with running(consumer.run()):
        yield consumer
    await broker.stop()
    await pool.close()


async def replay(*ids: UUID, **options: Any) -> int:
    return await asyncio.to_thread(inbox_replay.replay, list(ids) or None, **options)


async def waiting(database: Database) -> list[UUID]:
    connection = await asyncpg.connect(database.admin_dsn)
    found = await connection.fetch("SELECT item_id FROM ingest.outbox ORDER BY outbox_id")
    await connection.close()
    return [row["item_id"] for row in found]


async def test_replayed_items_have_no_second_effect(
    service: Service, database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str
) -> None:
    uid = "replayed"
    booked = created(uid)
    for webhook in (booked, facts.rated("m1", now(), 5, uid), facts.paid("m2", now(), uid, 4200, "EUR")):
        assert (await service.post(salon, webhook)).status == 202
    absorbed = metrics.DUPLICATES.labels(INBOUND)._value
    before = absorbed.get()

    async with booking(database, infrastructure, topic_prefix) as consumer, running(service.relay.run()):
        await until(lambda: _is(consumer.applied == 3), "the first three applied")
        events = await written(database, salon)
        assert await replay(tenant=salon) == 0
        await until(lambda: _is(absorbed.get() - before == 3), "three absorbed")
        await service.post(salon, facts.rated("m3", now(), 4, uid))
        await until(lambda: _is(consumer.applied == 4), "a later one applied")

    assert len(events) >= 3
    assert (await written(database, salon))[: len(events)] == events
    assert await value(database, "SELECT count(*) FROM booking.applied WHERE outcome = 'applied'") == 4


async def _is(condition: bool) -> bool:
    return condition


async def written(database: Database, tenant_id: str) -> list[UUID]:
    connection = await asyncpg.connect(database.admin_dsn)
    found = await connection.fetch(
        "SELECT event_id FROM booking.booking_events WHERE tenant_id = $1 ORDER BY seq", tenant_id
    )
    await connection.close()
    return [row["event_id"] for row in found]


async def test_only_what_was_published_and_is_meant_is_published_again(
    service: Service, database: Database, salon: str, capsys: pytest.CaptureFixture[str]
) -> None:
    booked = created("a")
    for webhook in (booked, calcom.ping(now()), facts.rated("m", now(), 5, "u"), booked):
        await service.post(salon, webhook)
    published = [row["item_id"] for row in await rows(database, salon) if row["fate"] == "published"]
    await value(database, "DELETE FROM ingest.outbox")
    capsys.readouterr()

    await replay(tenant=salon, channel="calcom", dry_run=True, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"meant": 1, "queued": 0, "dry_run": True}
    assert await waiting(database) == []

    await replay(tenant=salon, event_type="BOOKING_CREATED")
    await replay(tenant=salon, until="1h")
    await replay(tenant=salon, since="1h")
    await replay(published[1])
    assert await waiting(database) == [published[0], *published, published[1]]


async def test_item_that_cannot_be_published_again_is_refused_by_name(
    service: Service, database: Database, salon: str
) -> None:
    webhook = created("a")
    await service.post(salon, webhook)
    await service.post(salon, webhook)
    first, duplicate = (row["item_id"] for row in await rows(database, salon))
    await value(database, "DELETE FROM ingest.outbox")

    for ids in ([duplicate], [first, uuid4()]):
        with pytest.raises(CommandError, match="1 of them cannot be published again"):
            await replay(*ids)
    with pytest.raises(CommandError, match="name the items"):
        await replay()
    with pytest.raises(CommandError, match="name the items"):
        await replay(first, tenant=salon)
    assert await waiting(database) == []


async def test_replay_is_noted_in_the_audit_log(service: Service, database: Database, salon: str) -> None:
    await service.post(salon, created("audited"))

    await replay(tenant=salon, channel="calcom")

    found = await value(
        database,
        "SELECT details FROM platform.audit_log WHERE tenant_id = $1 AND action = 'inbox.replay'",
        salon,
    )
    assert json.loads(found) == {"tenant": salon, "channel": "calcom", "items": 1}


async def test_replay_waits_while_the_outbox_is_long(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_replay, "BATCH_ITEMS", 5)
    for number in range(23):
        await service.post(salon, created(f"u{number}"))
    await value(database, "DELETE FROM ingest.outbox")
    longest = 0

    async def room(connection: asyncpg.Connection) -> None:
        await inbox_selection.wait_for_room(connection, most=5, patience=20)

    async def watch() -> None:
        nonlocal longest
        while True:
            longest = max(longest, len(await waiting(database)))
            await value(
                database,
                "DELETE FROM ingest.outbox WHERE outbox_id = (SELECT min(outbox_id) FROM ingest.outbox)",
            )

    monkeypatch.setattr(inbox_replay, "wait_for_room", room)
    async with running(watch()):
        assert await replay(tenant=salon) == 0

    assert 5 <= longest < 10


async def test_replay_without_a_relay_says_so_instead_of_waiting_for_ever(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def room(connection: asyncpg.Connection) -> None:
        await inbox_selection.wait_for_room(connection, most=1, patience=0.3)

    monkeypatch.setattr(inbox_replay, "wait_for_room", room)
    await service.post(salon, created("stuck"))

    with pytest.raises(CommandError, match="do ingest and Kafka run"):
        await replay(tenant=salon)
    assert len(await waiting(database)) == 1
