"""The spool: a bounded file where a webhook that never comes again waits while Postgres is away (setting `spool_dir`).

In: verified deliveries, sealed under the tenant's key. Out: the same, in order, once Postgres answers. Promise: `keep`
returns after fsync or raises; a record goes only after its commit; what a crash brings twice is absorbed by its key,
and a record that a crash tore was never answered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import sys
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from uuid import uuid4

import structlog

from turnout_common import metrics
from turnout_common.security import SecretError
from turnout_ingest.providers.provider import Delivery
from turnout_ingest.routes import Route, Routes
from turnout_ingest.settings import IngestSettings

if sys.platform != "win32":  # without file locks there is no spool; startup_faults says so
    import fcntl

log = structlog.get_logger()
PURPOSE = "spool"
#: Before each record: its length and its CRC.
HEAD = struct.Struct(">II")
DRAIN_SECONDS = 1.0
ENDING = ".spool"


#: Commits a delivery, and says whether it could.
Accept = Callable[[Route, Delivery], Awaitable[bool]]


class SpoolFull(Exception):
    """The spool has no room, or its disk takes nothing."""


class Taken(Enum):
    """What became of a record at a try to take it in."""

    YES = "yes"
    NOT_NOW = "not now"  #: Postgres is still away: the rest waits too
    NOT_THIS = "not this"  #: its tenant is suspended or not known: the others go on


@dataclass(frozen=True, slots=True)
class Spooled:
    """What stands in a record."""

    tenant_id: str
    channel: str
    received_at: datetime
    sealed: str


class Spool:
    """One process's file in `folder`. It takes over what other processes left there when they ended."""

    def __init__(self, folder: Path, max_bytes: int, routes: Routes, accept: Accept) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._routes = routes
        self._accept = accept
        self._writing = asyncio.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{uuid4().hex}{ENDING}"
        self._file = _create(self._path)
        self._size = 0

    @property
    def has_room(self) -> bool:
        return self._size < self._max_bytes

    async def keep(self, route: Route, delivery: Delivery) -> None:
        """On disk when it returns. Raises SpoolFull."""
        async with self._writing:
            if not self._size:
                log.warning(
                    "what never comes again is spooled: it could not be stored", folder=str(self._folder)
                )
            await self._append([_packed(route, delivery)])
        metrics.SPOOLED.labels(delivery.context.channel.value).inc()

    async def run(self) -> None:
        """Drains for ever, oldest first."""
        while True:
            await asyncio.sleep(DRAIN_SECONDS)
            await self.drain()

    async def drain(self) -> None:
        """Takes in what is spooled, as far as Postgres answers; what is left stays in order."""
        await self._take_over()
        if not self._size:
            return
        content = await asyncio.to_thread(os.pread, self._file, self._size, 0)
        records, left = _records(content), []
        for number, record in enumerate(records):
            taken = await self._take_in(record)
            if taken is Taken.NOT_NOW:
                left += records[number:]
                break
            if taken is Taken.NOT_THIS:
                left.append(record)
        if len(left) < len(records):
            await self._shrink(b"".join(left), len(content))

    async def _take_in(self, record: bytes) -> Taken:
        spooled = _read(record)
        route = self._routes.of(spooled.channel, spooled.tenant_id)
        if route is None:
            return Taken.NOT_THIS
        try:
            plain = json.loads(route.context.keys.open_text(PURPOSE, spooled.sealed))
        except SecretError as error:
            log.error("a spooled webhook does not open", tenant_id=spooled.tenant_id, error=str(error))
            return Taken.NOT_THIS
        headers = {
            name.encode("latin-1"): value.encode("latin-1") for name, value in plain["headers"].items()
        }
        body = base64.b64decode(plain["body"])
        delivery = Delivery(route.context, headers, body, spooled.received_at)
        return Taken.YES if await self._accept(route, delivery) else Taken.NOT_NOW

    async def _append(self, records: list[bytes]) -> None:
        """Under the lock. Raises SpoolFull."""
        added = b"".join(records)
        if self._size + len(added) > self._max_bytes:
            raise SpoolFull
        try:
            await asyncio.to_thread(_write, self._file, self._size, added)
        except OSError as error:
            log.error("the spool cannot be written", error=type(error).__name__)
            raise SpoolFull from error
        self._set_size(self._size + len(added))

    async def _shrink(self, left: bytes, read: int) -> None:
        """Puts in place of the file what is left of its first `read` bytes, and what came since."""
        async with self._writing:
            left += await asyncio.to_thread(os.pread, self._file, self._size - read, read)
            renewed = await asyncio.to_thread(_renewed, self._path, left)
            os.close(self._file)
            self._file = renewed
            self._set_size(len(left))
        if not left:
            log.info("the spool is drained")

    async def _take_over(self) -> None:
        """Moves here what processes spooled that do not live any more; two of us never move the same."""
        for path in sorted(self._folder.glob(f"*{ENDING}")):
            if path != self._path and (file := _lock(path)) is not None:
                try:
                    records = _records(await asyncio.to_thread(path.read_bytes))
                    async with self._writing:
                        await self._append(records)
                    path.unlink()
                except SpoolFull:
                    return
                finally:
                    os.close(file)

    def _set_size(self, size: int) -> None:
        self._size = size
        metrics.SPOOL_BYTES.set(size)


