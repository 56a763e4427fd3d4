"""`turnout rollup verify | rebuild | run` on a real database: exit status, JSON on stdout, words on stderr."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.infrastructure import Database
from tests.integration.rollup_world import Rollup, chain, rollup_on
from turnout_cli import rollup_commands
from turnout_cli.errors import CommandError
from turnout_common.clock import SystemClock
from turnout_rollup.verify import Report
from turnout_rollup.verify import verify as verify_tenants


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
    monkeypatch.setenv("TURNOUT_MAINTENANCE_DSN", database.dsn("maintenance"))


def on(database: Database, work: Callable[[Rollup], Awaitable[None]]) -> None:
    """Does something to the database outside the command's own event loop."""

    async def run() -> None:
        async with rollup_on(database) as rollup:
            await work(rollup)

    asyncio.run(run())


@pytest.fixture
def planted(database: Database, tenant_id: str) -> str:
    """A tenant with one fact that drifted and one that is missing, both of an hour ago."""
    at = SystemClock().now()
    kept, lost = chain(tenant_id, start_at=at, gross_minor=500), chain(tenant_id, start_at=at)

    async def plant(rollup: Rollup) -> None:
        await rollup.write_logs([kept, lost])
        await rollup.admin.execute("ALTER TABLE booking.booking_events DISABLE TRIGGER append_only")
        await rollup.admin.execute(
            "UPDATE booking.booking_events SET created_at = created_at - interval '1 hour' WHERE tenant_id = $1",
            tenant_id,
        )
        await rollup.admin.execute("ALTER TABLE booking.booking_events ENABLE TRIGGER append_only")
        await rollup.apply(kept)
        await rollup.admin.execute(
            "UPDATE rollup.chain_facts SET gross_minor = 1 WHERE tenant_id = $1", tenant_id
        )

    on(database, plant)
    return tenant_id


def test_verify_of_a_sound_tenant_exits_0(tenant_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollup_commands.verify(tenant=tenant_id) == 0

    out, err = capsys.readouterr()
    assert out == ""
    assert "✓ 0 facts of 1 tenants, and their day cells, are what the logs say" in err


def test_verify_names_drift_and_missing_and_exits_1(planted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollup_commands.verify(tenant=planted, wait=0, as_json=True) == 1

    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["ok"], report["tenants"]) == (False, 1)
    fields = [drift["fields"] for drift in report["drift"]]
    assert {"gross_minor": [500, 1]} in fields
    assert [missing["version"] for missing in report["missing"]] == [1]
    assert "gross_minor is 1, the log says 500" in err
    assert "the log has version 1, nothing was applied" in err


def test_verify_waits_for_what_is_on_its_way(
    database: Database, tenant_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    late = chain(tenant_id)
    on(database, lambda rollup: rollup.write_logs([late]))
    reports: list[Report] = []

    async def slow(*arguments: Any, **options: Any) -> Any:
        report = await verify(*arguments, **options)
        reports.append(report)
        async with rollup_on(database) as rollup:
            await rollup.apply(late)
        return report

    verify = verify_tenants
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollup_commands, "verify_tenants", slow)
        assert rollup_commands.verify(tenant=tenant_id, wait=20) == 0

    assert [report.ok for report in reports] == [False, True]


def test_rebuild_mends_and_verify_passes_after_it(planted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollup_commands.rebuild(tenant=planted, as_json=True) == 0

    assert json.loads(capsys.readouterr().out)["mended"] == {planted: 2}
    assert rollup_commands.verify(tenant=planted, wait=0) == 0


def test_run_mends_and_exits_1_once(planted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollup_commands.run(granularity="hourly", tenant=planted) == 1
    assert "✓ all of it is mended" in capsys.readouterr().err

    assert rollup_commands.run(granularity="hourly", tenant=planted, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["granularity"] == "hourly"


@pytest.mark.parametrize("command", ["verify", "rebuild"])
def test_unknown_tenant_is_told_in_words(command: str) -> None:
    with pytest.raises(CommandError, match="there is no tenant 'nobody'"):
        getattr(rollup_commands, command)(tenant="nobody")


def test_progress_is_told(tenant_id: str, database: Database) -> None:
    events = [chain(tenant_id, start_at=SystemClock().now() + timedelta(hours=n)) for n in range(3)]
    on(database, lambda rollup: rollup.write_logs(events))
    told = []

    asyncio.run(
        rollup_commands._rebuild("embedded", tenant_id, False, lambda done, total: told.append((done, total)))
    )

    assert told[-1] == (3, 3)
