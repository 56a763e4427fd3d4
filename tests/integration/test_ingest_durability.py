"""Accepted means durable (design §2.1): the answer comes after the commit, commits are shared, and when Postgres or
Kafka are away nobody waits without an end and nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from time import monotonic

import asyncpg
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import Service, add_channels, ingest, now, rows, value
from tests.integration.probe import read_all, running, until
from tests.integration.wire import Wire, wire_to
from tests.webhook_fixtures import body_of, delivered
from turnout_cli.webhooks import Webhook, calcom, telegram
from turnout_common.events import from_headers
from turnout_common.ids import new_id
from turnout_common.postgres import connect
from turnout_ingest.acceptance import Row
from turnout_ingest.inbox import BATCH_ROWS, Inbox, InboxFull
from turnout_ingest.providers.provider import Fate

HOST = calcom.Host(4101, "Anna Weiss", "anna")
KIND = calcom.EventType(77001, "cut", "Haircut", 45, 4200)
GUEST = calcom.Guest("Igor Petrov", "igor@guest.example", "+493023125001", "ru")


def created(uid: str) -> Webhook:
    at = now()
    return calcom.created(calcom.Booking(uid, 9, at + timedelta(days=2), HOST, KIND, GUEST, at), at)


def row(tenant_id: str, key: bytes | None = None, **changes: object) -> Row:
    """A good row with a key of its own."""
    item_id = new_id()
    own = key or item_id.bytes
    made = replace(
        delivered("calcom", body_of("calcom", "created")),
        item_id=item_id, tenant_id=tenant_id, key_hash=own, content_hash=own, received_at=now(),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


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
    """Ingest behind the wire; nothing is published."""
    dsn = wire.through(database.dsn("ingest"))
    async with ingest(database, infrastructure, topic_prefix, dsn=dsn, relay=False) as started:
        yield started


@pytest.fixture
async def inbox(database: Database) -> AsyncIterator[Inbox]:
    """The inbox alone, on the database itself."""
    made = Inbox(lambda: connect(database.dsn("ingest"), "test-inbox"), queue_items=5000, shard=3)
    async with running(made.run()):
        yield made


async def fates(database: Database, tenant_id: str) -> list[str]:
    return [stored["fate"] for stored in await rows(database, tenant_id)]


async def wal_syncs(database: Database, inbox: Inbox, tenant_id: str) -> int:
    """WAL syncs of the server. A backend reports its own at a commit, at most once a second."""
    await asyncio.sleep(1.1)
    await inbox.accept([row(tenant_id)])
    return int(await value(database, "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"))


async def test_server_and_writer_write_through(database: Database, inbox: Inbox, salon: str) -> None:
    await inbox.accept([row(salon)])

    assert inbox._connection is not None
    assert await inbox._connection.fetchval("SHOW fsync") == "on"
    assert await inbox._connection.fetchval("SHOW synchronous_commit") == "on"
    assert inbox.durable


async def test_weak_setting_of_the_database_is_overruled(database: Database, salon: str) -> None:
    weak = await connect(database.dsn("ingest"), "test-weak")
    await weak.execute("SET synchronous_commit = off")

    async def opened() -> asyncpg.Connection:
        return weak

    made = Inbox(opened, queue_items=10)
    async with running(made.run()):
        await made.accept([row(salon)])

        assert await weak.fetchval("SHOW synchronous_commit") == "on"


async def test_each_commit_reaches_the_disk(database: Database, inbox: Inbox, salon: str) -> None:
    await inbox.accept([row(salon)])
    before, commits = await wal_syncs(database, inbox, salon), inbox.commits

    for _ in range(40):
        await inbox.accept([row(salon)])
    after = await wal_syncs(database, inbox, salon)

    assert inbox.commits - commits == 41
    assert after - before >= 40


async def test_concurrent_requests_share_commits(service: Service, database: Database, salon: str) -> None:
    webhooks = [created(f"shared-{number}") for number in range(400)]
    before = service.inbox.commits

    answers = await asyncio.gather(*(service.post(salon, webhook) for webhook in webhooks))

    assert Counter(answer.status for answer in answers) == {202: 400}
    assert len(await fates(database, salon)) == 400
    assert 0 < service.inbox.commits - before < 200


async def test_batch_is_what_gathered_and_never_more_than_its_limit(
    database: Database, inbox: Inbox, salon: str
) -> None:
    before = inbox.commits

    many = [[row(salon) for _ in range(300)] for _ in range(4)]
    found = await asyncio.gather(*(inbox.accept(part) for part in many))

    assert [len(part) for part in found] == [300] * 4
    assert inbox.commits - before == 4  # two of them would be over 500


async def test_request_with_more_items_than_a_batch_waits_for_all_of_them(
    database: Database, inbox: Inbox, salon: str
) -> None:
    found = await inbox.accept([row(salon) for _ in range(2 * BATCH_ROWS + 1)])

    assert found == [Fate.PUBLISHED] * (2 * BATCH_ROWS + 1)
    assert len(await fates(database, salon)) == len(found)


async def test_items_of_a_batch_keep_their_order(database: Database, inbox: Inbox, salon: str) -> None:
    sent = [row(salon) for _ in range(200)]

    await asyncio.gather(*(inbox.accept([each]) for each in sent))

    assert [stored["item_id"] for stored in await rows(database, salon)] == [each.item_id for each in sent]
    queued = await value(
        database,
        "SELECT array_agg(item_id ORDER BY outbox_id) FROM ingest.outbox JOIN ingest.inbox USING (item_id) "
        "WHERE tenant_id = $1",
        salon,
    )
    assert queued == [each.item_id for each in sent]


async def test_duplicate_and_conflict_within_one_batch(database: Database, inbox: Inbox, salon: str) -> None:
    first = row(salon)
    again = row(salon, first.key_hash)
    other = row(salon, first.key_hash, content_hash=b"o" * 16)

    found = await asyncio.gather(*(inbox.accept([each]) for each in (first, again, other)))

    assert found == [[Fate.PUBLISHED], [Fate.DUPLICATE], [Fate.CONFLICT]]
    assert await fates(database, salon) == ["published", "duplicate", "conflict"]


async def test_two_writers_with_the_same_keys_in_opposite_order_do_not_deadlock(
    database: Database, salon: str
) -> None:
    keys = [new_id().bytes for _ in range(300)]
    writers = [
        Inbox(lambda: connect(database.dsn("ingest"), "test"), queue_items=5000, shard=n) for n in (0, 1)
    ]

    async with running(*(writer.run() for writer in writers)):
        found = await asyncio.gather(
            writers[0].accept([row(salon, key) for key in keys]),
            writers[1].accept([row(salon, key) for key in reversed(keys)]),
        )

    assert Counter(found[0] + found[1]) == {Fate.PUBLISHED: 300, Fate.DUPLICATE: 300}
    assert await value(database, "SELECT sum(items) FROM ingest.fates WHERE tenant_id = $1", salon) == 600


async def test_answer_comes_only_after_the_commit(service: Service, database: Database, salon: str) -> None:
    await service.post(salon, created("warm"))
    blocker = await asyncpg.connect(database.admin_dsn)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE ingest.inbox IN SHARE MODE")
        posting = asyncio.create_task(service.post(salon, created("held")))
        await asyncio.sleep(0.5)
        assert not posting.done()
        assert len(await fates(database, salon)) == 1

    assert (await posting).status == 202
    assert await fates(database, salon) == ["published", "published"]
    await blocker.close()


async def test_answer_waits_for_the_servers_word_on_the_commit(
    service: Service, database: Database, salon: str, wire: Wire
) -> None:
    await service.post(salon, created("warm"))
    wire.freeze()
    posting = asyncio.create_task(service.post(salon, created("unheard")))
    await asyncio.sleep(0.4)
    assert not posting.done()
    wire.thaw()

    assert (await posting).status == 202
    assert await fates(database, salon) == ["published", "published"]


async def test_forged_webhook_asks_the_database_nothing(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str, wire: Wire
) -> None:
    dsn = wire.through(database.dsn("ingest"))
    async with ingest(database, infrastructure, topic_prefix, dsn=dsn, relay=False) as quiet:
        await quiet.post(salon, created("warm"))
        before = wire.sent

        forged = [
            await quiet.post(salon, created(f"f{n}"), {"X-Cal-Signature-256": "0" * 64}) for n in range(20)
        ]
        sent = wire.sent - before
        genuine = await quiet.post(salon, created("genuine"))

    assert {answer.status for answer in forged} == {401}
    assert sent == 0
    assert genuine.status == 202 and wire.sent > before  # the wire does count


@pytest.mark.parametrize("fault", ["cut", "freeze"])
async def test_postgres_away_is_503_with_retry_after_within_two_seconds_and_back_it_goes_on(
    service: Service, database: Database, salon: str, wire: Wire, fault: str
) -> None:
    assert (await service.post(salon, created("before"))).status == 202
    webhooks = [created("while away"), telegram.text(1, telegram.Chat(7, "I"), 1, now(), "hi")]
    getattr(wire, fault)()

    for webhook in webhooks:
        started = monotonic()
        answers = await asyncio.gather(*(service.post(salon, webhook) for _ in range(5)))
        assert monotonic() - started < 2.0
        assert {(a.status, a.headers.get("Retry-After"), a.body) for a in answers} == {(503, "1", b"")}
    started = monotonic()
    ready, status = [await service.request("GET", path) for path in ("/ready", "/status")]
    assert monotonic() - started < 5.0
    assert status.status == 200 and b"fault" in status.body
    assert (ready.status, b"postgres" in ready.body) == (503, True)
    assert (await service.request("GET", "/health")).status == 200
    wire.mend()
    wire.thaw()

    async def accepted() -> bool:
        return [(await service.post(salon, webhook)).status for webhook in webhooks] == [202, 200]

    await until(accepted, "webhooks to be accepted again", seconds=10)
    assert (await service.request("GET", "/ready")).status == 200
    stored = Counter(await fates(database, salon))
    assert stored["published"] == 3
    assert await value(database, "SELECT sum(items) FROM ingest.fates WHERE tenant_id = $1", salon) == sum(
        stored.values()
    )


async def test_short_break_of_the_connection_is_not_noticed_outside(
    service: Service, database: Database, salon: str, wire: Wire
) -> None:
    await service.post(salon, created("before"))
    connections = wire.connections
    wire.cut()
    wire.mend()

    answers = [await service.post(salon, created(f"after {number}")) for number in range(3)]

    assert [answer.status for answer in answers] == [202] * 3
    assert wire.connections > connections  # it did break
    assert await fates(database, salon) == ["published"] * 4


async def test_commit_whose_answer_was_lost_is_stored_and_counted_once(
    database: Database, salon: str, wire: Wire
) -> None:
    dsn = wire.through(database.dsn("ingest"))
    made = Inbox(lambda: connect(dsn, "test-lost"), queue_items=10, shard=1)
    first = row(salon)
    async with running(made.run()):
        await made.accept([row(salon)])
        wire.freeze()
        waiting = asyncio.create_task(made.accept([first, row(salon, first.key_hash)]))
        await _committed_unheard(database, salon, wire, first)
        wire.cut()
        wire.mend()
        wire.thaw()

        assert await waiting == [Fate.PUBLISHED, Fate.DUPLICATE]

    assert await fates(database, salon) == ["published", "published", "duplicate"]
    assert await value(database, "SELECT sum(items) FROM ingest.fates WHERE tenant_id = $1", salon) == 3
    assert (
        await value(
            database,
            "SELECT count(*) FROM ingest.outbox JOIN ingest.inbox USING (item_id) WHERE tenant_id = $1",
            salon,
        )
        == 2
    )


async def _committed_unheard(database: Database, salon: str, wire: Wire, first: Row) -> None:
    """Lets the server's answers through one by one until the commit is done, and holds the last one back."""
    for _ in range(200):
        if await value(
            database, "SELECT EXISTS (SELECT FROM ingest.inbox WHERE item_id = $1)", first.item_id
        ):
            return
        wire.thaw()
        await asyncio.sleep(0)
        wire.freeze()
        await asyncio.sleep(0.01)
    raise AssertionError("the commit was never done behind the frozen wire")


