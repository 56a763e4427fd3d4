"""Signs a webhook the way its provider does, and posts it until it is answered.

Promise: what is answered 503 or 429, and a connection that breaks, is sent again with the same bytes and id, so the
receiver can tell it from a new one; any other answer is final and given to the caller.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from turnout_cli.errors import CommandError
from turnout_common.clock import Clock, SystemClock

RETRIED = frozenset({429, 502, 503, 504})
LONGEST_PAUSE = 5.0


@dataclass(frozen=True)
class Webhook:
    """One POST to be: the exact bytes. `webhook_id` is what Standard Webhooks sign with the body."""

    channel: str
    body: bytes = field(repr=False)
    webhook_id: str = ""


@dataclass(frozen=True)
class Answer:
    """What the receiver said in the end, and how many tries it took."""

    status: int
    body: str
    tries: int = 1

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class PostFailed(CommandError):
    """No final answer within the time that was given."""


def signed_headers(webhook: Webhook, secret: str, unix_seconds: int) -> dict[str, str]:
    """The headers that prove the sender, none for VK (`signed_body`). Raises ValueError for a channel not known here."""
    headers = {"Content-Type": "application/json"}
    match webhook.channel:
        case "calcom":
            return headers | {
                "X-Cal-Signature-256": hmac.new(secret.encode(), webhook.body, hashlib.sha256).hexdigest(),
                "X-Cal-Webhook-Version": "2021-10-20",
            }
        case "telegram":
            return headers | {"X-Telegram-Bot-Api-Secret-Token": secret}
        case "max":
            return headers | {"X-Max-Bot-Api-Secret": secret}
        case "vk":
            return headers
        case "whatsapp" | "instagram":
            digest = hmac.digest(secret.encode(), webhook.body, "sha256").hex()
            return headers | {"X-Hub-Signature-256": f"sha256={digest}"}
        case "events":
            return headers | {
                "webhook-id": webhook.webhook_id,
                "webhook-timestamp": str(unix_seconds),
                "webhook-signature": standard_signature(webhook, secret, unix_seconds),
            }
    raise ValueError(f"no signature is known for channel {webhook.channel!r}")


def signed_body(webhook: Webhook, secret: str) -> bytes:
    """The bytes to post: those of the webhook, save for VK, whose secret stands in the body."""
    if webhook.channel != "vk":
        return webhook.body
    try:
        event = json.loads(webhook.body)
    except ValueError:
        return webhook.body
    signed = event | {"secret": secret} if isinstance(event, dict) else event
    return json.dumps(signed, ensure_ascii=False, separators=(",", ":")).encode()


def standard_signature(webhook: Webhook, secret: str, unix_seconds: int) -> str:
    """`v1,<base64>` over `id.timestamp.body` (Standard Webhooks); the secret is `whsec_` and base64."""
    encoded = secret.removeprefix("whsec_")
    key = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    signed = f"{webhook.webhook_id}.{unix_seconds}.".encode() + webhook.body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


class WebhookClient:
    """Posts a tenant's webhooks to ingest. `secrets` are by channel. Use as an async context manager.

    `known_within_seconds`: so long a 401 is no answer yet, for a tenant or channel that was set a moment ago.
    """

    def __init__(
        self,
        ingest_url: str,
        tenant_id: str,
        secrets: Mapping[str, str],
        *,
        clock: Clock | None = None,
        patience_seconds: float = 60.0,
        known_within_seconds: float = 0.0,
        connections: int = 32,
    ) -> None:
        self._url = f"{ingest_url}/webhooks/{{channel}}/{tenant_id}"
        self._secrets = secrets
        self._clock = clock or SystemClock()
        self._patience = patience_seconds
        self._known_within = known_within_seconds
        self._known: set[str] = set()
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self.retries = 0

    async def __aenter__(self) -> WebhookClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=30),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, webhook: Webhook, *, headers: Mapping[str, str] | None = None) -> Answer:
        """The final answer. `headers` replace the right signature. Raises PostFailed when there is none in time."""
        started = asyncio.get_running_loop().time()
        tries = 0
        while True:
            tries += 1
            try:
                status, body, pause = await self._post(webhook, headers)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                status, body, pause = 0, str(error)[:200] or type(error).__name__, None
            waited = asyncio.get_running_loop().time() - started
            if (
                status not in RETRIED
                and status != 0
                and not self._is_too_new(webhook, headers, status, waited)
            ):
                self._known.add(webhook.channel)
                return Answer(status, body, tries)
            self.retries += 1
            wait = pause or min(0.1 * 2 ** min(tries, 6), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            if waited + wait > max(self._patience, self._known_within):
                raise PostFailed(
                    f"ingest gave no final answer in {tries} tries, the last one: {status or body}"
                )
            await asyncio.sleep(wait)

    def _is_too_new(
        self, webhook: Webhook, headers: Mapping[str, str] | None, status: int, waited: float
    ) -> bool:
        """Whether a 401 only says that ingest has not read the channel yet."""
        signed = headers is None and webhook.channel not in self._known
        return status == 401 and signed and waited < self._known_within

    async def _post(
        self, webhook: Webhook, headers: Mapping[str, str] | None
    ) -> tuple[int, str, float | None]:
        if self._session is None:
            raise RuntimeError("use WebhookClient as an async context manager")
        now = int(self._clock.now().timestamp())
        secret = self._secrets[webhook.channel]
        body = webhook.body if headers else signed_body(webhook, secret)
        sent = headers or signed_headers(webhook, secret, now)
        url = self._url.format(channel=webhook.channel)
        async with self._session.post(url, data=body, headers=sent) as answer:
            return answer.status, await answer.text(), _retry_after(answer.headers.get("Retry-After"))


def _retry_after(text: str | None) -> float | None:
    return min(float(text), LONGEST_PAUSE) if text and text.isdigit() else None
