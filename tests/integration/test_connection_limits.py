"""The limits of connections as they are set: through the settings and `serve`, in a process and in several workers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.limited_process import MODULE
from tests.integration.probe import until
from turnout_cli.embedded.process import free_port
from turnout_cli.supervisor import ProcessSpec, ServiceProcess

ROOT = Path(__file__).parents[2]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#: With so many no worker is left with less than its share, however the kernel spreads them.
TRIES = 40


class Asking:
    """Connections from one address, one after the other, each with a request; all stay open until the end."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._port = port
        self._address = address
        self._opened: list[asyncio.StreamWriter] = []
        self.pids: set[bytes] = set()

    async def ask(self) -> int:
        """The status that one more connection is answered with; 0 where that got lost."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(self._address, 0))
        self._opened.append(writer)
        with contextlib.suppress(ConnectionError):
            writer.write(GET)
            await writer.drain()
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.pids |= {await reader.readexactly(length)} - {b""}
                return int(head.split(b" ")[1])
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0

    def leave(self) -> None:
        for writer in self._opened:
            writer.transport.abort()


async def answers(port: int, tries: int = TRIES, address: str = "127.0.0.1") -> Counter[int]:
    """What so many connections from `address` are answered, all open until the last has come."""
    asking = Asking(port, address)
    try:
        return Counter([await asking.ask() for _ in range(tries)])
    finally:
        asking.leave()


@contextlib.asynccontextmanager
async def served(folder: Path, workers: int = 1, *, far: bool = False, **settings: str) -> AsyncIterator[int]:
    """The port of a program with these settings, all of whose workers answer. `far`: the loopback has limits too."""
    port = free_port()
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "TURNOUT_ENV": "development",
        "TURNOUT_POSTGRES_DSN": "postgresql://nobody@127.0.0.1/nothing",
        "TURNOUT_HTTP_PORT": str(port),
        "TURNOUT_WORKERS": str(workers),
        "TMPDIR": str(folder),
        **settings,
    } | ({"TEST_NOBODY_IS_NEAR": "1"} if far else {})
    spec = ProcessSpec(
        "limited", [sys.executable, "-m", MODULE], environment, f"http://127.0.0.1:{port}/", folder / "log"
    )
    process = ServiceProcess(spec)
    await process.start()
    pids: set[bytes] = set()

    async def all_answer() -> bool:
        asking = Asking(port)
        await asking.ask()
        asking.leave()
        pids.update(asking.pids)
        return len(pids) == workers

    try:
        await until(all_answer, "all workers to answer")
        yield port
    finally:
        await process.stop()


def told(found: Counter[int], refused: int) -> tuple[int, bool]:
    """How many were answered, and whether all others were refused by that status and no other."""
    return found[200], found.keys() <= {200, refused, 0} and found[refused] > 0


async def test_a_process_takes_as_many_connections_as_it_is_told(tmp_path: Path) -> None:
    async with served(tmp_path, TURNOUT_MAX_CONNECTIONS="5") as port:
        assert told(await answers(port), 503) == (5, True)
        await until(lambda: _all_answered(port, 5), "those that went to make room")


async def _all_answered(port: int, connections: int) -> bool:
    return await answers(port, connections) == {200: connections}


async def test_workers_share_the_connections_between_them(tmp_path: Path) -> None:
    async with served(tmp_path, 2, TURNOUT_MAX_CONNECTIONS="6") as port:
        assert told(await answers(port), 503) == (6, True)


async def test_a_worker_takes_one_connection_at_least(tmp_path: Path) -> None:
    async with served(tmp_path, 2, TURNOUT_MAX_CONNECTIONS="1") as port:
        assert told(await answers(port), 503) == (2, True)


async def test_an_address_has_as_many_connections_as_it_is_told_and_another_its_own(tmp_path: Path) -> None:
    async with served(tmp_path, far=True, TURNOUT_MAX_CONNECTIONS_PER_ADDRESS="3") as port:
        assert told(await answers(port), 429) == (3, True)
        assert told(await answers(port, address="127.0.0.2"), 429) == (3, True)


async def test_workers_share_the_connections_of_an_address_rounded_up(tmp_path: Path) -> None:
    """The kernel may give one worker all of an address's few: rounded down, the limit would be stricter than told."""
    async with served(tmp_path, 2, far=True, TURNOUT_MAX_CONNECTIONS_PER_ADDRESS="3") as port:
        assert told(await answers(port), 429) == (4, True)


@pytest.mark.parametrize(
    ("far", "limit", "proxies"),
    [(True, "0", ""), (True, "3", "127.0.0.0/8"), (False, "3", "")],
    ids=["no limit", "a proxy of ours", "near"],
)
async def test_an_address_without_a_limit_has_none(
    tmp_path: Path, far: bool, limit: str, proxies: str
) -> None:
    own = {"TURNOUT_MAX_CONNECTIONS_PER_ADDRESS": limit, "TURNOUT_TRUSTED_PROXIES": proxies}
    async with served(tmp_path, 1, far=far, **own) as port:
        assert await answers(port) == {200: TRIES}
