"""Promise: what was quarantined goes through again once the schema is mended, under the key that it always had, and the
counts of the fates add up all the while."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.ingest_service import (
    SECRETS,
    Service,
    add_channels,
    counted,
    created,
    fates,
    now,
    rows,
    value,
)
from tests.integration.probe import until
from turnout_cli import inbox_release, inbox_replay
from turnout_cli.errors import CommandError
from turnout_cli.webhooks import Webhook, facts, signed_headers, telegram
from turnout_common.postgres import load_queries
from turnout_common.tenants import create_tenant, tenant_keys
from turnout_ingest import release as release_module
from turnout_ingest.acceptance import opened_headers
from turnout_ingest.providers import calcom, standard_webhooks
from turnout_ingest.providers import telegram as telegram_adapter
from turnout_ingest.providers.provider import Delivery, Fate, Item, Refused, hash16
from turnout_ingest.release import Release, Wanted

pytestmark = pytest.mark.usefixtures("command_environment")


@pytest.fixture
async def salon(salon: str, database: Database) -> str:
    """The salon, and an empty outbox."""
    await value(database, "DELETE FROM ingest.outbox")
    return salon


async def release(*ids: UUID, **options: Any) -> int:
    return await asyncio.to_thread(inbox_release.release, list(ids) or None, **options)


async def outcomes(capsys: pytest.CaptureFixture[str], *ids: UUID, **options: Any) -> list[dict[str, Any]]:
    capsys.readouterr()
    await release(*ids, as_json=True, **options)
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


async def ids(database: Database, tenant_id: str) -> list[UUID]:
    return [row["item_id"] for row in await rows(database, tenant_id)]


async def waiting(database: Database) -> list[UUID]:
    connection = await asyncpg.connect(database.admin_dsn)
    found = await connection.fetch("SELECT item_id FROM ingest.outbox ORDER BY outbox_id")
    await connection.close()
    return [row["item_id"] for row in found]


def refusing(monkeypatch: pytest.MonkeyPatch, adapter: Any) -> pytest.MonkeyPatch:
    """Today's adapter does not know a new form of its provider's bodies; undo() is the fix."""

    def items(self: Any, delivery: Delivery) -> list[Item]:
        raise Refused("a form that this version does not read")

    broken = pytest.MonkeyPatch()
    broken.setattr(adapter, "items", items)
    return broken


def form(uid: str) -> tuple[Webhook, dict[str, str]]:
    webhook = created(uid)
    headers = signed_headers(webhook, SECRETS["calcom"], 0)
    return webhook, headers | {"Content-Type": "application/x-www-form-urlencoded"}


async def test_booking_in_a_new_form_is_published_after_the_fix(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = created("new form")
    broken = refusing(monkeypatch, calcom.Calcom)
    assert (await service.post(salon, webhook)).status == 400
    broken.undo()
    (before,) = await rows(database, salon)

    assert await release(before["item_id"]) == 0

    (after,) = await rows(database, salon)
    assert (after["fate"], after["reason"], after["kind"]) == ("published", None, "booking")
    assert after["seq"] > before["seq"] and after["released_at"] is not None
    assert (after["item_id"], after["request_id"], after["received_at"]) == (
        before["item_id"],
        before["request_id"],
        before["received_at"],
    )
    assert json.loads(after["payload"])["item_id"] == str(before["item_id"])
    assert await waiting(database) == [before["item_id"]]
    assert await counted(database, salon) == {"published": 1}
    assert (await service.post(salon, webhook)).status == 202
    assert await fates(database, salon) == ["published", "duplicate"]


async def test_form_stays_quarantined_because_its_content_type_was_kept(
    service: Service, database: Database, salon: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await service.post(salon, *form("form"))
    (before,) = await rows(database, salon)

    (outcome,) = await outcomes(capsys, before["item_id"])

    assert outcome["fates"] == ["quarantined"] and "custom payload template" in outcome["reason"]
    assert await rows(database, salon) == [before]
    assert await release(before["item_id"]) == 1


async def test_item_that_still_does_not_fit_gets_the_reason_of_today(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = refusing(monkeypatch, calcom.Calcom)
    await service.post(salon, Webhook("calcom", b"{}"))
    broken.undo()
    (before,) = await rows(database, salon)

    assert await release(before["item_id"]) == 1

    (after,) = await rows(database, salon)
    assert after["fate"] == "quarantined" and after["seq"] == before["seq"]
    assert before["reason"] == "a form that this version does not read" != after["reason"]
    assert await counted(database, salon) == {"quarantined": 1}
    assert await waiting(database) == []


async def test_webhook_id_is_kept_so_that_the_same_webhook_is_a_duplicate_after_release(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = facts.rated("msg-7", now(), 5, "u")
    broken = refusing(monkeypatch, standard_webhooks.StandardWebhooks)
    await service.post(salon, fact)
    broken.undo()

    assert await release(tenant=salon, channel="events") == 0

    again, changed = fact, facts.rated("msg-7", now(), 1, "u")
    assert [(await service.post(salon, each)).status for each in (again, changed)] == [202, 409]
    assert await fates(database, salon) == ["published", "duplicate", "conflict"]


async def test_webhook_sent_again_before_release_is_taken_in_and_release_finds_the_duplicate(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = facts.rated("msg-7", now(), 5, "u")
    broken = refusing(monkeypatch, standard_webhooks.StandardWebhooks)
    await service.post(salon, fact)
    broken.undo()
    assert (await service.post(salon, fact)).status == 202
    quarantined, published = await ids(database, salon)

    assert await release(tenant=salon, channel="events") == 0

    stored = {row["item_id"]: row for row in await rows(database, salon)}
    assert stored[quarantined]["fate"] == "duplicate"
    assert stored[quarantined]["first_item_id"] == published
    assert await waiting(database) == [published]
    assert await counted(database, salon) == {"published": 1, "duplicate": 1}


class Batch:
    """Two items in a body, of which today's version reads the first only; `mended` reads both."""

    def __init__(self, mended: bool) -> None:
        self._mended = mended

    def __call__(self, adapter: Any, delivery: Delivery) -> list[Item]:
        parts = json.loads(delivery.body)
        if isinstance(parts, dict):
            parts = [parts]
        return [self._item(part, delivery) for part in parts]

    def _item(self, part: dict[str, Any], delivery: Delivery) -> Item:
        raw = json.dumps(part).encode()
        read = self._mended or part["n"] != 1
        return Item(
            event_type="booking", key=hash16(raw), content=hash16(raw), raw=raw, occurred_at=delivery.received_at,
            fate=Fate.IGNORED if read else Fate.QUARANTINED, reason="of no need" if read else "not read yet",
        )  # fmt: skip


