"""Promise: what a client takes back is erased here, words and bytes, whatever is repeated; the event itself stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.infrastructure import Database
from tests.integration.ingest_service import Service, rows, value
from tests.webhook_fixtures import body_of
from turnout_cli.webhooks import Webhook
from turnout_common.events import MessageItem

#: The fixture that takes back, and what it takes back.
PAIRS = [
    ("instagram", "unsend", "text"),
    ("instagram", "unsend", "edited"),
    ("whatsapp", "revoked", "text"),
]


async def kept(database: Database, salon: str) -> tuple[dict[str, Any], int]:
    """The event of the salon's message, and of how many items the bytes are kept."""
    (message,) = [row for row in await rows(database, salon) if row["kind"] == "message"]
    raw = await value(
        database, "SELECT count(*) FROM ingest.raw_items WHERE item_id = $1", message["item_id"]
    )
    return json.loads(message["payload"]), raw


@pytest.mark.parametrize(("channel", "taking_back", "said"), PAIRS)
async def test_words_that_a_client_took_back_are_erased_and_the_event_stays(
    service: Service, database: Database, salon: str, channel: str, taking_back: str, said: str
) -> None:
    assert (await service.post(salon, Webhook(channel, body_of(channel, said)))).status == 200
    before, raw = await kept(database, salon)
    assert before["text_sealed"] and raw == 1

    assert (await service.post(salon, Webhook(channel, body_of(channel, taking_back)))).status == 200

    after, raw = await kept(database, salon)
    assert raw == 0
    assert MessageItem.model_validate(after) == MessageItem.model_validate(before | {"text_sealed": None})


async def test_taking_back_again_erases_what_the_first_time_did_not(
    service: Service, database: Database, salon: str
) -> None:
    """The first came before the message, or its process died after storing it: the provider sends it again."""
    take_back = Webhook("instagram", body_of("instagram", "unsend"))
    await service.post(salon, take_back)
    await service.post(salon, Webhook("instagram", body_of("instagram", "text")))
    assert (await kept(database, salon))[1] == 1

    await service.post(salon, take_back)

    assert [row["fate"] for row in await rows(database, salon)] == ["ignored", "published", "duplicate"]
    assert "text_sealed" not in (await kept(database, salon))[0]


async def test_nobody_takes_back_the_words_of_another_tenants_client(
    service: Service, database: Database, salon: str
) -> None:
    await service.post(salon, Webhook("instagram", body_of("instagram", "text")))
    await value(database, "UPDATE ingest.inbox_keys SET tenant_id = 'other' WHERE tenant_id = $1", salon)

    await service.post(salon, Webhook("instagram", body_of("instagram", "unsend")))

    event, raw = await kept(database, salon)
    assert event["text_sealed"] and raw == 1
