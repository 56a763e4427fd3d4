"""The webhook endpoint alone: tenants and inbox in memory, requests as ASGI messages, a clock that the test moves."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from pydantic import SecretStr

from tests.webhook_fixtures import KEYS, NOON
from turnout_cli.webhooks import Webhook, signed_body, signed_headers
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import ChannelConfig, Tenant, TenantSettings
from turnout_ingest.acceptance import Row
from turnout_ingest.inbox import Inbox
from turnout_ingest.providers.provider import Fate
from turnout_ingest.settings import IngestSettings
from turnout_ingest.webhook import WebhookEndpoint

SECRET = "route-secret"
CHANNELS = ("calcom", "telegram")


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def channel_of(
    name: str, account: str | None = None, secret: str = SECRET, handshake: str | None = None
) -> ChannelConfig:
    return ChannelConfig(name, True, account, (secret, ""), None, handshake)


def tenant(tenant_id: str = "salon", *channels: ChannelConfig, **changes: Any) -> Tenant:
    """A tenant with the channels, else with Cal.com and Telegram."""
    given = channels or tuple(channel_of(name) for name in CHANNELS)
    values: dict[str, Any] = {
        "tenant_id": tenant_id, "status": "active", "timezone": "Europe/Berlin", "currency": "EUR", "locale": "en",
        "demo": False, "settings": TenantSettings(), "channels": {each.channel: each for each in given}, "keys": KEYS,
    }  # fmt: skip
    return Tenant(**(values | changes))


class Directory:
    """Tenants in memory, as TenantDirectory holds them."""

    def __init__(self, *tenants: Tenant) -> None:
        self.tenants = {each.tenant_id: each for each in tenants}

    def get(self, tenant_id: str) -> Tenant | None:
        return self.tenants.get(tenant_id)

    def by_routing_id(self, channel: str, routing_id: str) -> Tenant | None:
        for each in self.tenants.values():
            if channel in each.channels and each.channels[channel].routing_id == routing_id:
                return each
        return None

    def all(self) -> list[Tenant]:
        return list(self.tenants.values())


class Accepting:
    """An inbox that takes everything, or raises what it is told to."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.calls = 0
        self.error: Exception | None = None

    async def accept(self, rows: list[Row]) -> list[Fate]:
        if self.error is not None:
            raise self.error
        self.calls += 1
        self.rows += rows
        return [row.fate for row in rows]


class MovedClock:
    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def pass_by(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Route:
    """The endpoint with what stands round it. `reads` counts how often a body was asked for."""

    def __init__(self, *tenants: Tenant, **settings: Any) -> None:
        self.directory = Directory(*(tenants or (tenant(),)))
        self.inbox = Accepting()
        self.clock = MovedClock()
        self.reads = 0
        values: dict[str, Any] = {"max_body_bytes": 4096, **settings}
        self.endpoint = WebhookEndpoint(
            cast(TenantDirectory, self.directory),
            cast(Inbox, self.inbox),
            IngestSettings(postgres_dsn=SecretStr("x"), **values),
            self.clock,
        )

    async def call(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        method: str = "POST",
        path: str = "/webhooks/calcom/salon",
        query: str = "",
        headers: Mapping[bytes, bytes] | None = None,
        address: str = "203.0.113.7",
        stalls: bool = False,
    ) -> list[Any]:
        """What the endpoint sends for a request that arrives as `messages`; after them it waits or is gone."""
        sent: list[Any] = []
        waiting = list(messages)

        async def receive() -> Any:
            self.reads += 1
            if waiting:
                return waiting.pop(0)
            if stalls:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(),
            "headers": list((headers or {}).items()), "client": (address, 4711),
        }  # fmt: skip
        await self.endpoint(scope, receive, send)
        return sent

    async def post(self, body: bytes, secret: str = SECRET, path: str = "/webhooks/calcom/salon") -> int:
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()
        headers = {b"x-cal-signature-256": digest, b"x-telegram-bot-api-secret-token": secret.encode()}
        sent = await self.call([part(body)], path=path, headers=headers)
        return int(sent[0]["status"])

    async def deliver(
        self,
        channel: str,
        body: bytes,
        secret: str = SECRET,
        *,
        path: str | None = None,
        address: str = "203.0.113.7",
        forwarded_for: str | None = None,
    ) -> tuple[int, bytes]:
        """Signs as the provider of `channel` does and posts to `path`, else to the tenant `salon`; status and text."""
        webhook = Webhook(channel, body, "msg-1")
        webhook = replace(webhook, body=signed_body(webhook, secret))
        signed = signed_headers(webhook, secret, int(self.clock.now().timestamp()))
        headers = {name.lower().encode(): value.encode() for name, value in signed.items()}
        if forwarded_for is not None:
            headers[b"x-forwarded-for"] = forwarded_for.encode()
        sent = await self.call(
            [part(webhook.body)], path=path or f"/webhooks/{channel}/salon", headers=headers, address=address
        )
        return int(sent[0]["status"]), sent[1]["body"]

    async def get(
        self, path: str, query: str = "", method: str = "GET"
    ) -> tuple[int, bytes, dict[bytes, bytes]]:
        sent = await self.call([], method=method, path=path, query=query)
        return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])
