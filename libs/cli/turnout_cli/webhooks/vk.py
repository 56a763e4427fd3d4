"""VK's Callback API events, without the secret: `signed_body` puts it in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turnout_cli.webhooks.post import Webhook


@dataclass(frozen=True)
class Chat:
    """A private chat with a community: its peer is the client's user id."""

    user_id: int
    group_id: int


def text(event_id: str, chat: Chat, message_no: int, at: datetime, words: str) -> Webhook:
    """A message; words that begin with `/` are a command."""
    return _event("message_new", event_id, chat, _new(_message(chat, message_no, at, words)))


def edited(
    event_id: str, chat: Chat, message_no: int, at: datetime, edited_at: datetime, words: str
) -> Webhook:
    message = _message(chat, message_no, at, words) | {"update_time": int(edited_at.timestamp())}
    return _event("message_edit", event_id, chat, message)


def keyboard_button(
    event_id: str, chat: Chat, message_no: int, at: datetime, words: str, label: str
) -> Webhook:
    """A press on a button of the keyboard: a message that carries the button's payload."""
    message = _message(chat, message_no, at, words) | {"payload": json.dumps({"button": label})}
    return _event("message_new", event_id, chat, _new(message))


def button(event_id: str, chat: Chat, message_no: int, label: str) -> Webhook:
    """A press on an inline button under message `message_no`; VK gives it no time."""
    press = {
        "user_id": chat.user_id,
        "peer_id": chat.user_id,
        "event_id": f"press-{event_id}",
        "payload": {"button": label},
        "conversation_message_id": message_no,
    }
    return _event("message_event", event_id, chat, press)


def reply(
    event_id: str, chat: Chat, message_no: int, at: datetime, words: str, admin_id: int | None
) -> Webhook:
    """What the community wrote to the client: by hand with `admin_id`, else by its bot."""
    message = _message(chat, message_no, at, words) | {"from_id": -chat.group_id, "out": 1}
    by = {"admin_author_id": admin_id} if admin_id is not None else {}
    return _event("message_reply", event_id, chat, message | by)


def allowed(event_id: str, chat: Chat) -> Webhook:
    return _event("message_allow", event_id, chat, {"user_id": chat.user_id, "key": ""})


def denied(event_id: str, chat: Chat) -> Webhook:
    """The client forbids the community to write."""
    return _event("message_deny", event_id, chat, {"user_id": chat.user_id})


def confirmation(chat: Chat) -> Webhook:
    """What VK sends when the server's address is set; it wants the confirmation code as the answer."""
    return _webhook({"type": "confirmation", "group_id": chat.group_id})


def _event(event_type: str, event_id: str, chat: Chat, told: dict[str, Any]) -> Webhook:
    return _webhook(
        {"type": event_type, "object": told, "group_id": chat.group_id, "event_id": event_id, "v": "5.199"}
    )


def _webhook(event: dict[str, Any]) -> Webhook:
    return Webhook("vk", json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())


def _new(message: dict[str, Any]) -> dict[str, Any]:
    abilities = {
        "button_actions": ["text", "callback"],
        "keyboard": True,
        "inline_keyboard": True,
        "lang_id": 0,
    }
    return {"message": message, "client_info": abilities}


def _message(chat: Chat, message_no: int, at: datetime, words: str) -> dict[str, Any]:
    return {
        "date": int(at.timestamp()),
        "from_id": chat.user_id,
        "id": 1000 + message_no,
        "out": 0,
        "attachments": [],
        "conversation_message_id": message_no,
        "fwd_messages": [],
        "text": words,
        "peer_id": chat.user_id,
        "random_id": 0,
    }
