"""From rows and the holders of their keys to final fates, and to the columns that are stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from turnout_ingest.acceptance import Row
from turnout_ingest.providers.provider import Fate

#: Tenant, channel, key hash.
KeyOf = tuple[str, str, bytes]
#: Who holds a key, and the hash of the content that came with it.
Holder = tuple[UUID, bytes]


@dataclass(frozen=True, slots=True)
class Settled:
    """A row with its final fate. `first_item_id` holds the key where the row itself does not."""

    row: Row
    fate: Fate
    reason: str | None
    first_item_id: UUID | None


def settle(rows: Sequence[Row], holders: Mapping[KeyOf, Holder]) -> list[Settled]:
    """Each row with its final fate: its own where it holds its key, else duplicate or conflict."""
    settled = []
    for row in rows:
        item_id, content = holders[row.key]
        if item_id == row.item_id:
            settled.append(Settled(row, row.fate, row.reason, None))
        elif content == row.content_hash:
            settled.append(Settled(row, Fate.DUPLICATE, "the same item was received before", item_id))
        else:
            reason = "an item with the same key and other content was received before"
            settled.append(Settled(row, Fate.CONFLICT, reason, item_id))
    return settled


def columns(settled: Sequence[Settled]) -> list[list[object]]:
    """The rows as the arrays that `store_items` unnests."""
    return [list(column) for column in zip(*map(_values, settled), strict=True)]


def _values(settled: Settled) -> tuple[object, ...]:
    """One row in the order of the query. Only what is published has a payload; of duplicates no bytes are kept."""
    row, fate = settled.row, settled.fate
    return (
        row.item_id,
        row.request_id,
        row.tenant_id,
        row.channel,
        row.kind,
        row.event_type,
        fate.value,
        settled.reason,
        row.kafka_key,
        row.subject,
        row.occurred_at,
        row.received_at,
        row.key_hash,
        settled.first_item_id,
        row.payload if fate is Fate.PUBLISHED else None,
        None if fate is Fate.DUPLICATE else row.sealed,
        None if fate is Fate.DUPLICATE else row.sealed_headers,
    )
