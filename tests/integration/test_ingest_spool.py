"""With a spool, what never comes again is taken in while Postgres is away, and stored once it is back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import add_channels, counted, created, ingest, now, rows
from tests.integration.probe import until
from tests.integration.wire import wire_to
from tests.webhook_fixtures import NOON
from tests.webhook_route import Directory, tenant
from turnout_cli.webhooks import telegram
from turnout_common.tenant_directory import TenantDirectory
from turnout_ingest import spool as spool_module
from turnout_ingest.providers.provider import Delivery
from turnout_ingest.routes import Route, Routes
from turnout_ingest.settings import IngestSettings
from turnout_ingest.spool import ENDING, HEAD, Spool, SpoolFull

FIRST_CHAT = telegram.Chat(7_100_001, "Mila")


class Postgres:
    """Takes deliveries, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[tuple[str, bytes]] = []

    async def accept(self, route: Route, delivery: Delivery) -> bool:
        if not self.away:
            self.taken.append((route.tenant.tenant_id, delivery.body))
        return not self.away


def routes(*names: str) -> Routes:
    directory = Directory(*(tenant(name) for name in names))
    return Routes(cast(TenantDirectory, directory), IngestSettings(postgres_dsn="x"))  # type: ignore[arg-type]


def delivery(known: Routes, tenant_id: str, body: bytes) -> tuple[Route, Delivery]:
    route = known.of("calcom", tenant_id)
    assert route is not None
    return route, Delivery(route.context, {b"content-type": b"application/json", b"x": b"y"}, body, NOON)


