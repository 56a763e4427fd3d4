"""Each item has one fate (design §2.2, §2.8): nothing is stored twice, nothing is dropped silently, the counts add up."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import (
    SECRETS,
    Service,
    add_channels,
    counted,
    created,
    fates,
    ingest,
    now,
    rows,
    value,
)
from turnout_cli.webhooks import Webhook, calcom, facts, signed_headers, telegram
from turnout_common.tenants import create_tenant

SUCCESS = {"calcom": 202, "telegram": 200, "events": 202}


@pytest.fixture(scope="module")
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[Service]:
    async with ingest(database, infrastructure, topic_prefix) as started:
        yield started


async def test_duplicate_webhook_is_stored_once(service: Service, database: Database, salon: str) -> None:
    webhook = created("twice")

    first = await service.post(salon, webhook)
    second = await service.post(salon, webhook)

    assert (first.status, second.status) == (202, 202)
    assert first.body == second.body == b""
    assert await fates(database, salon) == ["published", "duplicate"]
    stored = await rows(database, salon)
    assert stored[1]["first_item_id"] == stored[0]["item_id"]
    assert stored[1]["payload"] is None
    assert await value(database, "SELECT count(*) FROM ingest.raw_items WHERE tenant_id = $1", salon) == 1


async def test_duplicates_that_arrive_at_once_are_stored_once(
    service: Service, database: Database, salon: str
) -> None:
    webhook = created("at-once")

    answers = await asyncio.gather(*(service.post(salon, webhook) for _ in range(30)))

    assert {answer.status for answer in answers} == {202}
    assert Counter(await fates(database, salon)) == {"published": 1, "duplicate": 29}


async def test_changed_body_under_the_same_id_is_409_on_events(
    service: Service, database: Database, salon: str
) -> None:
    first = facts.paid("msg-1", now(), "u", 4200, "EUR")
    changed = facts.paid("msg-1", now(), "u", 4300, "EUR")

    answers = [await service.post(salon, webhook) for webhook in (first, changed, first, changed)]

    assert [answer.status for answer in answers] == [202, 409, 202, 409]
    assert await fates(database, salon) == ["published", "conflict", "duplicate", "conflict"]
    assert await value(database, "SELECT count(*) FROM ingest.raw_items WHERE tenant_id = $1", salon) == 3


async def test_same_content_in_another_spelling_is_a_duplicate(
    service: Service, database: Database, salon: str
) -> None:
    first = facts.paid("msg-1", now(), "u", 4200, "EUR")
    spelled = Webhook(
        "events", json.dumps(json.loads(first.body), indent=2, sort_keys=True).encode(), "msg-1"
    )

    assert (await service.post(salon, first)).status == (await service.post(salon, spelled)).status == 202
    assert await fates(database, salon) == ["published", "duplicate"]


async def test_update_id_with_other_content_is_kept_as_conflict_and_telegram_is_not_told(
    service: Service, database: Database, salon: str
) -> None:
    chat = telegram.Chat(730044112, "Igor")

    answers = [await service.post(salon, telegram.text(7, chat, 5, now(), words)) for words in ("one", "two")]

    assert [(answer.status, answer.body) for answer in answers] == [(200, b""), (200, b"")]
    assert await fates(database, salon) == ["published", "conflict"]


async def test_two_tenants_with_the_same_key_do_not_meet(
    service: Service, database: Database, salon: str
) -> None:
    other = salon + "-b"
    connection = await asyncpg.connect(database.dsn("platform"))
    await create_tenant(connection, MASTER_KEY, other, "Europe/Berlin", actor="test")
    await connection.close()
    await add_channels(database, other)
    await service.directory.reload()
    webhook = created("shared")

    await service.post(salon, webhook)
    await service.post(other, webhook)

    assert await fates(database, salon) == await fates(database, other) == ["published"]


@pytest.mark.parametrize(("channel", "status"), [("calcom", 400), ("events", 400), ("telegram", 200)])
async def test_quarantined_envelope_gets_the_same_answer_twice(
    service: Service, database: Database, salon: str, channel: str, status: int
) -> None:
    webhook = Webhook(channel, b"{}" if channel == "calcom" else b"[]", "msg-1")

    first, second = await service.post(salon, webhook), await service.post(salon, webhook)

    assert (first.status, first.body) == (second.status, second.body)
    assert first.status == status
    assert (first.body == b"") == (status == 200)
    assert await fates(database, salon) == ["quarantined", "duplicate"]


async def test_quarantined_event_may_be_sent_again_corrected(
    service: Service, database: Database, salon: str
) -> None:
    wrong = facts.fact("msg-1", "feedback.received", now(), {"booking": facts.booking("u"), "rating": 9})
    right = facts.rated("msg-1", now(), 5, "u")

    assert [(await service.post(salon, webhook)).status for webhook in (wrong, right)] == [400, 202]
    assert await fates(database, salon) == ["quarantined", "published"]


async def test_form_is_quarantined_with_a_reason(service: Service, database: Database, salon: str) -> None:
    webhook = created("form")
    headers = signed_headers(webhook, SECRETS["calcom"], 0) | {
        "Content-Type": "application/x-www-form-urlencoded"
    }

    answer = await service.post(salon, webhook, headers)

    assert answer.status == 400
    assert b"custom payload template" in answer.body
    assert await fates(database, salon) == ["quarantined"]


async def test_fates_add_up_to_what_was_received(service: Service, database: Database, salon: str) -> None:
    chat = telegram.Chat(730044112, "Igor")
    webhooks = [
        created("a"),
        calcom.ping(now()),
        Webhook("calcom", b"{}"),
        telegram.text(1, chat, 5, now(), "hello"),
        telegram.text(2, chat, 6, now() - timedelta(days=9), "old"),
        telegram.text(1, chat, 5, now(), "other"),
        facts.rated("m1", now(), 5, "u"),
        facts.rated("m1", now(), 4, "u"),
        Webhook("events", b'{"type":"weather.changed","timestamp":"2026-11-24T08:00:00Z","data":{}}', "m2"),
        facts.rated("m3", now() + timedelta(hours=2), 4, "u"),
    ]

    for webhook in [*webhooks, *webhooks]:
        await service.post(salon, webhook)

    stored = Counter(await fates(database, salon))
    assert await counted(database, salon) == stored
    assert sum(stored.values()) == 2 * len(webhooks)
    assert stored == {
        "published": 3,
        "ignored": 2,
        "quarantined": 2,
        "stale": 1,
        "conflict": 4,
        "duplicate": 8,
    }


async def test_every_body_has_a_fate_and_a_reason_in_the_list(
    service: Service, database: Database, salon: str
) -> None:
    for webhook in (created("listed"), created("listed too"), calcom.ping(now()), Webhook("calcom", b"[]")):
        await service.post(salon, webhook)

    connection = await asyncpg.connect(database.dsn("maintenance"))
    listed = await connection.fetch(
        "SELECT * FROM ingest.inbox_list WHERE tenant_id = $1 ORDER BY seq", salon
    )
    await connection.close()

    assert [row["fate"] for row in listed] == ["published", "published", "ignored", "quarantined"]
    assert all(row["reason"] for row in listed)
