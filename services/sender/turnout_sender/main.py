"""The sender, put together. In: outbound_messages, receipts. Out: requests to providers, message_events."""

from __future__ import annotations

import random
import sys
from contextlib import AsyncExitStack

from turnout_common.clock import SystemClock
from turnout_common.consumer import BatchConsumer
from turnout_common.kafka import create_broker
from turnout_common.postgres import connect, create_pool
from turnout_common.recovery import RecoveryCheck
from turnout_common.relay import Relay, RelayQueries
from turnout_common.runtime import run_process, serve, settings_to_start
from turnout_common.tenant_directory import TenantDirectory
from turnout_sender.channels import ADAPTERS
from turnout_sender.channels.http import Http
from turnout_sender.claims import Claimer
from turnout_sender.handlers import HANDLERS, TOPICS
from turnout_sender.operations import WATCHES, create_app
from turnout_sender.sending import SendLoop
from turnout_sender.settings import SenderSettings


async def run(settings: SenderSettings) -> int:
    """Runs until a signal or until a loop fails; gives the exit status."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        dsn = settings.postgres_dsn.get_secret_value()
        pool = await create_pool(dsn, "turnout-sender", 5)
        stack.push_async_callback(pool.close)
        keys, seconds = settings.master_keys(), settings.tenant_reload_seconds
        tenants = TenantDirectory(pool, keys, seconds, read_again=settings.master_keys)
        await tenants.reload()
        http = await stack.enter_async_context(Http(settings))
        relay = Relay("sender", settings, RelayQueries.of_schema("sender"))
        claims = Claimer(pool, tenants, ADAPTERS, settings, clock)
        sending = SendLoop(pool, claims, http, settings, clock, random.Random(), relay.wake)
        recovery = RecoveryCheck("sender", settings, pool, WATCHES, relay.wake)
        broker = create_broker(settings.kafka_bootstrap, "turnout-sender")
        consumers = [
            BatchConsumer(
                broker=broker, settings=settings, pool=pool, schema="sender", topic=topic,
                handler=HANDLERS[topic](clock), wanted=wanted, after_commit=sending.wake_all,
            )
            for topic, wanted in TOPICS.items()
        ]  # fmt: skip
        loops = {f"consume {consumer.topic}": consumer.run() for consumer in consumers}
        loops |= {"relay": relay.run(), "recovery": recovery.run(), "sending": sending.run()}
        loops |= {"tenants": tenants.run(lambda: connect(dsn, "turnout-sender-tenants"))}
        stack.push_async_callback(broker.stop)
        await broker.start()
        return await serve(create_app(pool, consumers, sending, relay), settings, loops)


if __name__ == "__main__":
    sys.exit(run_process(run(settings_to_start("sender", SenderSettings))))
