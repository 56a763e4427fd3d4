"""The client that posts webhooks: tries again what may be tried again, with the same bytes, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from turnout_cli.webhooks import PostFailed, Webhook, WebhookClient

SECRETS = {"calcom": "secret", "telegram": "secret"}
HELLO = Webhook("calcom", b'{"hello":1}')


class Receiver:
    """Answers with the given statuses, the last one for ever; notes what came."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []
        self.headers: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.headers.append(request.headers.get("X-Cal-Signature-256", ""))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.Response(
            status=status, text="words", headers={"Retry-After": "0"} if status == 503 else {}
        )


@asynccontextmanager
async def serving(receiver: Receiver) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/webhooks/{channel}/{tenant}", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def sent(receiver: Receiver, *webhooks: Webhook, known: float = 0, patience: float = 5) -> list[int]:
    async with (
        serving(receiver) as url,
        WebhookClient(url, "salon", SECRETS, patience_seconds=patience, known_within_seconds=known) as client,
    ):
        return [(await client.send(webhook)).status for webhook in webhooks]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_be_tried_again_is_sent_again_byte_for_byte(status: int) -> None:
    receiver = Receiver(status, status, 202)

    assert await sent(receiver, HELLO) == [202]
    assert receiver.bodies == [HELLO.body] * 3
    assert len(set(receiver.headers)) == 1


@pytest.mark.parametrize("status", [200, 400, 401, 404, 409, 413, 500])
async def test_any_other_answer_is_final(status: int) -> None:
    receiver = Receiver(status)

    assert await sent(receiver, HELLO) == [status]
    assert len(receiver.bodies) == 1


async def test_a_channel_that_was_set_a_moment_ago_is_waited_for_once() -> None:
    receiver = Receiver(401, 401, 202, 401)

    assert await sent(receiver, HELLO, HELLO, known=5) == [202, 401]
    assert len(receiver.bodies) == 4


async def test_a_forged_signature_is_not_waited_for() -> None:
    receiver = Receiver(401)
    async with (
        serving(receiver) as url,
        WebhookClient(url, "salon", SECRETS, known_within_seconds=5) as client,
    ):
        answer = await client.send(HELLO, headers={"X-Cal-Signature-256": "forged"})

    assert (answer.status, len(receiver.bodies)) == (401, 1)


async def test_a_receiver_that_stays_away_is_given_up_in_words() -> None:
    with pytest.raises(PostFailed, match="503"):
        await sent(Receiver(503), HELLO, patience=0.3)
    async with WebhookClient("http://127.0.0.1:1", "salon", SECRETS, patience_seconds=0.3) as client:
        with pytest.raises(PostFailed, match="no final answer"):
            await client.send(HELLO)


async def test_a_connection_that_broke_is_tried_again() -> None:
    receiver = Receiver(202)
    handle = receiver.handle
    broken: list[bytes] = []

    async def break_first(request: web.Request) -> web.Response:
        if not broken:
            broken.append(await request.read())
            assert request.transport is not None
            request.transport.close()
        return await handle(request)

    receiver.handle = break_first  # type: ignore[method-assign]

    assert await sent(receiver, HELLO) == [202]
    assert broken == [HELLO.body]
