"""What the recovery check walks: no row is passed over because its transaction was slower than another one."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.infrastructure import Database
from turnout_booking import operations as booking
from turnout_common.recovery import Watch
from turnout_ingest import relay as ingest
from turnout_sender import operations as sender

#: Two rows: seq 1000001, a minute old, before seq 1000002, three minutes old: its transaction began first and took its
#: number last. $1 and $2 are their record ids.
MESSAGE_LOG = """INSERT INTO sender.message_log (seq, record_id, tenant_id, message_id, version, occurred_at, status, queue,
  template, gives_receipts, attempts, written_at) OVERRIDING SYSTEM VALUE
SELECT s, r, 't', gen_random_uuid(), 1, now(), 'attempted', 'tx', 'x', false, 0, now() - age
FROM (VALUES (1000001, $1::uuid, interval '1 minute'), (1000002, $2::uuid, interval '3 minutes')) AS v(s, r, age)"""
EVENTS = """INSERT INTO booking.booking_events (seq, event_id, tenant_id, entity_kind, entity_id, version, event_type,
  source, occurred_at, payload, created_at) OVERRIDING SYSTEM VALUE
SELECT s, r, 't', 'chain', gen_random_uuid(), 1, 'booking.created', 'calcom', now(), '{}', now() - age
FROM (VALUES (1000001, $1::uuid, interval '1 minute'), (1000002, $2::uuid, interval '3 minutes')) AS v(s, r, age)"""
OUTBOUND = """INSERT INTO booking.outbound (seq, record_id, tenant_id, type, client_id, booking_id, booking_version,
  occurred_at, payload, created_at) OVERRIDING SYSTEM VALUE
SELECT s, r, 't', 'message.planned', gen_random_uuid(), gen_random_uuid(), 1, now(), '{}', now() - age
FROM (VALUES (1000001, $1::uuid, interval '1 minute'), (1000002, $2::uuid, interval '3 minutes')) AS v(s, r, age)"""
RECEIPTS = """INSERT INTO ingest.inbox (seq, item_id, request_id, tenant_id, channel, kind, event_type, fate, kafka_key,
  subject, occurred_at, received_at, stored_at, key_hash, payload) OVERRIDING SYSTEM VALUE
SELECT s, r, r, 't', 'whatsapp', 'receipt', 'x', 'published', 'k', 's', now(), now(), now() - age, '', '{}'
FROM (VALUES (1000001, $1::uuid, interval '1 minute'), (1000002, $2::uuid, interval '3 minutes')) AS v(s, r, age)"""
WALKS: dict[str, tuple[Watch, str]] = {
    "message_events": (sender.WATCHES[0], MESSAGE_LOG),
    "booking_events": (booking.WATCHES[0], EVENTS),
    "outbound_messages": (booking.WATCHES[1], OUTBOUND),
    "receipts": (ingest.WATCHES[1], RECEIPTS),
}


@pytest.mark.parametrize("name", WALKS)
async def test_walk_stops_before_a_row_that_is_too_young(database: Database, name: str) -> None:
    watch, insert = WALKS[name]
    ids = [uuid4(), uuid4()]
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(insert, *ids)

    assert await walked(admin, watch, timedelta(minutes=2)) == []
    assert await walked(admin, watch, timedelta(seconds=30)) == ids
    await admin.close()


async def walked(connection: asyncpg.Connection, watch: Watch, age: timedelta) -> list[UUID]:
    return [row["record_id"] for row in await connection.fetch(watch.walk, 1_000_000, age, 5000)]
