"""POST /webhooks/{channel}/{tenant_id}: the hot route, plain ASGI (design §3).

In: a request. Out: the provider's own answer, after the commit. Order of work: size, configuration from memory,
signature over the raw bytes, JSON, items, inbox. Promise: no database access before the signature holds; Postgres down
means 503 with Retry-After within 2 seconds; nothing that was sent is echoed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from turnout_common import metrics
from turnout_common.clock import Clock
from turnout_common.events.values import Channel
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import Tenant
from turnout_ingest.acceptance import Row, rows_of
from turnout_ingest.inbox import Inbox, InboxFull, NotStored
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import Answers, ChannelContext, Delivery, Fate, Headers, Provider
from turnout_ingest.settings import IngestSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PREFIX = "/webhooks/"
#: From the last byte of the body to the answer, whatever Postgres does.
ANSWER_SECONDS = 1.7
#: A client that sends its body more slowly than this is no provider.
BODY_SECONDS = 10.0
RETRY_AFTER = (b"retry-after", b"1")


@dataclass(frozen=True, slots=True)
class Route:
    """A tenant's channel, made ready once per version of its configuration."""

    tenant: Tenant
    provider: Provider
    context: ChannelContext


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


NOT_FOUND = Answer(404)
UNAUTHORIZED = Answer(401)
WRONG_METHOD = Answer(405, headers=((b"allow", b"POST"),))
TOO_SLOW = Answer(408)
TOO_LARGE = Answer(413)
UNAVAILABLE = Answer(503, headers=(RETRY_AFTER,))


class TooLarge(Exception):
    """The body is over the limit; the rest of it was not read."""


class ClientGone(Exception):
    """The connection ended before the body did: there is nobody to answer."""


class WebhookEndpoint:
    """An ASGI application for everything under `/webhooks/`."""

    def __init__(
        self, directory: TenantDirectory, inbox: Inbox, settings: IngestSettings, clock: Clock
    ) -> None:
        self._directory = directory
        self._inbox = inbox
        self._settings = settings
        self._clock = clock
        self._unknown = UNAUTHORIZED if settings.strict_tenant_config else NOT_FOUND
        self._routes: dict[tuple[str, str], Route] = {}
        self._counters: dict[tuple[str, int], Any] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        channel, _, tenant_id = scope["path"].removeprefix(PREFIX).partition("/")
        try:
            answer = await self._answer(scope, receive, channel, tenant_id)
        except ClientGone:
            return
        self._count(channel, answer.status)
        length = (b"content-length", b"%d" % len(answer.text))
        kind = ((b"content-type", b"text/plain; charset=utf-8"),) if answer.text else ()
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [length, *kind, *answer.headers],
            }
        )
        await send({"type": "http.response.body", "body": answer.text})

    async def _answer(self, scope: Message, receive: Receive, channel: str, tenant_id: str) -> Answer:
        if not channel or not tenant_id or "/" in tenant_id:
            return NOT_FOUND
        if scope["method"] != "POST":
            return WRONG_METHOD
        headers = dict(scope["headers"])
        route = self._route(channel, tenant_id)
        if route is None:
            return self._unknown
        limit = self._settings.max_body_bytes * route.provider.body_factor
        if _declared_length(headers) > limit:
            return TOO_LARGE
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await read_body(receive, limit)
        except TimeoutError:
            return TOO_SLOW
        except TooLarge:
            return TOO_LARGE
        return await self._take_in(route, headers, body)

    async def _take_in(self, route: Route, headers: Headers, body: bytes) -> Answer:
        now, provider, context = self._clock.now(), route.provider, route.context
        if self._settings.strict_webhook_signature and not provider.verify(
            headers, body, context.secrets, now
        ):
            return UNAUTHORIZED
        rows = rows_of(provider, Delivery(context, headers, body, now))
        if not rows:
            return Answer(provider.answers.success, provider.answers.text)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                fates = await self._inbox.accept(rows)
        except (TimeoutError, InboxFull, NotStored):
            return UNAVAILABLE
        return _answer_to(provider.answers, rows, fates)

    def _route(self, channel: str, tenant_id: str) -> Route | None:
        """From memory; made anew when the tenant's configuration was read again."""
        tenant = self._directory.get(tenant_id)
        route = self._routes.get((channel, tenant_id))
        if route is not None and route.tenant is tenant:
            return route
        self._routes.pop((channel, tenant_id), None)
        made = _made_ready(channel, tenant, self._settings) if tenant else None
        if made is not None:
            self._routes[channel, tenant_id] = made
        return made

    def _count(self, channel: str, status: int) -> None:
        key = (channel if channel in PROVIDERS else "unknown", status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = metrics.WEBHOOKS.labels(key[0], str(status))
        counter.inc()


def _made_ready(channel: str, tenant: Tenant, settings: IngestSettings) -> Route | None:
    provider, configured = PROVIDERS.get(channel), tenant.channels.get(channel)
    usable = tenant.active and tenant.keys is not None and configured is not None and configured.enabled
    if provider is None or configured is None or tenant.keys is None or not usable:
        return None
    context = ChannelContext(
        tenant_id=tenant.tenant_id,
        channel=Channel(channel),
        secrets=tuple(form for secret in configured.secrets if secret for form in provider.secret_bytes(secret)),
        keys=tenant.keys,
        routing_id=configured.routing_id,
        handshake=configured.handshake.encode() if configured.handshake else None,
        strict_schema=settings.strict_inbound_schema,
        strict_tenant=settings.strict_tenant_config,
    )  # fmt: skip
    return Route(tenant, provider, context)


def _answer_to(answers: Answers, rows: list[Row], fates: list[Fate]) -> Answer:
    """A duplicate gets what the first got: its own fate decides, not that it came again."""
    if answers.conflict == 409 and Fate.CONFLICT in fates:
        return Answer(409, b"this webhook-id was received before with other content")
    if all(row.fate is Fate.QUARANTINED for row in rows) or all(f is Fate.QUARANTINED for f in fates):
        reason = (rows[0].reason or "the item could not be stored").encode()
        return Answer(answers.quarantined, reason if answers.quarantined >= 400 else answers.text)
    return Answer(answers.success, next((row.reply for row in rows if row.reply is not None), answers.text))


def _declared_length(headers: Headers) -> int:
    declared = headers.get(b"content-length", b"0")
    return int(declared) if declared.isdigit() and len(declared) < 20 else 0


async def read_body(receive: Receive, limit: int) -> bytes:
    """The body. Raises TooLarge as soon as it is, ClientGone."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)
