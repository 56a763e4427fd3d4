"""Keeps child processes running and stops them in order.

Promise: a crashed child comes back (jittered, growing pauses, counted); at the end no child is left:
SIGTERM, 15 seconds, SIGKILL. Children sit in sessions of their own, so Ctrl-C reaches only us.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import aiohttp

from turnout_cli.embedded.process import spawn, stop_process, tail
from turnout_cli.errors import CommandError

ChildState = Literal["starting", "ready", "restarting", "stopping", "stopped"]


class StartFailed(CommandError):
    """A child did not become ready; the text holds the end of its log."""


class Child(Protocol):
    """Something that runs as a process: a service, or an embedded server."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    async def start(self) -> None:
        """Start and return when ready."""

    async def stop(self) -> None:
        """End; no error when not running."""

    async def wait(self) -> int:
        """Wait until the process ends."""


@dataclass(frozen=True)
class ProcessSpec:
    """How to run one service."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    health_url: str
    log_path: Path


@dataclass(frozen=True)
class Backoff:
    """Pauses before restarts: doubling from `first` to `longest`, each cut by up to half at random."""

    first: float = 0.5
    longest: float = 30.0
    calm_after: float = 60.0
    """A child that ran this long starts again with the first pause."""

    def pause(self, failures: int) -> float:
        full: float = min(self.longest, self.first * 2.0 ** min(failures - 1, 16))
        return full * random.uniform(0.5, 1.0)


class ServiceProcess:
    """A service: ready when its health URL answers 200."""

    def __init__(self, spec: ProcessSpec, *, ready_seconds: float = 60.0, stop_seconds: float = 15.0) -> None:
        self.spec = spec
        self._ready_seconds = ready_seconds
        self._stop_seconds = stop_seconds
        self._process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        self._process = await spawn(self.spec.argv, log=self.spec.log_path, env=self.spec.env)
        try:
            await self._wait_until_ready(self._process)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        if self._process is not None:
            await stop_process(self._process, signal.SIGTERM, timeout_seconds=self._stop_seconds)

    async def wait(self) -> int:
        if self._process is None:
            raise StartFailed(f"{self.name} has not been started")
        return await self._process.wait()

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline = asyncio.get_running_loop().time() + self._ready_seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not await _is_ok(session, self.spec.health_url):
                if process.returncode is not None:
                    reason = f"ended with status {process.returncode}"
                elif asyncio.get_running_loop().time() > deadline:
                    reason = f"was not ready within {self._ready_seconds:.0f} s"
                else:
                    await asyncio.sleep(0.1)
                    continue
                raise StartFailed(
                    f"{self.name} {reason}; its log {self.spec.log_path} ends:\n{tail(self.spec.log_path)}"
                )


async def _is_ok(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


@dataclass
class Watched:
    """A child and what became of it."""

    child: Child
    state: ChildState = "starting"
    restarts: int = 0
    guard: asyncio.Task[None] | None = None


class Supervisor:
    """Starts children stage by stage, restarts what crashes, stops in the reverse order."""

    def __init__(
        self, *, backoff: Backoff | None = None, on_change: Callable[[Watched], None] | None = None
    ) -> None:
        self.watched: dict[str, Watched] = {}
        self._stages: list[list[Watched]] = []
        self._backoff = backoff or Backoff()
        self._on_change = on_change or (lambda _watched: None)

    async def start(self, *children: Child) -> None:
        """Start one stage, all at once; the first start of a child must succeed."""
        stage = [Watched(child) for child in children]
        self._stages.append(stage)
        self.watched |= {watched.child.name: watched for watched in stage}
        tasks = [asyncio.create_task(self._start(watched)) for watched in stage]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def stop(self) -> None:
        """Stop everything, the last stage first; one that resists does not keep the rest running."""
        errors: list[BaseException] = []
        while self._stages:
            stage = self._stages.pop()
            results = await asyncio.gather(*(self._stop(each) for each in stage), return_exceptions=True)
            errors += [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise errors[0]

    async def _start(self, watched: Watched) -> None:
        self._set(watched, "starting")
        await watched.child.start()
        self._set(watched, "ready")
        watched.guard = asyncio.create_task(self._guard(watched))

    async def _stop(self, watched: Watched) -> None:
        if watched.guard is not None:
            watched.guard.cancel()
            await asyncio.gather(watched.guard, return_exceptions=True)
        self._set(watched, "stopping")
        await watched.child.stop()
        self._set(watched, "stopped")

    async def _guard(self, watched: Watched) -> None:
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            since = clock()
            await watched.child.wait()
            failures = 1 if clock() - since > self._backoff.calm_after else failures + 1
            while not await self._restart(watched, self._backoff.pause(failures)):
                failures += 1

    async def _restart(self, watched: Watched, pause: float) -> bool:
        watched.restarts += 1
        self._set(watched, "restarting")
        await asyncio.sleep(pause)
        try:
            await watched.child.start()
        except CommandError:  # its log tells why; the next pause is longer
            return False
        self._set(watched, "ready")
        return True

    def _set(self, watched: Watched, state: ChildState) -> None:
        watched.state = state
        self._on_change(watched)


def stop_signals() -> list[signal.Signals]:
    """What ends a run in order: Ctrl-C, `down`, and the end of the terminal, unless nohup shut our ears to that."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
