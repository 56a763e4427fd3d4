"""What both servers share: starting a child that cannot outlive us, ports, log tails.

Promise: a child ends with this process, even if this process is killed with SIGKILL (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from turnout_cli.errors import CommandError

_LOG_BYTES = 10 * 1024 * 1024
_LOGS_KEPT = 3

# Below those of outgoing connections (Linux takes them from 32768 on, others from 49152): no connection sits on a
# server's port while the server is down, and no client that tries a closed port connects to itself.
_PORTS = range(20_000, 32_768)
_GIVEN: set[int] = set()

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: the child may not import or allocate much between fork and exec.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class EmbeddedError(CommandError):
    """An embedded server could not be prepared, started or reached; the text says what to do."""


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """A preexec function: the kernel sends `death_signal` when the starting thread ends.

    The signal follows the THREAD that forked, so children are started from the main thread only.
    """
    if _LIBC is None:
        return None
    libc, parent = _LIBC, os.getpid()

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return arm


async def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    death_signal: signal.Signals = signal.SIGTERM,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: int | None = None,
) -> asyncio.subprocess.Process:
    """Start a child in a session of its own, output appended to `log`, as `account` if given."""
    options: dict[str, Any] = {"env": env, "cwd": cwd, "stdin": asyncio.subprocess.DEVNULL}
    if os.name == "posix":
        options |= {"start_new_session": True, "preexec_fn": die_with_parent(death_signal)}
    if account is not None:
        options |= {"user": account, "group": account, "extra_groups": []}
    log.parent.mkdir(parents=True, exist_ok=True)
    rotate_log(log)
    with log.open("ab") as output:
        return await _spawn_into(output, argv, options)


async def _spawn_into(
    output: IO[bytes], argv: Sequence[str], options: dict[str, Any]
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv, stdout=output, stderr=asyncio.subprocess.STDOUT, **options
        )
    except OSError as error:
        raise EmbeddedError(f"{argv[0]} could not be started: {error}") from error


async def run_to_end(
    argv: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    account: int | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a preparing command; fail with the end of its log when it fails."""
    process = await spawn(argv, log=log, account=account, cwd=cwd, env=env)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        kill_group(process)
        raise
    if code != 0:
        raise EmbeddedError(f"{Path(argv[0]).name} failed with status {code}:\n{tail(log)}")


def kill_group(process: asyncio.subprocess.Process) -> None:
    """SIGKILL the child and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


async def stop_process(
    process: asyncio.subprocess.Process, stop_signal: signal.Signals, *, timeout_seconds: float
) -> None:
    """Ask the child to end; after the timeout, kill its group."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(stop_signal if os.name == "posix" else signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), timeout_seconds)
    except TimeoutError:
        kill_group(process)
        await process.wait()


def end_leftover(
    pid: int, marker: str, stop_signal: signal.Signals, *, timeout_seconds: float = 30.0
) -> bool:
    """End a server of an earlier run, if process `pid` is really it: its command line holds `marker`."""
    try:
        process = psutil.Process(pid)
        if marker not in process.cmdline():
            return False
        process.send_signal(stop_signal if os.name == "posix" else signal.SIGTERM)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    if not ended_within(process, timeout_seconds):
        raise EmbeddedError(f"process {pid} of an earlier run does not end; end it and try again")
    return True


def end_backends(folder: Path, *, timeout_seconds: float) -> None:
    """Wait for the processes of a dead server that still work in `folder`; kill what does not notice its death."""
    where = str(folder.resolve())
    left = [process for process in psutil.process_iter() if _works_in(process, where)]
    for process in psutil.wait_procs(left, timeout=timeout_seconds)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(timeout_seconds)


def _works_in(process: psutil.Process, folder: str) -> bool:
    try:
        return bool(process.cwd() == folder)
    except (psutil.Error, OSError):
        return False


def ended_within(process: psutil.Process, seconds: float) -> bool:
    """Whether the process ends in time. A zombie has ended: not every container has an init to reap it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, and that nobody in this process was given before."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if port not in _GIVEN and port_is_free(port):
            _GIVEN.add(port)
            return port
    raise EmbeddedError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free on 127.0.0.1")


def port_is_free(port: int) -> bool:
    """Whether we could listen on 127.0.0.1:port; sockets in TIME_WAIT do not count."""
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def require_free_port(port: int, server: str) -> None:
    """Fail in words when another program holds the port."""
    if not port_is_free(port):
        raise EmbeddedError(
            f"port {port} on 127.0.0.1, which {server} needs, is in use by another program; "
            f"end that program (`ss -ltnp 'sport = :{port}'` shows it) and try again"
        )


def rotate_log(log: Path) -> None:
    """Move a log that has grown large aside: x.log → x.log.1 → x.log.2 → x.log.3 → gone."""
    if not log.exists() or log.stat().st_size < _LOG_BYTES:
        return
    kept = [log, *(log.with_name(f"{log.name}.{number}") for number in range(1, _LOGS_KEPT + 1))]
    for older, newer in zip(reversed(kept), list(reversed(kept))[1:], strict=False):
        if newer.exists():
            newer.replace(older)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log file, for an error message."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    return "(no log)"
