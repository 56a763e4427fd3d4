"""Promise (design §2.8): whatever comes in, the counts of the fates are what is stored and add up to what was received,
and `inbox fates --check` tells when they do not."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import prometheus_client
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.ingest_service import (
    SECRETS,
    Service,
    counted,
    created,
    fates,
    now,
    row,
    rows,
    value,
)
from turnout_cli import inbox
from turnout_cli.webhooks import Webhook, calcom, facts, signed_headers, telegram
from turnout_common import metrics
from turnout_ingest import webhook as webhook_route
from turnout_ingest.acceptance import Row
from turnout_ingest.providers.calcom import Calcom
from turnout_ingest.providers.provider import Delivery, Fate, Item, hash16
from turnout_ingest.release import Release, Wanted


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
    monkeypatch.setenv("TURNOUT_MAINTENANCE_DSN", database.dsn("maintenance"))


def webhooks(dice: random.Random) -> list[tuple[Webhook, dict[str, str] | None]]:
    """Good, late, unneeded, broken and repeated ones, in any order."""
    chat = telegram.Chat(730044112, "Igor")
    made: list[tuple[Webhook, dict[str, str] | None]] = []
    for number in range(dice.randrange(5, 15)):
        at = now() - timedelta(days=dice.choice((0, 1, 9)))
        webhook = dice.choice((
            created(f"u{dice.randrange(4)}"),
            calcom.ping(at),
            Webhook("calcom", b"{}"),
            telegram.text(dice.randrange(5), chat, number, at, "hello"),
            facts.rated(f"m{dice.randrange(4)}", now(), dice.randrange(1, 6), "u"),
            facts.fact(f"x{number}", "feedback.received", now(), {"booking": facts.booking("u"), "rating": 9}),
        ))  # fmt: skip
        made.append((webhook, None))
        if webhook.channel == "calcom" and dice.randrange(3) == 0:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            made.append((webhook, signed_headers(webhook, SECRETS["calcom"], 0) | form))
    made += dice.choices(made, k=len(made) // 2)
    dice.shuffle(made)
    return made


def batch(dice: random.Random, tenant_id: str) -> list[Row]:
    """Items of one request, some of which share a key, are not taken in, or cannot be stored."""
    shared = [dice.randbytes(16) for _ in range(3)]
    made = []
    for _ in range(dice.randrange(1, 12)):
        fate = dice.choice((Fate.PUBLISHED, Fate.IGNORED, Fate.QUARANTINED, Fate.WRONG_TENANT, Fate.STALE))
        made.append(
            row(tenant_id, dice.choice([*shared, None]), fate=fate)
            if fate is Fate.PUBLISHED
            else row(tenant_id, dice.choice([*shared, None]), fate=fate, payload=None, reason="of no need")
        )
        if dice.randrange(4) == 0:
            made[-1] = replace(made[-1], subject="\x00")
    return made


async def release(database: Database, tenant_id: str) -> None:
    connection = await asyncpg.connect(database.dsn("maintenance"))
    for fate in (Fate.QUARANTINED, Fate.WRONG_TENANT):
        releasing = Release(connection, MASTER_KEY, Wanted(fate, tenant_id=tenant_id))
        while await releasing.batch(5):
            pass
    await connection.close()


@pytest.mark.parametrize("seed", range(8))
async def test_counts_are_what_is_stored_and_add_up_to_what_was_received(
    service: Service, database: Database, salon: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        webhook_route, "ANSWER_SECONDS", 60
    )  # on a machine under load a 503 would count as not received
    dice = random.Random(seed)
    posted, sent = webhooks(dice), [batch(dice, salon) for _ in range(4)]
    received = len(posted) + sum(map(len, sent))
    before = metered()

    await asyncio.gather(
        *(service.post(salon, webhook, headers) for webhook, headers in posted),
        *(service.inbox.accept(rows) for rows in sent),
        *(service.inbox.accept(rows) for rows in sent),  # the answer to an earlier commit was lost
    )

    after = metered()
    stored = Counter(await fates(database, salon))
    assert await counted(database, salon) == stored
    assert sum(stored.values()) == received
    assert after["received"] - before["received"] == after["fates"] - before["fates"]

    with monkeypatch.context() as mended:
        mended.setattr(Calcom, "items", mended_items)
        await release(database, salon)

    whole = sum(row["channel"] == "calcom" for row in await rows(database, salon) if row["released_at"])
    stored = Counter(await fates(database, salon))
    assert await counted(database, salon) == stored
    assert sum(stored.values()) == received + whole // 2
    assert await asyncio.to_thread(inbox.fates, tenant=salon, check=True) == 0


def mended_items(self: Calcom, delivery: Delivery) -> list[Item]:
    """A version that takes forms in, and reads two items in every body."""
    parts = (delivery.body, delivery.body + b" ")
    return [
        Item(event_type="x", key=hash16(part), content=hash16(part), occurred_at=delivery.received_at, raw=part,
             fate=Fate.IGNORED, reason="of no need")
        for part in parts
    ]  # fmt: skip


def metered() -> dict[str, float]:
    def total(counter: prometheus_client.Counter) -> float:
        samples = [sample for family in counter.collect() for sample in family.samples]
        return sum((float(sample.value) for sample in samples if sample.name.endswith("_total")), 0.0)

    return {"received": total(metrics.ITEMS_RECEIVED), "fates": total(metrics.ITEMS)}


async def test_check_tells_of_a_count_that_is_not_what_is_stored(
    service: Service, database: Database, salon: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await service.post(salon, created("a"))
    await value(database, "UPDATE ingest.fate_counts SET items = 3 WHERE tenant_id = $1", salon)

    assert await asyncio.to_thread(inbox.fates, tenant=salon, check=True) == 1
    assert "✗ 1 counts are not what is stored" in capsys.readouterr().err
