"""The rollup service, put together: two consumers, the watch on settings, and /health, /ready, /status, /metrics."""

from __future__ import annotations

import sys

from fastapi import FastAPI

from turnout_common.clock import SystemClock
from turnout_common.consumer import BatchConsumer
from turnout_common.health import health_router
from turnout_common.kafka import create_broker
from turnout_common.postgres import create_pool
from turnout_common.readiness import consumer_readiness
from turnout_common.runtime import run_process, serve, settings_to_start
from turnout_rollup.handlers import TOPICS, FactHandler
from turnout_rollup.operations import status
from turnout_rollup.rules_watch import RulesWatch
from turnout_rollup.settings import RollupSettings


async def run(settings: RollupSettings) -> int:
    """Runs until a signal or until a loop fails; gives the exit status."""
    dsn = settings.postgres_dsn.get_secret_value()
    pool = await create_pool(dsn, "turnout-rollup", settings.rollup_pool_size)
    broker = create_broker(settings.kafka_bootstrap, "turnout-rollup")
    handlers = {topic: FactHandler(SystemClock()) for topic in TOPICS}
    consumers = [
        BatchConsumer(
            broker=broker, settings=settings, pool=pool, schema="rollup", topic=topic, handler=handler,
            wanted=TOPICS[topic], after_commit=handler.committed,
        )
        for topic, handler in handlers.items()
    ]  # fmt: skip
    watch = RulesWatch(pool, settings.tenant_reload_seconds)
    app = FastAPI(title="Turnout rollup", openapi_url=None)
    app.include_router(
        health_router("rollup", consumer_readiness(pool, consumers), status(consumers, [*handlers.values()]))
    )
    loops = {f"consume {consumer.topic}": consumer.run() for consumer in consumers}
    await broker.start()
    try:
        return await serve(app, settings, loops | {"watch settings": watch.run()})
    finally:
        await broker.stop()
        await pool.close()


if __name__ == "__main__":
    sys.exit(run_process(run(settings_to_start("rollup", RollupSettings))))
