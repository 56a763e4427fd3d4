"""`turnout tenant` on a real database: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from typing import Any

import pytest

from tests.infrastructure import Database
from tests.integration.command_world import acts, stored, with_connection
from turnout_cli import tenant, tenant_channels, tenant_tokens
from turnout_cli.actor import who
from turnout_cli.demo_seed import channel_secrets, read_tenant
from turnout_cli.errors import CommandError

EVENTS_SECRET = "whsec_" + base64.b64encode(b"a secret of events, 32 bytes ...").decode()
pytestmark = pytest.mark.usefixtures("command_environment")


def test_a_tenant_is_created_and_its_secret_is_kept_as_given(database: Database, name: str) -> None:
    secret = " a secret, exactly as given=/+ "

    assert tenant.create(name, timezone="Asia/Almaty", currency="KZT", locale="ru") == 0
    assert tenant_channels.set_channel(name, "calcom", secret=secret) == 0
    assert tenant_channels.set_channel(name, "telegram", secret="t", api_token="1:x", routing_id=name) == 0

    found = stored(database, name)
    assert (found.timezone, found.currency, found.locale, found.status) == (
        "Asia/Almaty",
        "KZT",
        "ru",
        "active",
    )
    assert found.channels["calcom"].secrets == (secret,)
    assert (found.channels["telegram"].api_token, found.channels["telegram"].routing_id) == ("1:x", name)


def test_a_channel_keeps_what_is_not_given(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "telegram", secret="first", api_token="1:x")

    tenant_channels.set_channel(name, "telegram", secret="second")

    channel = stored(database, name).channels["telegram"]
    assert (channel.secrets, channel.api_token) == (("second",), "1:x")


@pytest.mark.parametrize(
    ("tenant_id", "options", "words"),
    [
        ("UPPER", {"timezone": "Europe/Berlin"}, "a-z"),
        ("fine", {"timezone": "MSK"}, "'MSK'; they are named as in Europe/Berlin"),
        ("fine", {"timezone": "europe/berlin"}, "did you mean Europe/Berlin"),
        ("fine", {"timezone": "Europe"}, "no time zone 'Europe'"),
        ("fine", {"timezone": "Europe/Berlin", "currency": "euro"}, "capital letters"),
    ],
)
def test_what_cannot_be_a_tenant_is_refused_in_words(
    tenant_id: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(CommandError, match=words):
        tenant.create(tenant_id, **options)


def test_a_tenant_that_exists_or_does_not_is_told(name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")

    with pytest.raises(CommandError, match="exists already"):
        tenant.create(name, timezone="Europe/Berlin")
    for work in (tenant.suspend, tenant.resume):
        with pytest.raises(CommandError, match="no tenant"):
            work("nobody")
    with pytest.raises(CommandError, match="no tenant"):
        tenant_channels.set_channel("nobody", "calcom", secret="x")
    with pytest.raises(CommandError, match="let anyone in"):
        tenant_channels.set_channel(name, "calcom", secret="")


def test_a_channel_that_nobody_can_use_yet_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tenant.create(name, timezone="Europe/Berlin")

    tenant_channels.set_channel(name, "telegram", api_token="1:x")
    assert "no secret yet" in capsys.readouterr().err
    tenant_channels.set_channel(name, "telegram", secret="s")
    assert "no secret yet" not in capsys.readouterr().err


def test_a_tenant_is_suspended_and_resumed(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")

    tenant.suspend(name)
    assert stored(database, name).status == "suspended"
    tenant.resume(name)
    assert stored(database, name).status == "active"


def test_each_act_is_in_the_audit_log_and_no_secret_is(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(
        name, "telegram", secret="canary-one", api_token="canary-two", handshake="canary-three"
    )
    tenant_channels.rotate_secret(name, "telegram", secret="canary-four")
    tenant_channels.disable(name, "telegram")
    tenant_channels.enable(name, "telegram")
    tenant.suspend(name)
    tenant_tokens.create(name, label="till")

    sql = "SELECT action, actor, details FROM platform.audit_log WHERE tenant_id = $1 ORDER BY audit_id"
    found = with_connection(database.admin_dsn, lambda connection: connection.fetch(sql, name))

    assert [row["action"] for row in found] == [
        "tenant.created",
        "channel.set",
        "secret.rotated",
        "channel.disabled",
        "channel.enabled",
        "tenant.status",
        "token.created",
    ]
    assert {row["actor"] for row in found} == {who()}
    assert "canary" not in str(found) and "tt_" not in str(found)


def test_a_deleted_tenant_stays_deleted(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    sql = "UPDATE platform.tenants SET status = 'deleted' WHERE tenant_id = $1"
    with_connection(database.admin_dsn, lambda connection: connection.execute(sql, name))

    with pytest.raises(CommandError, match="no tenant"):
        tenant.resume(name)


def test_a_secret_is_read_from_stdin_and_may_begin_with_a_hyphen(
    database: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others on the machine see what a command was called with."""
    tenant.create(name, timezone="Europe/Berlin")
    monkeypatch.setattr("sys.stdin", io.StringIO("-one\r\n1:token\n two \n"))

    tenant_channels.app(
        ["set", name, "telegram", "--secret", "-", "--api-token", "-"], result_action="return_value"
    )
    assert stored(database, name).channels["telegram"].secrets == ("-one",)
    assert stored(database, name).channels["telegram"].api_token == "1:token"
    tenant_channels.rotate_secret(name, "telegram", secret="-two", overlap="0")
    tenant_channels.app(["set", name, "calcom", "--secret", "-"], result_action="return_value")
    assert stored(database, name).channels["calcom"].secrets == (" two ",)
    tenant_channels.app(["set", name, "calcom", "--secret", "-three"], result_action="return_value")
    assert stored(database, name).channels["calcom"].secrets == ("-three",)
    with pytest.raises(CommandError, match="stdin gave no value"):
        tenant_channels.rotate_secret(name, "telegram", secret="-")


