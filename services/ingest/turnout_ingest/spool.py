"""The spool: a bounded file where a webhook that never comes again waits while Postgres is away (setting `spool_dir`).

In: verified deliveries, sealed under the tenant's key. Out: the same, in order, once Postgres answers. Promise: `keep`
returns after fsync or raises; a record goes only after its commit; what a crash brings twice is absorbed by its key,
and a record that a crash tore was never answered. A fault of the disk is told and waited out: it ends nothing, and what
it damaged is set aside.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
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
#: With what the content of each begins: `_packed` writes its keys in this order.
BEGINNING = b'{"tenant_id"'
DRAIN_SECONDS = 1.0
#: How often a fault that lasts is told.
TELL_SECONDS = 60.0
ENDING = ".spool"
#: The ending of what nobody takes over.
ASIDE = ".damaged"

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
        self._taken: set[bytes] = set()  # taken in, and still in the file
        self._moved: set[tuple[Path, int]] = set()  # taken over at this size, and still there
        self._told: dict[tuple[Path, int | None], float] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{uuid4().hex}{ENDING}"
        self._file = _create(self._path)
        self._named = False  # whether a power cut leaves the file its name
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
        """Drains for ever, oldest first. A fault of its files is no reason to end every channel's ingest."""
        while True:
            await asyncio.sleep(DRAIN_SECONDS)
            try:
                await self.drain()
            except OSError as error:
                self._tell(self._path, error)

    async def drain(self) -> None:
        """Takes in what is spooled, as far as Postgres answers; what is left stays in order. Raises OSError."""
        await self._take_over()
        if not self._size:
            return
        content = await asyncio.to_thread(os.pread, self._file, self._size, 0)
        records, damaged, torn = _records(content)
        await self._take_in_all(records)
        left = [record for record in records if record not in self._taken]
        if damaged or torn:  # all of its own file was answered, so no crash tore it
            _set_aside(self._path, damaged + torn)
        if damaged or torn or len(left) < len(records):
            await self._shrink(b"".join(left), len(content))

    async def _take_in_all(self, records: list[bytes]) -> None:
        """Each once, though the file may keep it longer than one drain while its disk is full."""
        for record in records:
            if record not in self._taken:
                taken = await self._take_in(record)
                if taken is Taken.NOT_NOW:
                    return
                if taken is Taken.YES:
                    self._taken.add(record)

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
            if not self._named:
                await asyncio.to_thread(_sync_folder, self._folder)
                self._named = True
        except OSError as error:
            self._tell(self._path, error)
            raise SpoolFull from error
        self._set_size(self._size + len(added))

    async def _shrink(self, left: bytes, read: int) -> None:
        """Puts in place of the file what is left of its first `read` bytes, and what came since."""
        async with self._writing:
            left += await asyncio.to_thread(os.pread, self._file, self._size - read, read)
            renewed = await asyncio.to_thread(_renewed, self._path, left)
            before, self._file, self._named = self._file, renewed, False
            self._set_size(len(left))
            self._taken.clear()
            os.close(before)
        if not left:
            log.info("the spool is drained")

    async def _take_over(self) -> None:
        """Moves here what processes spooled that do not live any more; two of us never move the same."""
        for path in sorted(self._folder.glob(f"*{ENDING}")):
            if path != self._path:
                try:
                    await self._take_over_from(path)
                except SpoolFull:
                    continue  # one that is smaller may have room
                except OSError as error:
                    self._tell(path, error)

    async def _take_over_from(self, path: Path) -> None:
        """Raises SpoolFull, OSError."""
        file = _lock(path)
        if file is None:
            return
        try:
            moved = path, os.fstat(file).st_size
            if moved not in self._moved:  # else it could not be removed then, and would come twice
                await self._move(path)
                self._moved.add(moved)
            os.unlink(path)  # not in a thread: one that outlives a stop would outlive the lock
        finally:
            os.close(file)

    async def _move(self, path: Path) -> None:
        records, damaged, torn = _records(await asyncio.to_thread(path.read_bytes))
        if damaged:
            _set_aside(path, damaged)
        async with self._writing:
            await self._append(records)
        if torn:
            log.warning("the end of a spool is torn: it was never answered", bytes=torn)

    def _tell(self, path: Path, error: OSError) -> None:
        now = time.monotonic()
        if now - self._told.get((path, error.errno), -TELL_SECONDS) < TELL_SECONDS:
            return
        self._told[path, error.errno] = now
        log.error(
            "a spool file cannot be used: what it holds waits, and is tried again", file=str(path),
            error=error.strerror or type(error).__name__,
            act="give the file and its folder to the user of ingest, and see that its disk is whole and has room",
        )  # fmt: skip

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


def _records(content: bytes) -> tuple[list[bytes], int, int]:
    """The whole records, heads included; how many bytes of others are damaged; how many at the end a crash tore.

    What stands behind a damaged record was answered, so it is looked for."""
    records: list[bytes] = []
    at = damaged = 0
    while at < len(content):
        record = _record(content, at)
        if record is not None:
            records.append(record)
            at += len(record)
        elif (behind := _next(content, at)) is not None:
            damaged += behind - at
            at = behind
        else:
            break
    rest = content[at:]
    return (records, damaged, len(rest)) if _torn(rest) else (records, damaged + len(rest), 0)


def _record(content: bytes, at: int) -> bytes | None:
    """The whole record that begins there."""
    if at + HEAD.size > len(content):
        return None
    length, check = HEAD.unpack_from(content, at)
    record = content[at : at + HEAD.size + length]
    whole = len(record) == HEAD.size + length and zlib.crc32(record[HEAD.size :]) == check
    return record if length and whole else None  # no length: zeros, whose CRC is zero


def _next(content: bytes, at: int) -> int | None:
    """Where a whole record begins behind `at`."""
    found = content.find(BEGINNING, at + HEAD.size + 1)
    while found >= 0:
        if _record(content, found - HEAD.size) is not None:
            return found - HEAD.size
        found = content.find(BEGINNING, found + 1)
    return None


def _torn(rest: bytes) -> bool:
    """Whether it ends before its record does, as after a crash. Whatever else is not whole may have been answered."""
    return len(rest) < HEAD.size or len(rest) < HEAD.size + HEAD.unpack_from(rest)[0]


def _set_aside(path: Path, damaged: int) -> None:
    """A second name for what is about to be removed. It says which inode it is, so a second try gives no third."""
    aside = path.with_name(f"{path.stem}-{path.stat().st_ino}{ASIDE}")
    with suppress(FileExistsError):
        os.link(path, aside)
        log.error(
            "a spool file is damaged: what is whole in it is taken in, and the file is kept", file=str(aside),
            bytes=damaged, act="find what is missing with `turnout reconcile calcom`, then remove the file",
        )  # fmt: skip
    _sync_folder(path.parent)


def _create(path: Path) -> int:
    """The file, locked. Before its lock another process may take it over as left by the dead: then it is made again."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                return file
        except OSError:
            os.close(file)
            raise
        os.close(file)


def _lock(path: Path) -> int | None:
    """The file, when nobody holds it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:  # else another took it over meanwhile
            return file
    except BlockingIOError:
        pass
    except OSError:
        os.close(file)
        raise
    os.close(file)
    return None


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
    try:
        _write(file, 0, content)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        os.close(file)
        raise
    return file


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
