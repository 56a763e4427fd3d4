"""Out to Kafka: what the shared relay and the recovery check need to know of ingest's slim outbox."""

from __future__ import annotations

import asyncpg

from turnout_common.postgres import load_queries
from turnout_common.recovery import RecoveryCheck, Watch
from turnout_common.relay import Relay, RelayQueries
from turnout_common.settings import ServiceSettings
from turnout_common.topics import INBOUND

SQL = load_queries("turnout_ingest")
QUERIES = RelayQueries(fetch=SQL["fetch_outbox"], delete=RelayQueries.of_schema("ingest").delete)
#: Booking is owed every published item, the sender the receipts only.
WATCHES = (
    Watch(INBOUND, "booking", SQL["walk_published"], SQL["republish"]),
    Watch(INBOUND, "sender", SQL["walk_receipts"], SQL["republish"]),
)


def create_relay(settings: ServiceSettings) -> Relay:
    return Relay("ingest", settings, QUERIES)


def create_recovery(settings: ServiceSettings, pool: asyncpg.Pool, relay: Relay) -> RecoveryCheck:
    return RecoveryCheck("ingest", settings, pool, WATCHES, relay.wake)
