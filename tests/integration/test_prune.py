"""Promise: `prune` deletes what is over its time and nothing that anybody may still ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from tests.infrastructure import Database, Infrastructure, new_database
from tests.integration.ingest_service import now
from turnout_cli import prune as prune_module
from turnout_cli.prune import SQL, Pruning, prune
from turnout_common.ids import new_id
from turnout_common.postgres import create_pool
from turnout_common.recovery import RecoveryCheck
from turnout_ingest.relay import WATCHES
from turnout_ingest.settings import IngestSettings

DAY = timedelta(days=1)
ALL_MARKS = """INSERT INTO ingest.recovery_marks
SELECT w, (SELECT coalesce(max(seq), 0) FROM ingest.inbox)
FROM unnest('{inbound_webhooks>booking,inbound_webhooks>sender}'::text[]) w
ON CONFLICT (watch) DO UPDATE SET seq = excluded.seq"""


class World:
    """An empty system whose rows are as old as a test wants."""

    def __init__(self, database: Database, admin: asyncpg.Connection) -> None:
        self.database = database
        self.admin = admin

    async def tenant(self, tenant_id: str, raw_days: int | None = None) -> None:
        settings = "{}" if raw_days is None else json.dumps({"raw_days": raw_days})
        await self.admin.execute(
            "INSERT INTO platform.tenants (tenant_id, timezone, settings) VALUES ($1, 'UTC', $2)",
            tenant_id,
            settings,
        )

    async def item(self, age: timedelta, tenant_id: str = "t", fate: str = "published") -> UUID:
        at = now() - age
        item_id = new_id(at)
        published = fate == "published"
        await self.admin.execute(
            "INSERT INTO ingest.inbox (item_id, request_id, tenant_id, channel, kind, event_type, fate, reason, kafka_key, "
            "subject, occurred_at, received_at, stored_at, key_hash, payload) "
            "VALUES ($1, $1, $2, 'calcom', 'booking', 'x', $3, $4, 'k', 's', $5, $5, $5, '', $6)",
            item_id, tenant_id, fate, None if published else "no need", at, "{}" if published else None,
        )  # fmt: skip
        await self.admin.execute(
            "INSERT INTO ingest.raw_items VALUES ($1, $2, 'sealed', NULL, $3)", item_id, tenant_id, at
        )
        return item_id

    async def applied(self, reader: str, record_id: UUID, age: timedelta) -> None:
        await self.admin.execute(
            f"INSERT INTO {reader}.applied (record_id, applied_at) VALUES ($1, $2)", record_id, now() - age
        )

    async def looked_at_everything(self) -> None:
        await self.admin.execute(ALL_MARKS)

    async def ids(self, sql: str) -> set[UUID]:
        return {row[0] for row in await self.admin.fetch(sql)}

    async def prune(self, *, dry_run: bool = False, at: datetime | None = None) -> dict[str, int]:
        """What went, by table, without the tables of which nothing did."""
        connection = await asyncpg.connect(self.database.dsn("maintenance"))
        kept = await Pruning(connection, at or now(), dry_run=dry_run).run()
        await connection.close()
        return {each.table: each.rows for each in kept if each.rows}


@pytest.fixture
async def world(infrastructure: Infrastructure) -> AsyncIterator[World]:
    async with new_database(infrastructure.postgres) as database:
        admin = await asyncpg.connect(database.admin_dsn)
        yield World(database, admin)
        await admin.close()


async def test_key_goes_when_its_window_has_passed(world: World) -> None:
    for left in (-1, 1):
        await world.admin.execute(
            "INSERT INTO ingest.inbox_keys SELECT 't', 'calcom', uuid_send(gen_random_uuid()), uuid_send(gen_random_uuid()), "
            "gen_random_uuid(), now() + $1 * interval '1 minute' FROM generate_series(1, 20000)",
            left,
        )

    assert await world.prune() == {"ingest.inbox_keys": 20_000}
    assert await world.prune() == {}
    assert await world.admin.fetchval("SELECT min(kept_until) > now() FROM ingest.inbox_keys")


async def test_key_that_a_webhook_takes_over_just_now_is_passed_over(world: World) -> None:
    await world.admin.execute(
        "INSERT INTO ingest.inbox_keys SELECT 't', 'calcom', uuid_send(gen_random_uuid()), uuid_send(gen_random_uuid()), "
        "gen_random_uuid(), now() - interval '1 minute' FROM generate_series(1, 3)"
    )
    webhook = await asyncpg.connect(world.database.admin_dsn)
    async with webhook.transaction():
        await webhook.execute("SELECT FROM ingest.inbox_keys LIMIT 1 FOR UPDATE")
        async with asyncio.timeout(5):
            assert await world.prune() == {"ingest.inbox_keys": 2}
    await webhook.close()

    assert await world.prune() == {"ingest.inbox_keys": 1}


async def test_bytes_and_payload_go_by_their_tenants_days_and_the_item_stays(world: World) -> None:
    for tenant_id, raw_days in (("short", 3), ("usual", None), ("long", 90)):
        await world.tenant(tenant_id, raw_days)
    kept = {
        await world.item(age * DAY, tenant_id)
        for tenant_id, age in (("short", 2), ("usual", 29), ("long", 89))
    }
    gone = {
        await world.item(age * DAY, tenant_id)
        for tenant_id, age in (("short", 4), ("usual", 31), ("long", 91))
    }
    quarantined = await world.item(31 * DAY, "usual", "quarantined")
    await world.looked_at_everything()

    assert await world.prune() == {"ingest.raw_items": 4}

    assert await world.ids("SELECT item_id FROM ingest.raw_items") == kept
    assert await world.ids("SELECT item_id FROM ingest.inbox WHERE payload IS NOT NULL") == kept
    assert await world.ids("SELECT item_id FROM ingest.inbox WHERE erased_at IS NOT NULL") == gone
    assert await world.ids("SELECT item_id FROM ingest.inbox") == kept | gone | {quarantined}


@pytest.mark.parametrize(
    "asked_for",
    [
        "INSERT INTO ingest.outbox (item_id) VALUES ($1)",
        "INSERT INTO ingest.missing (watch, record_id) VALUES ('inbound_webhooks>booking', $1)",
    ],
)
async def test_item_that_is_to_be_published_keeps_its_payload(world: World, asked_for: str) -> None:
    asked, other = await world.item(40 * DAY), await world.item(40 * DAY)
    await world.looked_at_everything()
    await world.admin.execute(asked_for, asked)

    assert await world.prune() == {"ingest.raw_items": 1}
    assert await world.ids("SELECT item_id FROM ingest.inbox WHERE payload IS NOT NULL") == {asked}
    assert other != asked


async def test_item_that_the_recovery_check_has_not_looked_at_keeps_its_payload(world: World) -> None:
    await world.item(40 * DAY)
    await world.looked_at_everything()
    late = await world.item(39 * DAY)

    assert await world.prune() == {"ingest.raw_items": 1}
    assert await world.ids("SELECT item_id FROM ingest.inbox WHERE payload IS NOT NULL") == {late}


async def test_replay_that_was_first_keeps_the_payload(world: World) -> None:
    """`queue_replay` has the row locked; the erasing waits for it, and sees then that the item is queued."""
    item = await world.item(40 * DAY)
    await world.looked_at_everything()
    replaying = world.admin.transaction()
    await replaying.start()
    await world.admin.fetch("SELECT FROM ingest.inbox WHERE item_id = $1 FOR SHARE", item)
    await world.admin.execute("INSERT INTO ingest.outbox (item_id) VALUES ($1)", item)
    pruning = asyncio.create_task(world.prune())
    watcher = await asyncpg.connect(world.database.admin_dsn)
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not await watcher.fetchval(blocked):
        assert not pruning.done()
    await watcher.close()

    await replaying.commit()

    assert await pruning == {}
    assert await world.ids("SELECT item_id FROM ingest.inbox WHERE payload IS NOT NULL") == {item}


async def test_applied_goes_behind_the_mark_of_the_recovery_check_and_nothing_is_published_again(
    world: World,
) -> None:
    items = [await world.item(age * DAY) for age in (60, 59, 41, 37)]
    for item, age in zip(items, (60, 59, 41, 37), strict=True):
        await world.applied("booking", item, age * DAY)
    settings = IngestSettings(
        env="development", postgres_dsn=SecretStr(world.database.dsn("ingest")), kafka_bootstrap="127.0.0.1:1",
        recovery_age_seconds=1.0, recovery_republish_seconds=1.0,
    )  # fmt: skip
    await world.admin.execute(
        "INSERT INTO booking.read_marks VALUES ('inbound_webhooks', 0, now() + interval '1 d', 1)"
    )
    pool = await create_pool(world.database.dsn("ingest"), "test")
    check = RecoveryCheck("ingest", settings, pool, WATCHES, lambda: None)

    assert await world.prune() == {}, "the check has looked at nothing yet"
    assert await check.check() == 0
    assert (await world.prune()).pop("booking.applied") == 3
    assert await check.check() == 0
    late = await world.item(timedelta(minutes=5))
    assert await check.check() == 1
    await pool.close()

    assert await world.ids("SELECT record_id FROM booking.applied") == {items[3]}
    assert await world.ids("SELECT item_id FROM ingest.outbox") == {late}


@pytest.mark.parametrize("publisher", ["ingest", "booking"])
async def test_applied_of_what_counts_as_missing_stays(world: World, publisher: str) -> None:
    missing, other = uuid4(), uuid4()
    for record_id in (missing, other):
        await world.applied("sender", record_id, 50 * DAY)
    await world.admin.execute(
        f"INSERT INTO {publisher}.missing (watch, record_id) VALUES ('one>sender', $1)", missing
    )

    assert await world.prune() == {"sender.applied": 1}
    assert await world.ids("SELECT record_id FROM sender.applied") == {missing}


@pytest.mark.parametrize(
    ("reader", "raw_days", "kept_days"),
    [
        ("booking", None, 39),
        ("sender", None, 39),
        ("booking", 90, 99),
        ("sender", 90, 99),
        ("rollup", 90, 402),
    ],
)
async def test_applied_outlives_all_that_can_come_again(
    world: World, reader: str, raw_days: int | None, kept_days: int
) -> None:
    await world.tenant("t", raw_days)
    young, old = uuid4(), uuid4()
    await world.applied(reader, young, kept_days * DAY - timedelta(hours=1))
    await world.applied(reader, old, kept_days * DAY + timedelta(hours=1))

    assert await world.prune() == {f"{reader}.applied": 1}
    assert await world.ids(f"SELECT record_id FROM {reader}.applied") == {young}


async def test_erased_items_go_at_last_and_in_the_order_of_their_arrival(world: World) -> None:
    ages = (500, 450, 401, 399, 10)
    items = [await world.item(age * DAY) for age in ages]
    await world.looked_at_everything()

    assert await world.prune() == {"ingest.raw_items": 4, "ingest.inbox": 3}
    assert await world.ids("SELECT item_id FROM ingest.inbox") == set(items[3:])


async def test_outbound_goes_behind_the_mark(world: World) -> None:
    for age in (50, 40, 35, 29):
        await world.admin.execute(
            "INSERT INTO booking.outbound (record_id, tenant_id, type, client_id, booking_id, booking_version, occurred_at, "
            "payload, created_at) VALUES (gen_random_uuid(), 't', 'message.planned', gen_random_uuid(), gen_random_uuid(), 1, "
            "now(), '{}', $1)",
            now() - age * DAY,
        )
    assert await world.prune() == {}
    await world.admin.execute(
        "INSERT INTO booking.recovery_marks SELECT 'outbound_messages>sender', seq FROM booking.outbound ORDER BY seq OFFSET 1 LIMIT 1"
    )

    missing = "INSERT INTO booking.missing (watch, record_id) SELECT 'x', record_id FROM booking.outbound ORDER BY seq LIMIT 1"
    await world.admin.execute(missing)
    assert await world.prune() == {"booking.outbound": 1}
    await world.admin.execute("DELETE FROM booking.missing")

    assert await world.prune() == {"booking.outbound": 1}


async def test_dead_letter_goes_long_after_its_replay(world: World) -> None:
    for offset, age in enumerate((None, 89 * DAY, 91 * DAY)):
        await world.admin.execute(
            "INSERT INTO rollup.dead_letters (tenant_id, topic, partition, record_offset, reason, header_names, header_values, "
            "dead_at, replayed_at) VALUES ('t', 'x', 0, $1, 'r', '{}', '{}', now() - interval '200 days', $2)",
            offset,
            now() - age if age else None,
        )

    assert await world.prune() == {"rollup.dead_letters": 1}
    assert await world.admin.fetchval("SELECT count(*) FROM rollup.dead_letters") == 2


async def old_rows(world: World) -> None:
    for age in (500, 45, 10):
        item = await world.item(age * DAY)
        for reader in ("booking", "sender", "rollup"):
            await world.applied(reader, item, age * DAY)
        await world.admin.execute(
            "INSERT INTO ingest.inbox_keys VALUES ('t', 'calcom', $1, $1, $2, now() - interval '1 d')",
            item.bytes,
            item,
        )
    await world.looked_at_everything()


async def test_dry_run_tells_what_would_go_and_deletes_nothing(world: World) -> None:
    await old_rows(world)

    told = await world.prune(dry_run=True)
    again = await world.prune(dry_run=True)
    done = await world.prune()

    expected = {
        "ingest.inbox_keys": 3, "ingest.raw_items": 2, "booking.applied": 2, "sender.applied": 2, "rollup.applied": 1,
    }  # fmt: skip
    assert told == again == expected, "an item goes in the run after its payload"
    assert done == expected | {"ingest.inbox": 1}


async def test_two_runs_at_once_do_no_harm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_module, "BATCH_ROWS", 3)
    items = [await world.item(40 * DAY) for _ in range(60)]
    for item in items:
        await world.applied("booking", item, 50 * DAY)
    await world.looked_at_everything()

    ran = await asyncio.gather(*(world.prune() for _ in range(3)))

    assert {
        table: sum(each.get(table, 0) for each in ran) for table in ("ingest.raw_items", "booking.applied")
    } == {
        "ingest.raw_items": 60,
        "booking.applied": 60,
    }


async def test_command_prints_the_rules(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
    monkeypatch.setenv("TURNOUT_MAINTENANCE_DSN", world.database.dsn("maintenance"))
    await old_rows(world)

    assert await asyncio.to_thread(prune, dry_run=True, as_json=True) == 0

    told = {row["table"]: row for row in json.loads(capsys.readouterr().out)}
    assert all(row["keeps"] and row["dry_run"] for row in told.values())
    assert told["ingest.raw_items"] == {
        "table": "ingest.raw_items", "keeps": "30 days; the item's payload goes with them", "rows": 2, "dry_run": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(SQL))
@pytest.mark.parametrize("words", [prune_module._DELETE, prune_module._COUNT], ids=["delete", "count"])
async def test_query_prepares_as_the_maintenance_role(
    database: Database, name: str, words: dict[str, str]
) -> None:
    connection = await asyncpg.connect(database.dsn("maintenance"))
    filled = SQL[name]
    for placeholder, text in (
        words | {"reader": "rollup", "one": "booking", "other": "sender", "schema": "sender"}
    ).items():
        filled = filled.replace("{" + placeholder + "}", text)
    await connection.prepare(filled)
    await connection.close()


async def test_no_batch_reads_a_whole_table(world: World) -> None:
    await world.admin.execute(
        "INSERT INTO ingest.inbox_keys SELECT 't', 'calcom', uuid_send(gen_random_uuid()), uuid_send(gen_random_uuid()), "
        "gen_random_uuid(), now() + interval '1 d' FROM generate_series(1, 50000)"
    )
    await world.admin.execute(
        "INSERT INTO booking.applied (record_id) SELECT gen_random_uuid() FROM generate_series(1, 50000)"
    )
    await world.admin.execute(
        "INSERT INTO ingest.raw_items SELECT uuidv7(), 't', 'sealed', NULL, now() FROM generate_series(1, 50000)"
    )
    await world.admin.execute("ANALYZE ingest.inbox_keys, booking.applied, ingest.raw_items")
    connection = await asyncpg.connect(world.database.dsn("maintenance"))
    first, end, at = (0, 0), (50, 0), now()
    applied = SQL["applied"].format(reader="booking", one="ingest", other="sender", act="DELETE FROM")

    plans = [
        await plan(connection, SQL["keys"].format(act="DELETE FROM"), first, end, at),
        await plan(connection, applied, first, end, at),
        await plan(connection, SQL["aged_bytes"], UUID(int=0), new_id(), 5000, ["t"], [3], 30, None),
    ]
    await connection.close()

    for text, table in zip(plans, ("inbox_keys", "applied", "raw_items"), strict=True):
        assert f"Seq Scan on {table}" not in text
        assert "Tid Range Scan" in text or "Index Scan" in text


async def plan(connection: asyncpg.Connection, sql: str, *arguments: Any) -> str:
    return "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + sql, *arguments))
