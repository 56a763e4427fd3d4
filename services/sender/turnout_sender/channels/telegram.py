"""Telegram Bot API: sendMessage. It gives no receipts and knows no idempotency key, so a lost answer stays unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from turnout_common.events import Channel
from turnout_sender.channels.http import Http, Reply, bounded_seconds
from turnout_sender.channels.port import Answer, Verdict

#: What Telegram issues; anything else must not get into a URL.
_TOKEN = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{1,128}")
_CHAT = re.compile(r"-?[0-9]{1,18}")
#: Words of a 400 that mean this chat, and not our request.
_NO_CHAT = (
    "chat not found",
    "user not found",
    "peer_id_invalid",
    "chat_id is empty",
    "no rights to send",
    "upgraded",
)


class Telegram:
    channel = Channel.TELEGRAM
    base_url = "https://api.telegram.org"
    per_second = 20

    async def send(self, http: Http, token: str, address: str, text: str) -> Answer:
        if not _TOKEN.fullmatch(token):
            return Answer(Verdict.TOKEN_REFUSED, "token_malformed")
        if not _CHAT.fullmatch(address):
            return Answer(Verdict.FAULT, "address_malformed")
        body = {"chat_id": int(address), "text": text}
        return answer_of(await http.post(self.base_url, f"/bot{token}/sendMessage", body))


def answer_of(reply: Reply) -> Answer:
    """What an answer means. A 2xx or 5xx that is not the Bot API's own comes from something in between: lost."""
    body, status = reply.body, reply.status
    if body.get("ok") is True:
        message_id = body["result"].get("message_id") if isinstance(body.get("result"), dict) else None
        if isinstance(message_id, int):
            return Answer(Verdict.ACCEPTED, None, status, str(message_id))
        return Answer(Verdict.LOST, "answer_unreadable", status)
    if status == 429:
        return Answer(Verdict.THROTTLED, "throttled", status, retry_after=_retry_after(reply))
    if status in (401, 404):  # 404 is what the Bot API says to a token that has no bot
        return Answer(Verdict.TOKEN_REFUSED, f"http_{status}", status)
    if status == 403:
        return Answer(Verdict.REFUSED, "blocked", status)
    if status == 400:
        return _bad_request(body, status)
    if status == 503 or (status >= 500 and body.get("ok") is False) or 300 <= status < 400:
        return Answer(Verdict.FAILED, f"http_{status}", status)
    if 400 <= status < 500:
        return Answer(Verdict.FAULT, f"http_{status}", status)
    return Answer(Verdict.LOST, "answer_unreadable", status)


def _bad_request(body: Mapping[str, Any], status: int) -> Answer:
    description = str(body.get("description", "")).lower()
    if any(words in description for words in _NO_CHAT):
        return Answer(Verdict.REFUSED, "chat_not_found", status)
    return Answer(Verdict.FAULT, "bad_request", status)


def _retry_after(reply: Reply) -> float | None:
    parameters = reply.body.get("parameters")
    told = bounded_seconds(parameters.get("retry_after")) if isinstance(parameters, dict) else None
    return told if told is not None else reply.retry_after
