"""Promise: an idempotency key has one holder until its window has passed, and then it is free, pruned or not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.infrastructure import Database
from tests.integration.ingest_service import (
    counted,
    fates,
    held,
    inbox_of,
    now,
    row,
    value,
    waiting_for_locks,
)
from tests.integration.probe import running, until
from turnout_common.ids import new_id
from turnout_ingest import keys
from turnout_ingest.acceptance import Row
from turnout_ingest.inbox import Inbox
from turnout_ingest.keys import claim
from turnout_ingest.providers.provider import Fate

EXPIRE = "UPDATE ingest.inbox_keys SET kept_until = now() - interval '1 s' WHERE tenant_id = $1"


async def accept(database: Database, *rows: Row) -> list[Fate]:
    made = inbox_of(database)
    async with running(made.run()):
        return await made.accept(list(rows))


async def test_key_is_kept_two_hours_longer_than_its_channels_window(
    database: Database, tenant_id: str
) -> None:
    await accept(database, row(tenant_id, channel="telegram"), row(tenant_id, channel="calcom"))

    connection = await asyncpg.connect(database.admin_dsn)
    kept = await connection.fetch(
        "SELECT channel, kept_until - received_at AS kept FROM ingest.inbox_keys k JOIN ingest.inbox USING (item_id, channel) "
        "WHERE k.tenant_id = $1",
        tenant_id,
    )
    await connection.close()

    windows = {record["channel"]: record["kept"] for record in kept}
    for channel, days in {"telegram": 7, "calcom": 14}.items():
        assert abs(windows[channel] - timedelta(days=days, hours=2)) < timedelta(minutes=1)


async def test_key_of_an_item_that_waited_in_the_spool_is_kept_from_its_commit(
    database: Database, tenant_id: str
) -> None:
    await accept(database, row(tenant_id, received_at=now() - timedelta(days=3)))

    left = await value(
        database, "SELECT kept_until - now() FROM ingest.inbox_keys WHERE tenant_id = $1", tenant_id
    )

    assert abs(left - timedelta(days=14, hours=2)) < timedelta(minutes=1)


@pytest.mark.parametrize(("content", "before"), [(b"other", Fate.CONFLICT), (b"same", Fate.DUPLICATE)])
async def test_update_id_that_comes_again_after_its_window_is_a_new_one(
    database: Database, tenant_id: str, content: bytes, before: Fate
) -> None:
    key = new_id().bytes
    first, early, late, again = (
        row(tenant_id, key, channel="telegram", content_hash=text.ljust(16, b"-"))
        for text in (b"same", content, content, content)
    )

    assert await accept(database, first) == [Fate.PUBLISHED]
    assert await accept(database, early) == [before]
    await value(database, EXPIRE, tenant_id)
    assert await accept(database, late) == [Fate.PUBLISHED]
    assert await accept(database, again) == [Fate.DUPLICATE]

    assert (
        await value(database, "SELECT item_id FROM ingest.inbox_keys WHERE tenant_id = $1", tenant_id)
        == late.item_id
    )


async def test_take_over_whose_answer_was_lost_is_not_a_duplicate_of_itself(
    database: Database, tenant_id: str
) -> None:
    key = new_id().bytes
    await accept(database, row(tenant_id, key))
    await value(database, EXPIRE, tenant_id)
    late = row(tenant_id, key)

    assert await accept(database, late) == await accept(database, late) == [Fate.PUBLISHED]

    assert await fates(database, tenant_id) == ["published", "published"]
    assert await counted(database, tenant_id) == {"published": 2}


async def test_take_over_that_is_not_committed_leaves_the_key_free(
    database: Database, tenant_id: str
) -> None:
    """Else what the provider sends again were a duplicate of what was never stored."""
    key = new_id().bytes
    await accept(database, row(tenant_id, key))
    await value(database, EXPIRE, tenant_id)
    locked, made = "SELECT FROM ingest.fate_counts WHERE tenant_id = $1 FOR UPDATE", inbox_of(database)

    async with held(database, locked, tenant_id):
        async with running(made.run()):
            storing = asyncio.create_task(made.accept([row(tenant_id, key)]))
            await until(lambda: waiting_for_locks(database), "the writer to wait for the count", 4)
        storing.cancel()

    assert await accept(database, row(tenant_id, key)) == [Fate.PUBLISHED]
    assert await counted(database, tenant_id) == {"published": 2}


async def test_writers_that_want_a_free_key_at_once_get_it_once(database: Database, tenant_id: str) -> None:
    used = [new_id().bytes for _ in range(40)]
    await accept(database, *(row(tenant_id, key) for key in used))
    await value(database, EXPIRE, tenant_id)
    writers = [inbox_of(database, shard=number) for number in range(3)]

    async def all_of(writer: Inbox, order: list[bytes]) -> list[Fate]:
        return await writer.accept([row(tenant_id, key) for key in order])

    async with running(*(writer.run() for writer in writers)):
        found = await asyncio.gather(
            *(all_of(w, o) for w, o in zip(writers, (used, used[::-1], used), strict=True))
        )

    assert Counter(fate for each in found for fate in each) == {Fate.PUBLISHED: 40, Fate.DUPLICATE: 80}


class Meanwhile:
    """A connection on which something happens before its first statement `sql`."""

    def __init__(
        self, connection: asyncpg.Connection, sql: str, happens: Callable[[], Awaitable[object]]
    ) -> None:
        self._connection = connection
        self._sql = sql
        self._happens: Callable[[], Awaitable[object]] | None = happens

    async def fetch(self, sql: str, *arguments: Any) -> Any:
        if sql == self._sql and self._happens is not None:
            happens, self._happens = self._happens, None
            await happens()
        return await self._connection.fetch(sql, *arguments)


@pytest.mark.parametrize("committed", [True, False], ids=["before it looks again", "while it waits"])
async def test_free_key_that_another_takes_just_now_is_not_taken_again(
    database: Database, tenant_id: str, committed: bool
) -> None:
    """Two replicas saw it free."""
    key = new_id().bytes
    await accept(database, row(tenant_id, key))
    await value(database, EXPIRE, tenant_id)
    first, second = row(tenant_id, key), row(tenant_id, key)
    one, other = [await asyncpg.connect(database.dsn("ingest")) for _ in range(2)]
    transaction, committing = one.transaction(), []

    async def other_waits() -> bool:
        sql = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
        return bool(await value(database, sql, other.get_server_pid()))

    async def commit() -> None:
        if not committed:
            await until(other_waits, "the second to wait for the first", 4)
        await transaction.commit()

    async def take_over() -> None:
        await transaction.start()
        assert await claim(one, [first]) == {first.key: (first.item_id, first.content_hash)}
        committing.append(asyncio.create_task(commit()))
        if committed:
            await committing[0]

    holders = await claim(Meanwhile(other, keys.SQL["take_over_keys"], take_over), [second])  # type: ignore[arg-type]
    await committing[0]
    await one.close()
    await other.close()

    assert holders == {second.key: (first.item_id, first.content_hash)}


async def test_key_that_is_pruned_while_it_is_wanted_goes_to_who_wants_it(
    database: Database, tenant_id: str
) -> None:
    key = new_id().bytes
    await accept(database, row(tenant_id, key))
    late = row(tenant_id, key)

    async def prune() -> None:
        await value(database, "DELETE FROM ingest.inbox_keys WHERE tenant_id = $1", tenant_id)

    connection = await asyncpg.connect(database.dsn("ingest"))
    holders = await claim(Meanwhile(connection, keys.SQL["read_keys"], prune), [late])  # type: ignore[arg-type]
    await connection.close()

    assert holders == {late.key: (late.item_id, late.content_hash)}
