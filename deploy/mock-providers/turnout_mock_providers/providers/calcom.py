"""Cal.com's API v2 as far as `reconcile calcom` uses it: a key's list of bookings; and its signed webhooks.

`PUT /_admin/calcom/bookings`  `{"token", "bookings": [{…as listed}]}` sets what a key's list holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from datetime import datetime
from typing import Any

from aiohttp import web

from turnout_mock_providers.behaviours import Behaviour, Kind
from turnout_mock_providers.ledger import Call
from turnout_mock_providers.providers.provider import Backstage, Webhook

VERSION = "2024-08-13"
MOST_A_PAGE = 250
_TOKEN = re.compile(r"cal_[!-~]{4,256}")
_STATUSES = frozenset({"upcoming", "past", "cancelled", "unconfirmed", "recurring"})


class Calcom:
    name = "calcom"

    def __init__(self, backstage: Backstage) -> None:
        self._backstage = backstage
        self._bookings: dict[str, list[dict[str, Any]]] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v2/bookings", self.list_bookings),
            web.put("/_admin/calcom/bookings", self.set_bookings),
        ]

    async def set_bookings(self, request: web.Request) -> web.Response:
        wanted = json.loads(await request.read())
        self._bookings[wanted["token"]] = wanted["bookings"]
        return web.json_response({"ok": True})

    async def list_bookings(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        known = self._backstage.tokens
        if not _TOKEN.fullmatch(token) or (known is not None and token not in known):
            return self._answer(request, token, 401, _error("UnauthorizedException", "Invalid API key"))
        if request.headers.get("cal-api-version") != VERSION:
            return self._answer(request, token, 404, _error("NotFoundException", "Cannot GET /v2/bookings"))
        behaviour = self._backstage.behaviours.next(self.name, token, "")
        if behaviour is not None and (spoilt := await self._spoil(request, token, behaviour)) is not None:
            return spoilt
        try:
            rows, take, skip = self._asked_for(request, token)
        except ValueError as error:
            return self._answer(request, token, 400, _error("BadRequestException", str(error)))
        page = rows[skip : skip + take]
        paging = {
            "totalItems": len(rows),
            "returnedItems": len(page),
            "itemsPerPage": take,
            "remainingItems": max(len(rows) - skip - take, 0),
            "hasNextPage": skip + take < len(rows),
            "hasPreviousPage": skip > 0,
        }
        return self._answer(request, token, 200, {"status": "success", "data": page, "pagination": paging})

    def webhook(self, secret: str, told: dict[str, Any]) -> Webhook:
        """`told`: a whole `body`."""
        if not isinstance(told.get("body"), dict):
            raise ValueError("give `body`: the webhook's own")
        body = json.dumps(told["body"], ensure_ascii=False).encode()
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return Webhook({"Content-Type": "application/json", "X-Cal-Signature-256": digest}, body)

    def _asked_for(self, request: web.Request, token: str) -> tuple[list[dict[str, Any]], int, int]:
        """The rows in the order that is asked for, and the page. Raises ValueError as Cal.com refuses."""
        query = request.query
        statuses = set(query.get("status", ",".join(_STATUSES)).split(","))
        if not statuses <= _STATUSES:
            raise ValueError("status: allowed are upcoming, recurring, past, cancelled, unconfirmed")
        take, skip = int(query.get("take", "100")), int(query.get("skip", "0"))
        if not 1 <= take <= MOST_A_PAGE or skip < 0:
            raise ValueError(f"take: 1 to {MOST_A_PAGE}")
        since = _time(query["afterUpdatedAt"]) if "afterUpdatedAt" in query else None
        rows = [
            row
            for row in self._bookings.get(token, [])
            if self._status(row) & statuses and (since is None or _time(row["updatedAt"]) >= since)
        ]
        if "sortCreated" in query:
            rows.sort(key=lambda row: _time(row["createdAt"]), reverse=query["sortCreated"] == "desc")
        return rows, take, skip

    def _status(self, row: dict[str, Any]) -> set[str]:
        """Under which filters a booking is found."""
        match row["status"]:
            case "cancelled" | "rejected":
                return {"cancelled"}
            case "pending":
                return {"unconfirmed"}
        return {"upcoming"} if _time(row["end"]) >= self._backstage.clock.now() else {"past"}

    async def _spoil(self, request: web.Request, token: str, behaviour: Behaviour) -> web.Response | None:
        match behaviour.kind:
            case Kind.SLOW:
                await asyncio.sleep(behaviour.seconds)
                return None
            case Kind.FAIL:
                return self._answer(request, token, behaviour.status, _error("InternalServerError", "failed"))
            case Kind.THROTTLE:
                answer = self._answer(request, token, 429, _error("ThrottlerException", "Too many requests"))
                answer.headers["Retry-After"] = str(behaviour.retry_after)
                return answer
            case Kind.REVOKED:
                return self._answer(request, token, 401, _error("UnauthorizedException", "Invalid API key"))
            case Kind.CUT | Kind.LOSE_ANSWER:
                self._note(request, token, 0)
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            case _:
                return None

    def _answer(self, request: web.Request, token: str, status: int, body: dict[str, Any]) -> web.Response:
        self._note(request, token, status)
        return web.json_response(body, status=status)

    def _note(self, request: web.Request, token: str, status: int) -> None:
        method, now = f"{request.method} {request.path}", self._backstage.clock.now()
        self._backstage.ledger.add_call(Call(self.name, token, method, status, now))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"status": "error", "error": {"code": code, "message": message}}
