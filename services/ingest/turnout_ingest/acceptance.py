"""From a provider's items to rows of the inbox: the rules of time, the keys, the payload, the sealed raw bytes.

In: a verified delivery. Out: at least one row for every body, each with its fate so far; only the inbox knows whether a
key was seen before. Promise: nothing raises, so that no body that carries a valid signature is left without a fate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from turnout_common.events import BookingItem, FactItem
from turnout_common.ids import new_id
from turnout_common.security import TenantKeys
from turnout_ingest.providers.provider import (
    NOT_TAKEN_IN,
    ChannelContext,
    Delivery,
    Fate,
    Item,
    Provider,
    Refused,
    hash16,
)

log = structlog.get_logger()
MOST_AHEAD = timedelta(hours=1)
#: A header beyond it is left out: no key and no content type is that long.
LONGEST_HEADER = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One item as the inbox stores it."""

    item_id: UUID
    request_id: UUID
    tenant_id: str
    channel: str
    kind: str
    event_type: str
    fate: Fate
    reason: str | None
    kafka_key: str
    subject: str
    occurred_at: datetime
    received_at: datetime
    key_hash: bytes
    content_hash: bytes
    payload: str | None = field(repr=False)
    sealed: bytes | None = field(repr=False)
    sealed_headers: bytes | None = field(default=None, repr=False)
    reply: bytes | None = field(default=None, repr=False)
    #: Keys of items of the same tenant and channel whose words go.
    takes_back: tuple[bytes, ...] = ()
    #: What it came with, as long as it is not stored.
    delivery: Delivery | None = field(default=None, repr=False)

    @property
    def key(self) -> tuple[str, str, bytes]:
        return self.tenant_id, self.channel, self.key_hash


def rows_of(provider: Provider, delivery: Delivery) -> list[Row]:
    """The rows of a verified delivery."""
    request_id = new_id()
    return [
        _row(
            _judged(item, delivery, provider.key_days, delivery.received_at),
            delivery,
            request_id,
            provider.kept_headers,
        )
        for item in _items(provider, delivery)
    ]


def rows_again(
    provider: Provider, delivery: Delivery, item_id: UUID, request_id: UUID, now: datetime
) -> list[Row]:
    """What the kept bytes of an item come to today, at `now`. The first row takes that item's place; further ones, of a body that
    was kept whole, are new items of its request, with ids of its time."""
    rows: list[Row] = []
    for item in _items(provider, delivery):
        own_id = new_id(delivery.received_at) if rows else item_id
        event = item.event.model_copy(update={"item_id": own_id}) if item.event is not None else None
        judged = _judged(replace(item, item_id=own_id, event=event), delivery, provider.key_days, now)
        rows.append(
            _row(
                _if_in_time(judged, delivery, provider.key_days, now),
                delivery,
                request_id,
                provider.kept_headers,
            )
        )
    return rows


def _items(provider: Provider, delivery: Delivery) -> list[Item]:
    try:
        return provider.items(delivery)
    except Refused as refused:
        return [_quarantined(provider, delivery, str(refused), refused.event_type)]
    except Exception as error:
        # Ours to mend: the raw bytes are kept, and the provider must not send the same body for ever.
        log.error("an adapter failed", channel=delivery.context.channel, error=type(error).__name__)
        return [_quarantined(provider, delivery, "it could not be read: a fault of this version", "unknown")]


def _quarantined(provider: Provider, delivery: Delivery, reason: str, event_type: str) -> Item:
    return Item(
        event_type=event_type[:64], key=b"", content=b"", occurred_at=delivery.received_at,
        raw=provider.kept(delivery.body), fate=Fate.QUARANTINED, reason=reason,
    )  # fmt: skip


def _judged(item: Item, delivery: Delivery, key_days: int, latest: datetime) -> Item:
    """The item under the rules of address and time (design §2.2, §3). What is before `latest` has come: the clock by which
    it was received may have been slow."""
    now = delivery.received_at
    if item.routing_id is not None and not _is_ours(item.routing_id, delivery.context):
        reason = "addressed to an account that is not this tenant's"
        return replace(item, fate=Fate.WRONG_TENANT, reason=reason, reply=None)
    if item.fate is not Fate.PUBLISHED:
        return item
    if item.occurred_at > max(now, latest) + MOST_AHEAD:
        return replace(item, fate=Fate.QUARANTINED, reason="its time lies more than an hour ahead")
    if item.own_time is not None and item.own_time < now - timedelta(days=key_days):
        reason = f"older than {key_days} days, for which its key is kept: it may have been handled before"
        return replace(item, fate=Fate.STALE, reason=reason)
    return item


def _if_in_time(item: Item, delivery: Delivery, key_days: int, now: datetime) -> Item:
    """Stale where a key that it may have been handled under is gone by `now`. What a booking or a fact says holds once
    however often it is said."""
    if item.fate is not Fate.PUBLISHED or isinstance(item.event, BookingItem | FactItem):
        return item
    if (item.own_time or delivery.received_at) >= now - timedelta(days=key_days):
        return item
    reason = f"released after the {key_days} days for which its key is kept: it may have been handled before"
    return replace(item, fate=Fate.STALE, reason=reason)


def _is_ours(routing_id: str, context: ChannelContext) -> bool:
    """A channel for which no account is set takes no item that names one, unless STRICT_TENANT_CONFIG is off."""
    return routing_id == context.routing_id if context.routing_id is not None else not context.strict_tenant


def _row(item: Item, delivery: Delivery, request_id: UUID, kept_headers: tuple[bytes, ...]) -> Row:
    context, published = delivery.context, item.fate is Fate.PUBLISHED
    key, content, headers = item.key, item.content, None
    if item.fate in NOT_TAKEN_IN:
        key = content = hash16(b"not taken in:" + item.raw)
        headers = sealed_headers(delivery, kept_headers)
    return Row(
        item_id=item.item_id,
        request_id=request_id,
        tenant_id=context.tenant_id,
        channel=context.channel.value,
        kind=item.event.type.removeprefix("inbound.") if item.event is not None else "none",  # type: ignore[attr-defined]
        event_type=item.event_type,
        fate=item.fate,
        reason=item.reason,
        kafka_key=item.kafka_key,
        subject=item.subject,
        occurred_at=item.occurred_at,
        received_at=delivery.received_at,
        key_hash=key,
        content_hash=content,
        payload=item.event.model_dump_json(exclude_none=True) if published and item.event else None,
        sealed=context.keys.seal("raw", item.raw),
        sealed_headers=headers,
        reply=item.reply,
        takes_back=() if item.fate in NOT_TAKEN_IN else item.takes_back,
        delivery=delivery,
    )


def sealed_headers(delivery: Delivery, names: tuple[bytes, ...]) -> bytes | None:
    """What `items` reads beside the body, so that the same item can be made of it again; see `opened_headers`."""
    given = ((name, delivery.headers.get(name)) for name in names)
    kept = {
        name.decode(): value.decode("latin-1")
        for name, value in given
        if value and len(value) <= LONGEST_HEADER
    }
    return delivery.context.keys.seal("headers", json.dumps(kept).encode()) if kept else None


def opened_headers(keys: TenantKeys, sealed: bytes | None) -> dict[bytes, bytes]:
    """The headers that were kept. Raises SecretError."""
    kept = json.loads(keys.open("headers", sealed)) if sealed is not None else {}
    return {name.encode(): value.encode("latin-1") for name, value in kept.items()}
