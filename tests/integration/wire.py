"""A TCP proxy in front of a server, to cut, freeze and count what passes: the server itself stays whole for others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit


class Wire:
    """Connections pass until it is cut, frozen or mute; `sent` counts bytes to the server, `held` answers held back."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._mute: set[asyncio.StreamWriter] = set()
        self.up = True
        self.sent = 0
        self.held = 0
        self.connections = 0
        self.port = 0

    def through(self, dsn: str) -> str:
        """`dsn` by way of this wire."""
        parts = urlsplit(dsn)
        user = f"{parts.username}:{parts.password}@"
        return urlunsplit((parts.scheme, f"{user}127.0.0.1:{self.port}", parts.path, parts.query, ""))

    def cut(self) -> None:
        """Ends all connections and refuses new ones."""
        self.up = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self.up = True

    def freeze(self) -> None:
        """The server hears us and is not heard: its answers are lost for now."""
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def mute(self) -> None:
        """What is connected now hears nothing any more, without an end; new connections pass."""
        self._mute |= self._writers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.transport.abort()
            return
        self.connections += 1
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, there_writer}
        try:
            await asyncio.gather(self._to_server(reader, there_writer), self._to_client(there_reader, writer))
        finally:
            for each in (writer, there_writer):
                self._writers.discard(each)
                self._mute.discard(each)
                each.transport.abort()

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.sent += len(data)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if writer in self._mute:
                    continue
                self.held += not self._thawed.is_set()
                await self._thawed.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def wire_to(dsn: str) -> AsyncIterator[Wire]:
    """A wire to the server of `dsn`."""
    parts = urlsplit(dsn)
    wire = Wire(parts.hostname or "127.0.0.1", parts.port or 5432)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.thaw()
        wire.cut()
        await server.wait_closed()
