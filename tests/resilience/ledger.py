"""What the sender of webhooks knows: for each, whether it was answered ok, refused, or not answered (unknown).

A provider that got no answer sends again with the same bytes; the ledger keeps every attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

import aiohttp

from turnout_cli.webhooks import Webhook, signed_headers
from turnout_common.clock import SystemClock

TRIED_AGAIN = frozenset({429, 502, 503, 504})
#: Within this an answer must come, whatever is away (design §2.1).
ANSWER_SECONDS = 2.0
#: What a service that runs may answer while what it needs is away.
WHILE_AWAY = frozenset({"ok", "503"})


@dataclass
class Ledger:
    """Attempts by their answer (`unknown`: the connection ended before it, `given up`: it did not come in time, `not
    connected`: nobody was there); `accepted` and `refused` hold the positions of the webhooks."""

    attempts: Counter[str] = field(default_factory=Counter)
    accepted: set[int] = field(default_factory=set)
    refused: dict[int, int] = field(default_factory=dict)
    slowest: float = 0.0
    """Seconds to the slowest answer."""
    under_way: int = 0
    """Attempts that wait for their answer now."""
    silent: int = 0
    """Answers 503 that did not say when to come back."""


@dataclass
class Provider:
    """Sends webhooks of one tenant as providers do, at most `rate` a second, and keeps the ledger."""

    ingest_url: str
    tenant_id: str
    secrets: dict[str, str]
    concurrency: int = 16
    rate: float = 100.0
    patience: float = 60.0
    """Seconds after which a webhook must have been answered."""
    timeout: float = 5.0
    """Seconds after which an attempt is given up, its answer unknown."""
    ledger: Ledger = field(default_factory=Ledger)
    share: float = 1.0
    """How much of the webhooks may be sent so far: the rest waits until this is raised."""
    _started: float = 0.0

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.timeout), connector=aiohttp.TCPConnector(limit=0)
        )

    async def send(self, webhooks: Sequence[Webhook]) -> Ledger:
        """Sends all, each until it is answered; fails when one is not answered in time."""
        queue = deque(enumerate(webhooks))
        self._started = asyncio.get_running_loop().time()
        async with self.session() as session, asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(self._worker(session, queue, len(webhooks)))
        return self.ledger

    async def _worker(
        self, session: aiohttp.ClientSession, queue: deque[tuple[int, Webhook]], total: int
    ) -> None:
        while queue:
            if queue[0][0] >= self.share * total:
                await asyncio.sleep(0.02)
                continue
            number, webhook = queue.popleft()
            due = self._started + number / self.rate
            await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0))
            await self.deliver(session, number, webhook)

    async def deliver(self, session: aiohttp.ClientSession, number: int, webhook: Webhook) -> None:
        """Sends until it is answered, and notes the answer."""
        async with asyncio.timeout(self.patience):
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
        self.ledger.under_way += 1
        try:
            return await self._answered(session, webhook)
        finally:
            self.ledger.under_way -= 1

    async def _answered(self, session: aiohttp.ClientSession, webhook: Webhook) -> int:
        now = int(SystemClock().now().timestamp())
        headers = signed_headers(webhook, self.secrets[webhook.channel], now)
        url = f"{self.ingest_url}/webhooks/{webhook.channel}/{self.tenant_id}"
        started = monotonic()
        try:
            async with session.post(url, data=webhook.body, headers=headers) as answer:
                await answer.read()
                status, retry_after = answer.status, answer.headers.get("Retry-After")
        except aiohttp.ClientConnectorError:
            self.ledger.attempts["not connected"] += 1
            return 0
        except TimeoutError:
            self.ledger.attempts["given up"] += 1
            return 0
        except (aiohttp.ClientError, OSError):
            self.ledger.attempts["unknown"] += 1
            return 0
        self.ledger.slowest = max(self.ledger.slowest, monotonic() - started)
        self.ledger.silent += status == 503 and retry_after is None
        self.ledger.attempts["ok" if 200 <= status < 300 else str(status)] += 1
        return status