def spools(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{ENDING}"))


def everything(folder: Path) -> set[Path]:
    return set(folder.iterdir())


async def left_behind(folder: Path, known: Routes, *bodies: bytes) -> Path:
    """The file of a process that ended."""
    dead = Spool(folder, 1 << 20, known, Postgres().accept)
    for body in bodies:
        await dead.keep(*delivery(known, "salon", body))
    os.close(dead._file)
    return dead._path


def fail(
    patch: pytest.MonkeyPatch, name: str, number: int, which: Callable[[Any], bool] = lambda _: True
) -> None:
    """Makes a call of the system fail for those first arguments, as a disk does."""
    real = getattr(os, name)

    def call(first: Any, *others: Any, **options: Any) -> Any:
        if which(first):
            raise OSError(number, os.strerror(number))
        return real(first, *others, **options)

    patch.setattr(os, name, call)


def damage(path: Path, record: int, place: int) -> bytes:
    """Turns a byte of a record over; gives the content that makes."""
    content, at = bytearray(path.read_bytes()), 0
    for _ in range(record):
        at += HEAD.size + HEAD.unpack_from(content, at)[0]
    content[at + place] ^= 0x55
    path.write_bytes(content)
    return bytes(content)


def is_folder(file: int) -> bool:
    return stat.S_ISDIR(os.fstat(file).st_mode)


def sibling_takes_over_before_the_lock(patch: pytest.MonkeyPatch, folder: Path) -> list[Path]:
    """Between the making of the next file and its lock another process takes over what has no lock; gives which."""
    lock = fcntl.flock
    taken: list[Path] = []

    def late(file: int, how: int) -> None:
        if how == fcntl.LOCK_EX and not taken:
            for path in spools(folder):
                held = os.open(path, os.O_RDWR)
                try:
                    lock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    taken.append(path)
                except BlockingIOError:
                    pass
                finally:
                    os.close(held)
        lock(file, how)

    patch.setattr(fcntl, "flock", late)
    return taken


async def test_what_is_spooled_is_on_disk_sealed_and_comes_out_in_order(tmp_path: Path) -> None:
    postgres, known = Postgres(), routes("salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)

    for body in (b"Quillfeather 1", b"Quillfeather 2"):
        await spool.keep(*delivery(known, "salon", body))
    (file,) = spools(tmp_path)
    assert file.stat().st_size > 0 and b"Quillfeather" not in file.read_bytes()
    assert file.stat().st_mode & 0o77 == 0
    await spool.drain()

    assert postgres.taken == [("salon", b"Quillfeather 1"), ("salon", b"Quillfeather 2")]
    (file,) = spools(tmp_path)
    assert file.stat().st_size == 0


async def test_while_postgres_is_away_nothing_leaves_the_spool(tmp_path: Path) -> None:
    postgres, known = Postgres(), routes("salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    await spool.keep(*delivery(known, "salon", b"1"))

    postgres.away = True
    await spool.drain()
    await spool.keep(*delivery(known, "salon", b"2"))
    postgres.away = False
    await spool.drain()

    assert [body for _, body in postgres.taken] == [b"1", b"2"]


async def test_what_comes_while_it_drains_stays(tmp_path: Path) -> None:
    postgres, known = Postgres(), routes("salon")

    async def accept(route: Route, taken: Delivery) -> bool:
        if taken.body == b"1":
            await spool.keep(*delivery(known, "salon", b"2"))
        return await postgres.accept(route, taken)

    spool = Spool(tmp_path, 1 << 20, known, accept)
    await spool.keep(*delivery(known, "salon", b"1"))
    await spool.drain()
    assert [body for _, body in postgres.taken] == [b"1"]
    await spool.drain()

    assert [body for _, body in postgres.taken] == [b"1", b"2"]


async def test_full_spool_refuses_and_loses_nothing(tmp_path: Path) -> None:
    postgres, known = Postgres(), routes("salon")
    spool = Spool(tmp_path, 1000, known, postgres.accept)
    await spool.keep(*delivery(known, "salon", b"1"))

    with pytest.raises(SpoolFull):
        await spool.keep(*delivery(known, "salon", b"x" * 1000))
    await spool.drain()

    assert [body for _, body in postgres.taken] == [b"1"]


async def test_tenant_that_is_not_known_holds_up_nobody_and_keeps_its_own(tmp_path: Path) -> None:
    postgres, known = Postgres(), routes("away", "salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    for name in ("away", "salon", "away"):
        await spool.keep(*delivery(known, name, name.encode()))

    away = known._directory.tenants.pop("away")  # type: ignore[attr-defined]
    await spool.drain()
    assert postgres.taken == [("salon", b"salon")]
    known._directory.tenants["away"] = away  # type: ignore[attr-defined]
    await spool.drain()

    assert postgres.taken == [("salon", b"salon"), ("away", b"away"), ("away", b"away")]


async def test_what_a_dead_process_left_is_taken_over_up_to_what_a_crash_tore(tmp_path: Path) -> None:
    postgres, known = Postgres(), routes("salon")
    dead = Spool(tmp_path, 1 << 20, known, postgres.accept)
    await dead.keep(*delivery(known, "salon", b"1"))
    (left,) = spools(tmp_path)
    with left.open("ab") as file:
        file.write(struct.pack(">II", 500, 7) + b"torn")

    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    await spool.drain()
    assert postgres.taken == [], "it was taken from a process that lives"
    os.close(dead._file)
    await spool.drain()

    assert postgres.taken == [("salon", b"1")]
    assert everything(tmp_path) == {spool._path}, "nobody needs what was never answered"


async def test_bytes_that_a_failed_write_left_are_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, known = Postgres(), routes("salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)

    def fails(_file: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(SpoolFull):
            await spool.keep(*delivery(known, "salon", b"never answered with success"))
    await spool.keep(*delivery(known, "salon", b"2"))
    await spool.drain()

    assert [body for _, body in postgres.taken] == [b"2"]


async def test_file_that_cannot_be_opened_keeps_back_no_other_and_waits_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, known = Postgres(), routes("salon")
    bodies = {await left_behind(tmp_path, known, body): body for body in (b"1", b"2")}
    first, second = sorted(bodies)
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)

    with monkeypatch.context() as patch, capture_logs() as logged:
        fail(patch, "open", errno.EACCES, lambda path: path == first)
        await spool.drain()
        await spool.drain()
    assert postgres.taken == [("salon", bodies[second])] and first.exists()
    (told,) = [line for line in logged if line["log_level"] == "error"]
    assert (told["file"], told["error"]) == (str(first), "Permission denied")
    await spool.drain()

    assert postgres.taken == [("salon", bodies[second]), ("salon", bodies[first])]


async def test_file_that_has_no_room_keeps_back_no_smaller_one(tmp_path: Path) -> None:
    postgres, known = Postgres(), routes("salon")
    large = await left_behind(tmp_path, known, b"1" * 2000)
    large = large.rename(tmp_path / f"0{ENDING}")  # the first to be tried
    await left_behind(tmp_path, known, b"2")

    await Spool(tmp_path, 1000, known, postgres.accept).drain()

    assert postgres.taken == [("salon", b"2")] and large.exists()


async def test_disk_that_cannot_be_read_for_a_while_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, known = Postgres(), routes("salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    await spool.keep(*delivery(known, "salon", b"1"))
    monkeypatch.setattr(spool_module, "DRAIN_SECONDS", 0.01)

    with monkeypatch.context() as patch, capture_logs() as logged:
        fail(patch, "pread", errno.EIO)
        running = asyncio.create_task(spool.run())
        await asyncio.sleep(0.2)
        assert not running.done(), "every channel would end with it"
    (told,) = [line for line in logged if line["log_level"] == "error"]
    assert (told["file"], told["error"]) == (str(spool._path), "Input/output error") and "disk" in told["act"]
    await until(lambda: _taken(postgres, 1), "the spool to go on")
    running.cancel()

    assert postgres.taken == [("salon", b"1")]


async def test_full_disk_leaks_nothing_and_takes_nothing_in_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, known = Postgres(), routes("away", "salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    for name in ("away", "salon"):
        await spool.keep(*delivery(known, name, name.encode()))
    away = known._directory.tenants.pop("away")  # type: ignore[attr-defined]
    opened = len(os.listdir("/dev/fd"))

    with monkeypatch.context() as patch:
        fail(patch, "pwrite", errno.ENOSPC)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                await spool.drain()
    assert spools(tmp_path) == [spool._path] and len(os.listdir("/dev/fd")) == opened
    await spool.drain()
    known._directory.tenants["away"] = away  # type: ignore[attr-defined]
    await spool.drain()

    assert postgres.taken == [("salon", b"salon"), ("away", b"away")]


async def test_what_was_taken_over_and_cannot_be_removed_is_taken_in_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, known = Postgres(), routes("salon")
    left = await left_behind(tmp_path, known, b"1")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)

    with monkeypatch.context() as patch:
        fail(patch, "unlink", errno.EPERM, lambda path: path == left)
        await spool.drain()
        await spool.drain()
    await spool.drain()

    assert postgres.taken == [("salon", b"1")] and spools(tmp_path) == [spool._path]


async def test_webhook_is_answered_only_when_the_name_of_its_file_is_on_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, known = Postgres(), routes("away", "salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    for name in ("away", "salon"):
        await spool.keep(*delivery(known, name, name.encode()))
    away = known._directory.tenants.pop("away")  # type: ignore[attr-defined]

    with monkeypatch.context() as patch:
        fail(patch, "fsync", errno.EIO, is_folder)
        with contextlib.suppress(OSError):
            await spool.drain()
        with pytest.raises(SpoolFull):
            await spool.keep(*delivery(known, "salon", b"refused"))
    await spool.keep(*delivery(known, "salon", b"answered"))
    known._directory.tenants["away"] = away  # type: ignore[attr-defined]
    os.close(spool._file)
    await Spool(tmp_path, 1 << 20, known, postgres.accept).drain()

    assert postgres.taken == [("salon", b"salon"), ("away", b"away"), ("salon", b"answered")]


async def test_new_file_that_a_sibling_removed_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, known = Postgres(), routes("salon")
    with monkeypatch.context() as patch:
        taken = sibling_takes_over_before_the_lock(patch, tmp_path)
        spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    assert taken == [spool._path]

    await spool.keep(*delivery(known, "salon", b"answered"))
    os.close(spool._file)
    await Spool(tmp_path, 1 << 20, known, postgres.accept).drain()

    assert postgres.taken == [("salon", b"answered")]


async def test_sibling_that_removes_the_file_of_a_drain_ends_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, known = Postgres(), routes("away", "salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    for name in ("away", "salon"):
        await spool.keep(*delivery(known, name, name.encode()))
    away = known._directory.tenants.pop("away")  # type: ignore[attr-defined]

    with monkeypatch.context() as patch:
        taken = sibling_takes_over_before_the_lock(patch, tmp_path)
        await spool.drain()
    assert len(taken) == 1 and spools(tmp_path) == [spool._path]
    known._directory.tenants["away"] = away  # type: ignore[attr-defined]
    await spool.drain()

    assert postgres.taken == [("salon", b"salon"), ("away", b"away")]


@pytest.mark.parametrize(
    "place",
    [pytest.param(0, id="its length"), pytest.param(4, id="its check"), pytest.param(100, id="its content")],
)
@pytest.mark.parametrize("living", [True, False], ids=["own file", "left by the dead"])
async def test_damaged_record_takes_no_whole_one_with_it_and_its_file_is_kept(
    tmp_path: Path, place: int, living: bool
) -> None:
    postgres, known = Postgres(), routes("salon")
    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    for number in range(3):
        await spool.keep(*delivery(known, "salon", b"%d" % number))
    content = damage(spool._path, record=1, place=place)
    if not living:
        os.close(spool._file)
        spool = Spool(tmp_path, 1 << 20, known, postgres.accept)

    with capture_logs() as logged:
        await spool.drain()
        await spool.drain()

    assert postgres.taken == [("salon", b"0"), ("salon", b"2")]
    (aside,) = everything(tmp_path) - {spool._path}
    assert aside.read_bytes() == content and aside.suffix != ENDING
    (told,) = [line for line in logged if line["log_level"] == "error"]
    assert told["file"] == str(aside) and "reconcile calcom" in told["act"]
    assert not [line for line in logged if "never answered" in line["event"]]


async def test_zeros_that_a_disk_left_end_nothing_and_are_kept_with_what_they_stand_behind(
    tmp_path: Path,
) -> None:
    postgres, known = Postgres(), routes("salon")
    left = await left_behind(tmp_path, known, b"1")
    with left.open("ab") as file:
        file.write(bytes(4096))

    spool = Spool(tmp_path, 1 << 20, known, postgres.accept)
    await spool.drain()

    assert postgres.taken == [("salon", b"1")]
    assert spools(tmp_path) == [spool._path] and len(everything(tmp_path)) == 2


async def test_calcom_is_accepted_while_postgres_is_away_and_stored_once_when_it_is_back(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, tenant_id: str, tmp_path: Path
) -> None:
    await add_channels(database, tenant_id)
    async with wire_to(infrastructure.postgres) as wire, ingest(
        database, infrastructure, topic_prefix, dsn=wire.through(database.dsn("ingest")), spool_dir=tmp_path,
    ) as service:  # fmt: skip
        booking = created("spooled")
        wire.cut()
        answered = await service.post(tenant_id, booking)
        again = await service.post(tenant_id, booking)
        message = await service.post(tenant_id, telegram.text(5, FIRST_CHAT, 1, now(), "hello"))
        ready = await service.request("GET", "/ready")
        assert (answered.status, again.status, ready.status) == (202, 202, 200)
        assert message.status == 503, "Telegram sends again: it needs no spool"
        wire.mend()

        await until(lambda: _drained(tmp_path), "the spool to be drained")
        assert (await service.post(tenant_id, booking)).status == 202

    found = await counted(database, tenant_id)
    assert found.keys() == {"published", "duplicate"} and found["published"] == 1
    assert found["duplicate"] >= 2  # one more where a commit came through after its time was up
    stored = await rows(database, tenant_id)
    assert stored[0]["received_at"] < now() - timedelta(seconds=1)


async def _taken(postgres: Postgres, number: int) -> bool:
    return len(postgres.taken) >= number


async def _drained(folder: Path) -> bool:
    return not await asyncio.to_thread(lambda: sum(file.stat().st_size for file in folder.iterdir()))
