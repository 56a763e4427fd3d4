"""Telegram's Bot API as far as the sender uses it: getMe and sendMessage; and updates to a bot's webhook."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from aiohttp import web

from turnout_mock_providers.behaviours import Behaviour, Kind
from turnout_mock_providers.ledger import Call, SentMessage
from turnout_mock_providers.providers.provider import Backstage, Webhook

_TOKEN = re.compile(r"[0-9]{6,20}:[A-Za-z0-9_-]{8,128}")
TEXT_MOST = 4096


class Telegram:
    name = "telegram"

    def __init__(self, backstage: Backstage) -> None:
        self._backstage = backstage

    def routes(self) -> list[web.RouteDef]:
        return [
            web.route("*", "/bot{token}/getMe", self.get_me),
            web.post("/bot{token}/sendMessage", self.send_message),
        ]

    async def get_me(self, request: web.Request) -> web.Response:
        token = request.match_info["token"]
        if not self._exists(token):
            return self._answer(token, "getMe", 401, _error(401, "Unauthorized"))
        bot = {"id": int(token.split(":")[0]), "is_bot": True, "first_name": "Mock", "username": "mock_bot"}
        return self._answer(token, "getMe", 200, {"ok": True, "result": bot})

    async def send_message(self, request: web.Request) -> web.Response:
        token, method = request.match_info["token"], "sendMessage"
        if not self._exists(token):
            return self._answer(token, method, 401, _error(401, "Unauthorized"))
        chat_id, text, fault = await _read(request)
        if fault:
            return self._answer(token, method, 400, _error(400, f"Bad Request: {fault}"))
        behaviour = self._backstage.behaviours.next(self.name, token, str(chat_id))
        if behaviour and (refusal := _refusal(behaviour)):
            return self._answer(token, method, refusal["error_code"], refusal)
        if behaviour and behaviour.kind is Kind.CUT:
            return self._cut(request, token, method)
        message = self._deliver(token, chat_id, text)
        if behaviour and behaviour.kind is Kind.SLOW:
            await asyncio.sleep(behaviour.seconds)
        if behaviour and behaviour.kind is Kind.LOSE_ANSWER:
            return self._cut(request, token, method)
        return self._answer(token, method, 200, {"ok": True, "result": message})

    def webhook(self, secret: str, told: dict[str, Any]) -> Webhook:
        """`told`: either a whole `update`, or `chat_id` and `text` of a client's message (`update_id`, `message_id`,
        `first_name` may be set)."""
        update = told.get("update") or self._client_message(told)
        body = json.dumps(update, ensure_ascii=False).encode()
        return Webhook({"Content-Type": "application/json", "X-Telegram-Bot-Api-Secret-Token": secret}, body)

    def _client_message(self, told: dict[str, Any]) -> dict[str, Any]:
        try:
            chat_id, text = int(told["chat_id"]), str(told["text"])
        except (KeyError, TypeError, ValueError):
            raise ValueError("give `update`, or `chat_id` (a number) and `text`") from None
        who = {"id": chat_id, "first_name": str(told.get("first_name", "Client"))}
        number = self._backstage.ledger.next_id()
        return {
            "update_id": int(told.get("update_id", number)),
            "message": {
                "message_id": int(told.get("message_id", number)),
                "date": int(self._backstage.clock.now().timestamp()),
                "chat": who | {"type": "private"},
                "from": who | {"is_bot": False},
                "text": text,
            },
        }

    def _deliver(self, token: str, chat_id: int, text: str) -> dict[str, Any]:
        now, message_id = self._backstage.clock.now(), self._backstage.ledger.next_id()
        self._backstage.ledger.add_sent(
            SentMessage(self.name, token, str(chat_id), str(message_id), text, now)
        )
        chat = {"id": chat_id, "type": "private"}
        return {"message_id": message_id, "date": int(now.timestamp()), "chat": chat, "text": text}

    def _exists(self, token: str) -> bool:
        known = self._backstage.tokens
        return bool(_TOKEN.fullmatch(token)) and (known is None or token in known)

    def _answer(self, token: str, method: str, status: int, body: dict[str, Any]) -> web.Response:
        self._note(token, method, status)
        headers = {}
        if status == 429:
            headers["Retry-After"] = str(body["parameters"]["retry_after"])
        return web.json_response(body, status=status, headers=headers)

    def _cut(self, request: web.Request, token: str, method: str) -> web.Response:
        self._note(token, method, 0)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _note(self, token: str, method: str, status: int) -> None:
        now = self._backstage.clock.now()
        self._backstage.ledger.add_call(Call(self.name, token, method, status, now))


async def _read(request: web.Request) -> tuple[int, str, str | None]:
    """Chat, text, and what is wrong with them in the Bot API's words."""
    try:
        body = json.loads(await request.read())
        chat_id, text = body.get("chat_id"), body.get("text")
    except (ValueError, AttributeError):
        return 0, "", "can't parse JSON object"
    if not isinstance(chat_id, int) or isinstance(chat_id, bool):
        return 0, "", "chat_id is empty" if chat_id is None else "chat not found"
    if not isinstance(text, str) or not text.strip():
        return chat_id, "", "message text is empty"
    if len(text) > TEXT_MOST:
        return chat_id, text, "message is too long"
    return chat_id, text, None


def _refusal(behaviour: Behaviour) -> dict[str, Any] | None:
    match behaviour.kind:
        case Kind.FAIL:
            return _error(behaviour.status, "Internal Server Error")
        case Kind.THROTTLE:
            told = _error(429, f"Too Many Requests: retry after {behaviour.retry_after}")
            return told | {"parameters": {"retry_after": behaviour.retry_after}}
        case Kind.BLOCKED:
            return _error(403, "Forbidden: bot was blocked by the user")
        case Kind.NO_CHAT:
            return _error(400, "Bad Request: chat not found")
        case Kind.REVOKED:
            return _error(401, "Unauthorized")
        case _:
            return None


def _error(code: int, description: str) -> dict[str, Any]:
    return {"ok": False, "error_code": code, "description": description}
