"""`turnout tenant`, `inbox` and `dlq` on a real database: what they write, what they print, and how they refuse."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from cyclopts import CycloptsError

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from turnout_cli import dlq, inbox, tenant, tenant_channels
from turnout_cli.actor import who
from turnout_cli.demo_seed import channel_secrets, read_tenant
from turnout_cli.errors import CommandError
from turnout_common.channel_secrets import new_secret
from turnout_common.postgres import create_pool, load_queries
from turnout_common.security import TenantKeys
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import Tenant, rotate_secret, tenant_keys

T = TypeVar("T")
EVENTS_SECRET = "whsec_" + base64.b64encode(b"a secret of events, 32 bytes ...").decode()


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
    monkeypatch.setenv("TURNOUT_PLATFORM_DSN", database.dsn("platform"))
    monkeypatch.setenv("TURNOUT_MAINTENANCE_DSN", database.dsn("maintenance"))
    monkeypatch.setenv("TURNOUT_MASTER_KEY", base64.b64encode(MASTER_KEY).decode())


@pytest.fixture
def name() -> str:
    return "c" + os.urandom(5).hex()


def with_connection(dsn: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    async def run() -> T:
        connection = await asyncpg.connect(dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def stored(database: Database, name: str) -> Tenant:
    async def read() -> Tenant | None:
        pool = await create_pool(database.dsn("platform"), "test", 1)
        try:
            directory = TenantDirectory(pool, MASTER_KEY)
            await directory.reload()
            return directory.get(name)
        finally:
            await pool.close()

    found = asyncio.run(read())
    assert found is not None
    return found


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
    tenant.create_token(name, label="till")

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


def secrets_of(database: Database, name: str, channel: str) -> tuple[str, ...]:
    return stored(database, name).channels[channel].secrets


def acts(database: Database, name: str) -> list[str]:
    rows = with_connection(
        database.admin_dsn,
        lambda c: c.fetch(
            "SELECT action FROM platform.audit_log WHERE tenant_id = $1 ORDER BY audit_id", name
        ),
    )
    return [row["action"] for row in rows]


@pytest.mark.parametrize("channel", ["calcom", "telegram", "max", "events"])
def test_a_rotation_makes_a_secret_prints_it_once_and_keeps_the_old_one_for_the_overlap(
    database: Database, name: str, channel: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old = new_secret(channel)
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, channel, secret=old)
    capsys.readouterr()

    assert tenant_channels.rotate_secret(name, channel) == 0

    out, err = capsys.readouterr()
    made = out.strip()
    assert secrets_of(database, name, channel) == (made, old)
    assert made not in err and old not in out + err
    assert "dies by itself" in err
    assert acts(database, name)[-1] == "secret.rotated"


def test_a_given_secret_is_not_printed_and_a_third_ends_the_first_at_once(
    database: Database, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "whatsapp", secret="first")
    tenant_channels.rotate_secret(name, "whatsapp", secret="second", overlap="7d")
    capsys.readouterr()

    tenant_channels.rotate_secret(name, "whatsapp", secret="third", overlap="30m")

    out, err = capsys.readouterr()
    assert (out, secrets_of(database, name, "whatsapp")) == ("", ("third", "second"))
    assert "two at most" in err
    assert "third" not in err


def test_a_leaked_secret_ends_at_once(
    database: Database, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="leaked")

    tenant_channels.rotate_secret(name, "calcom", secret="new", overlap="0")

    assert secrets_of(database, name, "calcom") == ("new",)
    assert "refused from now on" in capsys.readouterr().err


def test_secrets_beyond_the_largest_number_begin_anew(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="first")
    with_connection(
        database.admin_dsn,
        lambda c: c.execute(
            "UPDATE platform.channel_secrets SET secret_no = 32000 WHERE tenant_id = $1", name
        ),
    )

    for secret in ("second", "third"):
        tenant_channels.rotate_secret(name, "calcom", secret=secret)

    assert secrets_of(database, name, "calcom") == ("third", "second")


def test_a_rotation_that_makes_no_sense_is_refused(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="first")

    for channel, options, words in (
        ("calcom", {"secret": "first"}, "in use"),
        ("calcom", {"overlap": "soon"}, "length of time"),
        ("calcom", {"overlap": "91d"}, "too long"),
        ("vk", {}, "gives the secret itself"),
        ("max", {}, "no channel max"),
    ):
        with pytest.raises(CommandError, match=words):
            tenant_channels.rotate_secret(name, channel, **options)  # type: ignore[arg-type]
    with pytest.raises(CommandError, match="no tenant"):
        tenant_channels.rotate_secret("nobody", "calcom")
    assert secrets_of(database, name, "calcom") == ("first",)


def test_two_rotations_at_once_leave_two_secrets(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="first")

    async def both() -> None:
        connections = [await asyncpg.connect(database.dsn("platform")) for _ in range(4)]
        await asyncio.gather(
            *(
                rotate_secret(c, MASTER_KEY, name, "calcom", f"new-{number}", timedelta(hours=1))
                for number, c in enumerate(connections)
            )
        )
        for connection in connections:
            await connection.close()

    asyncio.run(both())
    found = secrets_of(database, name, "calcom")
    assert len(found) == 2
    assert {secret[:4] for secret in found} == {"new-"}


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


def test_a_token_is_printed_once_and_works(
    database: Database, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    capsys.readouterr()

    tenant.create_token(name, scope="staff", staff_id="anna")

    token = capsys.readouterr().out.strip()
    row = with_connection(
        database.admin_dsn,
        lambda c: c.fetchrow(
            "SELECT tenant_id, scope, staff_id FROM platform.api_tokens WHERE token_hash = sha256($1)",
            token.encode(),
        ),
    )
    assert row is not None
    assert tuple(row) == (name, "staff", "anna")


@pytest.mark.parametrize(
    ("tenant_id", "options"),
    [
        (None, {"scope": "owner"}),
        ("x", {"scope": "operator"}),
        ("x", {"scope": "staff"}),
        ("x", {"staff_id": "a"}),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(tenant_id: str | None, options: dict[str, Any]) -> None:
    with pytest.raises(CommandError):
        tenant.create_token(tenant_id, **options)


def test_the_demo_finds_the_secrets_or_says_which_is_missing(name: str) -> None:
    from turnout_cli.connection import resolve

    tenant.create(name, timezone="Europe/Berlin")
    for channel in ("calcom", "telegram"):
        tenant_channels.set_channel(name, channel, secret=f"of-{channel}")

    with pytest.raises(CommandError, match="no secret for events"):
        channel_secrets(asyncio.run(read_tenant(resolve(), name)))
    tenant_channels.set_channel(name, "events", secret=EVENTS_SECRET)
    assert channel_secrets(asyncio.run(read_tenant(resolve(), name)))["telegram"] == "of-telegram"


ITEM = """
WITH stored AS (
  INSERT INTO ingest.inbox (item_id, request_id, tenant_id, channel, kind, event_type, fate, reason, kafka_key, subject,
    occurred_at, received_at, key_hash, payload)
  VALUES ($1, $1, $2, 'calcom', 'booking', 'BOOKING_CREATED', 'published', NULL, $2, 'uid-1', now(), now(), $3, '{"a": 1}')
)
INSERT INTO ingest.raw_items (item_id, tenant_id, sealed, received_at) VALUES ($1, $2, $4, now())
"""


def keys_of(database: Database, name: str) -> TenantKeys:
    return with_connection(database.dsn("platform"), lambda c: tenant_keys(c, MASTER_KEY, name))


def stored_item(database: Database, name: str) -> UUID:
    item_id = uuid4()
    sealed = keys_of(database, name).seal("raw", '{"triggerEvent":"Ы"}'.encode())
    with_connection(
        database.dsn("maintenance"), lambda c: c.execute(ITEM, item_id, name, os.urandom(16), sealed)
    )
    return item_id


def test_the_inbox_tells_the_fate_in_words_and_the_raw_body_to_the_key_holder(
    database: Database, name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    item_id = stored_item(database, name)
    capfdbinary.readouterr()

    inbox.list_items(tenant=name, fate="published", since="1h", as_json=True)
    listed = json.loads(capfdbinary.readouterr().out)
    inbox.show(item_id, as_json=True)
    shown = json.loads(capfdbinary.readouterr().out)
    inbox.show(item_id, raw=True)
    raw = capfdbinary.readouterr().out

    assert [row["item_id"] for row in listed] == [str(item_id)]
    assert listed[0]["reason"] == "published to inbound_webhooks"
    assert (shown["payload"], shown["has_raw"], shown["subject"]) == ({"a": 1}, True, "uid-1")
    assert raw.decode() == '{"triggerEvent":"Ы"}'


def test_the_raw_body_stays_closed_without_the_right_key(
    database: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    item_id = stored_item(database, name)
    monkeypatch.setenv("TURNOUT_MASTER_KEY", base64.b64encode(b"x" * 32).decode())

    with pytest.raises(CommandError, match="TURNOUT_MASTER_KEY"):
        inbox.show(item_id, raw=True)
    assert raw_shown(database, name) == []


def raw_shown(database: Database, name: str) -> list[tuple[str, dict[str, Any]]]:
    """What the audit log tells of raw bodies that were shown: who, and the details."""
    rows = with_connection(
        database.dsn("platform"),
        lambda c: c.fetch(
            "SELECT actor, details FROM platform.audit_log WHERE tenant_id = $1 AND action = 'inbox.show_raw'",
            name,
        ),
    )
    return [(row["actor"], json.loads(row["details"])) for row in rows]


def test_a_raw_body_that_was_shown_stands_in_the_audit_log_without_its_content(
    database: Database, name: str
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    item_id = stored_item(database, name)

    inbox.show(item_id)
    assert raw_shown(database, name) == []
    inbox.show(item_id, raw=True)
    assert raw_shown(database, name) == [(who(), {"item_id": str(item_id)})]


def test_a_raw_body_is_not_shown_when_that_cannot_be_noted(
    database: Database, name: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    item_id = stored_item(database, name)
    monkeypatch.setenv("TURNOUT_PLATFORM_DSN", database.dsn("maintenance"))
    capfdbinary.readouterr()

    with pytest.raises(CommandError, match="audit_log"):
        inbox.show(item_id, raw=True)
    assert capfdbinary.readouterr().out == b""


def test_an_unknown_item_and_a_bad_time_are_told() -> None:
    with pytest.raises(CommandError, match="no item"):
        inbox.show(uuid4())
    with pytest.raises(CommandError, match="neither a time"):
        inbox.list_items(since="yesterday")
    with pytest.raises(CommandError, match="neither a time"):
        inbox.list_items(since="999999999d")


@pytest.mark.parametrize(
    "words", ["list --limit 0", "list --channel vkmax", "fates --check --days 400", "fates --check --days -1"]
)
def test_a_number_or_channel_that_makes_no_sense_is_refused(words: str) -> None:
    with pytest.raises(CycloptsError, match=r"Invalid value"):
        inbox.app(words.split(), exit_on_error=False, print_error=False)


LETTER = """
INSERT INTO rollup.dead_letters (record_id, tenant_id, topic, partition, record_offset, reason, key, header_names,
  header_values, value)
