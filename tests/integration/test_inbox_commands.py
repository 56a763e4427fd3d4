"""`turnout inbox list|show` on a real database: what they tell of an item, and to whom its body."""

from __future__ import annotations

import base64
import json
import os
from typing import Any
from uuid import UUID, uuid4

import pytest
from cyclopts import CycloptsError

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.command_world import with_connection
from turnout_cli import inbox, tenant
from turnout_cli.actor import who
from turnout_cli.errors import CommandError
from turnout_common.security import TenantKeys
from turnout_common.tenants import tenant_keys

pytestmark = pytest.mark.usefixtures("command_environment")


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
