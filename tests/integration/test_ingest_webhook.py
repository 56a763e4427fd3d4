"""The webhook route on a real server, database and Kafka: what each request is answered, and what is relayed of it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import (
    SECRETS,
    Service,
    add_channels,
    created,
    fates,
    ingest,
    now,
    outbox_is_empty,
    rows,
    value,
)
from tests.integration.probe import read_all, until
from tests.webhook_fixtures import NOON, all_delivered, body_of, names, value_of
from turnout_cli.webhooks import Webhook, signed_headers, telegram
from turnout_common.clock import FixedClock
from turnout_common.events import from_headers, parse_event
from turnout_common.tenants import set_tenant_status
from turnout_common.topics import contracts_folder
from turnout_ingest.providers import PROVIDERS


@pytest.fixture(scope="module")
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[Service]:
    async with ingest(database, infrastructure, topic_prefix) as started:
        yield started


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


async def test_nothing_that_was_sent_is_echoed(service: Service, salon: str) -> None:
    body = {"type": "payment.received", "timestamp": "echo-canary", "data": {"echo-canary": "echo-canary"}}
    webhook = Webhook("events", json.dumps(body).encode(), "echo-canary")

    answer = await service.post(salon, webhook)

    assert answer.status == 400
    assert b"echo-canary" not in answer.body + json.dumps(dict(answer.headers)).encode()


@pytest.mark.parametrize("channel", sorted(SECRETS))
async def test_every_sample_is_answered_with_success_and_relayed(
    channel: str, database: Database, infrastructure: Infrastructure, topic_prefix: str, tenant_id: str
) -> None:
    await add_channels(database, tenant_id)
    samples = names(channel)
    async with ingest(database, infrastructure, topic_prefix, clock=FixedClock(NOON)) as stopped:
        for number, name in enumerate(samples):
            answer = await stopped.post(tenant_id, Webhook(channel, body_of(channel, name), f"msg-{number}"))
            assert answer.status == PROVIDERS[channel].answers.success, f"{name}: {answer.body!r}"
        await until(lambda: outbox_is_empty(database), "the outbox to be published")

    stored = await rows(database, tenant_id)
    assert len(stored) == sum(len(all_delivered(channel, body_of(channel, name))) for name in samples)
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
    await until(lambda: outbox_is_empty(database), "the outbox to be published")

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


async def test_openapi_that_is_served_is_the_one_that_is_committed(service: Service) -> None:
    document = json.loads((await service.request("GET", "/openapi.json")).body)
    committed = contracts_folder() / "openapi" / "ingest.json"

    assert document == json.loads(committed.read_text(encoding="utf-8"))


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