async def test_quarantined_item_of_a_batch_is_released_alone(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calcom.Calcom, "items", lambda self, delivery: Batch(False)(self, delivery))
    await service.post(salon, Webhook("calcom", b'[{"n": 0}, {"n": 1}]'))
    assert await fates(database, salon) == ["ignored", "quarantined"]
    monkeypatch.setattr(calcom.Calcom, "items", lambda self, delivery: Batch(True)(self, delivery))

    assert await release(tenant=salon) == 0

    assert await fates(database, salon) == ["ignored", "ignored"]
    assert await counted(database, salon) == {"ignored": 2}


async def test_body_that_was_kept_whole_becomes_its_items_and_what_was_received_grows(
    service: Service,
    database: Database,
    salon: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = refusing(monkeypatch, calcom.Calcom)
    await service.post(salon, Webhook("calcom", b'[{"n": 0}, {"n": 1}, {"n": 2}]'))
    broken.undo()
    monkeypatch.setattr(calcom.Calcom, "items", lambda self, delivery: Batch(False)(self, delivery))
    (before,) = await rows(database, salon)

    (outcome,) = await outcomes(capsys, before["item_id"])

    assert outcome["fates"] == ["ignored", "quarantined", "ignored"]
    stored = await rows(database, salon)
    assert [row["fate"] for row in stored] == outcome["fates"]
    assert stored[0]["item_id"] == before["item_id"]
    assert {row["request_id"] for row in stored} == {before["request_id"]}
    assert {row["received_at"] for row in stored} == {before["received_at"]}
    assert all(
        row["item_id"].int >> 80 == int(before["received_at"].timestamp() * 1000) for row in stored[1:]
    )
    assert await counted(database, salon) == {"ignored": 2, "quarantined": 1}
    assert await value(database, "SELECT count(*) FROM ingest.raw_items WHERE tenant_id = $1", salon) == 3


async def came_days_ago(database: Database, salon: str, days: int) -> None:
    await value(
        database,
        "UPDATE ingest.inbox SET received_at = received_at - $2::int * interval '1 day' WHERE tenant_id = $1",
        salon,
        days,
    )
    await value(
        database, "UPDATE ingest.fate_counts SET day = day - $2::int WHERE tenant_id = $1", salon, days
    )


async def test_item_that_came_ahead_of_its_time_is_released_once_that_has_come(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock by which it was received may have been slow; what still lies ahead stays, what was stale is stale."""
    chat = telegram.Chat(730044112, "Igor")
    came = now() - timedelta(days=5)
    broken = refusing(monkeypatch, telegram_adapter.Telegram)
    times = (came, came + timedelta(hours=2), now() + timedelta(hours=2), came - timedelta(days=8))
    for number, sent in enumerate(times, 1):
        await service.post(salon, telegram.text(number, chat, number, sent, "hello"))
    broken.undo()
    await came_days_ago(database, salon, 5)

    assert await release(tenant=salon) == 0

    assert sorted(await fates(database, salon)) == ["published", "published", "quarantined", "stale"]
    assert await counted(database, salon) == {"published": 2, "quarantined": 1, "stale": 1}


async def test_message_whose_key_may_be_gone_is_stale_and_a_booking_of_that_age_is_published(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come in by another way, whose key is free by now: a second effect. A booking has none."""
    chat = telegram.Chat(730044112, "Igor")
    text, pressed = (
        telegram.text(1, chat, 5, now() - timedelta(days=20), "hello"),
        telegram.button(2, chat, 6, now(), "offer:1"),
    )
    for adapter, webhooks in (
        (telegram_adapter.Telegram, (text, pressed)),
        (calcom.Calcom, (created("old"),)),
    ):
        broken = refusing(monkeypatch, adapter)
        for webhook in webhooks:
            await service.post(salon, webhook)
        broken.undo()
    await came_days_ago(database, salon, 20)
    monkeypatch.setattr("turnout_ingest.acceptance.MOST_AHEAD", timedelta(days=30))

    assert await release(tenant=salon) == 0

    stored = await rows(database, salon)
    assert sorted((row["kind"], row["fate"]) for row in stored) == [
        ("booking", "published"),
        ("message", "stale"),
        ("message", "stale"),
    ]
    assert {row["reason"] for row in stored if row["kind"] == "message"} == {
        "released after the 7 days for which its key is kept: it may have been handled before"
    }


async def test_what_the_database_could_not_hold_keeps_its_headers_and_is_released_under_its_own_key(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a hash of its body a copy with the same webhook-id would have had a second effect."""
    plain = standard_webhooks.StandardWebhooks.items

    def items(self: Any, delivery: Delivery) -> list[Item]:
        (item,) = plain(self, delivery)
        return [replace(item, subject="\x00")]

    fact = facts.rated("msg-9", now(), 5, "u")
    with monkeypatch.context() as broken:
        broken.setattr(standard_webhooks.StandardWebhooks, "items", items)
        assert (await service.post(salon, fact)).status == 400
    assert await fates(database, salon) == ["quarantined"]
    assert (await service.post(salon, fact)).status == 202

    assert await release(tenant=salon, channel="events") == 0

    assert sorted(await fates(database, salon)) == ["duplicate", "published"]
    assert len(await waiting(database)) == 1


async def test_item_of_a_wrong_account_is_released_after_the_routing_id_was_mended(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def items(self: Any, delivery: Delivery) -> list[Item]:
        key = hash16(delivery.body)
        return [
            Item(event_type="x", key=key, content=key, occurred_at=delivery.received_at, raw=delivery.body,
                 routing_id=salon, fate=Fate.IGNORED, reason="of no need")
        ]  # fmt: skip

    monkeypatch.setattr(calcom.Calcom, "items", items)
    await service.post(salon, Webhook("calcom", b"{}"))
    assert await fates(database, salon) == ["wrong_tenant"]
    await value(
        database,
        "UPDATE platform.channels SET routing_id = $1 WHERE tenant_id = $1 AND channel = 'calcom'",
        salon,
    )

    assert await release(tenant=salon, fate="wrong_tenant") == 0

    assert await fates(database, salon) == ["ignored"]
    assert await counted(database, salon) == {"ignored": 1}


async def test_dry_run_tells_what_would_become_of_each_and_changes_nothing(
    service: Service,
    database: Database,
    salon: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = refusing(monkeypatch, calcom.Calcom)
    for webhook in (created("a"), Webhook("calcom", b"[]")):
        await service.post(salon, webhook)
    broken.undo()
    before = await rows(database, salon)

    told = await outcomes(capsys, tenant=salon, dry_run=True)

    assert [outcome["fates"] for outcome in told] == [["published"], ["quarantined"]]
    assert await rows(database, salon) == before
    assert await counted(database, salon) == {"quarantined": 2}
    assert await waiting(database) == []


async def test_two_operators_at_once_release_each_item_once(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = refusing(monkeypatch, calcom.Calcom)
    await asyncio.gather(*(service.post(salon, created(f"u{number}")) for number in range(60)))
    broken.undo()

    found = await asyncio.gather(*(_released_by_hand(database, salon) for _ in range(4)))

    moved = [outcome.item_id for outcomes in found for outcome in outcomes if outcome.moved]
    assert len(moved) == len(set(moved)) == 60
    assert sum(1 for outcomes in found if outcomes) > 1
    assert sorted(await waiting(database)) == sorted(moved)
    assert await counted(database, salon) == {"published": 60}
    assert await release(tenant=salon) == 0
    assert len(await waiting(database)) == 60


async def test_batches_of_two_operators_take_turns(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their corrections of counts would lock each other out."""

    async def waits() -> bool:
        sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        return bool(await value(database, sql))

    broken = refusing(monkeypatch, calcom.Calcom)
    await service.post(salon, created("turn"))
    broken.undo()
    other = await asyncpg.connect(database.dsn("maintenance"))
    async with other.transaction():
        await other.execute(release_module.SQL["one_at_a_time"])
        releasing = asyncio.create_task(_released_by_hand(database, salon))
        await until(waits, "the second operator to wait", 10)
    await other.close()

    assert [outcome.fates for outcome in await releasing] == [("published",)]


async def test_release_waits_while_the_outbox_is_long(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: asyncpg.Connection) -> None:
        raise CommandError("the outbox has not shrunk")

    broken = refusing(monkeypatch, calcom.Calcom)
    await service.post(salon, created("waits"))
    broken.undo()
    monkeypatch.setattr(inbox_release, "wait_for_room", full)

    with pytest.raises(CommandError, match="not shrunk"):
        await release(tenant=salon)

    assert await fates(database, salon) == ["quarantined"]


async def test_replay_from_the_time_of_a_released_item_leaves_none_out(
    service: Service,
    database: Database,
    salon: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is the oldest, with the highest seq."""
    since = now().isoformat()
    broken = refusing(monkeypatch, calcom.Calcom)
    await service.post(salon, created("released"))
    broken.undo()
    await service.post(salon, created("came later"))
    await release(tenant=salon)
    capsys.readouterr()

    await asyncio.to_thread(inbox_replay.replay, tenant=salon, since=since, as_json=True)

    assert json.loads(capsys.readouterr().out)["queued"] == 2


async def test_item_that_another_hand_holds_is_passed_over(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune` locks what it looks at, and waits for nobody who waits for it."""
    broken = refusing(monkeypatch, calcom.Calcom)
    for uid in ("held", "free"):
        await service.post(salon, created(uid))
    broken.undo()
    held, free = await ids(database, salon)
    other = await asyncpg.connect(database.admin_dsn)
    async with other.transaction():
        await other.execute("SELECT FROM ingest.inbox WHERE item_id = $1 FOR UPDATE", held)
        async with asyncio.timeout(5):
            outcomes = await _released_by_hand(database, salon)
    await other.close()

    assert [outcome.item_id for outcome in outcomes] == [free]
    assert await release(tenant=salon) == 0
    assert await waiting(database) == [free, held]


async def _released_by_hand(database: Database, salon: str | None) -> list[release_module.Outcome]:
    connection = await asyncpg.connect(database.dsn("maintenance"))
    releasing = Release(connection, MASTER_KEY, Wanted(Fate.QUARANTINED, tenant_id=salon))
    found: list[release_module.Outcome] = []
    while batch := await releasing.batch(7):
        found += batch
    await connection.close()
    return found


async def test_item_that_the_database_cannot_hold_stays_and_the_others_are_released(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = refusing(monkeypatch, calcom.Calcom)
    for uid in ("a", "poison", "c"):
        await service.post(salon, created(uid))
    broken.undo()
    plain = calcom.Calcom.items

    def items(self: Any, delivery: Delivery) -> list[Item]:
        (item,) = plain(self, delivery)
        if b"poison" in delivery.body:
            object.__setattr__(item, "subject", "\x00")
        return [item]

    monkeypatch.setattr(calcom.Calcom, "items", items)

    found = await _released_by_hand(database, salon)

    assert [outcome.fates for outcome in found] == [("published",), ("quarantined",), ("published",)]
    assert found[1].reason == "the database cannot hold what it is now"
    assert await counted(database, salon) == {"published": 2, "quarantined": 1}


async def test_recovery_walk_sees_a_released_item_as_new(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark has passed the seq that the item had; and it must not pass a younger seq that is not committed yet."""
    sql = load_queries("turnout_ingest")["walk_published"]
    broken = refusing(monkeypatch, calcom.Calcom)
    await service.post(salon, created("walked"))
    broken.undo()
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(
        "UPDATE ingest.inbox SET stored_at = stored_at - interval '30 minutes' WHERE tenant_id = $1",
        salon,
    )
    mark = await admin.fetchval("SELECT max(seq) FROM ingest.inbox")

    await release(tenant=salon)

    walked = await admin.fetch(sql, mark, timedelta(0), 10)
    young = await admin.fetch(sql, mark, timedelta(minutes=2), 10)
    await admin.close()
    assert [row["record_id"] for row in walked] == await ids(database, salon)
    assert young == []


async def test_tenant_whose_keys_do_not_open_keeps_nobody_elses_items_back(
    service: Service, database: Database, salon: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(database.dsn("platform"))
    await create_tenant(connection, MASTER_KEY, name, "Europe/Berlin", actor="test")
    await connection.close()
    await add_channels(database, name)
    await service.directory.reload()
    broken = refusing(monkeypatch, calcom.Calcom)
    for tenant in (name, salon):
        await service.post(tenant, created("one"))
    broken.undo()
    await value(database, "UPDATE platform.data_keys SET wrapped = $2 WHERE tenant_id = $1", name, b"x" * 60)

    found = {outcome.tenant_id: outcome for outcome in await _released_by_hand(database, None)}

    assert (found[name].fates, found[salon].fates) == (("quarantined",), ("published",))
    assert "cannot be opened" in str(found[name].reason)


async def test_release_is_noted_in_the_audit_log(
    service: Service, database: Database, salon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = refusing(monkeypatch, calcom.Calcom)
    await service.post(salon, created("audited"))
    broken.undo()

    await release(tenant=salon, since="1h")

    found = await value(
        database,
        "SELECT details FROM platform.audit_log WHERE tenant_id = $1 AND action = 'inbox.release'",
        salon,
    )
    assert json.loads(found)["released"] == 1 and json.loads(found)["tenant"] == salon


async def test_whom_nothing_names_releases_nothing(salon: str) -> None:
    with pytest.raises(CommandError, match="name the items"):
        await release()
    with pytest.raises(CommandError, match="not there"):
        await release(UUID(int=1))


async def test_bytes_that_are_gone_leave_the_item_as_it_is(
    service: Service, database: Database, salon: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await service.post(salon, Webhook("calcom", b"[]"))
    await value(database, "DELETE FROM ingest.raw_items WHERE tenant_id = $1", salon)
    before = await rows(database, salon)

    (outcome,) = await outcomes(capsys, tenant=salon)

    assert outcome["reason"] == "its bytes are not kept any more"
    assert await rows(database, salon) == before


@pytest.mark.parametrize("name", sorted(release_module.SQL))
async def test_query_prepares_as_the_maintenance_role(database: Database, name: str) -> None:
    connection = await asyncpg.connect(database.dsn("maintenance"))
    await connection.prepare(release_module.SQL[name])
    await connection.close()


async def test_headers_are_kept_of_what_was_not_taken_in_and_of_nothing_else(
    service: Service, database: Database, salon: str
) -> None:
    await service.post(salon, facts.rated("taken in", now(), 5, "u"))
    await service.post(salon, Webhook("events", b"[]", "not taken in"))

    connection = await asyncpg.connect(database.admin_dsn)
    kept = await connection.fetch(
        "SELECT fate, sealed_headers FROM ingest.raw_items JOIN ingest.inbox i USING (item_id) "
        "WHERE i.tenant_id = $1 ORDER BY seq",
        salon,
    )
    keys = await tenant_keys(connection, MASTER_KEY, salon)
    await connection.close()

    assert [(row["fate"], row["sealed_headers"] is None) for row in kept] == [
        ("published", True),
        ("quarantined", False),
    ]
    assert opened_headers(keys, kept[1]["sealed_headers"]) == {b"webhook-id": b"not taken in"}
    assert b"not taken in" not in kept[1]["sealed_headers"]
