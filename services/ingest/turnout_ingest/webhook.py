"""/webhooks/{channel}/{tenant_id} and /webhooks/{channel}: the hot route, plain ASGI (design §3).

In: a request. Out: the provider's own answer, after the commit. Order of work: size, configuration from memory,
signature over the raw bytes, JSON, items, inbox. Promise: no database access before the signature holds; Postgres down
means 503 with Retry-After within 2 seconds; nothing that was sent is echoed, save the challenge of a handshake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import structlog

from turnout_common import metrics
from turnout_common.client_address import Proxies, sender_of
from turnout_common.clock import Clock
from turnout_common.events.values import Channel
from turnout_common.tenant_directory import TenantDirectory
from turnout_ingest.acceptance import Row, rows_of
from turnout_ingest.answers import (
    GET_AND_POST,
    NO_HANDSHAKE,
    NO_SUCH_PATH,
    NOT_STORED,
    ONLY_POST,
    OVER_RATE,
    QUEUE_FULL,
    TOO_LARGE,
    TOO_SLOW,
    UNKNOWN,
    UNKNOWN_HIDDEN,
    UNVERIFIED,
    Answer,
    NotTaken,
    answer_to,
    refused_too_often,
)
from turnout_ingest.inbox import Inbox, InboxFull, NotStored
from turnout_ingest.limits import Key, Refusals
from turnout_ingest.providers import PROVIDERS, resolve
from turnout_ingest.providers.alias import VKMAX
from turnout_ingest.providers.provider import Delivery, Fate, Headers, Provider
from turnout_ingest.routes import Route, Routes
from turnout_ingest.settings import IngestSettings
from turnout_ingest.shared_callback import addressed, of_apps, shared_rows, verified, verified_by_an_app
from turnout_ingest.spool import Spool, SpoolFull, open_spool

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = structlog.get_logger()
PREFIX = "/webhooks/"
#: From the last byte of the body to the answer, whatever Postgres does.
ANSWER_SECONDS = 1.7
#: A client that sends its body more slowly than this is no provider.
BODY_SECONDS = 10.0
MOST_QUERY_FIELDS = 20
ALIASED = (Channel.VK.value, Channel.MAX.value)
#: What was refused once does not come again, so that nothing but its signature may refuse it.
NEVER_LIMITED = {name for name, provider in PROVIDERS.items() if not provider.sends_again}

#: In place of a tenant in the key of a shared callback's handshakes; no tenant is named so.
HANDSHAKE = "?handshake"


class ClientGone(Exception):
    """The connection ended before the body did: there is nobody to answer."""


class WebhookEndpoint:
    """An ASGI application for everything under `/webhooks/`."""

    def __init__(
        self, directory: TenantDirectory, inbox: Inbox, settings: IngestSettings, clock: Clock
    ) -> None:
        self._inbox = inbox
        self._settings = settings
        self._clock = clock
        self._unknown = UNKNOWN_HIDDEN if settings.strict_tenant_config else UNKNOWN
        self._routes = Routes(directory, settings)
        self._refusals = Refusals(settings.refusals_per_minute)
        self._proxies = Proxies(settings.trusted_proxies)
        self._counters: dict[tuple[str, int], Any] = {}
        self.spool = open_spool(settings, self._routes, self._stored)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        channel, _, tenant_id = scope["path"].removeprefix(PREFIX).partition("/")
        try:
            answer = await self._answer(scope, receive, channel, tenant_id)
        except NotTaken as end:
            answer = end.answer
        except ClientGone:
            return
        self._count(channel, answer)
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
        if not channel or "/" in tenant_id:
            return NO_SUCH_PATH
        if self._refusals.known and channel not in NEVER_LIMITED:
            self._wait_if_refused_too_often(scope, channel, tenant_id)
        if scope["method"] != "POST":
            return self._without_body(scope, channel, tenant_id)
        headers: Headers = dict(scope["headers"])
        route = self._routes.of(channel, tenant_id)
        if route is None:
            answer = await self._elsewhere(scope, receive, headers, channel, tenant_id)
        else:
            body = await self._body(receive, headers, route.provider.body_factor)
            answer = await self._take_in(route, headers, body)
        if answer is UNVERIFIED or answer is self._unknown:
            self._note_refusal(scope, channel, tenant_id)
        elif not tenant_id:
            self._refusals.trust(self._key(scope, channel, tenant_id), self._clock.now().timestamp())
        elif self._refusals.known:
            self._refusals.forgive(self._key(scope, channel, tenant_id))
        return answer

    async def _take_in(self, route: Route, headers: Headers, body: bytes) -> Answer:
        now, provider = self._clock.now(), route.provider
        if not provider.verify(headers, body, route.context.secrets, now):
            if self._settings.strict_webhook_signature:
                return UNVERIFIED
            metrics.WOULD_REFUSE.labels(route.context.channel.value).inc()
        if route.bucket is not None and not route.bucket.take(now.timestamp()):
            return OVER_RATE
        delivery = Delivery(route.context, headers, body, now)
        answer = await self._accept(provider, rows_of(provider, delivery))
        if answer.status == 503 and self.spool is not None and not provider.sends_again:
            return await self._spooled(self.spool, route, delivery)
        return answer

    async def _spooled(self, spool: Spool, route: Route, delivery: Delivery) -> Answer:
        try:
            await spool.keep(route, delivery)
        except SpoolFull:
            return NOT_STORED
        return Answer(route.provider.answers.success, route.provider.answers.text)

    async def _stored(self, route: Route, delivery: Delivery) -> bool:
        """Commits what was spooled; whether it could."""
        answer = await self._accept(route.provider, rows_of(route.provider, delivery))
        return answer.status != 503

    async def _accept(self, provider: Provider, rows: list[Row]) -> Answer:
        if not rows:
            return Answer(provider.answers.success, provider.answers.text)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                fates = await self._stored_in_parts(rows)
        except InboxFull:
            return QUEUE_FULL
        except (TimeoutError, NotStored):
            return NOT_STORED
        return answer_to(provider.answers, rows, fates)

    async def _stored_in_parts(self, rows: list[Row]) -> list[Fate]:
        """What holds more rows than may wait goes in one part after the other: refused whole, it would be refused for
        ever, and one that is spooled would keep back all behind it. When a part fails it comes again, and what is
        stored of it counts once. Raises InboxFull, NotStored."""
        most = self._settings.inbox_queue_items
        fates: list[Fate] = []
        for at in range(0, len(rows), most):
            fates += await self._inbox.accept(rows[at : at + most])
        return fates

    async def _elsewhere(
        self, scope: Message, receive: Receive, headers: Headers, channel: str, tenant_id: str
    ) -> Answer:
        """A path that names no tenant's channel: the alias, a callback that tenants share, or nothing that is known."""
        provider = PROVIDERS.get(channel)
        if channel == VKMAX:
            if tenant_id and not any(self._routes.of(name, tenant_id) for name in ALIASED):
                return self._unknown
            body = await self._body(receive, headers, 1)
            channel = resolve(channel, body)
            provider, route = PROVIDERS.get(channel), self._routes.of(channel, tenant_id)
            if route is not None:
                return await self._take_in(route, headers, body)
            if tenant_id or provider is None or not _is_shared(provider):
                return UNVERIFIED
        elif tenant_id:
            return self._unknown
        elif provider is None or not _is_shared(provider):
            raise NotTaken(NO_SUCH_PATH)
        else:
            body = await self._body(receive, headers, provider.body_factor)
        return await self._take_in_shared(scope, provider, headers, body)

    async def _take_in_shared(
        self, scope: Message, provider: Provider, headers: Headers, body: bytes
    ) -> Answer:
        now = self._clock.now()
        channel = provider.channel.value
        named = addressed(self._routes, channel, provider, body)
        # What names one tenant counts and waits as on the tenant's own path: its secret is not guessed faster here.
        alone = named[0].tenant.tenant_id if len(named) == 1 else ""
        if alone and self._refusals.known:
            self._wait_if_refused_too_often(scope, channel, alone)
        routes = verified(provider, named, headers, body, now)
        if not named and _has_apps(provider):
            # Refused, Meta would send it for a week, and hold it against the app.
            routes = verified_by_an_app(provider, of_apps(self._routes, channel), headers, body, now)
        if len(routes) < len(named) and not self._settings.strict_webhook_signature:
            metrics.WOULD_REFUSE.labels(channel).inc()
            routes = named
        if not routes:
            if alone:
                self._note_refusal(scope, channel, alone)
            return UNVERIFIED if named else self._unknown
        if alone and self._refusals.known:
            self._refusals.forgive(self._key(scope, channel, alone))
        # All of them are charged; one that is over its rate costs the others nothing.
        within = [route.bucket is None or route.bucket.take(now.timestamp()) for route in routes]
        if not any(within):
            return OVER_RATE
        return await self._accept(provider, shared_rows(provider, routes, headers, body, now))

    def _without_body(self, scope: Message, channel: str, tenant_id: str) -> Answer:
        """GET is the handshake of the providers that have one; there is no other method."""
        provider = PROVIDERS.get(channel)
        if provider is None or not _has_apps(provider):
            return ONLY_POST if tenant_id or _is_shared(provider) else NO_SUCH_PATH
        if scope["method"] != "GET":
            return GET_AND_POST
        if tenant_id:
            route = self._routes.of(channel, tenant_id)
            if route is None:
                self._note_refusal(scope, channel, tenant_id)
                return self._unknown
            expected = {route.context.handshake}
        else:
            expected = {route.context.handshake for route in self._routes.all_of(channel)}
        try:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=MOST_QUERY_FIELDS))
        except ValueError:
            query = {}
        # Each is compared, whether or not one has matched.
        found = [text for each in expected if each and (text := provider.handshake(query, each)) is not None]
        if found:
            return Answer(200, found[0])
        self._note_refusal(scope, channel, tenant_id)
        return NO_HANDSHAKE

    async def _body(self, receive: Receive, headers: Headers, factor: int) -> bytes:
        """The body. Raises NotTaken when it is too large or too slow, ClientGone."""
        limit = self._settings.max_body_bytes * factor
        if _declared_length(headers) > limit:
            raise NotTaken(TOO_LARGE)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await read_body(receive, limit)
        except TimeoutError:
            raise NotTaken(TOO_SLOW) from None

    def _key(self, scope: Message, channel: str, tenant_id: str) -> Key:
        """What names no tenant's channel has one key an address, so that guesses of names are few."""
        peer = scope.get("client")
        address = sender_of(self._proxies.client(peer[0] if peer else None, scope["headers"]))
        if channel not in PROVIDERS and channel != VKMAX:
            return address, "", ""
        if not tenant_id and scope["method"] != "POST":
            # A verify token is a person's word: guesses of it wait, also where deliveries are trusted.
            return address, channel, HANDSHAKE
        names = ALIASED if channel == VKMAX else (channel,)
        known = not tenant_id or any(self._routes.of(name, tenant_id) for name in names)
        return address, channel, tenant_id if known else "?"

    def _wait_if_refused_too_often(self, scope: Message, channel: str, tenant_id: str) -> None:
        wait = self._refusals.wait(self._key(scope, channel, tenant_id), self._clock.now().timestamp())
        if wait:
            raise NotTaken(refused_too_often(wait))

    def _note_refusal(self, scope: Message, channel: str, tenant_id: str) -> None:
        key = self._key(scope, channel, tenant_id)
        if self._refusals.note(key, self._clock.now().timestamp()):
            log.warning("refused too often, further requests wait", channel=key[1], tenant_id=key[2])

    def _count(self, channel: str, answer: Answer) -> None:
        named = channel if channel in PROVIDERS or channel == VKMAX else "unknown"
        key = (named, answer.status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = metrics.WEBHOOKS.labels(named, str(answer.status))
        counter.inc()
        if answer.reason is not None:
            metrics.WEBHOOKS_REFUSED.labels(named, answer.reason).inc()


def _is_shared(provider: Provider | None) -> bool:
    """Whether the provider's bodies say whose they are, so that tenants can share a callback."""
    return provider is not None and type(provider).routing_ids is not Provider.routing_ids


def _has_apps(provider: Provider) -> bool:
    """Whether a callback is an app's, which proves by a handshake that it is ours and whose secret tenants share."""
    return type(provider).handshake is not Provider.handshake


def _declared_length(headers: Headers) -> int:
    declared = headers.get(b"content-length", b"0")
    return int(declared) if declared.isdigit() and len(declared) < 20 else 0


async def read_body(receive: Receive, limit: int) -> bytes:
    """The body. Raises NotTaken as soon as it is too large, ClientGone."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise NotTaken(TOO_LARGE)
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)
