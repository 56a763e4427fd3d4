"""The bodies in tests/fixtures, and a delivery of one to ingest's providers without a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from turnout_common.events.values import Channel
from turnout_common.security import TenantKeys
from turnout_ingest.acceptance import Row, rows_of
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Delivery, Headers

FOLDER = Path(__file__).parent / "fixtures"
#: Noon of the day that the fixtures play on.
NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
KEYS = TenantKeys("salon", {1: bytes(range(32))})
FOLDERS = {"events": "standard_webhooks"}
#: The account that the fixtures of a channel name as their own.
ROUTING_IDS = {
    "vk": "204733001",
    "whatsapp": "310044550066",
    "instagram": "17841400730001",
}
CANARIES = (
    "Quillfeather",
    "canary.quillfeather",
    "23125077",
    "23125 077",
    "Canary",
    "хочу записаться",
    "730044112",
)


def names(channel: str) -> list[str]:
    return sorted(file.stem for file in (FOLDER / FOLDERS.get(channel, channel)).glob("*.json"))


def body_of(channel: str, name: str) -> bytes:
    return (FOLDER / FOLDERS.get(channel, channel) / f"{name}.json").read_bytes()


def value_of(channel: str, name: str) -> Any:
    return json.loads(body_of(channel, name))


def all_delivered(
    channel: str,
    body: bytes | dict[str, Any],
    headers: Headers | None = None,
    *,
    now: datetime = NOON,
    strict_schema: bool = True,
    routing_id: str | None = None,
    handshake: bytes | None = None,
) -> list[Row]:
    """The rows that a verified body becomes; `routing_id` is that of the fixtures unless given."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    account = routing_id or ROUTING_IDS.get(channel)
    context = ChannelContext(
        "salon", Channel(channel), (), KEYS, account, handshake, strict_schema=strict_schema
    )
    return rows_of(PROVIDERS[channel], Delivery(context, headers or {}, raw, now))


def delivered(
    channel: str, body: bytes | dict[str, Any], headers: Headers | None = None, **options: Any
) -> Row:
    """The one row that a verified body becomes; options as for `all_delivered`."""
    (row,) = all_delivered(channel, body, headers, **options)
    return row


def event_of(channel: str, body: bytes | dict[str, Any], headers: Headers | None = None) -> dict[str, Any]:
    """What is published of a body. Fails with the reason when it is not."""
    row = delivered(channel, body, headers)
    assert row.payload is not None, f"{row.fate}: {row.reason}"
    event: dict[str, Any] = json.loads(row.payload)
    return event


def opened(purpose: str, sealed: str) -> str:
    return KEYS.open_text(purpose, sealed)
