"""Out to Kafka: what the shared relay and the recovery check need to know of ingest's slim outbox."""

from __future__ import annotations

from turnout_common.postgres import load_queries
from turnout_common.recovery import Watch
from turnout_common.relay import RelayQueries
from turnout_common.topics import INBOUND

SQL = load_queries("turnout_ingest")
QUERIES = RelayQueries(fetch=SQL["fetch_outbox"], delete=RelayQueries.of_schema("ingest").delete)
#: Booking is owed every published item, the sender the receipts only.
WATCHES = (
    Watch(INBOUND, "booking", SQL["walk_published"], SQL["republish"]),
    Watch(INBOUND, "sender", SQL["walk_receipts"], SQL["republish"]),
)
