"""What the mock providers were asked and what they hold, in memory: the test's own truth of what clients got."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

#: Of each kind; the oldest go, so that a long demo does not eat the memory.
KEPT = 100_000


@dataclass(frozen=True)
class SentMessage:
    """A message that a client has, whatever the sender was told."""

    provider: str
    token: str
    chat_id: str
    message_id: str
    text: str
    at: datetime


@dataclass(frozen=True)
class Call:
    """One request and how it was answered; status 0: the connection was cut instead."""

    provider: str
    token: str
    method: str
    status: int
    at: datetime


class Ledger:
    """All providers' messages and calls, oldest first. Ids grow from `first_id`, the time of the start, so that after a
    restart no update looks like one that was sent before."""

    def __init__(self, first_id: int) -> None:
        self._sent: deque[SentMessage] = deque(maxlen=KEPT)
        self._calls: deque[Call] = deque(maxlen=KEPT)
        self._last_id = first_id

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def add_sent(self, message: SentMessage) -> None:
        self._sent.append(message)

    def add_call(self, call: Call) -> None:
        self._calls.append(call)

    def sent(self, provider: str, token: str | None, chat_id: str | None) -> list[dict[str, Any]]:
        return [
            asdict(m) | {"at": m.at.isoformat()}
            for m in self._sent
            if m.provider == provider and token in (None, m.token) and chat_id in (None, m.chat_id)
        ]

    def calls(self, provider: str, token: str | None) -> list[dict[str, Any]]:
        return [
            asdict(c) | {"at": c.at.isoformat()}
            for c in self._calls
            if c.provider == provider and token in (None, c.token)
        ]

    def clear(self, provider: str, token: str | None) -> None:
        def other(row: SentMessage | Call) -> bool:
            return row.provider != provider or token not in (None, row.token)

        self._sent = _only(self._sent, other)
        self._calls = _only(self._calls, other)

    @property
    def counts(self) -> tuple[int, int]:
        """How many messages and calls are held."""
        return len(self._sent), len(self._calls)


def _only(rows: deque[Any], wanted: Callable[[Any], bool]) -> deque[Any]:
    return deque((row for row in rows if wanted(row)), maxlen=KEPT)
