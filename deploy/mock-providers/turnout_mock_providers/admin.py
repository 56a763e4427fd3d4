"""The admin API of the mock providers, for tests and `turnout smoke`. `{provider}` is e.g. `telegram`.

- `PUT /_admin/{provider}/behaviours`  `{"token", "behaviours": [{"kind", …}]}`: how the next requests go (behaviours.py)
- `GET /_admin/{provider}/sent?token=&chat_id=`: `{"messages": [{token, chat_id, message_id, text, at}]}`
- `GET /_admin/{provider}/calls?token=`: `{"calls": [{token, method, status, at}]}`
- `DELETE /_admin/{provider}?token=`: forgets messages and calls (without token: all)
- `POST /_admin/{provider}/reply`  `{"url", "secret", "chat_id", "text"}` or `{"url", "secret", "update"}`: posts the
  provider's webhook; answers `{"status", "body"}` of the one who got it
"""

from __future__ import annotations

from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from turnout_mock_providers.behaviours import Behaviour
from turnout_mock_providers.providers.provider import Backstage, Provider

REPLY_SECONDS = 15
ANSWER_MOST = 10_000
Model = TypeVar("Model", bound=BaseModel)


class SetBehaviours(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: str
    behaviours: list[Behaviour]


class Reply(BaseModel):
    """What a client does; the rest of the fields is the provider's (its `webhook`)."""

    model_config = ConfigDict(extra="allow")

    url: str = Field(pattern=r"^https?://")
    secret: str


class Admin:
    def __init__(self, backstage: Backstage, providers: tuple[Provider, ...]) -> None:
        self._backstage = backstage
        self._providers = {provider.name: provider for provider in providers}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.put("/_admin/{provider}/behaviours", self.set_behaviours),
            web.get("/_admin/{provider}/sent", self.sent),
            web.get("/_admin/{provider}/calls", self.calls),
            web.delete("/_admin/{provider}", self.clear),
            web.post("/_admin/{provider}/reply", self.reply),
        ]

    async def set_behaviours(self, request: web.Request) -> web.Response:
        wanted = await _body(request, SetBehaviours)
        self._backstage.behaviours.set(self._provider(request).name, wanted.token, wanted.behaviours)
        return web.json_response({"ok": True})

    async def sent(self, request: web.Request) -> web.Response:
        query = request.query
        name = self._provider(request).name
        messages = self._backstage.ledger.sent(name, query.get("token"), query.get("chat_id"))
        return web.json_response({"messages": messages})

    async def calls(self, request: web.Request) -> web.Response:
        name = self._provider(request).name
        return web.json_response({"calls": self._backstage.ledger.calls(name, request.query.get("token"))})

    async def clear(self, request: web.Request) -> web.Response:
        self._backstage.ledger.clear(self._provider(request).name, request.query.get("token"))
        return web.json_response({"ok": True})

    async def reply(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Reply)
        try:
            webhook = self._provider(request).webhook(wanted.secret, wanted.model_extra or {})
        except ValueError as error:
            return _refused(str(error))
        timeout = aiohttp.ClientTimeout(total=REPLY_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(wanted.url, data=webhook.body, headers=webhook.headers) as answer,
            ):
                text = (await answer.text())[:ANSWER_MOST]
                return web.json_response({"status": answer.status, "body": text})
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return web.json_response({"error": type(error).__name__}, status=502)

    def _provider(self, request: web.Request) -> Provider:
        provider = self._providers.get(request.match_info["provider"])
        if provider is None:
            raise web.HTTPNotFound(text=f"providers: {', '.join(self._providers)}")
        return provider


async def _body(request: web.Request, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        raise web.HTTPBadRequest(text=str(error)) from error


def _refused(reason: str) -> web.Response:
    answer: dict[str, Any] = {"error": reason}
    return web.json_response(answer, status=400)
