"""What a batch promises of its items: the bytes that are kept of each give that item again, and nothing else."""

from __future__ import annotations

from typing import Any

from tests.webhook_fixtures import KEYS, NOON, ROUTING_IDS
from turnout_common.events.values import Channel
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Delivery, Item


def given_again(channel: str, body: bytes) -> list[bytes]:
    """The kept bytes of each item of a body, once each was found to give its item again. Raises Refused."""
    items = _items(channel, body)
    for item in items:
        (again,) = _items(channel, item.raw)
        assert _told(again) == _told(item)
        assert again.raw == item.raw
    if len(items) == 1:
        assert items[0].raw == body
    return [item.raw for item in items]


def _items(channel: str, body: bytes) -> list[Item]:
    context = ChannelContext("salon", Channel(channel), (), KEYS, ROUTING_IDS[channel])
    return PROVIDERS[channel].items(Delivery(context, {}, body, NOON))


def _told(item: Item) -> dict[str, Any]:
    """An item without what is new at each reading: ids and the nonces of sealed values."""
    fields = (
        "event_type",
        "key",
        "content",
        "occurred_at",
        "fate",
        "reason",
        "subject",
        "kafka_key",
        "own_time",
    )
    told: dict[str, Any] = {name: getattr(item, name) for name in (*fields, "routing_id", "reply")}
    return told | {"event": _opened(item.event.model_dump()) if item.event is not None else None}


def _opened(event: dict[str, Any]) -> dict[str, Any]:
    contact = event.get("contact")
    sealed = {
        name.removesuffix("_sealed"): value
        for name, value in event.items()
        if name.endswith("_sealed") and value
    }
    plain = {f"{purpose}_sealed": KEYS.open_text(purpose, value) for purpose, value in sealed.items()}
    if contact:
        plain["contact"] = contact | {"sealed": KEYS.open_text("contact", contact["sealed"])}
    return event | plain | {"item_id": None}
