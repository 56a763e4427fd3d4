"""The booking service, put together. In: inbound_webhooks, message_events. Out: booking_events, outbound_messages."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from fastapi import FastAPI

from turnout_booking.handlers import TOPICS, BookingHandler
from turnout_booking.operations import WATCHES, status
from turnout_booking.settings import BookingSettings
from turnout_booking.upkeep import Upkeep
from turnout_common.clock import SystemClock
from turnout_common.consumer import BatchConsumer
from turnout_common.health import health_router
from turnout_common.kafka import create_broker
from turnout_common.postgres import create_pool
from turnout_common.readiness import consumer_readiness
from turnout_common.recovery import RecoveryCheck
from turnout_common.relay import Relay, RelayQueries
from turnout_common.runtime import run_process, serve, settings_to_start


async def run(settings: BookingSettings) -> int:
    """Runs until a signal or until a loop fails; gives the exit status."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        dsn = settings.postgres_dsn.get_secret_value()
        pool = await create_pool(dsn, "turnout-booking", settings.booking_pool_size)
        stack.push_async_callback(pool.close)
        relay = Relay("booking", settings, RelayQueries.of_schema("booking"))
        recovery = RecoveryCheck("booking", settings, pool, WATCHES, relay.wake)
        upkeep = Upkeep(pool, clock, settings.booking_upkeep_seconds, relay.wake)
        broker = create_broker(settings.kafka_bootstrap, "turnout-booking")
        handlers = {topic: BookingHandler(clock, relay.wake) for topic in TOPICS}
        consumers = [
            BatchConsumer(
                broker=broker, settings=settings, pool=pool, schema="booking", topic=topic, handler=handler,
                wanted=TOPICS[topic], after_commit=handler.committed,
            )
            for topic, handler in handlers.items()
        ]  # fmt: skip
        app = FastAPI(title="Turnout booking", openapi_url=None)
        figures = status(pool, consumers, [*handlers.values()])
        app.include_router(health_router("booking", consumer_readiness(pool, consumers), figures))
        loops = {f"consume {consumer.topic}": consumer.run() for consumer in consumers}
        loops |= {"relay": relay.run(), "recovery": recovery.run(), "upkeep": upkeep.run()}
        await broker.start()
        stack.push_async_callback(broker.stop)
        return await serve(app, settings, loops)


if __name__ == "__main__":
    sys.exit(run_process(run(settings_to_start("booking", BookingSettings))))
