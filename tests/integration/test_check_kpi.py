"""`turnout check-kpi`: two ways from the same events, rollup with kpi-api and plain SQL over the logs, give one result."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.kpi_salon import HOME, NOW, Row, Salon, random_salon
from tests.integration.kpi_server import running
from tests.integration.rollup_world import Event, Rollup, chain, fact, intent, message, rollup_on
from turnout_cli import check_kpi as command
from turnout_cli.errors import CommandError
from turnout_common.tenants import TenantSettings, create_api_token, create_tenant

#: Derived by rollup from the state and the tenant's settings.
DERIVED = {"tenant_id", "version", "day", "off_peak", "on_grid", "late_cancel", "own_currency", "clock_at"}
UNUSUAL = TenantSettings(notice_hours=30, off_peak_before=12, off_peak_after=17, grid_minutes=20)


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    async with rollup_on(database) as started:
        yield started


@pytest.fixture(autouse=True)
async def system(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> AsyncIterator[None]:
    """A kpi-api on the module's database, where the command finds it."""
    async with running(database.dsn("kpi"), demo_is_open=False) as api:
        monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
        monkeypatch.setenv("TURNOUT_KPI_API_URL", api.url)
        monkeypatch.setenv("TURNOUT_MAINTENANCE_DSN", database.dsn("maintenance"))
        monkeypatch.setattr(command, "PAUSE_SECONDS", 0.01)
        yield


