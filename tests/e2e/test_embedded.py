"""The way of a newcomer: up, look, smoke, verify, demo data, down, up again with the data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from tests.e2e.stack import Turnout, running_turnout
from tests.e2e.truth import assert_truth, summary
from turnout_cli import contract_files
from turnout_cli.contract_files import Example
from turnout_cli.demo_salon import demo_salon
from turnout_cli.demo_seed import history_until
from turnout_common.clock import SystemClock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TENANT = "e2e-salon"
SECRETS = {
    "calcom": "e2e-calcom",
    "telegram": "e2e-telegram",
    "events": "whsec_ZTJlLXN0YW5kYXJkLXdlYmhvb2tzLXNlY3JldC0wMQ==",
}


@pytest.fixture(scope="module")
def turnout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turnout]:
    home: Path = tmp_path_factory.mktemp("home")
    with running_turnout(home) as started:
        yield started


@pytest.fixture(scope="module")
def token(turnout: Turnout) -> str:
    """An owner's token of a tenant of this module's own, with all channels."""
    turnout.must("tenant", "create", TENANT, "--timezone", "Europe/Berlin", "--currency", "EUR")
    for channel, secret in SECRETS.items():
        turnout.must("tenant", "channel", "set", TENANT, channel, "--secret", secret)
    return turnout.must("tenant", "token", "create", TENANT, "--scope", "owner").strip()


def test_status_tells_scripts_where_everything_is(turnout: Turnout) -> None:
    document = turnout.must_json("status")

    assert document["running"]
    assert {"ingest", "booking", "sender", "rollup", "kpi-api"} <= document["urls"].keys()
    assert document["postgres"].startswith("postgresql://")
    assert document["kafka"]
    assert document["token"].startswith("tt_")


def test_smoke_holds_and_leaves_its_tenant_suspended(turnout: Turnout) -> None:
    told = turnout.must_json("smoke")

    assert told["ok"], told
    assert all(step["ok"] for step in told["steps"])
    states = {row["tenant_id"]: row["status"] for row in turnout.must_json("tenant", "list")}
    assert states[told["tenant"]] == "suspended"


def test_the_demo_tenant_has_a_history_and_all_agree_on_it(turnout: Turnout) -> None:
    today = SystemClock().now().date()
    told = summary(
        turnout.url("kpi-api"), turnout.document["token"], "default", today - timedelta(days=6), today
    )

    assert told["counts"]["visits"] > 20
    turnout.must("check-kpi")
    turnout.must("rollup", "verify")


def test_demo_history_is_told_exactly_and_twice_is_once(turnout: Turnout, token: str) -> None:
    salon = demo_salon("Europe/Berlin", "EUR")
    for _ in range(2):
        told = turnout.must_json("demo", "seed", "--days", "3", "--tenant", TENANT)
        assert (told["refused"], told["sent"] > 50) == (0, True)
        story = history_until(salon, 3, datetime.fromisoformat(told["until"]))
        assert_truth(turnout.url("kpi-api"), token, TENANT, story)
    fates: Counter[str] = Counter()
    for row in turnout.must_json("inbox", "fates", "--tenant", TENANT):
        fates[row["fate"]] += row["items"]  # a row for each channel
    assert set(fates) == {"published", "duplicate"}
    assert 0 <= fates["published"] - fates["duplicate"] < 20  # what happened between the two
    owner = Turnout(turnout.home, token=token)
    owner.must("check-kpi", "--tenant", TENANT)
    owner.must("rollup", "verify")


def test_the_data_is_there_after_a_restart(turnout: Turnout, token: str) -> None:
    today = SystemClock().now().date()
    before = summary(turnout.url("kpi-api"), token, TENANT, today - timedelta(days=3), today)

    turnout.must("down")
    assert turnout.run("status", "--json").returncode == 1
    again = turnout.up()
    after = summary(again["urls"]["kpi-api"], token, TENANT, today - timedelta(days=3), today)

    assert after["counts"]["booked"] == before["counts"]["booked"] > 0
    assert turnout.must_json("smoke")["ok"]


LETTER = """
INSERT INTO rollup.dead_letters (record_id, tenant_id, topic, partition, record_offset, reason, key, header_names,
  header_values, value)
VALUES ($1, $2, 'booking_events', 0, $3, 'put there by a test', $4, $5, $6, $7) RETURNING dead_letter_id
"""


async def bury(dsn: str, example: Example, offset: int, value: bytes) -> int:
    """Puts a record of the tenant's among rollup's dead letters."""
    record = UUID(int=offset)
    headers = example.headers | {"ce_tenantid": TENANT, "ce_id": str(record)}
    connection = await asyncpg.connect(dsn)
    try:
        found: int = await connection.fetchval(
            LETTER, record, TENANT, offset, f"{TENANT}:x".encode(), list(headers),
            [text.encode() for text in headers.values()], value,
        )  # fmt: skip
    finally:
        await connection.close()
    return found


async def test_a_dead_letter_is_applied_again_or_dead_again(turnout: Turnout, token: str) -> None:
    """The last one here: what it applies has no truth behind it."""
    example = next(found for found in contract_files.examples() if found.event_type == "booking.created")
    dsn = turnout.document["postgres_roles"]["turnout_rollup"]
    value = example.value | {"tenant_id": TENANT, "event_id": str(UUID(int=10**9))}
    good = await bury(dsn, example, 10**9, json.dumps(value).encode())
    bad = await bury(dsn, example, 10**9 + 1, b"{")

    outcomes: dict[int, str] = {}
    for number, status in ((good, 0), (bad, 1)):
        done = turnout.run("dlq", "replay", "rollup", str(number), "--json")
        assert done.returncode == status, done.stderr
        outcomes |= {row["dead_letter_id"]: row["outcome"] for row in json.loads(done.stdout)}

    assert outcomes == {good: "applied", bad: "dead again"}
    assert [row["dead_letter_id"] for row in turnout.must_json("dlq", "list", "rollup")] == [bad]
