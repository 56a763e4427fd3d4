"""A program with nothing in it but the HTTP server that every service runs in: for tests of what the settings do to it.

With TEST_NOBODY_IS_NEAR set no address counts as one of this machine, so that those of the loopback have limits too.
"""

from __future__ import annotations

import os
import sys
from typing import Any
from unittest import mock

from turnout_common import http_protocol
from turnout_common.runtime import run_processes, serve, settings_to_start
from turnout_common.settings import ServiceSettings
from turnout_common.workers import Worker

MODULE = "tests.integration.limited_process"


class Settings(ServiceSettings):
    """With as many processes as the test wants, as ingest has them."""

    workers: int = 1


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the process that it is."""
    text = b"%d" % os.getpid()
    head = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": text})


async def run(settings: Settings, worker: Worker | None) -> int:
    return await serve(app, settings, {}, worker=worker)


if __name__ == "__main__":
    if os.environ.get("TEST_NOBODY_IS_NEAR"):
        mock.patch.object(http_protocol, "is_near", return_value=False).start()
    given = settings_to_start("limited", Settings)
    sys.exit(run_processes(MODULE, given.workers, given, lambda worker: run(given, worker)))
