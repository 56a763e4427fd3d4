"""An open-loop HTTP load generator in a process of its own.

In: prepared requests and a rate. Out: how many got each status, and latencies from the time at which each request was
due (not sent), so that a stalled server cannot hide its own delay (coordinated omission).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import uvloop


@dataclass(frozen=True)
class Plan:
    """What one load process does: `requests` are whole HTTP/1.1 requests, sent in order, `rate` a second."""

    host: str
    port: int
    requests: Sequence[bytes] = field(repr=False)
    rate: float
    connections: int = 64


@dataclass
class Load:
    """What came back. Times in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def accepted(self) -> int:
        return sum(count for status, count in self.statuses.items() if 200 <= status < 300)


def request_bytes(host: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """One POST as it goes over the wire, on a connection that is kept."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Connection(asyncio.Protocol):
    """One kept connection; gives the status of each answer, 0 when there was none."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, request: bytes) -> asyncio.Future[int]:
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._answer.set_result(0)
        else:
            self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._buffer = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


async def _send_all(plan: Plan) -> Load:
    loop = asyncio.get_running_loop()
    load = Load()
    idle: asyncio.Queue[_Connection] = asyncio.Queue()
    for _ in range(plan.connections):
        idle.put_nowait(await _connect(plan))
    started = loop.time()
    pending: set[asyncio.Task[None]] = set()
    for number, request in enumerate(plan.requests):
        due = started + number / plan.rate
        if (wait := due - loop.time()) > 0:
            await asyncio.sleep(wait)
        connection = await idle.get()
        task = loop.create_task(_one(plan, connection, request, due, load, idle))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    load.seconds = loop.time() - started
    return load


async def _connect(plan: Plan) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, plan.host, plan.port)
    return connection


async def _one(
    plan: Plan,
    connection: _Connection,
    request: bytes,
    due: float,
    load: Load,
    idle: asyncio.Queue[_Connection],
) -> None:
    status = await connection.send(request)
    load.statuses[status] += 1
    load.latencies.append(asyncio.get_running_loop().time() - due)
    idle.put_nowait(connection if status else await _connect(plan))


def _work(plan: Plan) -> Load:
    started = time.process_time()
    load = uvloop.run(_send_all(plan))
    load.cpu_seconds = time.process_time() - started
    return load


async def run_load(plan: Plan) -> Load:
    """Runs the plan in another process, so that it shares no interpreter with what measures."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, _work, plan)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie; nan for none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")
