"""Starts ingest: the one place where its parts are put together."""

from __future__ import annotations

import sys

import asyncpg

from turnout_common.clock import SystemClock
from turnout_common.postgres import connect, create_pool
from turnout_common.runtime import run_processes, serve, settings_to_start
from turnout_common.security import SecretError
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.workers import Worker
from turnout_ingest.app import create_app
from turnout_ingest.inbox import SHARDS, Inbox
from turnout_ingest.relay import create_recovery, create_relay
from turnout_ingest.settings import IngestSettings


async def run(settings: IngestSettings, worker: Worker | None = None) -> int:
    """Runs until a signal or until a loop fails; gives the exit status. Of several workers the first publishes."""
    dsn = settings.postgres_dsn.get_secret_value()
    pool = await create_pool(dsn, "turnout-ingest")
    keys, every = settings.master_keys, settings.tenant_reload_seconds
    directory = TenantDirectory(pool, keys(), every, read_again=keys)
    await directory.reload()
    relay = create_relay(settings)
    inbox = Inbox(
        lambda: connect(dsn, "turnout-ingest-inbox"),
        queue_items=settings.inbox_queue_items,
        after_commit=worker.calling(relay.wake) if worker else relay.wake,
        shard=(worker.seed + worker.index) % SHARDS if worker else None,
    )
    app = create_app(settings, SystemClock(), pool, directory, inbox, worker)
    loops = {"inbox": inbox.run(), "tenants": directory.run(lambda: connect(dsn, "turnout-ingest-tenants"))}
    if worker is None or worker.first:
        recovery = create_recovery(settings, pool, relay)
        loops |= {"relay": relay.run(), "recovery": recovery.run()}
    return await serve(app, settings, app.loops() | loops, worker=worker)


def main() -> int:
    """Starts, or says in a line a fault why not."""
    settings = settings_to_start("ingest", IngestSettings)
    try:
        return run_processes("turnout_ingest.main", settings.workers, settings, lambda w: run(settings, w))
    except (OSError, asyncpg.PostgresError, SecretError) as error:
        sys.stderr.write(f"ingest does not start: {type(error).__name__}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