@pytest.fixture
async def tenant(database: Database, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tenant with settings of its own, and its owner's token in the environment."""
    name = "k" + os.urandom(6).hex()
    connection = await asyncpg.connect(database.dsn("platform"))
    try:
        await create_tenant(connection, MASTER_KEY, name, HOME.key, settings=UNUSUAL)
        monkeypatch.setenv("TURNOUT_TOKEN", await create_api_token(connection, name, "owner"))
    finally:
        await connection.close()
    return name


def events(tenant_id: str, seed: int, size: int) -> Iterator[Event]:
    """Every entity of a random salon at its last version, and for many an older one that says something else."""
    rnd = random.Random(seed)
    salon = random_salon(tenant_id, seed, size)
    older = random_salon(tenant_id, seed + 1000, size)
    for kind in ("chains", "intents", "messages", "others"):
        for last, first in zip(rows_of(salon, kind), rows_of(older, kind), strict=True):
            entity = next(
                name for name in ("booking_id", "intent_id", "message_id", "fact_id") if last[0] == name
            )
            yield made(kind, tenant_id, 2, last[1])
            if rnd.random() < 0.5:
                yield made(kind, tenant_id, 1, first[1] | {entity: last[1][entity]})


def rows_of(salon: Salon, kind: str) -> list[tuple[str, Row]]:
    key = {"chains": "booking_id", "intents": "intent_id", "messages": "message_id", "others": "fact_id"}[
        kind
    ]
    return [(key, row) for row in getattr(salon, kind)]


def made(kind: str, tenant_id: str, version: int, row: Row) -> Event:
    state = {name: value for name, value in row.items() if name not in DERIVED}
    if kind != "messages":
        state |= {name: state[name] or None for name in ("staff_id", "service_id")}
    if not row.get("own_currency", True):
        state["currency"] = "USD"
    if kind == "chains":
        return chain(tenant_id, version, **state)
    if kind == "intents":
        return intent(tenant_id, version, **state)
    for name in ("service_id", "staff_id") if kind == "messages" else ("service_id",):
        state.pop(name)
    if kind == "messages":
        return message(tenant_id, version, **state)
    return fact(tenant_id, state.pop("fact"), version, **state)


async def checked(tenant: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The command's exit status and what it printed, run as from a shell."""
    status = await asyncio.to_thread(command.check_kpi, tenant=tenant, as_json=True)
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("seed", range(3))
async def test_api_and_logs_agree_on_a_random_history(
    rollup: Rollup, tenant: str, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    history = list(events(tenant, seed, 150))
    await rollup.write_logs(history)
    await rollup.apply(*history)

    status, report = await checked(tenant, capsys)

    assert [figure for figure in report["figures"] if not figure["ok"]] == []
    assert (status, report["ok"]) == (0, True)
    assert report["windows"] > 14
    assert len(report["figures"]) == 32
    shown = {figure["name"]: figure["api"] for figure in report["figures"]}
    assert shown["noShowRate"]["denominator"] > 20 and shown["utilizationRate"]["value"] > 0
    assert shown["repeatVisitRate"]["value"] > 0 and shown["messageDeliveryRate"]["value"] > 0


@pytest.mark.parametrize(
    ("damage", "figure"),
    [
        ("UPDATE rollup.chain_facts SET no_show = NOT no_show WHERE tenant_id = $1", "noShowRate"),
        ("UPDATE rollup.chain_days SET net = net + 1 WHERE tenant_id = $1", "revenueNet"),
        ("DELETE FROM rollup.intent_days WHERE tenant_id = $1", "bookingSuccessRate"),
        ("UPDATE rollup.other_facts SET break_minutes = 60 WHERE tenant_id = $1", "utilizationRate"),
        ("UPDATE rollup.chain_facts SET client_id = NULL WHERE tenant_id = $1", "newClients"),
        ("UPDATE rollup.message_days SET dead = 0 WHERE tenant_id = $1", "deadLetterRate"),
    ],
)
async def test_what_is_not_what_the_logs_say_is_named(
    rollup: Rollup, tenant: str, capsys: pytest.CaptureFixture[str], damage: str, figure: str
) -> None:
    history = list(events(tenant, 40, 60))
    await rollup.write_logs(history)
    await rollup.apply(*history)
    await rollup.admin.execute(damage, tenant)

    status, report = await checked(tenant, capsys)

    wrong = {entry["name"]: entry for entry in report["figures"] if not entry["ok"]}
    assert (status, report["ok"]) == (1, False)
    assert figure in wrong
    difference = wrong[figure]["differences"][0]
    assert difference["api"] != difference["logs"]


async def test_what_the_pipeline_is_busy_with_is_asked_again(
    rollup: Rollup, tenant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PAUSE_SECONDS", 0.2)
    history = list(events(tenant, 50, 40))
    await rollup.write_logs(history)

    checking = asyncio.create_task(checked(tenant, capsys))
    await asyncio.sleep(0.1)
    await rollup.apply(*history)

    assert (await checking)[0] == 0


async def test_a_person_sees_both_values_of_each_figure(
    rollup: Rollup, tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = NOW - timedelta(days=1)
    visits = [chain(tenant, start_at=start, end_at=start + timedelta(hours=1)) for _ in range(2)]
    missed = chain(tenant, start_at=start, end_at=start + timedelta(hours=1), status="no_show", no_show=True)
    await rollup.write_logs([*visits, missed])
    await rollup.apply(*visits)

    status = await asyncio.to_thread(command.check_kpi, tenant=tenant)

    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines()]
    assert status == 1
    assert ["✗", "noShowRate", "0", "(0", "/", "2)", "33.3", "(1", "/", "3)"] in lines
    assert ["✓", "newClients", "0", "0"] in lines
    assert "✗ noShowRate, 2026-11-23" in shown.err
    assert "figures of" in shown.err


async def test_a_tenant_without_history_is_all_null_and_fine(
    tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = await checked(tenant, capsys)

    assert status == 0
    assert {figure["api"]["value"] for figure in report["figures"]} == {None, 0}


async def test_refusals_say_what_to_do(tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="there is no tenant 'nobody'"):
        await asyncio.to_thread(command.check_kpi, tenant="nobody")
    monkeypatch.delenv("TURNOUT_TOKEN")
    with pytest.raises(CommandError, match=f"turnout tenant token create {tenant}"):
        await asyncio.to_thread(command.check_kpi, tenant=tenant)
    monkeypatch.setenv("TURNOUT_KPI_API_URL", "http://127.0.0.1:1")
    with pytest.raises(CommandError, match="kpi-api does not answer"):
        await asyncio.to_thread(command.check_kpi, tenant=tenant)
