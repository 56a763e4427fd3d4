"""mock-providers: stands in for the messengers' APIs in tests and demos. In: their calls. Out: answers, good and bad."""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog
from aiohttp import web

from turnout_common.clock import SystemClock
from turnout_common.log_setup import configure_logging
from turnout_common.runtime import run_process
from turnout_mock_providers.app import create_app
from turnout_mock_providers.settings import MockProvidersSettings

log = structlog.get_logger()


async def run(settings: MockProvidersSettings) -> int:
    """Runs until a signal; gives the exit status."""
    configure_logging("mock-providers", settings.log_level, settings.log_format)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopped.set))
    # No access log: paths hold tokens.
    runner = web.AppRunner(
        create_app(SystemClock(), settings.known_tokens), access_log=None, shutdown_timeout=1
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.http_host, settings.http_port).start()
        log.info("mock providers listen", port=settings.http_port)
        await stopped.wait()
    finally:
        await runner.cleanup()
    return 0


if __name__ == "__main__":
    sys.exit(run_process(run(MockProvidersSettings())))