def open_spool(settings: IngestSettings, routes: Routes, accept: Accept) -> Spool | None:
    """The spool, where the settings name a folder for it. Raises OSError."""
    if settings.spool_dir is None:
        return None
    return Spool(settings.spool_dir, settings.spool_max_bytes, routes, accept)


def _packed(route: Route, delivery: Delivery) -> bytes:
    kept = {
        name.decode(): delivery.headers[name].decode("latin-1")
        for name in route.provider.kept_headers
        if name in delivery.headers
    }
    plain = json.dumps({"headers": kept, "body": base64.b64encode(delivery.body).decode()})
    context = delivery.context
    content = json.dumps({
        "tenant_id": context.tenant_id, "channel": context.channel.value,
        "received_at": delivery.received_at.isoformat(), "sealed": context.keys.seal_text(PURPOSE, plain),
    }).encode()  # fmt: skip
    return HEAD.pack(len(content), zlib.crc32(content)) + content


def _read(record: bytes) -> Spooled:
    value = json.loads(record[HEAD.size :])
    return Spooled(**value | {"received_at": datetime.fromisoformat(value["received_at"])})


def _records(content: bytes) -> list[bytes]:
    """The whole records, heads included; it ends before the first that is torn."""
    records, at = [], 0
    while at + HEAD.size <= len(content):
        length, check = HEAD.unpack_from(content, at)
        end = at + HEAD.size + length
        if end > len(content) or zlib.crc32(content[at + HEAD.size : end]) != check:
            log.warning("the end of a spool is torn: it was never answered", bytes=len(content) - at)
            break
        records.append(content[at:end])
        at = end
    return records


def _create(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    _sync_folder(path.parent)
    return file


def _lock(path: Path) -> int | None:
    """The file, when nobody holds it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    if os.fstat(file).st_nlink == 0:  # another took it over meanwhile
        os.close(file)
        return None
    return file


def _write(file: int, at: int, content: bytes) -> None:
    """At `at`, over what a write that failed may have left there."""
    os.ftruncate(file, at)
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
    os.fsync(file)


def _renewed(path: Path, content: bytes) -> int:
    """The file of `path` with other content, in one step; what a crash leaves of the step is taken over as any file."""
    beside = path.with_name(f"{path.stem}-{uuid4().hex}{ENDING}")
    file = _create(beside)
    _write(file, 0, content)
    os.replace(beside, path)
    _sync_folder(path.parent)
    return file


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
