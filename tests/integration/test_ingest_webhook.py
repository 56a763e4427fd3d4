"""The webhook route on a real server and database: each answer, each fate, nothing twice, nothing dropped silently."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import SECRETS, Service, add_channels, ingest, now, rows, value
from tests.integration.probe import read_all, until
from tests.webhook_fixtures import NOON, body_of, names, value_of
from turnout_cli.webhooks import Webhook, calcom, facts, signed_headers, telegram
from turnout_common.clock import FixedClock
from turnout_common.events import from_headers, parse_event
from turnout_common.tenants import create_tenant, set_tenant_status

HOST = calcom.Host(4101, "Anna Weiss", "anna")
KIND = calcom.EventType(77001, "cut", "Haircut", 45, 4200)
GUEST = calcom.Guest("Igor Petrov", "igor@guest.example", "+493023125001", "ru")
SUCCESS = {"calcom": 202, "telegram": 200, "events": 202}


def created(uid: str) -> Webhook:
    at = now()
    return calcom.created(calcom.Booking(uid, 9, at + timedelta(days=2), HOST, KIND, GUEST, at), at)


@pytest.fixture(scope="module")
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[Service]:
    async with ingest(database, infrastructure, topic_prefix) as started:
        yield started


@pytest.fixture
async def salon(service: Service, database: Database, tenant_id: str) -> str:
    """A tenant with all channels, known to the service."""
    await add_channels(database, tenant_id)
    await service.directory.reload()
    return tenant_id


async def fates(database: Database, tenant_id: str) -> list[str]:
    return [row["fate"] for row in await rows(database, tenant_id)]


async def counted(database: Database, tenant_id: str) -> dict[str, int]:
    connection = await asyncpg.connect(database.dsn("maintenance"))
    try:
        found = await connection.fetch(
            "SELECT fate, sum(items) AS items FROM ingest.fates WHERE tenant_id = $1 GROUP BY fate", tenant_id
        )
        return {row["fate"]: row["items"] for row in found}
    finally:
        await connection.close()


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


@pytest.mark.parametrize("channel", sorted(SECRETS))
async def test_forged_signature_leaves_no_row(
    service: Service, database: Database, salon: str, channel: str
) -> None:
    webhook = Webhook(channel, body_of(channel, names(channel)[0]), "msg-1")
    secret = SECRETS[channel].replace("ingest", "forged") if channel != "events" else "whsec_" + "A" * 44
    forged = signed_headers(webhook, secret, int(now().timestamp()))

    answers = [await service.post(salon, webhook, headers) for headers in (forged, {})]

    assert [(answer.status, answer.body) for answer in answers] == [(401, b"")] * 2
    assert await rows(database, salon) == []


async def test_literal_that_calcom_sends_without_a_secret_is_refused(service: Service, salon: str) -> None:
    headers = {"X-Cal-Signature-256": "no-secret-provided"}

    assert (await service.post(salon, created("unsigned"), headers)).status == 401


async def test_suspended_tenant_unknown_tenant_and_unknown_channel_look_like_a_bad_signature(
    service: Service, database: Database, salon: str
) -> None:
    connection = await asyncpg.connect(database.dsn("platform"))
    await set_tenant_status(connection, salon, "suspended", actor="test")
    await service.directory.reload()
    suspended = await service.post(salon, created("suspended"))
    await set_tenant_status(connection, salon, "active", actor="test")
    await connection.close()
    await service.directory.reload()

    unknown_tenant = await service.post("nobody", created("x"))
    unknown_channel = await service.request("POST", f"/webhooks/pager/{salon}", b"{}")
    active = await service.post(salon, created("active again"))

    assert [a.status for a in (suspended, unknown_tenant, unknown_channel, active)] == [401, 401, 401, 202]
    assert await fates(database, salon) == ["published"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_405(service: Service, salon: str, method: str) -> None:
    answer = await service.request(method, f"/webhooks/calcom/{salon}")

    assert (answer.status, answer.headers["Allow"], answer.body) == (405, "POST", b"")


@pytest.mark.parametrize(
    "path", ["/webhooks/", "/webhooks/calcom", "/webhooks/calcom/", "/webhooks/calcom/a/b"]
)
async def test_other_paths_are_404(service: Service, path: str) -> None:
    assert (await service.request("POST", path, b"{}")).status == 404


async def test_body_over_the_limit_is_413_whether_its_length_is_told_or_not(
    service: Service, database: Database, salon: str
) -> None:
    body = b" " * (1024 * 1024 + 1)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 65536):
            yield body[at : at + 65536]

    told = await service.request("POST", f"/webhooks/calcom/{salon}", io.BytesIO(body))
    untold = await service.request("POST", f"/webhooks/calcom/{salon}", pieces())

    assert (told.status, untold.status) == (413, 413)
    assert await rows(database, salon) == []


async def test_largest_body_is_read_whole(service: Service, database: Database, salon: str) -> None:
    padded = created("large").body.ljust(1024 * 1024)

    assert (await service.post(salon, Webhook("calcom", padded))).status == 202
    assert await fates(database, salon) == ["published"]


@pytest.mark.parametrize(("channel", "status"), [("calcom", 400), ("events", 400), ("telegram", 200)])
async def test_quarantined_envelope_gets_the_same_answer_twice(
    service: Service, database: Database, salon: str, channel: str, status: int
) -> None:
    webhook = Webhook(channel, b"{}", "msg-1")

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


async def test_nothing_that_was_sent_is_echoed(service: Service, salon: str) -> None:
    body = {"type": "payment.received", "timestamp": "echo-canary", "data": {"echo-canary": "echo-canary"}}
    webhook = Webhook("events", json.dumps(body).encode(), "echo-canary")

    answer = await service.post(salon, webhook)

    assert answer.status == 400
    assert b"echo-canary" not in answer.body + json.dumps(dict(answer.headers)).encode()


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


@pytest.mark.parametrize("channel", sorted(SECRETS))
async def test_every_sample_is_answered_with_success_and_relayed(
    channel: str, database: Database, infrastructure: Infrastructure, topic_prefix: str, tenant_id: str
) -> None:
    await add_channels(database, tenant_id)
    samples = names(channel)
    async with ingest(database, infrastructure, topic_prefix, clock=FixedClock(NOON)) as stopped:
        for number, name in enumerate(samples):
            answer = await stopped.post(tenant_id, Webhook(channel, body_of(channel, name), f"msg-{number}"))
            assert answer.status == SUCCESS[channel], f"{name}: {answer.body!r}"
        await until(lambda: _outbox_is_empty(database), "the outbox to be published")

    stored = await rows(database, tenant_id)
    assert len(stored) == len(samples)
    published = [row for row in stored if row["fate"] == "published"]
    found = await _published(infrastructure, topic_prefix, tenant_id, database)
    assert {item_id for item_id, *_ in found} == {row["item_id"] for row in published}


async def test_what_is_relayed_is_the_event_under_its_envelope(
    service: Service, database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str
) -> None:
    chat = telegram.Chat(730044113, "Igor")
    await service.post(salon, created("relayed"))
    for number in range(20):
        await service.post(salon, telegram.text(100 + number, chat, number, now(), f"word {number}"))
    await until(lambda: _outbox_is_empty(database), "the outbox to be published")

    found = await _published(infrastructure, topic_prefix, salon, database)

    booking = next(event for _, event, key, _ in found if event.type == "inbound.booking")
    assert booking.uid == "relayed"
    messages = [
        (event, key, envelope) for _, event, key, envelope in found if envelope.type == "inbound.message"
    ]
    assert [event.message_no for event, _, _ in messages] == list(range(20))
    assert {key for _, key, _ in messages} == {f"{salon}:{messages[0][0].chat_hash}"}
    assert {key for _, event, key, _ in found if event is booking} == {salon}
    assert {(e.source, e.tenant_id) for _, _, e in messages} == {("turnout/ingest/telegram", salon)}


async def test_switched_off_modes(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, tenant_id: str
) -> None:
    await add_channels(database, tenant_id)
    modes: dict[str, Any] = {
        "strict_webhook_signature": False,
        "strict_tenant_config": False,
        "strict_inbound_schema": False,
    }
    extra = value_of("events", "payment_received")
    extra["data"]["note"] = 1
    async with ingest(database, infrastructure, topic_prefix, relay=False, **modes) as loose:
        unsigned = await loose.post(tenant_id, created("loose"), {})
        unknown = await loose.post("nobody", created("loose"), {})
        unforeseen = await loose.post(tenant_id, Webhook("events", json.dumps(extra).encode(), "m"), {})

    assert (unsigned.status, unknown.status, unforeseen.status) == (202, 404, 202)


async def test_operations_routes(service: Service, salon: str) -> None:
    await service.post(salon, created("counted"))
    answers = {
        path: await service.request("GET", path) for path in ("/health", "/ready", "/status", "/metrics")
    }

    assert {answer.status for answer in answers.values()} == {200}
    figures = json.loads(answers["/status"].body)
    assert figures["accepted"] >= 1 and figures["lag"] >= 0
    assert b'turnout_items_total{channel="calcom",fate="published"}' in answers["/metrics"].body


async def test_openapi_documents_the_hot_route(service: Service) -> None:
    document = json.loads((await service.request("GET", "/openapi.json")).body)

    operation = document["paths"]["/webhooks/{channel}/{tenant_id}"]["post"]
    assert {"200", "202", "400", "401", "405", "408", "409", "413", "503"} <= set(operation["responses"])
    assert operation["parameters"][0]["schema"]["enum"] == sorted(SECRETS)


async def _outbox_is_empty(database: Database) -> bool:
    return bool(await value(database, "SELECT NOT EXISTS (SELECT FROM ingest.outbox)"))


async def _published(
    infrastructure: Infrastructure, prefix: str, tenant_id: str, database: Database
) -> list[tuple[Any, Any, str, Any]]:
    """The tenant's records: id, event, key, envelope, in the order of each partition."""
    total = await value(database, "SELECT count(*) FROM ingest.inbox WHERE fate = 'published'")
    records = await read_all(infrastructure.kafka, prefix + "inbound_webhooks", total)
    found = []
    for record in records:
        envelope = from_headers(record.headers)
        if envelope.tenant_id == tenant_id:
            assert record.key is not None and record.value is not None
            found.append(
                (envelope.id, parse_event(envelope.type, record.value), record.key.decode(), envelope)
            )
    return found
