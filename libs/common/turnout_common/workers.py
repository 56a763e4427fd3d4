"""One service as several processes on one port: a parent that only watches, and workers that each run the whole.

In: a module to run and how often. Out: its exit status. Promise: the port is bound once and its connections are spread
over all workers; all end together: when one dies the others are stopped and the status is 1, so that whoever supervises
the service starts it again; a parent that is killed takes its workers with it. POSIX only.

Each worker is a new interpreter and no fork: generators of ids and random numbers must not be inherited.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import structlog

log = structlog.get_logger()
BACKLOG = 2048
#: Above what a service gives itself to drain and to stop.
KILL_AFTER_SECONDS = 40.0
_SPREADS = sys.platform == "linux"
_FLAG = "--worker"


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among its siblings. `seed` is the same for all of them and another after each start."""

    index: int
    count: int
    seed: int
    folder: str
    sockets: tuple[int, ...]
    lifeline: int
    bell: tuple[int, int]

    @property
    def first(self) -> bool:
        """Whether it does what one process a replica is enough for."""
        return self.index == 0

    def listening(self) -> list[socket.socket]:
        """Its own sockets, to listen on: those of the service's port, and the one on which its siblings ask it."""
        return [socket.socket(fileno=number) for number in self.sockets]

    def siblings(self) -> list[str]:
        """The addresses on which each worker, this one too, answers for itself, in order."""
        return [_private_address(self.folder, index) for index in range(self.count)]

    def calling(self, called: Callable[[], None]) -> Callable[[], None]:
        """`called` itself in the first worker, which hears its siblings from now on; in these what rings there."""
        if not self.first:
            return self._ring

        def heard() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(self.bell[0], 65536)
            called()

        asyncio.get_running_loop().add_reader(self.bell[0], heard)
        return called

    def _ring(self) -> None:
        """A bell that is full has been heard of."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.bell[1], b"\0")

    def end_with_parent(self, stop_seconds: float) -> None:
        """Stops this process as SIGTERM does when the parent is gone, at the latest after `stop_seconds`."""

        def watch() -> None:
            os.read(self.lifeline, 1)  # nobody writes: it returns when the parent has ended
            os.kill(os.getpid(), signal.SIGTERM)
            sleep(stop_seconds)
            shutil.rmtree(self.folder, ignore_errors=True)
            os._exit(1)

        threading.Thread(target=watch, name="lifeline", daemon=True).start()


def this_worker(arguments: Sequence[str]) -> Worker | None:
    """What the parent wrote into the command line; None in a process that is nobody's worker."""
    if len(arguments) != 2 or arguments[0] != _FLAG:
        return None
    values = json.loads(arguments[1])
    return Worker(**values | {name: tuple(values[name]) for name in ("sockets", "bell")})


def run_workers(module: str, count: int, host: str, port: int) -> int:
    """Runs `python -m module` as `count` workers on host:port until a signal or until one ends; gives the exit status.

    Raises OSError when the port cannot be had.
    """
    folder = tempfile.mkdtemp(prefix="turnout-workers-")
    try:
        public = _public_sockets(host, port, count)
        return asyncio.run(_watch(module, public, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _watch(module: str, public: list[list[socket.socket]], folder: str) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    processes = await _start(module, public, folder)
    stopping = asyncio.create_task(stopped.wait())
    ends = [asyncio.create_task(process.wait()) for process in processes]
    await asyncio.wait([stopping, *ends], return_when=asyncio.FIRST_COMPLETED)
    if not stopped.is_set():
        pids = [process.pid for process in processes if process.returncode is not None]
        log.error("a worker ended, the service stops to be restarted", pids=pids)
    for process in processes:
        if process.returncode is None:
            process.terminate()
    _, late = await asyncio.wait(ends, timeout=KILL_AFTER_SECONDS)
    for process in processes if late else ():
        if process.returncode is None:
            process.kill()
    statuses = await asyncio.gather(*ends)
    stopping.cancel()
    return 0 if stopped.is_set() and not any(statuses) else max(1, *statuses)


async def _start(
    module: str, public: list[list[socket.socket]], folder: str
) -> list[asyncio.subprocess.Process]:
    count, seed = len(public), secrets.randbelow(1 << 16)
    lifeline, _held = os.pipe()  # the other end closes with this process, however it ends
    bell = os.pipe()
    for end in bell:
        os.set_blocking(end, False)
    processes = []
    for index, sockets in enumerate(public):
        private = socket.socket(socket.AF_UNIX)
        private.bind(_private_address(folder, index))
        private.listen(BACKLOG)
        numbers = [each.fileno() for each in (*sockets, private)]
        place: dict[str, Any] = {
            "index": index, "count": count, "seed": seed, "folder": folder, "sockets": numbers,
            "lifeline": lifeline, "bell": bell,
        }  # fmt: skip
        processes.append(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, _FLAG, json.dumps(place), pass_fds=(*numbers, lifeline, *bell)
            )
        )
        for each in (*sockets, private):
            each.close()
    return processes


def _private_address(folder: str, index: int) -> str:
    return str(Path(folder, str(index)))


def _public_sockets(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """For each worker its sockets, one an address of `host`: bound, so that the port is ours.

    Its server listens on them once it runs. Until then nobody waits there for a worker that is still starting.
    """
    found: list[list[socket.socket]] = [[] for _ in range(count)]
    for family, *_, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        at = (address[0], port, *address[2:])
        # Alone first: a port that is to be spread would be shared with another program without a word.
        with _bound(family, at, spread=False) as alone:
            port = alone.getsockname()[1]
        at = (address[0], port, *address[2:])
        if _SPREADS:
            bound = [_bound(family, at, spread=True) for _ in range(count)]
        else:
            one = _bound(family, at, spread=False)
            bound = [one, *(one.dup() for _ in range(count - 1))]
        for sockets, each in zip(found, bound, strict=True):
            sockets.append(each)
    return found


def _bound(family: int, address: Any, *, spread: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if spread:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made
