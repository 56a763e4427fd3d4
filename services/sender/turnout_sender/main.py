"""sender: tells clients what booking planned. In: outbound_messages, receipts. Out: providers' APIs, message_events.

Promise: each message is sent at most once, to nobody who opted out, and for no booking that was cancelled or moved.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import AsyncExitStack

from fastapi import FastAPI

from turnout_common import topics
from turnout_common.clock import SystemClock
from turnout_common.consumer import BatchConsumer
from turnout_common.health import health_router
from turnout_common.kafka import create_broker
from turnout_common.log_setup import configure_logging
from turnout_common.postgres import create_pool, load_queries
from turnout_common.recovery import RecoveryCheck, Watch
from turnout_common.relay import Relay, RelayQueries
from turnout_common.runtime import serve
from turnout_common.security import read_master_key
from turnout_common.tenants import TenantDirectory
from turnout_sender.channels import ADAPTERS
from turnout_sender.channels.http import Http
from turnout_sender.claims import BATCH_ROWS, Claimer
from turnout_sender.handlers import INBOUND_TYPES, OUTBOUND_TYPES, InboundHandler, OutboundHandler
from turnout_sender.operations import Operations
from turnout_sender.sending import SendLoop
from turnout_sender.settings import SenderSettings

POOL_SIZE = 5


async def run(settings: SenderSettings) -> int:
    """Runs until a signal; gives the exit status."""
    configure_logging("sender", settings.log_level, settings.log_format)
    key = settings.master_key.get_secret_value() if settings.master_key else None
    master_key = read_master_key(key, settings.master_key_file)
    clock, chance = SystemClock(), random.Random()
    async with AsyncExitStack() as stack:
        pool = await create_pool(settings.postgres_dsn.get_secret_value(), "turnout-sender", POOL_SIZE)
        stack.push_async_callback(pool.close)
        directory = TenantDirectory(pool, master_key, settings.tenant_reload_seconds)
        await directory.reload()
        connections = settings.max_in_flight + BATCH_ROWS
        http = Http(settings.send_timeout_seconds, connections, settings.provider_base_url)
        await stack.enter_async_context(http)
        relay = Relay("sender", settings, RelayQueries.of_schema("sender"))
        sending = SendLoop(
            pool=pool,
            claimer=Claimer(pool, directory, ADAPTERS, settings, clock),
            http=http,
            settings=settings,
            clock=clock,
            chance=chance,
            after_commit=relay.wake,
        )

        def planned() -> None:
            relay.wake()
            sending.wake()

        broker = create_broker(settings.kafka_bootstrap, "turnout-sender")
        outbound = BatchConsumer(
            broker=broker, settings=settings, pool=pool, schema="sender", topic=topics.OUTBOUND,
            handler=OutboundHandler(clock), wanted=OUTBOUND_TYPES, after_commit=planned,
        )  # fmt: skip
        inbound = BatchConsumer(
            broker=broker, settings=settings, pool=pool, schema="sender", topic=topics.INBOUND,
            handler=InboundHandler(clock), wanted=INBOUND_TYPES, after_commit=relay.wake,
        )  # fmt: skip
        recovery = RecoveryCheck("sender", settings, pool, watches(), relay.wake)
        operations = Operations(pool, (outbound, inbound), sending, relay)
        app = FastAPI(title="Turnout sender", docs_url=None, redoc_url=None)
        app.include_router(health_router("sender", operations.readiness, operations.status))
        await broker.start()
        stack.push_async_callback(broker.stop)
        loops = {
            "tenants": directory.run(),
            "relay": relay.run(),
            "outbound": outbound.run(),
            "inbound": inbound.run(),
            "sending": sending.run(),
            "recovery": recovery.run(),
        }
        return await serve(app, settings, loops)


def watches() -> tuple[Watch, ...]:
    """Who reads message_events: rollup, and booking for the outcome of reminders."""
    sql = load_queries("turnout_sender")
    return tuple(
        Watch(topics.MESSAGE_EVENTS, reader, sql["walk"], sql["publish"]) for reader in ("rollup", "booking")
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(run(SenderSettings())))
