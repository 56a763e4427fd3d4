"""Kafka clients with the settings that lose nothing.

FastStream's defaults lose data (libraries.md §3): the parser here never fails on a header or a body, acknowledging is
manual, a new group starts at the earliest record and no topic is created by accident.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaMessage

from turnout_common.kafka_outage import Outage, pace

BATCH_RECORDS = 5000
METADATA_SECONDS = 10
Parser = Callable[[tuple[ConsumerRecord[bytes, bytes], ...]], Awaitable[KafkaMessage]]


class ConsumingBroker(KafkaBroker):
    """A broker whose consumers look for a Kafka that is away at a measured pace."""

    async def _connect(self) -> Callable[..., AIOKafkaConsumer]:
        build = await super()._connect()
        outage = Outage(", ".join(self.specification.url))

        def build_paced(**options: Any) -> AIOKafkaConsumer:
            consumer = build(**options)
            pace(consumer._client, outage)
            return consumer

        self.config.broker_config.builder = build_paced
        return build_paced


def create_broker(bootstrap: str, client_id: str) -> KafkaBroker:
    """A consuming broker; it publishes nothing, the relay does that from the outbox."""
    return ConsumingBroker(
        bootstrap.split(","),
        client_id=client_id,
        consumer_only=True,
        ack_policy=AckPolicy.MANUAL,
        allow_auto_create_topics=False,
        apply_types=False,
        graceful_timeout=15.0,
        # A member whose topic was away has no partitions and asks nothing until its metadata is this old.
        metadata_max_age_ms=METADATA_SECONDS * 1000,
        logger=logging.getLogger("turnout.kafka"),
    )


def subscribe(broker: KafkaBroker, topic: str, group: str, replica: str | None) -> Any:
    """A batch subscriber on `topic` that hands over raw records and waits for its handler's `ack`.

    With a `replica` name it is a static member: after a crash it takes its partitions back at once, where another
    member would wait for the dead one's session to end.
    """
    return broker.subscriber(
        topic,
        batch=True,
        group_id=group,
        group_instance_id=replica,
        ack_policy=AckPolicy.MANUAL,
        auto_offset_reset="earliest",
        max_records=BATCH_RECORDS,
        batch_timeout_ms=200,
        parser=parse_raw,
        decoder=decode_raw,
        session_timeout_ms=15_000,
        heartbeat_interval_ms=3_000,
    )


def is_member(consumer: AIOKafkaConsumer) -> bool:
    """Whether its group has taken this consumer in, be it without a partition, and it still takes part in it."""
    coordinator = consumer._coordinator
    if coordinator is None or coordinator._coordination_task.done():
        return False
    return bool(coordinator.generation >= 0)


async def parse_raw(records: tuple[ConsumerRecord[bytes, bytes], ...], original: Parser) -> KafkaMessage:
    """The framework's message around the raw records; their headers are hidden from it, since it decodes them."""
    message = await original(tuple(dataclasses.replace(record, headers=()) for record in records))
    message.raw_message = records
    return message


async def decode_raw(message: KafkaMessage) -> KafkaMessage:
    """The message itself: the handler reads its raw records."""
    return message


def create_producer(bootstrap: str, client_id: str) -> AIOKafkaProducer:
    """An idempotent producer that waits for all replicas in sync."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap.split(","),
        client_id=client_id,
        enable_idempotence=True,
        acks="all",
        linger_ms=2,
        max_batch_size=256 * 1024,
        max_request_size=4 * 1024 * 1024,
        request_timeout_ms=5_000,
        retry_backoff_ms=100,
    )
    pace(producer.client)
    return producer


async def abandon(producer: AIOKafkaProducer) -> None:
    """Ends a producer without sending what it still holds.

    Its own `stop` waits for the broker; given up half-way it leaves the sender alive, which sends all of it once the
    broker is back, each time that somebody gave up.
    """
    producer._closed = True
    sending = producer._sender.sender_task
    if sending is not None:
        sending.cancel()
    await producer.client.close()  # what is under way fails with its connection
    while sending is not None and not sending.done():
        sending.cancel()
        await asyncio.wait({sending}, timeout=0.1)
