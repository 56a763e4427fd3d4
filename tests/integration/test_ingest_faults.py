"""When Postgres or Kafka are away, frozen or half dead: nobody waits without an end, nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import (
    Service,
    add_channels,
    counted,
    created,
    fates,
    inbox_of,
    ingest,
    now,
    outbox_is_empty,
    row,
    rows,
    value,
)
from tests.integration.probe import read_all, running, until
from tests.integration.wire import Wire, wire_to
from turnout_cli.webhooks import telegram
from turnout_common.events import from_headers
from turnout_ingest.acceptance import Row
from turnout_ingest.providers.provider import Fate


@pytest.fixture
async def salon(database: Database, tenant_id: str) -> str:
    await add_channels(database, tenant_id)
    return tenant_id


@pytest.fixture
async def wire(database: Database) -> AsyncIterator[Wire]:
    async with wire_to(database.dsn("ingest")) as opened:
        yield opened


@pytest.fixture
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str, wire: Wire
) -> AsyncIterator[Service]:
    """Ingest behind the wire, its connection open; nothing is published."""
    dsn = wire.through(database.dsn("ingest"))
    async with ingest(
        database, infrastructure, topic_prefix, dsn=dsn, relay=False, inbox_queue_items=20
    ) as started:
        assert (await started.post(salon, created("before"))).status == 202
        yield started


async def test_forged_webhook_asks_the_database_nothing(service: Service, salon: str, wire: Wire) -> None:
    forged = {"X-Cal-Signature-256": "0" * 64}
    before = wire.sent

    answers = [await service.post(salon, created(f"forged {number}"), forged) for number in range(20)]
    asked = wire.sent - before
    genuine = await service.post(salon, created("genuine"))

    assert {answer.status for answer in answers} == {401}
    assert asked == 0
    assert genuine.status == 202 and wire.sent > before  # the wire does count


async def test_answer_waits_for_the_servers_word_on_the_commit(
    service: Service, database: Database, salon: str, wire: Wire
) -> None:
    webhook = created("unheard")
    wire.freeze()
    posting = asyncio.create_task(service.post(salon, webhook))
    await until(lambda: _is_held(wire), "an answer of the server to be held back", seconds=1)
    assert not posting.done()
    wire.thaw()

    assert (await posting).status == 202
    assert await fates(database, salon) == ["published", "published"]


@pytest.mark.parametrize("fault", ["cut", "freeze"])
async def test_postgres_away_is_503_with_retry_after_within_two_seconds(
    service: Service, database: Database, salon: str, wire: Wire, fault: str
) -> None:
    webhooks = [created("while away"), telegram.text(1, telegram.Chat(7, "I"), 1, now(), "hi")]
    getattr(wire, fault)()

    for webhook in webhooks:
        started = monotonic()
        answers = await asyncio.gather(*(service.post(salon, webhook) for _ in range(5)))
        assert monotonic() - started < 2.0
        assert {(a.status, a.headers.get("Retry-After"), a.body) for a in answers} == {(503, "1", b"")}
    wire.mend()
    wire.thaw()

    async def accepted() -> bool:
        return [(await service.post(salon, webhook)).status for webhook in webhooks] == [202, 200]

    await until(accepted, "webhooks to be accepted again", seconds=15)
    stored = Counter(await fates(database, salon))
    assert stored["published"] == 3
    assert await counted(database, salon) == stored


@pytest.mark.parametrize("fault", ["cut", "freeze"])
async def test_operator_is_told_within_seconds_that_postgres_is_away(
    service: Service, wire: Wire, fault: str
) -> None:
    getattr(wire, fault)()
    started = monotonic()
    ready, status, health = [await service.request("GET", path) for path in ("/ready", "/status", "/health")]
    assert monotonic() - started < 5.0
    wire.mend()
    wire.thaw()

    async def is_ready() -> bool:
        return (await service.request("GET", "/ready")).status == 200

    assert (ready.status, status.status, health.status) == (503, 200, 200)
    assert b"postgres" in ready.body and b"fault" in status.body
    await until(is_ready, "readiness", seconds=15)


async def test_short_break_of_the_connection_is_not_noticed_outside(
    service: Service, database: Database, salon: str, wire: Wire
) -> None:
    connections = wire.connections
    wire.cut()
    wire.mend()

    answers = [await service.post(salon, created(f"after {number}")) for number in range(3)]

    assert [answer.status for answer in answers] == [202] * 3
    assert wire.connections > connections  # it did break
    assert await fates(database, salon) == ["published"] * 4


async def test_connection_that_went_silent_is_given_up_in_time_for_the_answer(
    service: Service, database: Database, salon: str, wire: Wire
) -> None:
    connections = wire.connections
    wire.mute()

    started = monotonic()
    answer = await service.post(salon, created("into silence"))

    assert (answer.status, wire.connections) == (202, connections + 1)
    assert monotonic() - started < 2.0
    assert await fates(database, salon) == ["published"] * 2


async def test_commit_whose_answer_was_lost_is_stored_and_counted_once(
    database: Database, salon: str, wire: Wire
) -> None:
    made = inbox_of(database, wire.through(database.dsn("ingest")))
    first = row(salon)
    async with running(made.run()):
        await made.accept([row(salon)])
        wire.freeze()
        waiting = asyncio.create_task(made.accept([first, row(salon, first.key_hash)]))
        await until(lambda: _committed_unheard(database, wire, first), "a commit that nobody heard of")
        wire.cut()
        wire.mend()
        wire.thaw()

        assert await waiting == [Fate.PUBLISHED, Fate.DUPLICATE]

    assert await fates(database, salon) == ["published", "published", "duplicate"]
    assert await counted(database, salon) == {"published": 2, "duplicate": 1}
    queued = "SELECT count(*) FROM ingest.outbox JOIN ingest.inbox USING (item_id) WHERE tenant_id = $1"
    assert await value(database, queued, salon) == 2


async def test_full_queue_is_503_at_once(
    service: Service, database: Database, salon: str, wire: Wire
) -> None:
    wire.freeze()
    waiting = [asyncio.create_task(service.post(salon, created(f"waiting {n}"))) for n in range(21)]
    await until(lambda: _queue_is_full(service), "the queue to be full", seconds=1)
    started = monotonic()
    refused = [await service.post(salon, created(f"refused {n}")) for n in range(5)]
    took = monotonic() - started
    wire.thaw()
    statuses = Counter([(await posting).status for posting in waiting])

    assert {(answer.status, answer.headers.get("Retry-After")) for answer in refused} == {(503, "1")}
    assert took < 1.0
    assert statuses == {202: 21}


async def test_kafka_away_accepting_goes_on_and_what_was_accepted_is_published_later_in_order(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str
) -> None:
    async with ingest(database, infrastructure, topic_prefix, kafka="127.0.0.1:1") as without:
        answers = [await without.post(salon, created(f"while away {n}")) for n in range(10)]
        assert {answer.status for answer in answers} == {202}
        assert (await without.request("GET", "/ready")).status == 200
        assert without.relay.published == 0
    ids = [stored["item_id"] for stored in await rows(database, salon)]
    assert await value(database, "SELECT count(*) FROM ingest.outbox WHERE item_id = ANY ($1)", ids) == 10

    async with ingest(database, infrastructure, topic_prefix):
        await until(lambda: outbox_is_empty(database), "the outbox to be published")

    total = await value(database, "SELECT count(*) FROM ingest.inbox WHERE fate = 'published'")
    records = await read_all(infrastructure.kafka, topic_prefix + "inbound_webhooks", total)
    assert [envelope.id for r in records if (envelope := from_headers(r.headers)).tenant_id == salon] == ids


async def _is_held(wire: Wire) -> bool:
    return wire.held > 0


async def _queue_is_full(service: Service) -> bool:
    return service.inbox._queued == 20


async def _committed_unheard(database: Database, wire: Wire, first: Row) -> bool:
    """Lets the server's answers through one by one until the commit is done; the last one stays held back."""
    if await value(database, "SELECT EXISTS (SELECT FROM ingest.inbox WHERE item_id = $1)", first.item_id):
        return True
    wire.thaw()
    await asyncio.sleep(0)
    wire.freeze()
    return False
