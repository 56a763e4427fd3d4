"""Out to the providers: one aiohttp session. Nothing that it raises or logs holds a URL, since URLs can hold tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from turnout_sender.settings import SenderSettings

ANSWER_BYTES = 64 * 1024
RETRY_AFTER_MOST = 86_400.0


class NotSent(Exception):
    """The request certainly did not reach the provider."""


class AnswerLost(Exception):
    """The request may have reached the provider, but no answer came back."""


@dataclass(frozen=True)
class Reply:
    """A provider's answer; `body` is empty when it is not a JSON object."""

    status: int
    body: Mapping[str, Any]
    retry_after: float | None


class Http:
    """The session, with the setting `provider_base_url` in place of every provider's own address where it is set."""

    def __init__(self, settings: SenderSettings) -> None:
        self._base_url = settings.provider_base_url
        seconds = settings.send_timeout_seconds
        # No limit of its own: the send loop has one, and a request must not wait here after its time slot has come. A
        # connection that the provider closes while it idles would lose an answer: ours idle shorter than theirs.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=10, ttl_dns_cache=60)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds / 2),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(
        self, base_url: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One POST of JSON, redirects not followed. Raises NotSent or AnswerLost."""
        try:
            async with self._session.post(
                (self._base_url or base_url) + path, json=body, headers=headers, allow_redirects=False
            ) as response:
                return Reply(response.status, await _json(response), _retry_after(response))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise NotSent(type(error).__name__) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise AnswerLost(type(error).__name__) from None


async def _json(response: aiohttp.ClientResponse) -> Mapping[str, Any]:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > ANSWER_BYTES:
            return {}
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    return bounded_seconds(response.headers.get("Retry-After"))


def bounded_seconds(value: object) -> float | None:
    """Seconds as a provider gave them, at most a day; None when they are no number (a date is not understood)."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_MOST) if seconds == seconds else None
