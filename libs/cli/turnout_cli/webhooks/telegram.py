"""Telegram updates as the Bot API sends them to a webhook."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turnout_cli.webhooks.post import Webhook


@dataclass(frozen=True)
class Chat:
    """A private chat: its id is the client's user id."""

    chat_id: int
    first_name: str
    language: str = "ru"


def text(update_id: int, chat: Chat, message_id: int, at: datetime, words: str) -> Webhook:
    """A message; words that begin with `/` are a command."""
    message = _message(chat, message_id, at) | {"text": words}
    if words.startswith("/"):
        message["entities"] = [{"type": "bot_command", "offset": 0, "length": len(words.split()[0])}]
    return _update(update_id, {"message": message})


def edited(
    update_id: int, chat: Chat, message_id: int, at: datetime, edited_at: datetime, words: str
) -> Webhook:
    message = _message(chat, message_id, at) | {"text": words, "edit_date": int(edited_at.timestamp())}
    return _update(update_id, {"edited_message": message})


def contact_shared(update_id: int, chat: Chat, message_id: int, at: datetime, phone: str) -> Webhook:
    """The client's own phone, sent by the button that asks for it: Telegram vouches for it (`user_id` is theirs)."""
    contact = {"phone_number": phone, "first_name": chat.first_name, "user_id": chat.chat_id}
    return _update(update_id, {"message": _message(chat, message_id, at) | {"contact": contact}})


def button(update_id: int, chat: Chat, message_id: int, at: datetime, data: str) -> Webhook:
    """A press on an inline button under message `message_id`."""
    query = {
        "id": str(chat.chat_id * 4294967296 + update_id),
        "from": _user(chat),
        "chat_instance": str(-chat.chat_id),
        "message": _message(chat, message_id, at),
        "data": data,
    }
    return _update(update_id, {"callback_query": query})


def bot_blocked(update_id: int, chat: Chat, at: datetime, *, blocked: bool = True) -> Webhook:
    """The client blocks the bot, or with `blocked=False` lets it write again."""
    bot = {"id": 100000001, "is_bot": True, "first_name": "Salon", "username": "salon_bot"}
    member = {
        "chat": _chat(chat),
        "from": _user(chat),
        "date": int(at.timestamp()),
        "old_chat_member": {"user": bot, "status": "member" if blocked else "kicked"} | _until(not blocked),
        "new_chat_member": {"user": bot, "status": "kicked" if blocked else "member"} | _until(blocked),
    }
    return _update(update_id, {"my_chat_member": member})


def _until(kicked: bool) -> dict[str, int]:
    return {"until_date": 0} if kicked else {}


def _update(update_id: int, content: dict[str, Any]) -> Webhook:
    body = {"update_id": update_id} | content
    return Webhook("telegram", json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def _message(chat: Chat, message_id: int, at: datetime) -> dict[str, Any]:
    date = int(at.timestamp())
    return {"message_id": message_id, "from": _user(chat), "chat": _chat(chat), "date": date}


def _user(chat: Chat) -> dict[str, Any]:
    return {
        "id": chat.chat_id,
        "is_bot": False,
        "first_name": chat.first_name,
        "language_code": chat.language,
    }


def _chat(chat: Chat) -> dict[str, Any]:
    return {"id": chat.chat_id, "first_name": chat.first_name, "type": "private"}
