"""WhatsApp Cloud API webhooks as Meta sends them: one number of a salon, its clients' messages and our messages' states.

Meta escapes what is not ASCII, and signs the escapes: so do these bodies. `batch` puts any of them into one POST.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turnout_cli.webhooks.post import Webhook

OBJECT = "whatsapp_business_account"


@dataclass(frozen=True)
class Number:
    """A salon's number at Meta: what its items are routed by, what people dial, and the account that it is in."""

    phone_number_id: str
    display: str
    account_id: str = "100000000000001"


@dataclass(frozen=True)
class Client:
    """Who writes. `phone` in digits, None for someone with a username whose number Meta keeps back."""

    phone: str | None
    name: str
    user_id: str | None = None


def text(number: Number, client: Client, message_id: str, at: datetime, words: str) -> Webhook:
    return _message(number, client, message_id, at, {"type": "text", "text": {"body": words}})


def quick_reply(
    number: Number, client: Client, message_id: str, at: datetime, data: str, title: str, answers: str
) -> Webhook:
    """A press on the button of a template that was sent as message `answers`."""
    content = {"type": "button", "button": {"payload": data, "text": title}}
    return _message(number, client, message_id, at, content | _context(number, answers))


def button_reply(
    number: Number, client: Client, message_id: str, at: datetime, data: str, title: str, answers: str
) -> Webhook:
    """A press on a button of the interactive message `answers`."""
    return _interactive(number, client, message_id, at, "button_reply", {"id": data, "title": title}, answers)


def list_reply(
    number: Number, client: Client, message_id: str, at: datetime, data: str, title: str, answers: str
) -> Webhook:
    """A choice from the list of the interactive message `answers`."""
    choice = {"id": data, "title": title, "description": ""}
    return _interactive(number, client, message_id, at, "list_reply", choice, answers)


def status(
    number: Number, client: Client, message_id: str, at: datetime, state: str, code: int | None = None
) -> Webhook:
    """What became of message `message_id` of ours: sent, delivered, read, or failed with an error's `code`."""
    said: dict[str, Any] = {"id": message_id, "status": state, "timestamp": _seconds(at)}
    said |= {"recipient_id": client.phone} if client.phone else {}
    said |= {"recipient_user_id": client.user_id} if client.user_id else {}
    if code is not None:
        words = "Message undeliverable"
        said["errors"] = [{"code": code, "title": words, "message": words, "error_data": {"details": words}}]
    elif state != "read":
        said["pricing"] = {"billable": True, "pricing_model": "PMP", "category": "utility"}
    people = {} if code is not None else {"contacts": [_contact(client)]}
    return _webhook(number, "messages", people | {"statuses": [said]})


def preference(number: Number, client: Client, at: datetime, *, stop: bool = True) -> Webhook:
    """The client stops marketing messages, or resumes them. Its time is a number, as nowhere else."""
    word = "stop" if stop else "resume"
    said: dict[str, Any] = {
        "detail": f"User requested to {word} marketing messages",
        "category": "marketing_messages",
        "value": word,
        "timestamp": int(at.timestamp()),
    }
    said |= {"wa_id": client.phone} if client.phone else {}
    said |= {"user_id": client.user_id} if client.user_id else {}
    people = {"contacts": [_contact(client)]}
    return _webhook(number, "user_preferences", people | {"user_preferences": [said]})


def batch(*webhooks: Webhook) -> Webhook:
    """One POST with all that the given ones hold, in their order."""
    entries = [entry for webhook in webhooks for entry in json.loads(webhook.body)["entry"]]
    return _posted(entries)


def _interactive(
    number: Number,
    client: Client,
    message_id: str,
    at: datetime,
    kind: str,
    chosen: dict[str, str],
    answers: str,
) -> Webhook:
    content = {"type": "interactive", "interactive": {"type": kind, kind: chosen}}
    return _message(number, client, message_id, at, content | _context(number, answers))


def _message(
    number: Number, client: Client, message_id: str, at: datetime, content: dict[str, Any]
) -> Webhook:
    message: dict[str, Any] = {"from": client.phone} if client.phone else {}
    message |= {"from_user_id": client.user_id} if client.user_id else {}
    message |= {"id": message_id, "timestamp": _seconds(at)} | content
    return _webhook(number, "messages", {"contacts": [_contact(client)], "messages": [message]})


def _context(number: Number, answers: str) -> dict[str, Any]:
    return {"context": {"from": number.display, "id": answers}}


def _contact(client: Client) -> dict[str, Any]:
    ids = {"wa_id": client.phone, "user_id": client.user_id}
    return {"profile": {"name": client.name}} | {name: value for name, value in ids.items() if value}


def _webhook(number: Number, field: str, content: dict[str, Any]) -> Webhook:
    metadata = {"display_phone_number": number.display, "phone_number_id": number.phone_number_id}
    value = {"messaging_product": "whatsapp", "metadata": metadata} | content
    return _posted([{"id": number.account_id, "changes": [{"value": value, "field": field}]}])


def _posted(entries: list[dict[str, Any]]) -> Webhook:
    return Webhook(
        "whatsapp", json.dumps({"object": OBJECT, "entry": entries}, separators=(",", ":")).encode()
    )


def _seconds(at: datetime) -> str:
    return str(int(at.timestamp()))