VALUES ($1, $2, 'booking_events', 0, $3, 'it was broken', 'k', '{ce_id,odd}', ARRAY['x'::bytea, '\\xff'::bytea], '{')
RETURNING dead_letter_id
"""


def buried(database: Database, name: str) -> int:
    offset = int.from_bytes(os.urandom(4), "big")
    found: int = with_connection(database.dsn("rollup"), lambda c: c.fetchval(LETTER, uuid4(), name, offset))
    return found


def test_dead_letters_are_listed_and_shown(
    database: Database, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = buried(database, name)

    dlq.list_letters(tenant=name, as_json=True)
    listed = json.loads(capsys.readouterr().out)
    dlq.show("rollup", number, as_json=True)
    shown = json.loads(capsys.readouterr().out)

    assert [(row["service"], row["dead_letter_id"], row["reason"]) for row in listed] == [
        ("rollup", number, "it was broken")
    ]
    assert (shown["headers"], shown["value"], shown["key"]) == ({"ce_id": "x", "odd": "\\xff"}, "{", "k")


def test_a_replay_that_nobody_takes_fails_and_says_so(
    database: Database, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = buried(database, name)

    assert dlq.replay("rollup", [number], wait=0.1) == 1

    assert "is the service running" in capsys.readouterr().err
    requested = with_connection(
        database.admin_dsn,
        lambda c: c.fetchval(
            "SELECT replay_requested_at IS NOT NULL FROM rollup.dead_letters WHERE dead_letter_id = $1",
            number,
        ),
    )
    assert requested


def test_a_replay_needs_to_know_what() -> None:
    with pytest.raises(CommandError, match="--all"):
        dlq.replay("booking")
    with pytest.raises(CommandError, match="no dead letter"):
        dlq.replay("booking", [987654321])


@pytest.mark.parametrize("file", ["inbox.sql", "dlq.sql", "smoke.sql", "tenant.sql", "reconcile_calcom.sql"])
def test_every_query_prepares_as_the_maintenance_role(database: Database, file: str) -> None:
    async def prepare(connection: asyncpg.Connection) -> None:
        for text in load_queries("turnout_cli", file).values():
            for schema in dlq.SERVICES:
                await connection.prepare(text.replace("{schema}", schema))

    with_connection(database.dsn("maintenance"), prepare)
