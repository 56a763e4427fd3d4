"""What the sender of webhooks knows: for each, whether it was answered ok, refused, or not answered (unknown).

A provider that got no answer sends again with the same bytes; the ledger keeps every attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from turnout_cli.webhooks import Webhook, signed_headers
from turnout_common.clock import SystemClock

TRIED_AGAIN = frozenset({429, 502, 503, 504})


@dataclass
class Ledger:
    """Attempts by their answer; `accepted` and `refused` hold the positions of the webhooks."""

    attempts: Counter[str] = field(default_factory=Counter)
    accepted: set[int] = field(default_factory=set)
    refused: dict[int, int] = field(default_factory=dict)


@dataclass
class Provider:
    """Sends webhooks of one tenant as providers do, at most `rate` a second, and keeps the ledger."""

    ingest_url: str
    tenant_id: str
    secrets: dict[str, str]
    concurrency: int = 16
    rate: float = 100.0
    ledger: Ledger = field(default_factory=Ledger)
    _started: float = 0.0

    async def send(self, webhooks: Sequence[Webhook], *, patience: float = 60.0) -> Ledger:
        """Sends all, each until it is answered; fails when one is not answered within `patience` seconds."""
        queue = list(enumerate(webhooks))
        queue.reverse()
        self._started = asyncio.get_running_loop().time()
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._worker(session, queue, patience) for _ in range(self.concurrency)))
        return self.ledger

    async def _worker(
        self, session: aiohttp.ClientSession, queue: list[tuple[int, Webhook]], patience: float
    ) -> None:
        while queue:
            number, webhook = queue.pop()
            due = self._started + number / self.rate
            await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0))
            async with asyncio.timeout(patience):
                await self._until_answered(session, number, webhook)

    async def _until_answered(self, session: aiohttp.ClientSession, number: int, webhook: Webhook) -> None:
        while True:
            status = await self._attempt(session, webhook)
            if status and status not in TRIED_AGAIN:
                break
            await asyncio.sleep(random.uniform(0.05, 0.3))
        if 200 <= status < 300:
            self.ledger.accepted.add(number)
        else:
            self.ledger.refused[number] = status

    async def _attempt(self, session: aiohttp.ClientSession, webhook: Webhook) -> int:
        now = int(SystemClock().now().timestamp())
        headers = signed_headers(webhook, self.secrets[webhook.channel], now)
        url = f"{self.ingest_url}/webhooks/{webhook.channel}/{self.tenant_id}"
        try:
            async with session.post(url, data=webhook.body, headers=headers) as answer:
                await answer.read()
                status = answer.status
        except aiohttp.ClientConnectorError:
            self.ledger.attempts["not connected"] += 1
            return 0
        except (aiohttp.ClientError, TimeoutError, OSError):
            self.ledger.attempts["unknown"] += 1
            return 0
        self.ledger.attempts["ok" if 200 <= status < 300 else str(status)] += 1
        return status
