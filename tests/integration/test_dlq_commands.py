"""`turnout dlq` on a real database: what it lists, and a replay that nobody takes."""

from __future__ import annotations

import json
import os
from uuid import uuid4

import asyncpg
import pytest

from tests.infrastructure import Database
from tests.integration.command_world import with_connection
from turnout_cli import dlq
from turnout_cli.errors import CommandError
from turnout_common.postgres import load_queries

pytestmark = pytest.mark.usefixtures("command_environment")


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
