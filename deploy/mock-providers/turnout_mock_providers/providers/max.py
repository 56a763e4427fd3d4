"""MAX's Bot API as far as `reconcile max` uses it: a bot's webhook subscriptions; and updates to such a webhook."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from aiohttp import web

from turnout_mock_providers.behaviours import Behaviour, Kind
from turnout_mock_providers.ledger import Call
from turnout_mock_providers.providers.provider import Backstage, Webhook

_TOKEN = re.compile(r"[!-~]{8,256}")
_SECRET = re.compile(r"[A-Za-z0-9_-]{5,256}")


class Max:
    name = "max"

    def __init__(self, backstage: Backstage) -> None:
        self._backstage = backstage
        self._subscriptions: dict[str, dict[str, dict[str, Any]]] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/subscriptions", self.list_subscriptions),
            web.post("/subscriptions", self.subscribe),
            web.delete("/subscriptions", self.unsubscribe),
        ]

    async def list_subscriptions(self, request: web.Request) -> web.Response:
        token, refused = await self._admit(request)
        if refused is not None:
            return refused
        return self._answer(request, token, 200, {"subscriptions": list(self._of(token).values())})

    async def subscribe(self, request: web.Request) -> web.Response:
        token, refused = await self._admit(request)
        if refused is not None:
            return refused
        wanted, fault = await _read(request)
        if fault:
            return self._answer(request, token, 400, _error("proto.payload", fault))
        since = int(self._backstage.clock.now().timestamp() * 1000)
        shown = {"url": wanted["url"], "time": since, "update_types": wanted.get("update_types")}
        self._of(token)[wanted["url"]] = shown
        return self._answer(request, token, 200, {"success": True})

    async def unsubscribe(self, request: web.Request) -> web.Response:
        token, refused = await self._admit(request)
        if refused is not None:
            return refused
        found = self._of(token).pop(request.query.get("url", ""), None)
        answer = {"success": True} if found else {"success": False, "message": "no such subscription"}
        return self._answer(request, token, 200, answer)

    def webhook(self, secret: str, told: dict[str, Any]) -> Webhook:
        """`told`: either a whole `update`, or `user_id` and `text` of a client's message."""
        update = told.get("update") or self._client_message(told)
        body = json.dumps(update, ensure_ascii=False).encode()
        return Webhook({"Content-Type": "application/json", "X-Max-Bot-Api-Secret": secret}, body)

    def _client_message(self, told: dict[str, Any]) -> dict[str, Any]:
        try:
            user_id, text = int(told["user_id"]), str(told["text"])
        except (KeyError, TypeError, ValueError):
            raise ValueError("give `update`, or `user_id` (a number) and `text`") from None
        number, now = self._backstage.ledger.next_id(), int(self._backstage.clock.now().timestamp() * 1000)
        message = {
            "recipient": {"chat_id": user_id, "chat_type": "dialog"},
            "timestamp": now,
            "body": {"mid": f"mid.{number:024x}", "seq": number, "text": text},
            "sender": {"user_id": user_id, "first_name": "Client", "name": "Client", "is_bot": False},
        }
        return {"update_type": "message_created", "timestamp": now, "message": message, "user_locale": "ru"}

    async def _admit(self, request: web.Request) -> tuple[str, web.Response | None]:
        """The token, and the answer where the request goes no further. A token in the query is none, as at MAX."""
        token = request.headers.get("Authorization", "")
        known = self._backstage.tokens
        if not _TOKEN.fullmatch(token) or (known is not None and token not in known):
            return token, self._answer(request, token, 401, _error("verify.token", "Invalid access_token"))
        behaviour = self._backstage.behaviours.next(self.name, token, "")
        return token, await self._spoil(request, token, behaviour) if behaviour else None

    async def _spoil(self, request: web.Request, token: str, behaviour: Behaviour) -> web.Response | None:
        match behaviour.kind:
            case Kind.SLOW:
                await asyncio.sleep(behaviour.seconds)
                return None
            case Kind.FAIL:
                return self._answer(request, token, behaviour.status, _error("internal", "Internal error"))
            case Kind.THROTTLE:
                return self._answer(request, token, 429, _error("too.many.requests", "Too many requests"))
            case Kind.REVOKED:
                return self._answer(request, token, 401, _error("verify.token", "Invalid access_token"))
            case Kind.CUT | Kind.LOSE_ANSWER:
                self._note(request, token, 0)
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            case _:
                return None

    def _of(self, token: str) -> dict[str, dict[str, Any]]:
        """A bot's subscriptions by URL."""
        return self._subscriptions.setdefault(token, {})

    def _answer(self, request: web.Request, token: str, status: int, body: dict[str, Any]) -> web.Response:
        self._note(request, token, status)
        return web.json_response(body, status=status)

    def _note(self, request: web.Request, token: str, status: int) -> None:
        method, now = f"{request.method} {request.path}", self._backstage.clock.now()
        self._backstage.ledger.add_call(Call(self.name, token, method, status, now))


async def _read(request: web.Request) -> tuple[dict[str, Any], str | None]:
    """The subscription that is asked for, and what is wrong with it."""
    try:
        body = json.loads(await request.read())
        url, secret = body.get("url"), body.get("secret")
    except (ValueError, AttributeError):
        return {}, "can't parse the body"
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        return body, "url is not a URL"
    if secret is not None and not (isinstance(secret, str) and _SECRET.fullmatch(secret)):
        return body, "secret does not match ^[a-zA-Z0-9_-]{5,256}$"
    return body, None


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}
