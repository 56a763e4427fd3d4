"""Accepted means durable (design §2.1): the answer comes after the commit, commits are shared and reach the disk, and an
item is stored once whatever the connection does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import (
    Service,
    add_channels,
    counted,
    created,
    fates,
    held,
    inbox_of,
    ingest,
    now,
    row,
    rows,
    value,
    waiting_for_locks,
)
from tests.integration.probe import running, until
from turnout_common.ids import new_id
from turnout_common.postgres import connect
from turnout_ingest.inbox import BATCH_BYTES, BATCH_ROWS, Inbox, InboxFull
from turnout_ingest.providers.provider import Fate

#: More than a commit may take, and less than Postgres itself waits for a lock.
GIVEN_UP_SECONDS = 3.0


class Unanswered:
    """A connection whose server went away: it hangs, or is found to be broken."""

    def __init__(self, *, hangs: bool) -> None:
        self._hangs = hangs
        self.terminated = False

    async def fetchval(self, _: str) -> None:
        if self._hangs:
            await asyncio.Event().wait()
        raise asyncpg.ConnectionDoesNotExistError

    def is_closed(self) -> bool:
        return self.terminated

    def terminate(self) -> None:
        self.terminated = True


@pytest.fixture
async def salon(database: Database, tenant_id: str) -> str:
    await add_channels(database, tenant_id)
    return tenant_id


@pytest.fixture
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str
) -> AsyncIterator[Service]:
    """Ingest that publishes nothing."""
    async with ingest(database, infrastructure, topic_prefix, relay=False) as started:
        yield started


@pytest.fixture
async def inbox(database: Database) -> AsyncIterator[Inbox]:
    made = inbox_of(database)
    async with running(made.run()):
        yield made


async def wal_syncs(database: Database) -> int:
    return int(await value(database, "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"))


async def test_server_and_writer_write_through(inbox: Inbox, salon: str) -> None:
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
    before, commits = await wal_syncs(database), inbox.commits

    async def each_was_synced() -> bool:
        """A backend reports its syncs with a commit, at most once a second; the writer of unsynced commits syncs five
        times a second at most, too seldom to be taken for it."""
        await inbox.accept([row(salon)])
        return await wal_syncs(database) - before >= 100

    for _ in range(100):
        await inbox.accept([row(salon)])
    await until(each_was_synced, "100 WAL syncs for 100 commits", seconds=5)

    assert inbox.commits - commits >= 100


async def test_concurrent_requests_share_commits(service: Service, database: Database, salon: str) -> None:
    webhooks = [created(f"shared-{number}") for number in range(400)]
    before = service.inbox.commits

    answers = await asyncio.gather(*(service.post(salon, webhook) for webhook in webhooks))

    assert Counter(answer.status for answer in answers) == {202: 400}
    assert len(await fates(database, salon)) == 400
    assert 0 < service.inbox.commits - before < 200


async def test_batch_is_what_gathered_and_never_more_than_its_limit(inbox: Inbox, salon: str) -> None:
    before = inbox.commits

    many = [[row(salon) for _ in range(300)] for _ in range(4)]
    found = await asyncio.gather(*(inbox.accept(part) for part in many))

    assert [len(part) for part in found] == [300] * 4
    assert inbox.commits - before == 4  # two of them would be over 500


async def test_commit_carries_no_more_bytes_than_it_can_write_in_time(inbox: Inbox, salon: str) -> None:
    """A tenant who may post large bodies must not make the commits of all tenants too slow to be answered."""
    before = inbox.commits
    sealed = bytes(BATCH_BYTES // 4)

    found = await asyncio.gather(*(inbox.accept([row(salon, sealed=sealed)]) for _ in range(10)))

    assert found == [[Fate.PUBLISHED]] * 10
    assert inbox.commits - before == 3  # by four


async def test_connection_that_does_not_say_that_it_writes_through_is_not_used(
    database: Database, salon: str
) -> None:
    """Its server went away right after the connection was made; the third one answers."""
    unused = [Unanswered(hangs=True), Unanswered(hangs=False)]
    left: list[Any] = list(unused)

    async def opening() -> Any:
        return left.pop(0) if left else await connect(database.dsn("ingest"), "test-third")

    made = Inbox(opening, queue_items=10)
    async with running(made.run()), asyncio.timeout(10):
        assert await made.accept([row(salon)]) == [Fate.PUBLISHED]

    assert not left and all(each.terminated for each in unused)


async def test_request_with_more_items_than_a_batch_waits_for_all_of_them(
    database: Database, inbox: Inbox, salon: str
) -> None:
    found = await inbox.accept([row(salon) for _ in range(2 * BATCH_ROWS + 1)])

    assert found == [Fate.PUBLISHED] * (2 * BATCH_ROWS + 1)
    assert len(await fates(database, salon)) == len(found)


async def test_items_keep_their_order_in_inbox_and_outbox(
    database: Database, inbox: Inbox, salon: str
) -> None:
    sent = [row(salon) for _ in range(200)]

    await asyncio.gather(*(inbox.accept([each]) for each in sent))

    ids = [each.item_id for each in sent]
    assert [stored["item_id"] for stored in await rows(database, salon)] == ids
    assert await queued(database, salon) == ids


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
    """A third transaction holds the key in the middle until both wait: writers that came from two ends would now hold
    what the other needs."""
    keys = sorted(new_id().bytes for _ in range(301))
    writers = [inbox_of(database, shard=number) for number in (0, 1)]
    taken = "INSERT INTO ingest.inbox_keys VALUES ($1, 'calcom', $2, $2, gen_random_uuid(), now() + interval '1 day')"

    with capture_logs() as logged:
        async with (
            held(database, taken, salon, keys[150]) as release,
            running(*(writer.run() for writer in writers)),
        ):
            storing = [
                asyncio.create_task(writers[0].accept([row(salon, key) for key in keys])),
                asyncio.create_task(writers[1].accept([row(salon, key) for key in reversed(keys)])),
            ]
            await until(lambda: waiting_for_locks(database, 2), "both writers to wait")
            await release()
            found = [fate for each in storing for fate in await each]

    assert Counter(found) == {Fate.PUBLISHED: 301, Fate.DUPLICATE: 301}
    assert await counted(database, salon) == {"published": 301, "duplicate": 301}
    assert [entry for entry in logged if entry["log_level"] != "info"] == []


async def test_new_items_are_stored_by_one_statement(inbox: Inbox, salon: str) -> None:
    await inbox.accept([row(salon)])
    asked: list[str] = []
    assert inbox._connection is not None
    inbox._connection.add_query_logger(lambda query: asked.append(query.query))

    await inbox.accept([row(salon) for _ in range(50)])

    assert len(asked) == 1


async def test_items_are_counted_once_where_a_batch_fails_after_its_new_ones_are_stored(
    database: Database, inbox: Inbox, salon: str
) -> None:
    """The key of the second is free, but its row is locked until the commit's time is over."""
    key = new_id().bytes
    await inbox.accept([row(salon, key)])
    await value(database, "UPDATE ingest.inbox_keys SET kept_until = now() - interval '1 s'")
    sent, before = [row(salon), row(salon, key), row(salon)], inbox.accepted
    locked = "SELECT FROM ingest.inbox_keys WHERE key_hash = $1 FOR UPDATE"

    with capture_logs() as logged:
        async with held(database, locked, key) as release:
            storing = asyncio.create_task(inbox.accept(sent))
            await until(lambda: _could_not_commit(logged), "the commit to fail", GIVEN_UP_SECONDS)
            await release()
            found = await storing

    assert found == [Fate.PUBLISHED] * 3
    assert await fates(database, salon) == ["published"] * 4
    assert await counted(database, salon) == {"published": 4}
    assert inbox.accepted - before == 3


