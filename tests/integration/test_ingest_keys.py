"""Promise: an idempotency key has one holder until its window has passed, and then it is free, pruned or not."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.infrastructure import Database
from tests.integration.ingest_service import counted, fates, inbox_of, row, value
from tests.integration.probe import running
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


class PrunedMeanwhile:
    """A connection on which the keys are pruned after it found them taken and before it reads who holds them."""

    def __init__(self, connection: asyncpg.Connection, prune: Any) -> None:
        self._connection = connection
        self._prune = prune

    async def fetch(self, sql: str, *arguments: Any) -> Any:
        if sql == keys.SQL["read_keys"] and self._prune is not None:
            prune, self._prune = self._prune, None
            await prune()
        return await self._connection.fetch(sql, *arguments)


async def test_key_that_is_pruned_while_it_is_wanted_goes_to_who_wants_it(
    database: Database, tenant_id: str
) -> None:
    key = new_id().bytes
    await accept(database, row(tenant_id, key))
    late = row(tenant_id, key)

    async def prune() -> None:
        await value(database, "DELETE FROM ingest.inbox_keys WHERE tenant_id = $1", tenant_id)

    connection = await asyncpg.connect(database.dsn("ingest"))
    holders = await claim(PrunedMeanwhile(connection, prune), [late])  # type: ignore[arg-type]
    await connection.close()

    assert holders == {late.key: (late.item_id, late.content_hash)}
