"""With a spool, what never comes again is taken in while Postgres is away, and stored once it is back."""

from __future__ import annotations

import os
import struct
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import add_channels, counted, created, ingest, now, rows
from tests.integration.probe import until
from tests.integration.wire import wire_to
from tests.webhook_fixtures import NOON
from tests.webhook_route import Directory, tenant
from turnout_cli.webhooks import telegram
from turnout_common.tenant_directory import TenantDirectory
from turnout_ingest.providers.provider import Delivery
from turnout_ingest.routes import Route, Routes
from turnout_ingest.settings import IngestSettings
from turnout_ingest.spool import ENDING, Spool, SpoolFull

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
    assert len(spools(tmp_path)) == 1


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

        await until(lambda: _stored(database, tenant_id, 2), "the spool to be drained")
        assert (await service.post(tenant_id, booking)).status == 202

    assert await counted(database, tenant_id) == {"published": 1, "duplicate": 2}
    stored = await rows(database, tenant_id)
    assert stored[0]["received_at"] < now() - timedelta(seconds=1)


async def _stored(database: Database, tenant_id: str, number: int) -> bool:
    return len(await rows(database, tenant_id)) == number
