"""Reads on a real Postgres: every KPI equals what plain Python counts from the same facts, whichever way it is read."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.kpi_salon import HOME, NOW, Asked, Salon, expected_counts, random_salon
from turnout_common.clock import FixedClock
from turnout_common.postgres import create_pool, tenant_transaction
from turnout_common.tenants import create_tenant
from turnout_kpi_api.auth import Scope
from turnout_kpi_api.kpis import COUNTS, METRICS, Figures, Source
from turnout_kpi_api.period import Period
from turnout_kpi_api.problems import NotFound
from turnout_kpi_api.reads import FROM_CELLS, FROM_FACTS, SQL, Reads, Report, Request

TODAY = NOW.astimezone(HOME).date()
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    pool = await create_pool(database.dsn("kpi"), "test", 4)
    yield pool
    await pool.close()


async def store(database: Database, salon: Salon) -> None:
    """A tenant in Europe/Berlin with these facts."""
    platform, admin = (
        await asyncpg.connect(database.dsn("platform")),
        await asyncpg.connect(database.admin_dsn),
    )
    try:
        await create_tenant(platform, MASTER_KEY, salon.tenant_id, HOME.key)
        await salon.store(admin)
    finally:
        await platform.close()
        await admin.close()


async def new_salon(database: Database, seed: int, chains: int = 400) -> Salon:
    salon = random_salon("t" + os.urandom(6).hex(), seed, chains)
    await store(database, salon)
    return salon


@pytest.fixture(scope="module")
async def salon(database: Database) -> Salon:
    return await new_salon(database, seed=1)


def reads(pool: asyncpg.Pool, now: datetime = NOW, *, use_cells: bool = True) -> Reads:
    return Reads(pool, FixedClock(now), use_cells=use_cells)


async def ask(reads: Reads, salon: Salon, asked: Asked) -> Report:
    scope = Scope(salon.tenant_id, asked.staff_id)
    zone = None if asked.zone == HOME else asked.zone
    request = Request(
        first=asked.first, last=asked.last, zone=zone, service_id=asked.service_id, channel=asked.channel
    )
    return await reads.report(scope, request)


def only(report: Report) -> Figures:
    assert list(report.figures) == [None]
    return report.figures[None]


WINDOWS = [
    (TODAY, TODAY),
    (TODAY - DAY, TODAY),
    (TODAY - 6 * DAY, TODAY + 2 * DAY),
    (TODAY - 60 * DAY, TODAY - 10 * DAY),
    (date(2026, 10, 25), date(2026, 10, 25)),  # 25 hours long
    (TODAY - 200 * DAY, TODAY + 199 * DAY),
    (TODAY + DAY, TODAY + 20 * DAY),
]
FILTERS: list[dict[str, Any]] = [
    {},
    {"staff_id": "anna"},
    {"service_id": "cut"},
    {"channel": "telegram"},
    {"staff_id": "boris", "service_id": "colour", "channel": "calcom"},
]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w[0]}_{w[1]}")
@pytest.mark.parametrize("filters", FILTERS, ids=lambda f: "_".join(f.values()) or "whole")
async def test_every_count_equals_brute_force(
    pool: asyncpg.Pool, salon: Salon, window: tuple[date, date], filters: dict[str, Any]
) -> None:
    asked = replace(Asked(*window), **filters)

    report = await ask(reads(pool), salon, asked)

    assert only(report).all_counts() == expected_counts(salon, asked)


@pytest.mark.parametrize(
    "zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu", "Europe/Paris"]
)
async def test_another_zone_has_its_own_days(pool: asyncpg.Pool, salon: Salon, zone: str) -> None:
    asked = Asked(TODAY - 3 * DAY, TODAY - DAY, zone=ZoneInfo(zone))

    report = await ask(reads(pool), salon, asked)

    assert report.window.zone.key == zone
    assert only(report).all_counts() == expected_counts(salon, asked)


@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_cells_and_facts_agree_at_any_time(database: Database, pool: asyncpg.Pool, seed: int) -> None:
    salon = await new_salon(database, seed, chains=150)
    for hours in (-24 * 40, -30, -3, -1, 0, 1, 5, 24 * 30):
        now = NOW + timedelta(hours=hours)
        for first, last in WINDOWS:
            for staff_id in (None, "anna"):
                asked = Asked(first, last, as_of=now, staff_id=staff_id)

                from_cells = only(await ask(reads(pool, now), salon, asked))
                from_facts = only(await ask(reads(pool, now, use_cells=False), salon, asked))

                assert from_cells == from_facts
                assert from_cells.all_counts() == expected_counts(salon, asked)


async def test_a_settled_day_is_read_from_its_cell(database: Database, pool: asyncpg.Pool) -> None:
    salon = await new_salon(database, seed=5, chains=50)
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(
            "UPDATE rollup.chain_days SET booked = booked + 1000 WHERE tenant_id = $1", salon.tenant_id
        )
    finally:
        await admin.close()
    asked = Asked(TODAY - 60 * DAY, TODAY - 10 * DAY)

    from_cells = only(await ask(reads(pool), salon, asked)).counts["booked"]
    from_facts = only(await ask(reads(pool, use_cells=False), salon, asked)).counts["booked"]

    assert from_cells >= from_facts + 1000


@pytest.mark.parametrize("adopted", [False, True])
async def test_while_facts_are_made_anew_for_another_zone_no_day_is_read_from_a_cell(
    database: Database, pool: asyncpg.Pool, adopted: bool
) -> None:
    salon = await new_salon(database, seed=6, chains=150)
    zone = ZoneInfo("Pacific/Kiritimati")
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        for table in ("platform.tenants", "rollup.tenant_settings")[: 1 + adopted]:
            await admin.execute(
                f"UPDATE {table} SET timezone = $2 WHERE tenant_id = $1", salon.tenant_id, zone.key
            )
        if adopted:
            await admin.execute("INSERT INTO rollup.rebuilds (tenant_id) VALUES ($1)", salon.tenant_id)
    finally:
        await admin.close()
    asked = Asked(TODAY - 60 * DAY, TODAY - 10 * DAY, zone=zone)
    request = Request(first=asked.first, last=asked.last)

    report = await reads(pool).report(Scope(salon.tenant_id), request)

    assert report.window.zone == zone
    assert only(report).all_counts() == expected_counts(salon, asked)


async def test_staff_add_up_to_the_whole(pool: asyncpg.Pool, salon: Salon) -> None:
    request = Request(first=TODAY - 30 * DAY, last=TODAY)
    whole = only(await reads(pool).report(Scope(salon.tenant_id), request))

    report = await reads(pool).report(
        Scope(salon.tenant_id), Request(request.period, request.first, request.last, by_staff=True)
    )

    assert set(report.figures) == {"anna", "boris", ""}
    distinct = {
        "clients",
        "returningClients",
        "newClients",
        "retainedClients",
        "rosteredMinutes",
        "serviceMinutes",
    }
    for name in whole.counts.keys() - distinct:
        assert sum(figures.counts[name] for figures in report.figures.values()) == whole.counts[name], name
    anna = expected_counts(salon, Asked(TODAY - 30 * DAY, TODAY, staff_id="anna"))
    assert report.figures["anna"].all_counts() == anna


async def test_a_deleted_tenant_is_not_there_for_an_operator_either(
    database: Database, pool: asyncpg.Pool
) -> None:
    salon = await new_salon(database, seed=7, chains=5)
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(
            "UPDATE platform.tenants SET status = 'deleted' WHERE tenant_id = $1", salon.tenant_id
        )
    finally:
        await admin.close()

    with pytest.raises(NotFound):
        await reads(pool).report(Scope(salon.tenant_id), Request())


async def test_all_numbers_of_an_answer_are_of_one_moment_and_nothing_can_be_written(
    pool: asyncpg.Pool, salon: Salon
) -> None:
    async with tenant_transaction(pool, salon.tenant_id) as connection:
        assert await connection.fetchval("SHOW transaction_isolation") == "repeatable read"
        assert await connection.fetchval("SHOW transaction_read_only") == "on"


async def test_a_member_of_staff_is_confined_by_the_database_too(pool: asyncpg.Pool, salon: Salon) -> None:
    """Even where a query forgets its filter: here the scope has none."""
    asked = Asked(TODAY - 30 * DAY, TODAY, staff_id="anna")
    forgotten = Scope(salon.tenant_id, None, own_staff_id="anna")

    report = await reads(pool).report(forgotten, Request(first=asked.first, last=asked.last))

    clients = {count.name for count in COUNTS if count.source is Source.CLIENTS}
    assert only(report).all_counts() == expected_counts(salon, asked) | dict.fromkeys(clients)


async def test_the_previous_window_is_as_long_and_right_before(pool: asyncpg.Pool, salon: Salon) -> None:
    report = await reads(pool).report(Scope(salon.tenant_id), Request(Period.WEEK, TODAY, compare=True))

    assert report.previous is not None
    window, figures = report.previous
    assert (window.days, window.last) == (7, report.window.first - DAY)
    assert figures[None].all_counts() == expected_counts(salon, Asked(window.first, window.last))


async def test_a_booking_later_today_is_booked_but_not_due(database: Database, pool: asyncpg.Pool) -> None:
    salon = random_salon("t" + os.urandom(6).hex(), seed=6, chains=1)
    start = NOW + timedelta(hours=3)
    chain = salon.chains[0] | {
        "day": TODAY, "status": "confirmed", "confirmed_at": NOW, "start_at": start, "end_at": start + timedelta(hours=1),
        "cancelled_at": None, "no_show": False, "completed_at": None, "merged_into": None,
    }  # fmt: skip
    salon.chains, salon.intents, salon.messages, salon.others = [chain], [], [], []
    await store(database, salon)
    asked = Asked(TODAY, TODAY)

    async def counts(now: datetime) -> tuple[int, int, int]:
        found = only(await ask(reads(pool, now), salon, asked)).counts
        return found["booked"], found["due"], found["visits"]

    tick = timedelta(microseconds=1)
    assert await counts(NOW) == (1, 0, 0)
    assert await counts(start) == (1, 0, 0)
    assert await counts(start + tick) == (1, 1, 0)
    assert await counts(start + timedelta(hours=3) - tick) == (1, 1, 0)
    assert await counts(start + timedelta(hours=3)) == (1, 1, 1)


async def test_an_empty_tenant_gives_nulls_not_zeros(database: Database, pool: asyncpg.Pool) -> None:
    salon = Salon("t" + os.urandom(6).hex())
    await store(database, salon)

    figures = only(await ask(reads(pool), salon, Asked(TODAY, TODAY)))

    sums = {metric.name for metric in METRICS if metric.denominator is None}
    assert {name: value for name, value in figures.metrics().items() if value is not None} == dict.fromkeys(
        sums, 0
    )
    assert set(figures.all_counts().values()) == {0}


async def test_metrics_are_immature_until_all_is_decided(database: Database, pool: asyncpg.Pool) -> None:
    salon = await new_salon(database, seed=7, chains=60)
    asked = Asked(TODAY - 3 * DAY, TODAY - 3 * DAY)

    async def immature(now: datetime) -> set[str]:
        report = await ask(reads(pool, now), salon, asked)
        return set(only(report).immature(report.window.end, report.as_of))

    end = datetime(asked.last.year, asked.last.month, asked.last.day, tzinfo=HOME).astimezone(UTC) + DAY
    assert await immature(end - timedelta(seconds=1)) == {metric.name for metric in METRICS}
    assert "noShowRate" in await immature(end) and "cancellationRate" not in await immature(end)
    assert await immature(end + 2 * DAY) == {"firstTimeRetention90"}
    assert await immature(end + 90 * DAY) == set()


async def test_what_waits_in_an_outbox_or_is_not_read_holds_as_of_back(
    database: Database, pool: asyncpg.Pool
) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        assert await reads(pool).as_of() == NOW
        times = []
        for n, mark in enumerate(("booking", "sender", "rollup")):
            at = NOW - timedelta(minutes=n + 1)
            await admin.execute(
                f"INSERT INTO {mark}.read_marks (topic, partition, read_until, partitions) VALUES ('x', 0, $1, 2), ('x', 1, $2, 2)",
                at, NOW,
            )  # fmt: skip
            times.append(await reads(pool).as_of())
        for n, schema in enumerate(("ingest", "booking", "sender")):
            await admin.execute(
                f"INSERT INTO {schema}.outbox (record_id, topic, key, type, source, subject, tenant_id, occurred_at, payload,"
                " created_at) VALUES (gen_random_uuid(), '', '', '', '', '', '', now(), '', $1)"
                if schema != "ingest"
                else "INSERT INTO ingest.outbox (item_id, created_at) VALUES (gen_random_uuid(), $1)",
                NOW - timedelta(minutes=n + 4),
            )
            times.append(await reads(pool).as_of())
    finally:
        for schema in ("ingest", "booking", "sender"):
            await admin.execute(f"TRUNCATE {schema}.outbox")
        for schema in ("booking", "sender", "rollup"):
            await admin.execute(f"TRUNCATE {schema}.read_marks")
        await admin.close()

    assert times == [NOW - timedelta(minutes=n) for n in range(1, 7)]


@pytest.mark.parametrize(
    "text",
    [
        SQL["tenant"],
        SQL["utilisation"],
        SQL["clients"],
        SQL["as_of"],
        *FROM_FACTS.values(),
        *FROM_CELLS.values(),
    ],
)
async def test_every_query_prepares(pool: asyncpg.Pool, text: str) -> None:
    async with pool.acquire() as connection:
        statement = await connection.prepare(text)

        assert statement.get_attributes()
