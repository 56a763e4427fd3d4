"""The commands up, down and status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from typing import Annotated

import psutil
from cyclopts import Parameter
from rich.console import Console

from turnout_cli.embedded.process import ended_within, tail
from turnout_cli.reporting import reporter_for_this_terminal
from turnout_cli.state import AlreadyRunning, Home, ProcessMark, State
from turnout_cli.status import WIDE, fetch_figures, service_urls, status_document, table
from turnout_cli.system import System

_DETACHED_SECONDS = 300.0
_DOWN_SECONDS = 90.0

_words = Console(stderr=True, highlight=False, soft_wrap=True)

Detach = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", negative=())]
Demo = Annotated[bool, Parameter(negative="--no-demo")]


def up(*, detach: Detach = False, as_json: Json = False, demo: Demo = True) -> int:
    """Start Postgres, Kafka and all services; bring the database and the topics up to date.

    Parameters
    ----------
    detach
        Return once everything is ready, and let it run on in the background.
    as_json
        Print what `status --json` prints, once everything is ready.
    demo
        With the tenant `default` and with mock providers instead of the real ones.
    """
    home = Home()
    home.create()
    try:
        with home.lock():
            if not detach:
                return _run_here(home, demo=demo, as_json=as_json)
    except AlreadyRunning:
        _words.print("Turnout is running already.")
        return _wait_for_ready(home, as_json=as_json)
    return _run_detached(home, demo=demo, as_json=as_json)


def down() -> int:
    """Stop the system that `up` started from this folder."""
    home = Home()
    state = home.load()
    supervisor = state.supervisor.find() if state.supervisor else None
    if supervisor is None:
        _words.print("Turnout is not running.")
        return 0
    _words.print("stopping …")
    started = time.monotonic()
    with contextlib.suppress(psutil.NoSuchProcess):
        supervisor.send_signal(signal.SIGTERM)
    if not ended_within(supervisor, _DOWN_SECONDS):
        _words.print(f"✗ process {supervisor.pid} does not end; its log: {home.log('up')}")
        return 1
    _words.print(f"✓ stopped ({time.monotonic() - started:.1f} s)")
    return 0


def status(*, as_json: Json = False) -> int:
    """Show what runs, and where; exit status 1 when Turnout is not running."""
    return _show(Home(), as_json=as_json)


def _run_here(home: Home, *, demo: bool, as_json: bool) -> int:
    reporter = reporter_for_this_terminal()
    when_ready = (lambda: print(json.dumps(status_document(home)), flush=True)) if as_json else None
    asyncio.run(System(home, reporter, demo=demo, when_ready=when_ready).run())
    _words.print("✓ stopped")
    return 0


def _run_detached(home: Home, *, demo: bool, as_json: bool) -> int:
    log = home.log("up")
    argv = [sys.executable, "-m", "turnout_cli.main", "up", "--demo" if demo else "--no-demo"]
    with log.open("w") as output:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    mark, shown = ProcessMark.of(child.pid), 0
    deadline = time.monotonic() + _DETACHED_SECONDS
    while time.monotonic() < deadline:
        shown = _pass_on(log.read_text(), shown)
        state = home.load()
        if mark and state.supervisor and state.supervisor.pid == mark.pid and state.phase == "ready":
            return _show(home, as_json=as_json)
        if child.poll() is not None:
            _pass_on(log.read_text(), shown)
            # With 0, another `up` was quicker than ours.
            return _wait_for_ready(home, as_json=as_json) if child.returncode == 0 else 1
        time.sleep(0.1)
    _words.print(f"✗ not ready within {_DETACHED_SECONDS:.0f} s; {log} ends:\n{tail(log)}", markup=False)
    return 1


def _pass_on(text: str, shown: int) -> int:
    """Print the complete lines that were not printed yet; returns how far we are."""
    end = text.rfind("\n") + 1
    if end > shown:
        _words.print(text[shown:end], end="", markup=False)
    return max(end, shown)


def _wait_for_ready(home: Home, *, as_json: bool) -> int:
    deadline = time.monotonic() + _DETACHED_SECONDS
    while home.load().phase == "starting" and home.load().alive and time.monotonic() < deadline:
        time.sleep(0.2)
    return _show(home, as_json=as_json)


def _show(home: Home, *, as_json: bool) -> int:
    document = status_document(home)
    if as_json:
        print(json.dumps(document, indent=2))
    elif not document["running"]:
        _words.print(f"Turnout is not running ({document['phase']}). Start it with `./turnout up`.")
    else:
        _print_table(home.load())
    return 0 if document["running"] else 1


def _print_table(state: State) -> None:
    out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
    figures = asyncio.run(fetch_figures(service_urls(state)))
    out.print(table(state, figures, width=out.width))
    if state.token:
        out.print(f"demo tenant default, token {state.token}")
