"""Clients who chat while a fault happens, each writing the next message only after the answer to the one before.

So the order of acceptance is known for every chat, and the order on Kafka can be compared with it. The time of a
message says which one of its chat it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

import aiohttp

from tests.resilience.ledger import Provider
from turnout_cli.webhooks import telegram

CHATS = 6
PAUSE_SECONDS = 0.25
#: Seconds, and so messages, that a chat has before the next one's first.
MOST_MESSAGES = 2000


@dataclass
class Chats:
    """`talk` until told to stop; `said` is the time of each message that was accepted, by chat, in order."""

    provider: Provider
    said: list[list[datetime]]

    @classmethod
    def begun(cls, provider: Provider, now: datetime) -> Chats:
        first = now.replace(microsecond=0) - timedelta(seconds=CHATS * MOST_MESSAGES)
        return cls(provider, [[first + timedelta(seconds=number * MOST_MESSAGES)] for number in range(CHATS)])

    async def talk(self, stop: asyncio.Event) -> None:
        async with self.provider.session() as session, asyncio.TaskGroup() as group:
            for number in range(CHATS):
                group.create_task(self._write(session, number, stop))

    async def _write(self, session: aiohttp.ClientSession, number: int, stop: asyncio.Event) -> None:
        chat = telegram.Chat(700_000 + number, f"Client {number}")
        while not stop.is_set():
            at = self.said[number][-1]
            message = len(self.said[number])
            update = number * MOST_MESSAGES + message
            await self.provider.deliver(
                session, update, telegram.text(update, chat, message, at, f"word {message}")
            )
            self.said[number].append(at + timedelta(seconds=1))
            await asyncio.sleep(PAUSE_SECONDS)

    def in_order(self) -> set[tuple[datetime, ...]]:
        """What each chat said."""
        return {tuple(times[:-1]) for times in self.said}