async def test_items_of_a_statement_that_goes_on_after_its_connection_was_cut_are_stored_once(
    database: Database, inbox: Inbox, salon: str
) -> None:
    """Postgres commits it when the lock is gone, whether or not anybody listens."""
    sent = [row(salon), row(salon)]

    with capture_logs() as logged:
        async with held(database, "LOCK TABLE ingest.raw_items IN SHARE MODE") as release:
            storing = asyncio.create_task(inbox.accept(sent))
            await until(lambda: _could_not_commit(logged), "the commit to fail", GIVEN_UP_SECONDS)
            await until(lambda: waiting_for_locks(database, 2), "the next try to wait beside it")
            await release()
            found = await storing

    assert found == [Fate.PUBLISHED] * 2
    assert await fates(database, salon) == ["published"] * 2
    assert await counted(database, salon) == {"published": 2}
    assert await queued(database, salon) == [each.item_id for each in sent]


async def test_new_and_held_items_of_one_batch_are_booked_once_each(database: Database, salon: str) -> None:
    """In the writer's own shard; what is not published is not queued and keeps the headers that it came with."""
    made = inbox_of(database, shard=5)
    first = row(salon)
    again, new = row(salon, first.key_hash), row(salon)
    bad = row(salon, fate=Fate.QUARANTINED, reason="no such schema", payload=None, sealed_headers=b"sealed")
    late = row(salon, received_at=first.received_at - timedelta(seconds=1))

    async with running(made.run()):
        await made.accept([first])
        found = await made.accept([again, bad, new])
        await made.accept([late])

    assert found == [Fate.DUPLICATE, Fate.QUARANTINED, Fate.PUBLISHED]
    assert made.accepted == 5
    assert await counted(database, salon) == {"published": 3, "duplicate": 1, "quarantined": 1}
    assert await queued(database, salon) == [first.item_id, new.item_id, late.item_id]
    shards = "SELECT array_agg(DISTINCT shard) FROM ingest.fate_counts WHERE tenant_id = $1"
    assert await value(database, shards, salon) == [5]
    youngest = "SELECT last_at FROM ingest.fate_counts WHERE tenant_id = $1 AND fate = 'published'"
    assert await value(database, youngest, salon) == new.received_at
    kept = "SELECT sealed_headers FROM ingest.raw_items WHERE item_id = $1"
    assert await value(database, kept, bad.item_id) == b"sealed"


