"""What changes in schema platform, as it changes: one LISTEN connection that is also the one that reads.

In: NOTIFY platform_changed with a tenant id, from triggers on the four tables that services hold in memory. Out: calls
of `read` with the connection and the ids that changed, or None for all: after each connecting, after a flood, and every
`reload_seconds`. Promise: a burst is read together, one reading at a time; a server that does not answer holds nobody.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import asyncpg
import structlog

log = structlog.get_logger()
NOTIFICATIONS = "platform_changed"
#: Changes that follow each other so closely are read together.
GATHER_SECONDS = 0.05
#: From so many changed tenants on, all are read.
MOST_APART = 200
#: A reading that takes longer ends its connection.
READ_SECONDS = 10.0
LONGEST_PAUSE = 5.0
#: Seconds idle, between probes, and how many: a peer that vanished is noticed within a minute.
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))

Connect = Callable[[], Awaitable[asyncpg.Connection]]
Read = Callable[[asyncpg.Connection, list[str] | None], Awaitable[None]]


class PlatformChanges:
    """One process's view of what changes; `run()` for ever."""

    def __init__(self, connect: Connect, read: Read, reload_seconds: float) -> None:
        self._connect = connect
        self._read = read
        self._reload_seconds = reload_seconds
        self._wakened = asyncio.Event()
        self._told: set[str] = set()
        self._failures = 0

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception as error:
                self._failures += 1
                log.warning(
                    "tenant configuration is not followed for now, the last one stays",
                    error=repr(error)[:300], failures=self._failures,
                )  # fmt: skip
            await asyncio.sleep(
                min(0.1 * 2 ** min(self._failures, 6), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            )

    async def _follow(self) -> None:
        """Until the connection is lost, which raises."""
        connection = await self._connect()
        connection.add_termination_listener(lambda _: self._wakened.set())
        _keep_alive(connection)
        try:
            with _ended_after(connection, READ_SECONDS):
                await connection.add_listener(NOTIFICATIONS, self._hear)
            while True:
                await self._read_all(connection)
                await self._read_changes(connection, asyncio.get_running_loop().time() + self._interval())
        finally:
            connection.terminate()

    def _interval(self) -> float:
        return self._reload_seconds * random.uniform(0.9, 1.1)

    def _hear(self, _connection: object, _pid: int, _channel: str, tenant_id: object) -> None:
        self._told.add(str(tenant_id))
        self._wakened.set()

    async def _read_all(self, connection: asyncpg.Connection) -> None:
        self._told.clear()
        with _ended_after(connection, READ_SECONDS):
            await self._read(connection, None)
        self._failures = 0

    async def _read_changes(self, connection: asyncpg.Connection, until: float) -> None:
        """What is told until then (loop time, seconds), or until so much is told that all must be read."""
        while True:
            try:
                async with asyncio.timeout_at(until):
                    await self._wakened.wait()
            except TimeoutError:
                return
            if connection.is_closed():
                self._wakened.clear()
                raise ConnectionResetError("the connection that listens was lost")
            await asyncio.sleep(GATHER_SECONDS)
            self._wakened.clear()
            if len(self._told) > MOST_APART:
                return
            changed, self._told = sorted(self._told), set()
            if changed:
                with _ended_after(connection, READ_SECONDS):
                    await self._read(connection, changed)


@contextmanager
def _ended_after(connection: asyncpg.Connection, seconds: float) -> Iterator[None]:
    """Ends the connection when the block takes longer. A cancelled query would wait for its cancellation, which a
    server that does not answer does not answer either."""
    timer = asyncio.get_running_loop().call_later(seconds, connection.terminate)
    try:
        yield
    finally:
        timer.cancel()


def _keep_alive(connection: asyncpg.Connection) -> None:
    """On our side: who only listens sends nothing, and would not notice that there is nobody left."""
    transport = connection._transport  # type: ignore[attr-defined]
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