def test_the_list_is_json_for_machines(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "events", secret=EVENTS_SECRET)
    capsys.readouterr()

    tenant.list_all(as_json=True)

    found = next(row for row in json.loads(capsys.readouterr().out) if row["tenant_id"] == name)
    assert found["channels"] == [
        {"channel": "events", "enabled": True, "routing_id": None, "secrets": 1, "old_secret_until": None}
    ]


def test_the_list_tells_how_many_secrets_and_until_when_but_none_of_them(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="first-secret")
    tenant_channels.rotate_secret(name, "calcom", secret="second-secret")
    tenant_channels.set_channel(name, "telegram", api_token="1:x")
    tenant_channels.disable(name, "telegram")
    capsys.readouterr()

    tenant.list_all()
    table = capsys.readouterr().out
    tenant.list_all(as_json=True)
    listed = next(row for row in json.loads(capsys.readouterr().out) if row["tenant_id"] == name)

    assert "calcom (2 secrets, the old one until" in " ".join(table.split())
    assert "telegram (disabled, no secret)" in " ".join(table.split())
    assert [(c["channel"], c["secrets"], c["enabled"]) for c in listed["channels"]] == [
        ("calcom", 2, True),
        ("telegram", 0, False),
    ]
    assert "-secret" not in table + json.dumps(listed)


def test_a_channel_is_disabled_and_enabled_with_what_it_had(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="kept")

    tenant_channels.disable(name, "calcom")
    assert not stored(database, name).channels["calcom"].enabled
    tenant_channels.enable(name, "calcom")

    channel = stored(database, name).channels["calcom"]
    assert (channel.enabled, channel.secrets) == (True, ("kept",))
    with pytest.raises(CommandError, match="no channel"):
        tenant_channels.disable(name, "max")
    assert acts(database, name)[-2:] == ["channel.disabled", "channel.enabled"]


def test_a_value_that_the_provider_could_not_have_is_refused(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")

    for channel, options in (
        ("telegram", {"secret": "with space"}),
        ("events", {"secret": "whsec_short"}),
        ("vk", {"secret": "s", "routing_id": "club1"}),
    ):
        with pytest.raises(CommandError):
            tenant_channels.set_channel(name, channel, **options)  # type: ignore[arg-type]
    assert stored(database, name).channels == {}


def test_a_channel_whose_items_would_be_nobodys_is_told(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    account = str(int.from_bytes(os.urandom(5), "big"))
    tenant.create(name, timezone="Europe/Berlin")

    tenant_channels.set_channel(name, "whatsapp", secret="s")
    assert "no routing id" in capsys.readouterr().err
    tenant_channels.set_channel(name, "whatsapp", routing_id=account)
    tenant_channels.set_channel(name, "whatsapp", secret="t")
    err = capsys.readouterr().err
    assert "no routing id" not in err
    assert "rotate-secret" in err


def test_the_demo_finds_the_secrets_or_says_which_is_missing(name: str) -> None:
    from turnout_cli.connection import resolve

    tenant.create(name, timezone="Europe/Berlin")
    for channel in ("calcom", "telegram"):
        tenant_channels.set_channel(name, channel, secret=f"of-{channel}")

    with pytest.raises(CommandError, match="no secret for events"):
        channel_secrets(asyncio.run(read_tenant(resolve(), name)))
    tenant_channels.set_channel(name, "events", secret=EVENTS_SECRET)
    assert channel_secrets(asyncio.run(read_tenant(resolve(), name)))["telegram"] == "of-telegram"
