"""Promise: a channel that used to speak and does not is told of, once; one that is closed, new or rare is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import add_channels, inbox_of, ingest, now, row, value
from tests.integration.probe import running, until
from turnout_cli import inbox_channels
from turnout_common import metrics
from turnout_common.postgres import create_pool
from turnout_ingest.providers.provider import Fate
from turnout_ingest.silence import Silence

DAILY = range(14)
#: Days before the last one of a salon that is closed on two days in a row: 5 of 7, the longest way is 3 days.
CLOSED_TWO_DAYS = (0, 1, 2, 3, 4, 7, 8, 9, 10, 11)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    made = await create_pool(database.dsn("ingest"), "test-silence")
    yield made
    await made.close()


async def spoke(database: Database, tenant_id: str, last_at: datetime, days_before: Iterable[int]) -> None:
    """The tenant has the channel, and items came on these days up to the last one."""
    await add_channels(database, tenant_id, {"calcom": "a secret of calcom"})
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.executemany(
        "INSERT INTO ingest.fate_counts VALUES ($1, 'calcom', ($2::timestamptz AT TIME ZONE 'UTC')::date, $3, $4, 3, $2)",
        [
            (tenant_id, last_at - timedelta(days=days), fate, shard)
            for days in days_before
            for fate, shard in (("published", 0), ("published", 5), ("duplicate", 2))
        ],
    )
    await connection.close()


async def silent(database: Database, tenant_id: str) -> bool:
    return bool(
        await value(database, "SELECT count(*) FROM ingest.silent_channels WHERE tenant_id = $1", tenant_id)
    )


@pytest.mark.parametrize(
    ("hours", "days", "expected"),
    [
        (35, DAILY, False),
        (37, DAILY, True),
        (83, CLOSED_TWO_DAYS, False),
        (85, CLOSED_TWO_DAYS, True),
        (85, CLOSED_TWO_DAYS[:7], False),  # 7 of 14 days: it did not use to speak
        (85, range(7), False),  # a week old: its closed days are not known
        (29 * 24, DAILY, True),
        (31 * 24, DAILY, False),
    ],
)
async def test_rule(
    database: Database, tenant_id: str, hours: int, days: Iterable[int], expected: bool
) -> None:
    await spoke(database, tenant_id, now() - timedelta(hours=hours), days)

    assert await silent(database, tenant_id) is expected


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE platform.channels SET enabled = false WHERE tenant_id = $1",
        "UPDATE platform.tenants SET status = 'suspended' WHERE tenant_id = $1",
    ],
)
async def test_channel_that_is_off_is_not_silent(database: Database, tenant_id: str, change: str) -> None:
    await spoke(database, tenant_id, now() - timedelta(hours=40), DAILY)
    await value(database, change, tenant_id)

    assert not await silent(database, tenant_id)


async def test_what_reconcile_found_is_no_word_of_the_channel(database: Database, tenant_id: str) -> None:
    """Nobody sent it: it neither ends a silence nor makes a channel one that used to speak."""
    found = (
        "INSERT INTO ingest.fate_counts SELECT $1, 'calcom', ($2::timestamptz AT TIME ZONE 'UTC')::date - day, "
        "'published', -2, 1, $2::timestamptz - day * interval '1 day' FROM unnest($3::int[]) AS day"
    )
    last_at = now() - timedelta(hours=85)
    await spoke(database, tenant_id, last_at, CLOSED_TWO_DAYS[:7])
    await value(database, found, tenant_id, last_at, list(CLOSED_TWO_DAYS[7:]))
    assert not await silent(database, tenant_id)

    await spoke(database, tenant_id, last_at, CLOSED_TWO_DAYS[7:])
    await value(database, found, tenant_id, now(), [0])
    assert await silent(database, tenant_id)


async def test_silence_and_its_end_are_logged_once_and_shown_by_the_gauge(
    database: Database, pool: asyncpg.Pool, tenant_id: str
) -> None:
    await value(database, "DELETE FROM ingest.fate_counts")
    await spoke(database, tenant_id, now() - timedelta(hours=40), DAILY)
    silence, gauge = Silence(pool), metrics.CHANNELS_SILENT.labels("calcom")._value

    with capture_logs() as logged:
        await silence.look()
        await silence.look()
        fell = gauge.get()
        inbox = inbox_of(database)
        async with running(inbox.run()):
            await inbox.accept([row(tenant_id)])
        await silence.look()

    told = [(entry["log_level"], entry["event"]) for entry in logged if "tenant_id" in entry]
    assert told == [("warning", "a channel fell silent"), ("info", "a channel is silent no more")]
    assert (fell, gauge.get()) == (1, 0)


async def test_ingest_looks_by_itself_and_status_tells_how_many_are_silent(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, tenant_id: str
) -> None:
    await value(database, "DELETE FROM ingest.fate_counts")
    await spoke(database, tenant_id, now() - timedelta(hours=40), DAILY)

    async with ingest(database, infrastructure, topic_prefix, relay=False) as service:

        async def told() -> bool:
            answer = await service.request("GET", "/status")
            return bool(json.loads(answer.body)["silent_channels"] == 1)

        await until(told, "status to tell of the silent channel")


async def test_last_item_is_kept_with_the_counts_whatever_became_of_it(
    database: Database, tenant_id: str
) -> None:
    await add_channels(database, tenant_id, {"calcom": "a secret of calcom"})
    first, younger, older = (row(tenant_id, received_at=now() + timedelta(seconds=n)) for n in (0, 2, 1))
    again = row(tenant_id, first.key_hash, received_at=now() + timedelta(seconds=3))
    seen = "SELECT last_at FROM ingest.last_seen WHERE tenant_id = $1 AND channel = 'calcom'"
    inbox = inbox_of(database)
    async with running(inbox.run()):
        for item in (first, younger, older):
            await inbox.accept([item])
        assert await value(database, seen, tenant_id) == younger.received_at
        assert await inbox.accept([again]) == [Fate.DUPLICATE]

    assert await value(database, seen, tenant_id) == again.received_at


async def test_command_shows_channels_and_the_silent_ones(
    database: Database,
    tenant_id: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
    monkeypatch.setenv("TURNOUT_MAINTENANCE_DSN", database.dsn("maintenance"))
    await add_channels(database, tenant_id)
    await spoke(database, tenant_id, now() - timedelta(hours=40), DAILY)

    async def shown(**options: Any) -> dict[str, tuple[bool, int, bool]]:
        capsys.readouterr()
        assert (
            await asyncio.to_thread(inbox_channels.channels, tenant=tenant_id, as_json=True, **options) == 0
        )
        rows = json.loads(capsys.readouterr().out)
        return {r["channel"]: (r["last_seen"] is not None, r["items_7_days"], r["silent"]) for r in rows}

    every = await shown()
    assert every.pop("calcom")[::2] == (True, True)
    assert set(every.values()) == {(False, 0, False)}
    assert list(await shown(silent=True)) == ["calcom"]
