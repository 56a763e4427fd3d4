"""From events to facts: what is in from Kafka, for both topics.

In: versions of entities, in any order, old ones and several of one entity among them. Out: facts (store.py). Promise:
of each entity the highest version counts. Events of a deleted tenant are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import cast
from uuid import UUID

from turnout_common import metrics
from turnout_common.clock import Clock
from turnout_common.consumer import Outcome, Received
from turnout_common.events import BOOKING_EVENT_TYPES, BookingEvent, MessageEvent
from turnout_common.postgres import Connection
from turnout_common.topics import BOOKING_EVENTS, MESSAGE_EVENTS
from turnout_rollup.facts import fact_of
from turnout_rollup.store import write_facts
from turnout_rollup.tenant_rules import share_rules

#: What is consumed: topics, and the event types wanted of each.
TOPICS = {BOOKING_EVENTS: BOOKING_EVENT_TYPES, MESSAGE_EVENTS: frozenset({"message.changed"})}
#: Events that were published longer than this after they happened are no measure of freshness: imports, backlogs.
LIVE = timedelta(minutes=1)

Versioned = BookingEvent | MessageEvent


class FactHandler:
    """Applies a batch; after its commit `committed()` takes the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._batch: Sequence[Received] = ()
        self.freshness_seconds: float | None = None

    async def __call__(self, connection: Connection, events: Sequence[Received]) -> Mapping[UUID, Outcome]:
        self._batch = events
        newest = newest_versions(cast(Versioned, received.event) for received in events)
        rules = await share_rules(connection, {event.tenant_id for event in newest})
        await write_facts(
            connection,
            [fact_of(event, rules[event.tenant_id]) for event in newest if event.tenant_id in rules],
        )
        return {
            received.envelope.id: Outcome.IGNORED
            for received in events
            if cast(Versioned, received.event).tenant_id not in rules
        }

    def committed(self) -> None:
        """Notes how long the batch took from its publishing to here, and live events from their happening."""
        now = self._clock.now()
        batch, self._batch = self._batch, ()
        for received in batch:
            live = received.published_at - received.envelope.time < LIVE
            since = min(received.envelope.time, received.published_at) if live else received.published_at
            metrics.FRESHNESS.observe((now - since).total_seconds())
        if batch:
            oldest = min(received.published_at for received in batch)
            self.freshness_seconds = round((now - oldest).total_seconds(), 3)


def newest_versions(events: Iterable[Versioned]) -> list[Versioned]:
    """One event per entity, the one of its highest version."""
    newest: dict[tuple[str, UUID], Versioned] = {}
    for event in events:
        entity = event.message_id if isinstance(event, MessageEvent) else event.entity_id
        known = newest.setdefault((event.tenant_id, entity), event)
        if known.version < event.version:
            newest[event.tenant_id, entity] = event
    return list(newest.values())
