"""Ingest against hostile HTTP, byte by byte: a plain refusal, no row, no fault, and no memory that a stranger fills."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import SECRETS, Service, add_channels, created, ingest, rows
from turnout_cli.webhooks import signed_headers


@pytest.fixture(scope="module")
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[Service]:
    async with ingest(
        database, infrastructure, topic_prefix, relay=False, tenant_reload_seconds=0.2
    ) as started:
        yield started


@pytest.fixture
async def salon(database: Database, service: Service, tenant_id: str) -> str:
    await add_channels(database, tenant_id)
    await service.directory.reload()
    return tenant_id


async def talk(service: Service, *parts: bytes, pause: float = 0.0) -> bytes:
    """Sends bytes as they are and gives what came back until the server closed or fell silent."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    found = b""
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(1.5):
            while piece := await reader.read(65536):
                found += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def request_of(path: bytes, body: bytes = b"", headers: bytes = b"", method: bytes = b"POST") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n" + body


HOSTILE = {
    "overlong tenant": request_of(b"/webhooks/calcom/" + b"a" * 5000),
    "percent-encoded slash": request_of(b"/webhooks/calcom/a%2Fb"),
    "percent-encoded NUL": request_of(b"/webhooks/calcom/%00"),
    "path that is no text": request_of(b"/webhooks/calcom/%ff%fe"),
    "dots": request_of(b"/webhooks/calcom/../../status"),
    "alias of a path": request_of(b"//webhooks/calcom/x"),
    "whole url": request_of(b"http://evil/webhooks/calcom/x"),
    "no path": request_of(b"*", method=b"OPTIONS"),
    "head": request_of(b"/webhooks/calcom/x", method=b"HEAD"),
    "two lengths": request_of(b"/webhooks/calcom/x", b"{}", b"Content-Length: 2\r\nContent-Length: 200\r\n"),
    "length and chunks": request_of(
        b"/webhooks/calcom/x", b"0\r\n\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    ),
    "negative length": request_of(b"/webhooks/calcom/x", b"", b"Content-Length: -5\r\n"),
    "chunk of a huge size": request_of(
        b"/webhooks/calcom/x", b"FFFFFFFFFFFFFFFF\r\nabc", b"Transfer-Encoding: chunked\r\n"
    ),
    "header folding": request_of(b"/webhooks/calcom/x", b"", b"X-A: 1\r\n 2\r\n"),
    "header that is no text": request_of(b"/webhooks/calcom/x", b"", b"X-Cal-Signature-256: \xff\xfe\r\n"),
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "websocket": request_of(
        b"/webhooks/calcom/x", b"", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", method=b"GET"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_request_is_refused_plainly(service: Service, name: str) -> None:
    answer = await talk(service, HOSTILE[name])

    assert status(answer) in (0, 400, 401, 404, 405, 413), answer[:200]
    assert b"Traceback" not in answer
    assert status(await talk(service, request_of(b"/health", method=b"GET"))) == 200


async def test_headers_without_an_end_are_cut_off_before_they_fill_the_memory(service: Service) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = b"POST /webhooks/calcom/x HTTP/1.1\r\nHost: x\r\nX-A: "
    answer = await talk(service, start, *[b"a" * 1_000_000] * 50)

    assert status(answer) in (0, 400, 431)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


async def test_many_headers_are_cut_off(service: Service) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = b"POST /webhooks/calcom/x HTTP/1.1\r\nHost: x\r\n"
    lines = b"".join(b"X-%d: a\r\n" % n for n in range(100_000))
    answer = await talk(service, start, *[lines] * 20)

    assert status(answer) in (0, 400, 431)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.parametrize(
    "what", [b"1;" + b"a" * 70_000, b"0\r\nX-A: " + b"a" * 70_000], ids=["extension", "trailer"]
)
async def test_what_stands_round_chunks_is_bounded_too(service: Service, salon: str, what: bytes) -> None:
    path = f"/webhooks/calcom/{salon}".encode()
    start = request_of(path, b"", b"Transfer-Encoding: chunked\r\n").replace(b"Connection: close\r\n", b"")
    begun = asyncio.get_running_loop().time()
    answer = await talk(service, start, what, b"a" * 70_000, pause=0.1)

    assert answer == b""
    assert asyncio.get_running_loop().time() - begun < 1.4, "the server closed before we gave up"


@pytest.mark.parametrize("begun", [b"", b"POST /webhooks/calcom/x HTTP/1.1\r\nHost:"])
async def test_head_that_does_not_come_is_waited_for_a_while_only(
    service: Service, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("turnout_common.http_protocol.HEAD_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    started = loop.time()

    assert await talk(service, begun) == b""
    assert loop.time() - started < 1.2, "the server closed before we gave up"


async def test_second_request_of_a_connection_has_its_own_bounds(service: Service) -> None:
    request = request_of(b"/webhooks/calcom/x", b"", b"X-A: " + b"a" * 40_000 + b"\r\n")
    kept = request.replace(b"Connection: close\r\n", b"")

    assert (await talk(service, kept, kept, request)).count(b"HTTP/1.1 401") == 3


async def test_expect_continue_and_chunks_and_odd_case_are_read_as_any_other(
    service: Service, database: Database, salon: str
) -> None:
    webhook = created("chunked-uid-0000001")
    signed = signed_headers(webhook, SECRETS["calcom"], int(service.clock.now().timestamp()))
    lines = b"".join(f"{name.upper()}: {value}\r\n".encode() for name, value in signed.items())
    path = f"/webhooks/calcom/{salon}".encode()
    half = len(webhook.body) // 2
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part) for part in (webhook.body[:half], webhook.body[half:], b"")
    )
    answer = await talk(
        service,
        request_of(path, b"", lines + b"EXPECT: 100-continue\r\nTRANSFER-ENCODING: chunked\r\n"),
        chunks,
        pause=0.2,
    )

    assert b"HTTP/1.1 202" in answer
    assert [row["fate"] for row in await rows(database, salon)] == ["published"]
