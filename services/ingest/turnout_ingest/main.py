"""Starts ingest: the one place where its parts are put together."""

from __future__ import annotations

import sys

import asyncpg

from turnout_common.clock import SystemClock
from turnout_common.log_setup import configure_logging
from turnout_common.postgres import connect, create_pool
from turnout_common.recovery import RecoveryCheck
from turnout_common.relay import Relay
from turnout_common.runtime import run_process, serve
from turnout_common.security import SecretError
from turnout_common.tenants import TenantDirectory
from turnout_ingest.app import create_app
from turnout_ingest.inbox import Inbox
from turnout_ingest.relay import QUERIES, WATCHES
from turnout_ingest.settings import IngestSettings, load_settings
from turnout_ingest.webhook import WebhookEndpoint


async def run(settings: IngestSettings) -> int:
    """Runs until a signal or until a loop fails; gives the exit status."""
    dsn = settings.postgres_dsn.get_secret_value()
    pool = await create_pool(dsn, "turnout-ingest")
    directory = TenantDirectory(pool, settings.master_key_bytes(), settings.tenant_reload_seconds)
    await directory.reload()
    relay = Relay("ingest", settings, QUERIES)
    inbox = Inbox(
        lambda: connect(dsn, "turnout-ingest-inbox"),
        queue_items=settings.inbox_queue_items,
        after_commit=relay.wake,
    )
    recovery = RecoveryCheck("ingest", settings, pool, WATCHES, relay.wake)
    app = create_app(WebhookEndpoint(directory, inbox, settings, SystemClock()), pool, directory, inbox)
    loops = {"inbox": inbox.run(), "relay": relay.run(), "recovery": recovery.run()}
    return await serve(app, settings, loops | {"tenants": directory.run()})


def main() -> int:
    """Starts, or says in a line a fault why not."""
    settings = load_settings()
    if isinstance(settings, list):
        sys.stderr.writelines(f"ingest does not start: {fault}\n" for fault in settings)
        return 2
    configure_logging("ingest", settings.log_level, settings.log_format)
    try:
        return run_process(run(settings))
    except (OSError, asyncpg.PostgresError, SecretError) as error:
        sys.stderr.write(f"ingest does not start: {type(error).__name__}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
