"""The mock providers, called as their clients call them and told to misbehave."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.integration.sender_world import MockProviders, mock_providers

TOKEN = "123456789:mock-test-token"


@pytest.fixture
async def mock() -> AsyncIterator[MockProviders]:
    async with mock_providers() as started:
        yield started


async def send(mock: MockProviders, body: object, token: str = TOKEN) -> tuple[int, dict[str, Any]]:
    async with mock.session.post(f"{mock.url}/bot{token}/sendMessage", json=body) as answer:
        return answer.status, await answer.json()


async def test_message_is_kept_with_chat_text_and_time(mock: MockProviders) -> None:
    status, body = await send(mock, {"chat_id": 7, "text": "Привет"})

    assert (status, body["ok"], body["result"]["chat"]["id"]) == (200, True, 7)
    (message,) = await mock.sent(TOKEN)
    assert (message["chat_id"], message["text"], message["token"]) == ("7", "Привет", TOKEN)
    assert message["message_id"] == str(body["result"]["message_id"])
    assert await mock.sent("987654321:another-token") == []


@pytest.mark.parametrize("token", ["nonsense", "12:short", "123456789:", "123456789:bad.token!"])
async def test_malformed_token_is_unauthorized(mock: MockProviders, token: str) -> None:
    status, body = await send(mock, {"chat_id": 7, "text": "x"}, token)

    assert (status, body["ok"], body["error_code"]) == (401, False, 401)


async def test_only_known_tokens_exist_where_they_are_named() -> None:
    async with mock_providers(frozenset({TOKEN})) as mock:
        assert (await send(mock, {"chat_id": 7, "text": "x"}))[0] == 200
        assert (await send(mock, {"chat_id": 7, "text": "x"}, "123456789:somebody-else"))[0] == 401
        async with mock.session.get(f"{mock.url}/bot{TOKEN}/getMe") as answer:
            assert (await answer.json())["result"]["id"] == 123456789


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"text": "x"}, "chat_id is empty"),
        ({"chat_id": "seven", "text": "x"}, "chat not found"),
        ({"chat_id": 7}, "message text is empty"),
        ({"chat_id": 7, "text": "x" * 4097}, "message is too long"),
        ([], "can't parse JSON"),
    ],
)
async def test_body_that_telegram_would_refuse_is_refused(
    mock: MockProviders, body: object, words: str
) -> None:
    status, answer = await send(mock, body)

    assert (status, answer["ok"]) == (400, False)
    assert words in answer["description"]
    assert await mock.sent(TOKEN) == []


async def test_behaviours_apply_in_their_order_and_wear_out(mock: MockProviders) -> None:
    await mock.behave(
        TOKEN,
        {"kind": "fail", "times": 1, "status": 503},
        {"kind": "throttle", "times": 1, "retry_after": 4},
        {"kind": "blocked", "chat_id": "8"},
    )
    answers = [await send(mock, {"chat_id": chat, "text": "x"}) for chat in (7, 7, 7, 8, 7)]

    assert [status for status, _ in answers] == [503, 429, 200, 403, 200]
    assert answers[1][1]["parameters"] == {"retry_after": 4}
    assert [call["status"] for call in await mock.calls(TOKEN)] == [503, 429, 200, 403, 200]
    await mock.behave(TOKEN)
    assert (await send(mock, {"chat_id": 8, "text": "x"}))[0] == 200


@pytest.mark.parametrize(("kind", "arrives"), [("lose_answer", 1), ("cut", 0)])
async def test_connection_is_cut_after_or_before_the_message_is_taken(
    mock: MockProviders, kind: str, arrives: int
) -> None:
    await mock.behave(TOKEN, {"kind": kind, "times": 1})

    with pytest.raises(aiohttp.ClientError):
        await send(mock, {"chat_id": 7, "text": "x"})

    assert len(await mock.sent(TOKEN)) == arrives


async def test_unknown_behaviour_and_unknown_provider_are_told(mock: MockProviders) -> None:
    body = {"token": TOKEN, "behaviours": [{"kind": "explode"}]}
    async with mock.session.put(f"{mock.url}/_admin/telegram/behaviours", json=body) as answer:
        assert answer.status == 400
        assert "kind" in await answer.text()
    async with mock.session.get(f"{mock.url}/_admin/pigeon/sent") as answer:
        assert answer.status == 404
        assert (await answer.text()).startswith("providers: telegram")


async def test_forgetting_a_token_keeps_the_others(mock: MockProviders) -> None:
    other = "987654321:another-token"
    await send(mock, {"chat_id": 7, "text": "x"})
    await send(mock, {"chat_id": 7, "text": "x"}, other)

    async with mock.session.delete(f"{mock.url}/_admin/telegram", params={"token": TOKEN}) as answer:
        assert answer.status == 200

    assert (await mock.sent(TOKEN), len(await mock.sent(other))) == ([], 1)


async def test_reply_posts_an_update_with_the_secret(mock: MockProviders) -> None:
    got: list[tuple[str | None, dict[str, Any]]] = []

    async def webhook(request: web.Request) -> web.Response:
        got.append((request.headers.get("X-Telegram-Bot-Api-Secret-Token"), json.loads(await request.read())))
        return web.Response(status=202, text="taken")

    app = web.Application()
    app.router.add_post("/webhooks/telegram/salon", webhook)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/telegram/salon"
    try:
        for told in (
            {"chat_id": 7, "text": "Привет"},
            {"chat_id": 7, "text": "again"},
            {"update": {"update_id": 5}},
        ):
            body = {"url": url, "secret": "s3cret", **told}
            async with mock.session.post(f"{mock.url}/_admin/telegram/reply", json=body) as answer:
                assert (answer.status, await answer.json()) == (200, {"status": 202, "body": "taken"})
    finally:
        await runner.cleanup()

    assert {secret for secret, _ in got} == {"s3cret"}
    first, second, whole = (update for _, update in got)
    assert first["message"]["text"] == "Привет"
    assert first["message"]["chat"]["id"] == first["message"]["from"]["id"] == 7
    assert second["update_id"] > first["update_id"]
    assert whole == {"update_id": 5}


async def test_reply_to_nobody_is_told(mock: MockProviders) -> None:
    body = {"url": "http://127.0.0.1:9/", "secret": "s", "chat_id": 7, "text": "x"}
    async with mock.session.post(f"{mock.url}/_admin/telegram/reply", json=body) as answer:
        assert (answer.status, await answer.json()) == (502, {"error": "ClientConnectorError"})
    async with mock.session.post(
        f"{mock.url}/_admin/telegram/reply", json={**body, "chat_id": "x"}
    ) as answer:
        assert answer.status == 400


async def test_operations_routes_answer_as_every_services_do(mock: MockProviders) -> None:
    await send(mock, {"chat_id": 7, "text": "x"})
    found = {}
    for path in ("health", "ready", "status"):
        async with mock.session.get(f"{mock.url}/{path}") as answer:
            assert answer.status == 200
            found[path] = await answer.json()

    assert found["health"] == {"status": "ok", "service": "mock-providers"}
    assert found["ready"] == {"ready": True, "faults": {}}
    assert found["status"] == {"accepted": 1, "calls": 1}
