"""A closed-loop HTTP load in a process of its own: each connection sends its next webhook when the last one is answered.

It shows the most that a server takes, and says nothing of latency (load.py does). It makes its requests before its clock
starts, so that it needs little of the machine that it shares.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import uvloop

from bench.ingest_bodies import requests
from bench.system import LOOPBACK

#: An answer without a body ends with its head; one with a body is shorter than this and comes in one piece.
_STATUS = slice(9, 12)


@dataclass(frozen=True)
class Burst:
    """Webhooks `first` to `first + count` at most, for at most `seconds`."""

    port: int
    tenants: Sequence[str]
    first: int
    count: int
    seconds: float
    connections: int = 256


@dataclass
class Outcome:
    """What came back. Times in seconds; CPU is the generator's while it sent."""

    statuses: Counter[bytes] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def accepted(self) -> int:
        return self.statuses[b"202"]

    @property
    def all_accepted(self) -> bool:
        return set(self.statuses) == {b"202"}


class _Sender(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, work: Iterator[bytes], outcome: Outcome, deadline: float) -> None:
        self._work = work
        self._outcome = outcome
        self._deadline = deadline
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = b""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not _is_whole(self._buffer):
            return
        self._outcome.statuses[self._buffer[_STATUS]] += 1
        self._buffer = b""
        self.send_next()

    def send_next(self) -> None:
        request = next(self._work, None) if time.perf_counter() < self._deadline else None
        if self._transport is None or request is None:
            self.close()
        else:
            self._transport.write(request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._outcome.statuses[b"cut"] += 1
            self.ended.set_result(None)

    def close(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()


def _is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    _, found, length = head.lower().partition(b"\r\ncontent-length: ")
    return len(body) >= int(length.partition(b"\r\n")[0] or b"0") if found else True


def _same(sender: _Sender) -> _Sender:
    return sender


async def _send(burst: Burst, prepared: list[bytes]) -> Outcome:
    outcome = Outcome()
    loop = asyncio.get_running_loop()
    work = iter(prepared)
    never_yet = time.perf_counter() + 60
    senders = []
    for _ in range(burst.connections):
        sender = _Sender(work, outcome, never_yet)
        await loop.create_connection(partial(_same, sender), LOOPBACK, burst.port)
        senders.append(sender)
    started, cpu = time.perf_counter(), time.process_time()
    for sender in senders:
        sender._deadline = started + burst.seconds
        sender.send_next()
    await asyncio.gather(*(sender.ended for sender in senders))
    outcome.seconds = time.perf_counter() - started
    outcome.cpu_seconds = time.process_time() - cpu
    return outcome


def _work(burst: Burst) -> Outcome:
    prepared = requests(burst.tenants, burst.first, burst.count)
    gc.freeze()
    gc.disable()
    return uvloop.run(_send(burst, prepared))


async def run_burst(burst: Burst) -> Outcome:
    """Runs it in another process, so that it shares no interpreter with what measures."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, _work, burst)
