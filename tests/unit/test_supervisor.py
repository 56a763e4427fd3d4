"""Crashed children come back, none outlives us, and a failed start says why."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from turnout_cli.embedded.process import ended_within, free_port, rotate_log, tail
from turnout_cli.supervisor import Backoff, ProcessSpec, ServiceProcess, StartFailed, Supervisor, Watched

SERVER = """
import http.server, signal, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
QUICK = Backoff(first=0.01, longest=0.02)


def service(
    folder: Path, name: str, *arguments: str, script: str = SERVER, stop_seconds: float = 15
) -> ServiceProcess:
    port = free_port()
    spec = ProcessSpec(
        name=name,
        argv=[sys.executable, "-c", script, str(port), *arguments],
        env=dict(os.environ),
        health_url=f"http://127.0.0.1:{port}/ready",
        log_path=folder / f"{name}.log",
    )
    return ServiceProcess(spec, ready_seconds=20, stop_seconds=stop_seconds)


class Changes:
    """Records what the supervisor tells, and lets a test wait for it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._news = asyncio.Event()

    def __call__(self, watched: Watched) -> None:
        self.seen.append((watched.child.name, watched.state))
        self._news.set()

    async def wait_for(self, change: tuple[str, str], *, times: int) -> None:
        async with asyncio.timeout(20):
            while self.seen.count(change) < times:
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def changes() -> Changes:
    return Changes()


@pytest.fixture
async def supervisor(changes: Changes) -> AsyncIterator[Supervisor]:
    created = Supervisor(backoff=QUICK, on_change=changes)
    yield created
    await created.stop()


async def test_a_crashed_child_comes_back_and_is_counted(
    supervisor: Supervisor, changes: Changes, tmp_path: Path
) -> None:
    child = service(tmp_path, "crashing")
    await supervisor.start(child)
    first = child.pid
    assert first is not None

    os.kill(first, signal.SIGKILL)
    await changes.wait_for(("crashing", "ready"), times=2)

    assert supervisor.watched["crashing"].restarts == 1
    assert child.pid not in (None, first)


async def test_a_child_that_ignores_sigterm_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    child = service(tmp_path, "stubborn", "stubborn", stop_seconds=0.2)
    await supervisor.start(child)
    process = psutil.Process(child.pid)

    await supervisor.stop()

    assert not process.is_running()
    assert await child.wait() == -signal.SIGKILL


async def test_a_failed_start_shows_the_end_of_the_log(supervisor: Supervisor, tmp_path: Path) -> None:
    child = service(tmp_path, "broken", script="raise SystemExit('no such setting')")

    with pytest.raises(StartFailed, match=r"broken ended with status 1(.|\n)*no such setting"):
        await supervisor.start(child)

    assert child.pid is None


async def test_one_failed_start_leaves_none_of_its_stage_running(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    slow = service(tmp_path, "slow", script="import time; time.sleep(60)")
    broken = service(tmp_path, "broken", script="raise SystemExit(3)")

    with pytest.raises(StartFailed):
        await supervisor.start(slow, broken)

    assert (slow.pid, broken.pid) == (None, None)


async def test_the_last_stage_stops_first(supervisor: Supervisor, changes: Changes, tmp_path: Path) -> None:
    await supervisor.start(service(tmp_path, "database"))
    await supervisor.start(service(tmp_path, "reader"))

    await supervisor.stop()

    stopped = [name for name, state in changes.seen if state == "stopped"]
    assert stopped == ["reader", "database"]


async def test_the_terminals_ctrl_c_does_not_reach_the_children(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    child = service(tmp_path, "apart")
    await supervisor.start(child)
    assert child.pid is not None

    assert os.getsid(child.pid) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_supervisor_takes_its_children_along(tmp_path: Path) -> None:
    script = """
import asyncio, pathlib, signal, sys
from turnout_cli.embedded.process import spawn
async def main():
    child = await spawn([sys.executable, "-c", "import time; time.sleep(60)"], log=pathlib.Path(sys.argv[1]))
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "child.log")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))

        parent.kill()

    assert ended_within(child, 10)


def test_pauses_grow_stay_bounded_and_differ() -> None:
    backoff = Backoff(first=1, longest=8)

    pauses = {failures: [backoff.pause(failures) for _ in range(50)] for failures in (1, 2, 3, 4, 1000)}

    for failures, full in ((1, 1), (2, 2), (3, 4), (4, 8), (1000, 8)):
        assert full / 2 <= min(pauses[failures]) < max(pauses[failures]) <= full


def test_a_large_log_is_moved_aside_and_three_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout_cli.embedded.process._LOG_BYTES", 4)
    log = tmp_path / "x.log"

    for run in range(6):
        rotate_log(log)
        log.write_text(f"run {run}")

    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"x.log": "run 5", "x.log.1": "run 4", "x.log.2": "run 3", "x.log.3": "run 2"}


def test_a_small_log_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("one\ntwo\nthree\n")

    rotate_log(log)

    assert tail(log, lines=2) == "two\nthree"


def test_a_port_is_given_once_and_no_outgoing_connection_takes_it() -> None:
    given = [free_port() for _ in range(500)]

    assert len(set(given)) == len(given)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert max(given) < client.getsockname()[1]
