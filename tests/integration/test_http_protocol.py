"""HTTP on the socket, byte by byte: how many connections, how long each may take, and what a request on the wire is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.ingest_service import serving
from tests.integration.probe import until
from turnout_common import http_protocol
from turnout_common.client_address import Proxies
from turnout_common.http_protocol import ConnectionLimits, limited

GET = b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n"
START = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class App:
    """Answers `/whole` with the length of the body, `/early` without a look at it."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.release = asyncio.Event()
        self.release.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        size, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await self.release.wait()
        text = b"%d" % size
        head = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": text})


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and text of the next answer; 0 when the connection ended."""
        try:
            async with asyncio.timeout(3):
                head = await self._reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                return int(head.split(b" ")[1]), await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""

    async def is_closed(self, seconds: float = 2.0) -> bool:
        """Whether the server ends the connection."""
        try:
            async with asyncio.timeout(seconds):
                return await self._reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@contextlib.asynccontextmanager
async def clients(url: str) -> AsyncIterator[Any]:
    """Gives a function that connects; all connections are closed at the end."""
    address, opened = urlsplit(url), []

    async def connect() -> Client:
        client = Client(*await asyncio.open_connection(address.hostname, address.port))
        opened.append(client)
        return client

    try:
        yield connect
    finally:
        for client in opened:
            client.writer.transport.abort()


@contextlib.asynccontextmanager
async def served(total: int = 100, per_address: int = 100, proxies: str = "") -> AsyncIterator[Any]:
    app, limits = App(), ConnectionLimits(total, per_address, Proxies(proxies))
    async with serving(app, http=limited(limits)) as url, clients(url) as connect:
        yield app, limits, connect


async def test_connection_over_the_limit_is_told_so_and_closed_and_may_come_when_another_went() -> None:
    async with served(total=2) as (_, limits, connect):
        first, second = await connect(), await connect()
        for client in (first, second):
            await client.say(GET)
            assert (await client.answer())[0] == 200
        third = await connect()

        assert (await third.answer())[0] == 503
        assert await third.is_closed()
        first.writer.close()
        await until(lambda: _free(limits, 1), "the first to be counted out")
        again = await connect()
        await again.say(GET)
        assert (await again.answer())[0] == 200


async def _free(limits: ConnectionLimits, connections: int) -> bool:
    return limits._all == connections


async def test_one_address_has_its_own_limit_unless_it_is_near_or_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def statuses(proxies: str = "") -> list[int]:
        async with served(per_address=1, proxies=proxies) as (_, _, connect):
            first, second = await connect(), await connect()
            await first.say(GET)
            with contextlib.suppress(ConnectionError):
                await second.say(GET)
            return [(await each.answer())[0] for each in (first, second)]

    near = await statuses()
    monkeypatch.setattr(http_protocol, "is_near", lambda address: False)

    assert near == [200, 200]
    assert await statuses() == [200, 429]
    assert await statuses("127.0.0.0/8") == [200, 200]


async def test_every_connection_is_counted_out_however_it_ends() -> None:
    async with served() as (_, limits, connect):
        for ending in (
            b"",
            GET,
            b"nonsense\r\n\r\n",
            b"POST /whole HTTP/1.1\r\n",
            START % (b"/whole", 10) + b"x",
        ):
            client = await connect()
            await client.say(ending)
            client.writer.transport.abort()
        await until(lambda: _free(limits, 0), "all connections to be counted out")
        assert not limits._of


async def test_rest_of_a_body_that_was_answered_early_may_come_and_the_connection_goes_on() -> None:
    async with served() as (_, _, connect):
        client = await connect()
        await client.say(START % (b"/early", 100_000) + b"x" * 10)
        assert await client.answer() == (200, b"0")
        await client.say(b"x" * 99_990 + GET)

        assert await client.answer() == (200, b"0")


async def test_rest_of_a_body_that_was_answered_early_is_not_waited_for_without_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "REST_SECONDS", 0.3)
    async with served() as (_, _, connect):
        client = await connect()
        await client.say(START % (b"/early", 100_000))
        assert (await client.answer())[0] == 200

        trickle = asyncio.create_task(_trickle(client))
        assert await client.is_closed(), "a byte now and then keeps no connection"
        trickle.cancel()


async def _trickle(client: Client) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await client.say(b"x")
            await asyncio.sleep(0.05)


async def test_rest_of_a_body_that_was_answered_early_is_bounded() -> None:
    async with served() as (_, _, connect):
        client = await connect()
        await client.say(START % (b"/early", 10**12))
        assert (await client.answer())[0] == 200
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                await client.say(b"x" * 1_000_000)

        assert await client.is_closed()


async def test_idle_connection_is_kept_longer_than_proxies_keep_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert http_protocol.HTTP_OPTIONS["timeout_keep_alive"] == http_protocol.IDLE_SECONDS > 60
    async with serving(App(), timeout_keep_alive=0.3) as url, clients(url) as connect:
        client = await connect()
        await client.say(GET)

        assert (await client.answer())[0] == 200
        assert await client.is_closed(), "but not for ever"


async def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    async with served() as (app, _, connect):
        app.release.clear()
        client = await connect()
        requests = [START % (b"/whole", n) + b"x" * n for n in range(1, 40)]
        await client.say(b"".join(requests))
        await until(lambda: _began(app), "the first to be read")
        assert len(app.paths) == 1, "the next waits for the answer of the one before"
        app.release.set()

        assert [await client.answer() for _ in requests] == [(200, b"%d" % n) for n in range(1, 40)]


async def _began(app: App) -> bool:
    return bool(app.paths)


CHUNKED = b"POST /whole HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"POST /whole HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: A\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", (200, b"3")),
        (CHUNKED + b"2;name=value\r\nab\r\n0\r\nTrailer: x\r\n\r\n", (200, b"2")),
        (CHUNKED + b"-1\r\n", (400, None)),
        (CHUNKED + b"0x2\r\nab\r\n0\r\n\r\n", (400, None)),
        (CHUNKED.replace(b"chunked", b"chunked, gzip") + b"2\r\nab\r\n0\r\n\r\n", (400, None)),
        (CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + b"0\r\n\r\n", (400, None)),
        (b"POST /whole HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", (400, None)),
        (b"POST /whole HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 2\r\n\r\nab", (400, None)),
        (b"POST /whole HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\nab", (400, None)),
        (b"POST /whole HTTP/1.1\nHost: x\nContent-Length: 2\n\nab", (400, None)),
        (b"POST /whole HTTP/1.1\r\nHost : x\r\nContent-Length: 2\r\n\r\nab", (400, None)),
        (b"POST /whole HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nab", (400, None)),
        (b"POST /whole HTTP/1.1\r\nHost: x\r\nA: \x00\r\nContent-Length: 2\r\n\r\nab", (400, None)),
        (b"POST /whole HTTP/1.0\r\nContent-Length: 2\r\n\r\nab", (200, b"2")),
        # Java's client asks for HTTP/2 on a plain connection with every request, and must be heard all the same.
        (UPGRADE % b"h2c" + b"Content-Length: 2\r\n\r\nab", (200, b"2")),
        (UPGRADE % b"websocket" + b"Content-Length: 2\r\n\r\nab", (200, b"2")),
        (UPGRADE % b"h2c" + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", (200, b"2")),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", (400, None)),
    ],
)
async def test_what_a_request_is_on_the_wire(sent: bytes, answer: tuple[int, bytes | None]) -> None:
    async with served() as (app, _, connect):
        client = await connect()
        await client.say(sent)
        status, text = await client.answer()

        assert (status, text if answer[1] is not None else None) == answer
        if answer[0] == 400:
            assert await client.is_closed()
            assert app.paths in ([], ["/whole"])


async def test_connection_goes_on_after_requests_that_ask_for_another_protocol() -> None:
    async with served() as (_, _, connect):
        client = await connect()
        asking = UPGRADE % b"h2c" + b"Content-Length: 2\r\n\r\nab"
        await client.say(asking + asking[:-1])
        assert await client.answer() == (200, b"2")
        await client.say(b"b" + asking.replace(b"Upgrade, ", b"close, Upgrade, "))

        assert [await client.answer() for _ in range(2)] == [(200, b"2")] * 2
        assert await client.is_closed()


async def test_expect_100_continue_is_answered_when_the_body_is_wanted_and_not_before_a_refusal() -> None:
    async with served() as (_, _, connect):
        wanted, refused = await connect(), await connect()
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        await wanted.say(head % b"/whole")
        async with asyncio.timeout(3):
            assert await wanted._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wanted.say(b"ab")
        await refused.say(head % b"/early")

        assert await wanted.answer() == (200, b"2")
        assert await refused.answer() == (200, b"0")
