"""Runs one service: its HTTP server and its loops live and die together.

A loop that ends or raises ends the process with status 1, so that whoever supervises it starts it again; SIGTERM and
SIGINT drain the HTTP server, stop the loops and exit 0.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from turnout_common.client_address import Proxies
from turnout_common.http_protocol import HTTP_OPTIONS, ConnectionLimits, limited
from turnout_common.log_setup import configure_logging
from turnout_common.settings import AnySettings, ServiceSettings, load_settings
from turnout_common.workers import Worker, run_workers, this_worker

log = structlog.get_logger()
DRAIN_SECONDS = 10


class _Server(uvicorn.Server):
    """Ends at a signal without raising it again, which would kill the process before its loops are stopped."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def settings_to_start(service: str, kind: type[AnySettings]) -> AnySettings:
    """The settings of the environment, with the log set up as they say. Where they forbid a start the process ends with
    status 2, before it opened anything, and says why in a line a fault."""
    settings = load_settings(kind)
    if isinstance(settings, list):
        sys.stderr.writelines(f"{service} does not start: {fault}\n" for fault in settings)
        sys.exit(2)
    configure_logging(service, settings.log_level, settings.log_format)
    return settings


def run_process(main: Coroutine[Any, Any, int]) -> int:
    """Runs a service's coroutine on the fastest loop that this machine has; gives its exit status."""
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        return runner.run(main)


def run_processes(
    module: str,
    count: int,
    settings: ServiceSettings,
    main: Callable[[Worker | None], Coroutine[Any, Any, int]],
) -> int:
    """Runs a service in this process or, for a `count` above 1, as that many workers of `python -m module`.

    Gives the exit status. Raises OSError when the workers' port cannot be had.
    """
    worker = this_worker(sys.argv[1:])
    if worker is not None:
        worker.end_with_parent(settings.stop_seconds + DRAIN_SECONDS)
    elif count > 1:
        return run_workers(module, count, settings.http_host, settings.http_port)
    return run_process(main(worker))


async def serve(
    app: FastAPI | Any,
    settings: ServiceSettings,
    loops: dict[str, Coroutine[Any, Any, None]],
    *,
    worker: Worker | None = None,
    **uvicorn_options: Any,
) -> int:
    """Serves until a signal or until a loop fails; gives the exit status. A `worker` serves on its own sockets."""
    shares = worker.count if worker is not None else 1
    limits = ConnectionLimits(
        max(1, settings.max_connections // shares),
        -(-settings.max_connections_per_address // shares),
        Proxies(settings.trusted_proxies),
    )
    options: dict[str, Any] = {
        **HTTP_OPTIONS,
        "http": limited(limits),
        "host": settings.http_host,
        "port": settings.http_port,
        "timeout_graceful_shutdown": DRAIN_SECONDS,
    } | uvicorn_options
    server = _Server(uvicorn.Config(app, **options))
    gc.freeze()  # what was imported lives for ever; the collector need not walk it
    gc.set_threshold(20_000, 20, 50)  # a batch makes tens of thousands of objects and no cycles
    sockets = worker.listening() if worker is not None else None
    serving = asyncio.create_task(server.serve(sockets), name="http")
    tasks = {asyncio.create_task(loop, name=name) for name, loop in loops.items()}
    done, _ = await asyncio.wait({serving, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in done if task is not serving]
    for task in failed:
        error = task.exception()
        log.error(
            "a loop ended, the service stops to be restarted", loop=task.get_name(), error=repr(error)[:500]
        )
    server.should_exit = True
    await asyncio.wait({serving})
    status = 1 if failed or serving.exception() else 0
    asyncio.get_running_loop().call_later(settings.stop_seconds, _end, status)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return status


def _end(status: int) -> None:
    """A server that hears us and does not answer holds whoever asked it, and they hold the process.

    To end all the same is safe: everything here stands being killed at any moment.
    """
    log.error("the stop takes too long, the process ends without it")
    sys.stderr.flush()
    os._exit(status)