async def test_full_queue_is_503_at_once(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str, wire: Wire
) -> None:
    dsn = wire.through(database.dsn("ingest"))
    async with ingest(
        database, infrastructure, topic_prefix, dsn=dsn, relay=False, inbox_queue_items=5
    ) as small:
        await small.post(salon, created("warm"))
        wire.freeze()
        waiting = [asyncio.create_task(small.post(salon, created(f"w{n}"))) for n in range(6)]
        await asyncio.sleep(0.3)
        started = monotonic()
        refused = [await small.post(salon, created(f"r{n}")) for n in range(5)]
        took = monotonic() - started
        wire.thaw()
        statuses = Counter([(await posting).status for posting in waiting])

    assert {(answer.status, answer.headers.get("Retry-After")) for answer in refused} <= {(503, "1")}
    assert took < 1.0
    assert statuses[202] >= 5


async def test_queue_is_bounded(database: Database) -> None:
    made = Inbox(lambda: connect(database.dsn("ingest"), "test"), queue_items=3)

    with pytest.raises(InboxFull):
        await made.accept([row("nobody") for _ in range(4)])


@pytest.mark.parametrize(
    "poison",
    [{"subject": "a\x00b"}, {"payload": "\x00"}, {"key_hash": b"short"}, {"reason": "for a published one"}],
)
async def test_row_that_cannot_be_stored_fails_alone_and_is_quarantined(
    database: Database, inbox: Inbox, salon: str, poison: dict[str, object]
) -> None:
    sent = [row(salon) for _ in range(40)]
    sent[17] = replace(sent[17], **poison)  # type: ignore[arg-type]

    found = await asyncio.gather(*(inbox.accept([each]) for each in sent))

    assert [fate for (fate,) in found] == [Fate.PUBLISHED] * 17 + [Fate.QUARANTINED] + [Fate.PUBLISHED] * 22
    bad = next(stored for stored in await rows(database, salon) if stored["fate"] == "quarantined")
    assert (bad["item_id"], bad["reason"]) == (sent[17].item_id, "the database cannot hold it")
    assert await value(database, "SELECT sum(items) FROM ingest.fates WHERE tenant_id = $1", salon) == 40


async def test_kafka_away_accepting_goes_on_and_what_was_accepted_is_published_later(
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
        await until(lambda: _outbox_is_empty(database), "the outbox to be published")

    total = await value(database, "SELECT count(*) FROM ingest.inbox WHERE fate = 'published'")
    assert total >= 10
    published = await read_all(infrastructure.kafka, topic_prefix + "inbound_webhooks", 10)
    mine = [
        envelope.id for record in published if (envelope := from_headers(record.headers)).tenant_id == salon
    ]
    assert [item for item in mine if item in ids] == ids


async def _outbox_is_empty(database: Database) -> bool:
    return bool(await value(database, "SELECT NOT EXISTS (SELECT FROM ingest.outbox)"))
