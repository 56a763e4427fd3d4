"""What a stranger can do to ingest: be refused. The database never hears of it, and no figure is told."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import SECRETS, Service, add_channels, created, ingest, rows
from tests.integration.wire import Wire, wire_to
from tests.webhook_fixtures import ROUTING_IDS, body_of
from turnout_cli.webhooks import Webhook
from turnout_common.client_address import is_near
from turnout_common.tenants import set_channel

QUERY = "?hub.mode=subscribe&hub.challenge=1&hub.verify_token="
WHATSAPP = body_of("whatsapp", "text")


@pytest.fixture
async def wire(database: Database) -> AsyncIterator[Wire]:
    async with wire_to(database.dsn("ingest")) as opened:
        yield opened


@pytest.fixture
async def salon(database: Database, tenant_id: str) -> AsyncIterator[str]:
    """A tenant with all channels, whose accounts are those of the fixtures."""
    await add_channels(database, tenant_id)
    connection = await asyncpg.connect(database.dsn("platform"))
    try:
        for channel, account in ROUTING_IDS.items():
            await set_channel(
                connection, MASTER_KEY, tenant_id, channel, secret=SECRETS[channel], routing_id=account,
                handshake=f"verify-{channel}", actor="test",
            )  # fmt: skip
        yield tenant_id
        await connection.execute(
            "UPDATE platform.channels SET routing_id = NULL WHERE tenant_id = $1", tenant_id
        )
    finally:
        await connection.close()


@pytest.fixture
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str, wire: Wire
) -> AsyncIterator[Service]:
    """Ingest behind the wire, its connections open, which reads nothing again meanwhile."""
    dsn = wire.through(database.dsn("ingest"))
    async with ingest(
        database, infrastructure, topic_prefix, dsn=dsn, relay=False, tenant_reload_seconds=3600
    ) as started:
        assert (await started.post(salon, created("before"))).status == 202
        yield started


#: Requests that nobody has signed: method, path, body, headers, the answer.
STRANGE: dict[str, tuple[str, str, bytes, Mapping[str, str], int]] = {
    "forged": ("POST", "/webhooks/calcom/{}", b"{}", {"X-Cal-Signature-256": "0" * 64}, 401),
    "unsigned": ("POST", "/webhooks/events/{}", b"{}", {}, 401),
    "wrong secret": ("POST", "/webhooks/telegram/{}", b"{}", {"X-Telegram-Bot-Api-Secret-Token": "x"}, 401),
    "vk without a secret": ("POST", "/webhooks/vk/{}", body_of("vk", "text"), {}, 401),
    "vk, no json": ("POST", "/webhooks/vk/{}", b"secret", {}, 401),
    "unknown tenant": ("POST", "/webhooks/calcom/nobody", b"{}", {}, 401),
    "unknown channel": ("POST", "/webhooks/pager/{}", b"{}", {}, 401),
    "too large": ("POST", "/webhooks/calcom/{}", b" " * (1024 * 1024 + 1), {}, 413),
    "shared": ("POST", "/webhooks/whatsapp", WHATSAPP, {"X-Hub-Signature-256": "sha256=" + "0" * 64}, 401),
    "shared, unknown account": ("POST", "/webhooks/vk", b'{"type":"confirmation","group_id":5}', {}, 401),
    "shared, no json": ("POST", "/webhooks/instagram", b"[[", {}, 401),
    "alias": ("POST", "/webhooks/vkmax/{}", body_of("vk", "text"), {}, 401),
    "alias, max": ("POST", "/webhooks/vkmax/{}", body_of("max", "text"), {"X-Max-Bot-Api-Secret": "x"}, 401),
    "alias, neither": ("POST", "/webhooks/vkmax/{}", b"{}", {}, 401),
    "handshake": ("GET", "/webhooks/whatsapp/{}" + QUERY + "guess", b"", {}, 403),
    "handshake that holds": ("GET", "/webhooks/whatsapp/{}" + QUERY + "verify-whatsapp", b"", {}, 200),
    "shared handshake": ("GET", "/webhooks/instagram" + QUERY + "guess", b"", {}, 403),
    "shared handshake that holds": ("GET", "/webhooks/instagram" + QUERY + "verify-instagram", b"", {}, 200),
    "method": ("DELETE", "/webhooks/calcom/{}", b"", {}, 405),
    "path": ("POST", "/webhooks/calcom/{}/more", b"{}", {}, 404),
}


async def test_request_that_nobody_signed_asks_the_database_nothing(
    service: Service, database: Database, salon: str, wire: Wire
) -> None:
    before, connections = wire.sent, wire.connections
    found = {}
    for name, (method, path, body, headers, _) in STRANGE.items():
        sent = io.BytesIO(body) if body else None
        found[name] = (await service.request(method, path.format(salon), sent, headers)).status
    asked = wire.sent - before

    assert found == {name: request[4] for name, request in STRANGE.items()}
    assert (asked, wire.connections) == (0, connections)
    assert len(await rows(database, salon)) == 1
    assert (await service.post(salon, created("genuine"))).status == 202
    assert wire.sent > before, "the wire does count"


async def test_who_is_over_a_limit_asks_the_database_nothing(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, salon: str, wire: Wire
) -> None:
    webhook = Webhook("telegram", body_of("telegram", "text"))
    limits: dict[str, Any] = {
        "tenant_requests_per_second": 0.001,
        "tenant_request_burst": 1,
        "refusals_per_minute": 2,
    }
    dsn = wire.through(database.dsn("ingest"))
    async with ingest(
        database, infrastructure, topic_prefix, dsn=dsn, relay=False, tenant_reload_seconds=3600, **limits
    ) as service:
        assert (await service.post(salon, webhook)).status == 200
        before = wire.sent
        over_rate = await service.post(salon, webhook)
        refused = [(await service.post(salon, webhook, {})).status for _ in range(4)]

        assert (over_rate.status, over_rate.headers["Retry-After"], over_rate.body) == (429, "1", b"")
        assert refused == [401, 401, 429, 429]
        assert wire.sent == before
        refusals = (await service.request("GET", "/metrics")).body
        assert b'turnout_webhooks_refused_total{channel="telegram",reason="tenant_rate"}' in refusals
        assert b'turnout_webhooks_refused_total{channel="telegram",reason="refused_before"}' in refusals


async def test_signed_delivery_to_a_shared_callback_is_stored_for_its_tenant(
    service: Service, database: Database, salon: str
) -> None:
    statuses = [
        (
            await service.post(salon, Webhook(channel, body_of(channel, "text")), path=f"/webhooks/{channel}")
        ).status
        for channel in ROUTING_IDS
    ]

    assert statuses == [200] * 3
    assert {row["channel"] for row in await rows(database, salon)} == {"calcom", *ROUTING_IDS}


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_figures_are_told_to_who_is_near_and_to_nobody_else(
    service: Service, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = await service.request("GET", path)
    by_proxy = [
        await service.request("GET", path, headers={name: "203.0.113.1"})
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")
    ]
    monkeypatch.setattr("turnout_common.operations.is_near", lambda address: not is_near(address))
    far = await service.request("GET", path)

    assert near.status == 200
    assert {(answer.status, answer.body) for answer in [*by_proxy, far]} == {(404, b"")}


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json"])
async def test_health_is_told_to_everybody(service: Service, path: str) -> None:
    answer = await service.request("GET", path, headers={"X-Forwarded-For": "203.0.113.1"})

    assert answer.status == 200


async def test_no_answer_of_a_stranger_says_what_was_sent(service: Service, salon: str) -> None:
    canary: dict[str, Any] = {"object": "echo-canary", "secret": "echo-canary", "type": "echo-canary"}
    answers = [
        await service.request(method, path.format(salon), json.dumps(canary).encode(), {"X-A": "echo-canary"})
        for method, path, *_ in STRANGE.values()
    ]

    for answer in answers:
        assert b"echo-canary" not in answer.body + json.dumps(dict(answer.headers)).encode()
