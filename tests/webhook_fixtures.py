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
FOLDERS = {"calcom": "calcom", "telegram": "telegram", "events": "standard_webhooks"}
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
    return sorted(file.stem for file in (FOLDER / FOLDERS[channel]).glob("*.json"))


def body_of(channel: str, name: str) -> bytes:
    return (FOLDER / FOLDERS[channel] / f"{name}.json").read_bytes()


def value_of(channel: str, name: str) -> Any:
    return json.loads(body_of(channel, name))


def delivered(
    channel: str,
    body: bytes | dict[str, Any],
    headers: Headers | None = None,
    *,
    now: datetime = NOON,
    strict_schema: bool = True,
    routing_id: str | None = None,
) -> Row:
    """The one row that a verified body becomes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    context = ChannelContext("salon", Channel(channel), (), KEYS, routing_id, strict_schema=strict_schema)
    (row,) = rows_of(PROVIDERS[channel], Delivery(context, headers or {}, raw, now))
    return row


def event_of(channel: str, body: bytes | dict[str, Any], headers: Headers | None = None) -> dict[str, Any]:
    """What is published of a body. Fails with the reason when it is not."""
    row = delivered(channel, body, headers)
    assert row.payload is not None, f"{row.fate}: {row.reason}"
    event: dict[str, Any] = json.loads(row.payload)
    return event


def opened(purpose: str, sealed: str) -> str:
    return KEYS.open_text(purpose, sealed)
