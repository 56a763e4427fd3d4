"""What is in from Kafka, for both topics.

In: events that were applied never before, of a batch. Out: everything that they come to, in the batch's transaction
(batch.py). What concerns no booking, and what is of a deleted tenant, is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from turnout_booking.batch import Task, apply
from turnout_booking.intake import intake_of
from turnout_common.clock import Clock
from turnout_common.consumer import Outcome, Received
from turnout_common.events import MessageEvent
from turnout_common.postgres import Connection
from turnout_common.topics import INBOUND, MESSAGE_EVENTS

#: What is consumed: topics, and the event types wanted of each.
TOPICS = {
    INBOUND: frozenset({"inbound.booking", "inbound.fact", "inbound.message", "inbound.consent"}),
    MESSAGE_EVENTS: frozenset({"message.changed"}),
}
#: An event that was published longer than this after it happened measures no freshness: imports, backlogs.
LIVE = timedelta(minutes=1)


class BookingHandler:
    """Applies a batch of either topic; `committed()` is called after its commit, and calls `wake` (the relay's)."""

    def __init__(self, clock: Clock, wake: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._wake = wake
        self._batch: Sequence[Received] = ()
        self.freshness_seconds: float | None = None
        self.events_written = 0

    async def __call__(self, connection: Connection, events: Sequence[Received]) -> Mapping[UUID, Outcome]:
        self._batch = events
        intake = intake_of(events)
        applied = await apply(connection, Task(intake), self._clock.now())
        self.events_written += applied.events
        meant = {new.record_id for new in intake.items}
        ignored = [
            received.envelope.id
            for received in events
            if received.envelope.tenant_id not in applied.tenant_ids
            or (isinstance(received.event, MessageEvent) and received.envelope.id not in meant)
        ]
        return dict.fromkeys(ignored, Outcome.IGNORED) | dict(applied.outcomes)

    def committed(self) -> None:
        """Notes how old the oldest record of the batch was, of those that were published as they happened."""
        self._wake()
        now = self._clock.now()
        batch, self._batch = self._batch, ()
        live = [r.published_at for r in batch if r.published_at - r.envelope.time < LIVE]
        if live:
            self.freshness_seconds = round((now - min(live)).total_seconds(), 3)
