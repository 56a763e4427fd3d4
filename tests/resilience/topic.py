"""What stands on a topic: read to its end, and looked at by subject."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from turnout_common.events import Envelope, from_headers


async def read_to_end(kafka: str, topic: str, seconds: float = 20) -> list[Envelope]:
    """The envelopes of all records that the topic holds now, each partition in order."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await admin.start()
    await consumer.start()
    found: list[Envelope] = []
    try:
        (described,) = await admin.describe_topics([topic])
        partitions = [TopicPartition(topic, each["partition"]) for each in described["partitions"]]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        async with asyncio.timeout(seconds):
            while any([await consumer.position(each) < ends[each] for each in partitions]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found.extend(from_headers(record.headers) for record in records)
    finally:
        await consumer.stop()
        await admin.close()
    return found


def times_by_subject(envelopes: Sequence[Envelope]) -> set[tuple[datetime, ...]]:
    """Of each subject the times of its events in the order in which they first came."""
    seen: set[UUID] = set()
    times: dict[str, list[datetime]] = {}
    for envelope in envelopes:
        if envelope.id not in seen:
            seen.add(envelope.id)
            times.setdefault(envelope.subject, []).append(envelope.time)
    return {tuple(each) for each in times.values()}


def published_again(envelopes: Sequence[Envelope]) -> set[UUID]:
    """The ids that stand there more than once."""
    counts = Counter(envelope.id for envelope in envelopes)
    return {record_id for record_id, count in counts.items() if count > 1}
