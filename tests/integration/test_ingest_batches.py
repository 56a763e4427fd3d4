"""Batches of Meta that come again cut otherwise, at once and by both callbacks: each update is taken in once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from tests.infrastructure import Database
from tests.integration.ingest_service import Service, now, rows
from tests.webhook_fixtures import ROUTING_IDS
from turnout_cli.webhooks import Webhook, whatsapp

NUMBER = whatsapp.Number(ROUTING_IDS["whatsapp"], "493023125001")
CLIENT = whatsapp.Client("493023125000", "Igor")
AT = now()


def batch(*numbers: int) -> Webhook:
    """A text of each number, in an entry of its own; the same number twice is the same update twice."""
    bodies = [
        json.loads(whatsapp.text(NUMBER, CLIENT, f"wamid.{n}", AT, f"number {n}").body) for n in numbers
    ]
    text = json.dumps({"object": whatsapp.OBJECT, "entry": [e for body in bodies for e in body["entry"]]})
    return Webhook("whatsapp", text.encode())


async def test_same_update_in_two_entries_of_one_delivery_is_taken_in_once(
    service: Service, database: Database, salon: str
) -> None:
    assert (await service.post(salon, batch(1, 2, 1))).status == 200
    assert [row["fate"] for row in await rows(database, salon)] == ["published", "published", "duplicate"]


async def test_batches_of_other_compositions_that_come_at_once_take_each_update_in_once(
    service: Service, database: Database, salon: str
) -> None:
    """The largest is committed in two parts, beside the others. What is answered 503, as when commits are slow, comes
    again, also when some of it was committed."""
    updates = 520
    many = batch(*range(updates))
    others = [batch(*range(first, updates, 4)) for first in range(4)]

    async def send(webhook: Webhook, path: str | None = None) -> int:
        answer = await service.post(salon, webhook, path=path)
        while answer.status == 503:
            answer = await service.post(salon, webhook, path=path)
        return answer.status

    shared = "/webhooks/whatsapp"
    statuses = await asyncio.gather(
        send(many), *(send(other, shared if n % 2 else None) for n, other in enumerate(others))
    )

    assert set(statuses) == {200}
    stored = await rows(database, salon)
    fates = Counter(row["fate"] for row in stored)
    assert (fates["published"], set(fates)) == (updates, {"published", "duplicate"})
    assert fates["duplicate"] >= updates
    holders = {row["key_hash"]: row["item_id"] for row in stored if row["fate"] == "published"}
    assert all(
        row["first_item_id"] == holders[row["key_hash"]] for row in stored if row["fate"] == "duplicate"
    )