async def test_item_is_counted_on_the_utc_day_of_its_receipt(database: Database, salon: str) -> None:
    async def opened() -> asyncpg.Connection:
        connection = await connect(database.dsn("ingest"), "test-inbox")
        await connection.execute("SET timezone = 'Pacific/Auckland'")
        return connection

    made = Inbox(opened, queue_items=10)
    at = (now() - timedelta(days=3)).replace(hour=23)
    async with running(made.run()):
        await made.accept([row(salon, received_at=at)])

    assert (
        await value(database, "SELECT day FROM ingest.fate_counts WHERE tenant_id = $1", salon) == at.date()
    )


async def test_item_that_is_stored_already_is_passed_over_whole_though_its_key_is_free(
    database: Database, inbox: Inbox, salon: str
) -> None:
    sent = row(salon)
    await inbox.accept([sent])
    await value(database, "DELETE FROM ingest.inbox_keys WHERE tenant_id = $1", salon)

    assert await inbox.accept([sent, row(salon)]) == [Fate.PUBLISHED] * 2

    assert await fates(database, salon) == ["published"] * 2
    assert await counted(database, salon) == {"published": 2}
    assert len(await queued(database, salon)) == 2


async def test_two_writers_of_one_shard_do_not_deadlock_over_its_counts(
    database: Database, salon: str
) -> None:
    """A third transaction holds the count in the middle until both wait, as with the keys above."""
    tenants = [f"{salon}-{number}" for number in range(3)]
    writers = [inbox_of(database, shard=6) for _ in range(2)]
    locked = "SELECT FROM ingest.fate_counts WHERE tenant_id = $1 FOR UPDATE"

    with capture_logs() as logged:
        async with running(*(writer.run() for writer in writers)):
            await writers[0].accept([row(tenant) for tenant in tenants])
            async with held(database, locked, tenants[1]) as release:
                storing = [
                    asyncio.create_task(writer.accept([row(tenant) for tenant in order]))
                    for writer, order in zip(writers, (tenants, tenants[::-1]), strict=True)
                ]
                await until(lambda: waiting_for_locks(database, 2), "both writers to wait")
                await release()
                await asyncio.gather(*storing)

    assert [await counted(database, tenant) for tenant in tenants] == [{"published": 3}] * 3
    assert [entry for entry in logged if entry["log_level"] != "info"] == []


async def queued(database: Database, tenant_id: str) -> list[UUID]:
    """The tenant's items in the outbox, in order."""
    sql = (
        "SELECT array_agg(item_id ORDER BY outbox_id) FROM ingest.outbox JOIN ingest.inbox USING (item_id) "
        "WHERE tenant_id = $1"
    )
    return list(await value(database, sql, tenant_id) or ())


async def _could_not_commit(logged: list[Any]) -> bool:
    return any(entry["event"].startswith("the inbox could not commit") for entry in logged)


async def test_answer_comes_only_after_the_commit(service: Service, database: Database, salon: str) -> None:
    await service.post(salon, created("warm"))
    async with held(database, "LOCK TABLE ingest.inbox IN SHARE MODE"):
        posting = asyncio.create_task(service.post(salon, created("held")))
        await until(lambda: waiting_for_locks(database, 1), "the writer to wait for its lock", seconds=1)
        assert not posting.done()
        assert await fates(database, salon) == ["published"]

    assert (await posting).status == 202
    assert await fates(database, salon) == ["published", "published"]


async def test_queue_is_bounded(database: Database) -> None:
    made = inbox_of(database, queue_items=3)

    with pytest.raises(InboxFull):
        await made.accept([row("nobody") for _ in range(4)])


@pytest.mark.parametrize(
    "poison",
    [
        {"subject": "a\x00b"},
        {"subject": "\ud800"},
        {"payload": "\x00"},
        {"key_hash": b"short"},
        {"reason": "for a published one"},
        {"occurred_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))},
    ],
)
async def test_row_that_cannot_be_stored_fails_alone_and_is_quarantined(
    database: Database, inbox: Inbox, salon: str, poison: dict[str, Any]
) -> None:
    sent = [row(salon) for _ in range(40)]
    sent[17] = replace(sent[17], **poison)

    found = await asyncio.gather(*(inbox.accept([each]) for each in sent))

    assert [fate for (fate,) in found] == [Fate.PUBLISHED] * 17 + [Fate.QUARANTINED] + [Fate.PUBLISHED] * 22
    bad = next(stored for stored in await rows(database, salon) if stored["fate"] == "quarantined")
    assert (bad["item_id"], bad["reason"]) == (sent[17].item_id, "the database cannot hold it")
    assert await counted(database, salon) == {"published": 39, "quarantined": 1}
