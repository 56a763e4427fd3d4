"""`turnout tenant settings` on a real database: what it shows, what it sets, and how it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.infrastructure import Database
from tests.integration.command_world import acts, stored, with_connection
from turnout_cli import tenant, tenant_settings
from turnout_cli.actor import who
from turnout_cli.errors import CommandError
from turnout_common.tenants import TenantSettings, update_settings

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("command_environment")


def overrides(database: Database, name: str) -> dict[str, Any]:
    sql = "SELECT settings FROM platform.tenants WHERE tenant_id = $1"
    found = with_connection(database.admin_dsn, lambda connection: connection.fetchval(sql, name))
    return dict(json.loads(found))


def told(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    tenant_settings.show(name, as_json=True)
    return {row["setting"]: row for row in json.loads(capsys.readouterr().out)}


def test_each_setting_is_shown_with_its_value_whether_it_is_the_default_and_its_meaning(
    created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_settings.set_settings(created, "raw_days=60", "staff_map.17=anna")

    rows = told(capsys, created)
    tenant_settings.show(created)
    table = capsys.readouterr().out

    assert list(rows) == list(TenantSettings.model_fields)
    assert (rows["raw_days"]["value"], rows["raw_days"]["default"], rows["raw_days"]["is_default"]) == (
        60, 30, False,
    )  # fmt: skip
    assert (rows["notice_hours"]["value"], rows["notice_hours"]["is_default"]) == (24, True)
    assert rows["staff_map"]["value"] == {"17": "anna"}
    for setting, field in TenantSettings.model_fields.items():
        assert rows[setting]["meaning"] == field.description
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert re.search(r"raw_days +60 +no +Days for which", lines["raw_days"])
    assert re.search(r'staff_map +\{"17": "anna"\} +no ', lines["staff_map"])
    assert re.search(r"service_map +– +yes ", lines["service_map"])


def test_settings_are_set_together_and_the_services_read_them(
    database: Database, created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_settings.set_settings(created, "quiet_from=23")

    tenant_settings.set_settings(created, "raw_days=60", "notice_hours=48", 'service_map={"9": "cut"}')

    found = stored(database, created).settings
    assert (found.raw_days, found.notice_hours, found.quiet_from) == (60, 48, 23)
    assert found.service_map == {"9": "cut"}
    err = capsys.readouterr().err
    assert f"✓ {created}: raw_days 30 → 60" in err
    assert "`turnout prune`" in err
    assert f"✓ {created}: service_map.9 – → cut" in err
    assert "within a second" in err


def test_nothing_after_the_sign_is_the_default_again(
    database: Database, created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_settings.set_settings(created, "raw_days=60", "notice_hours=48", "staff_map.17=anna")
    capsys.readouterr()

    tenant_settings.set_settings(created, "raw_days=", "staff_map=")

    assert overrides(database, created) == {"notice_hours": 48}
    err = capsys.readouterr().err
    assert "raw_days 60 → 30 (the default)" in err
    assert "staff_map.17 anna → –" in err
    tenant_settings.set_settings(created, "raw_days=")
    assert f"– {created}: raw_days was so already" in capsys.readouterr().err


def test_one_entry_of_a_map_is_added_changed_and_taken_out_and_the_others_stay(
    database: Database, created: str
) -> None:
    tenant_settings.set_settings(created, "staff_map.17=anna", "staff_map.boris.k=boris", "staff_map.18=19")

    tenant_settings.set_settings(created, 'staff_map.17="clara"', "staff_map.18=")

    assert stored(database, created).settings.staff_map == {"17": "clara", "boris.k": "boris"}


def test_two_who_set_an_entry_at_once_lose_neither(database: Database, created: str) -> None:
    async def both() -> None:
        first, second = [await asyncpg.connect(database.dsn("platform")) for _ in range(2)]
        outer = first.transaction()
        await outer.start()
        await update_settings(first, created, {}, entries={"staff_map": {"1": "anna"}})
        other = asyncio.create_task(
            update_settings(second, created, {}, entries={"staff_map": {"2": "boris"}})
        )
        await asyncio.sleep(0.3)
        assert not other.done()
        await outer.commit()
        await other
        await first.close()
        await second.close()

    asyncio.run(both())

    assert stored(database, created).settings.staff_map == {"1": "anna", "2": "boris"}


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["raw_day=3"], "no setting 'raw_day'; did you mean raw_days?"),
        (["colour=red"], "no setting 'colour'; there are notice_hours, .*service_map"),
        (["colour="], "no setting 'colour'"),
        (["timezone=Asia/Almaty"], "timezone is no setting: it is chosen by `tenant create`"),
        (["currency=KZT"], "currency is no setting"),
        (["raw_days"], "'raw_days' gives no value"),
        (["raw_days=0"], "raw_days must be a whole number from 1 to 365, not 0"),
        (["raw_days=many"], 'from 1 to 365, not "many"'),
        (["raw_days=true"], "from 1 to 365, not true"),
        (["raw_days=7.0"], "from 1 to 365, not 7.0"),
        (['raw_days="7"'], 'from 1 to 365, not "7"'),
        (["notice_hours=99999999999"], "from 0 to 8760"),
        (["raw_days.x=1"], "raw_days has no entries"),
        (["raw_days=1", "raw_days=2"], "raw_days is given twice"),
        (['staff_map={"1": "a"}', "staff_map.2=b"], "staff_map.2 is given twice"),
        (["staff_map.2=b", "staff_map="], "staff_map is given twice"),
        (["staff_map=anna"], "staff_map must be a JSON object"),
        (['staff_map={"17": ""}'], "texts of 1 to 255 characters"),
        (['staff_map={"17": 4}'], "texts of 1 to 255 characters.*not 4"),
        (["staff_map.17=" + "x" * 256], "texts of 1 to 255 characters"),
        (["staff_map.=anna"], "texts of 1 to 255 characters"),
        (["staff_map.18="], "staff_map has no entry '18'"),
        ([], "say what to set"),
    ],
)
def test_what_cannot_be_set_is_told_with_what_is_allowed_and_changes_nothing(
    database: Database, created: str, assignments: list[str], words: str
) -> None:
    tenant_settings.set_settings(created, "staff_map.17=anna", "quiet_from=23")
    before, done = overrides(database, created), acts(database, created)

    with pytest.raises(CommandError, match=words):
        tenant_settings.set_settings(created, *(["grid_minutes=20"] if assignments else []), *assignments)

    assert overrides(database, created) == before
    assert acts(database, created) == done


def test_each_wrong_one_has_a_line_of_its_own(created: str) -> None:
    with pytest.raises(CommandError) as refused:
        tenant_settings.set_settings(created, "raw_days=0", "quiet_from=25")
    assert len(str(refused.value).splitlines()) == 2
    with pytest.raises(CommandError) as refused:
        tenant_settings.set_settings(created, "raw_dayz=1", "colour=red", "raw_days=1")
    assert len(str(refused.value).splitlines()) == 2


def test_a_tenant_that_is_not_there_or_deleted_has_no_settings(database: Database, created: str) -> None:
    sql = "UPDATE platform.tenants SET status = 'deleted' WHERE tenant_id = $1"
    with_connection(database.admin_dsn, lambda connection: connection.execute(sql, created))

    for who_is_gone in ("nobody", created):
        with pytest.raises(CommandError, match=f"no tenant '{who_is_gone}'"):
            tenant_settings.show(who_is_gone)
        with pytest.raises(CommandError, match=f"no tenant '{who_is_gone}'"):
            tenant_settings.set_settings(who_is_gone, "raw_days=7")


def test_the_audit_log_tells_who_set_what_but_not_who_is_whom(database: Database, created: str) -> None:
    tenant_settings.set_settings(created, "raw_days=60", "staff_map.canary-ref=canary-id", "quiet_from=")

    sql = "SELECT actor, details FROM platform.audit_log WHERE tenant_id = $1 AND action = 'tenant.settings'"
    (row,) = with_connection(database.admin_dsn, lambda connection: connection.fetch(sql, created))

    assert row["actor"] == who()
    assert json.loads(row["details"]) == {
        "fields": ["quiet_from", "raw_days", "staff_map"],
        "values": {"raw_days": 60},
        "reset": ["quiet_from"],
    }


def test_what_a_newer_version_set_is_told_and_can_be_taken_out(
    database: Database, created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a step back it would make the services go by the defaults in everything."""
    sql = "UPDATE platform.tenants SET settings = $2 WHERE tenant_id = $1"
    newer = json.dumps({"raw_days": 60, "of_tomorrow": 1})
    with_connection(database.admin_dsn, lambda connection: connection.execute(sql, created, newer))

    assert tenant_settings.show(created) == 1
    assert "no setting 'of_tomorrow'" in capsys.readouterr().err
    tenant_settings.set_settings(created, "of_tomorrow=")

    assert tenant_settings.show(created) == 0
    assert overrides(database, created) == {"raw_days": 60}


def test_the_command_takes_the_words_of_a_shell(database: Database, created: str) -> None:
    words = ["settings", "set", created, "raw_days=8", 'staff_map={"17": "anna"}', "staff_map.18=boris"]
    with pytest.raises(CommandError, match="given twice"):
        tenant.app(words, result_action="return_value")

    assert tenant.app([*words[:-1], "--target", "embedded"], result_action="return_value") == 0

    assert overrides(database, created) == {"raw_days": 8, "staff_map": {"17": "anna"}}


def test_every_setting_says_from_when_it_counts_and_stands_in_the_document() -> None:
    document = (ROOT / "docs/TENANTS.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", document, re.MULTILINE)

    assert set(tenant_settings.COUNTS_FROM) == set(TenantSettings.model_fields)
    assert [(name, default) for name, default, _ in listed if name in TenantSettings.model_fields] == [
        (name, str(default) if default != {} else "empty")
        for name, default in TenantSettings().model_dump().items()
    ]
    for name in TenantSettings.model_fields:
        assert tenant_settings.allowed(name)
