"""Instagram messaging webhooks as Meta sends them, in the shape `messaging[]`; times are milliseconds.

Meta escapes what is not ASCII, and signs the escapes: so do these bodies. `batch` puts any of them into one POST.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from turnout_cli.webhooks.post import Webhook


def text(account: str, client: str, mid: str, at: datetime, words: str) -> Webhook:
    return _from_client(account, client, at, {"message": {"mid": mid, "text": words}})


def quick_reply(account: str, client: str, mid: str, at: datetime, data: str, title: str) -> Webhook:
    """A tap on a quick reply under our message."""
    return _from_client(
        account, client, at, {"message": {"mid": mid, "text": title, "quick_reply": {"payload": data}}}
    )


def postback(account: str, client: str, mid: str, at: datetime, data: str, title: str) -> Webhook:
    """A press on a button of a template or of the menu."""
    return _from_client(account, client, at, {"postback": {"mid": mid, "title": title, "payload": data}})


def read(account: str, client: str, mid: str, at: datetime) -> Webhook:
    """The client has seen message `mid` of ours."""
    return _from_client(account, client, at, {"read": {"mid": mid}})


def unsent(account: str, client: str, mid: str, at: datetime) -> Webhook:
    """The client took message `mid` back."""
    return _from_client(account, client, at, {"message": {"mid": mid, "is_deleted": True}})


def echo(account: str, client: str, mid: str, at: datetime, words: str, app_id: int | None = None) -> Webhook:
    """What the salon wrote: by the app `app_id`, or by hand in Instagram."""
    message: dict[str, Any] = {"mid": mid, "text": words, "is_echo": True}
    message |= {"app_id": app_id} if app_id is not None else {}
    return _posted([_entry(account, _update(account, client, at) | {"message": message}, at)])


def batch(*webhooks: Webhook) -> Webhook:
    """One POST with all that the given ones hold, in their order."""
    return _posted([entry for webhook in webhooks for entry in json.loads(webhook.body)["entry"]])


def _from_client(account: str, client: str, at: datetime, content: dict[str, Any]) -> Webhook:
    return _posted([_entry(account, _update(client, account, at) | content, at)])


def _update(sender: str, recipient: str, at: datetime) -> dict[str, Any]:
    return {"sender": {"id": sender}, "recipient": {"id": recipient}, "timestamp": _millis(at)}


def _entry(account: str, update: dict[str, Any], at: datetime) -> dict[str, Any]:
    """Sent a moment after it happened."""
    return {"id": account, "time": _millis(at) + 785, "messaging": [update]}


def _posted(entries: list[dict[str, Any]]) -> Webhook:
    return Webhook(
        "instagram", json.dumps({"object": "instagram", "entry": entries}, separators=(",", ":")).encode()
    )


def _millis(at: datetime) -> int:
    return int(at.timestamp() * 1000)
