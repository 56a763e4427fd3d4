"""The booking service, put together. In: inbound_webhooks, message_events. Out: booking_events, outbound_messages."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

from asyncpg import Pool
from fastapi import FastAPI
from faststream.kafka import KafkaBroker

from turnout_booking.handlers import INBOUND_TYPES, MESSAGE_TYPES, BookingHandler
from turnout_booking.operations import readiness, status
from turnout_booking.settings import BookingSettings
from turnout_booking.tenant_rules import SQL
from turnout_booking.upkeep import Upkeep
from turnout_common.clock import SystemClock
from turnout_common.consumer import BatchConsumer
from turnout_common.health import health_router
from turnout_common.kafka import create_broker
from turnout_common.log_setup import configure_logging
from turnout_common.postgres import create_pool
from turnout_common.recovery import RecoveryCheck, Watch
from turnout_common.relay import Relay, RelayQueries
from turnout_common.runtime import serve
from turnout_common.topics import BOOKING_EVENTS, INBOUND, MESSAGE_EVENTS, OUTBOUND

TOPICS = {INBOUND: INBOUND_TYPES, MESSAGE_EVENTS: MESSAGE_TYPES}
WATCHES = (
    Watch(BOOKING_EVENTS, "rollup", SQL["walk_events"], SQL["republish_events"]),
    Watch(OUTBOUND, "sender", SQL["walk_outbound"], SQL["republish_outbound"]),
)


async def run(settings: BookingSettings) -> int:
    """Runs until a signal or until a loop fails; gives the exit status."""
    configure_logging("booking", settings.log_level, settings.log_format)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        dsn = settings.postgres_dsn.get_secret_value()
        pool = await create_pool(dsn, "turnout-booking", settings.booking_pool_size)
        stack.push_async_callback(pool.close)
        relay = Relay("booking", settings, RelayQueries.of_schema("booking"))
        broker = create_broker(settings.kafka_bootstrap, "turnout-booking")
        handlers = {topic: BookingHandler(clock) for topic in TOPICS}
        consumers = [_consumer(topic, broker, settings, pool, handlers[topic], relay) for topic in TOPICS]
        recovery = RecoveryCheck("booking", settings, pool, WATCHES, relay.wake)
        upkeep = Upkeep(pool, clock, settings.booking_upkeep_seconds, relay.wake)
        app = FastAPI(title="Turnout booking", openapi_url=None)
        figures = status(pool, consumers, [*handlers.values()])
        app.include_router(health_router("booking", readiness(pool, consumers), figures))
        loops = {f"consume {consumer.topic}": consumer.run() for consumer in consumers}
        await broker.start()
        stack.push_async_callback(broker.stop)
        return await serve(
            app, settings, loops | {"relay": relay.run(), "recovery": recovery.run(), "upkeep": upkeep.run()}
        )


def _consumer(
    topic: str,
    broker: KafkaBroker,
    settings: BookingSettings,
    pool: Pool,
    handler: BookingHandler,
    relay: Relay,
) -> BatchConsumer:
    def after_commit() -> None:
        handler.committed()
        relay.wake()

    return BatchConsumer(
        broker=broker, settings=settings, pool=pool, schema="booking", topic=topic, handler=handler,
        wanted=TOPICS[topic], after_commit=after_commit,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(asyncio.run(run(BookingSettings())))
