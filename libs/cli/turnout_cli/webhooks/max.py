"""MAX updates as its Bot API sends them to a subscription."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turnout_cli.webhooks.post import Webhook

BOT = {"user_id": 200000001, "first_name": "Salon", "name": "Salon", "username": "salon_bot", "is_bot": True}


@dataclass(frozen=True)
class Chat:
    """A dialog with the bot. It has an id of its own, and an address of ours: the client's user id."""

    user_id: int
    first_name: str
    language: str = "ru"

    @property
    def chat_id(self) -> int:
        return self.user_id + 1_000_000


def text(chat: Chat, message_no: int, at: datetime, words: str) -> Webhook:
    """A message; words that begin with `/` are a command."""
    return _update("message_created", at, chat, {"message": _message(chat, message_no, at, words)})


def edited(chat: Chat, message_no: int, at: datetime, edited_at: datetime, words: str) -> Webhook:
    return _update("message_edited", edited_at, chat, {"message": _message(chat, message_no, at, words)})


def contact_shared(chat: Chat, message_no: int, at: datetime, phone: str) -> Webhook:
    """The client's own phone, sent by the button that asks for it: MAX vouches for it (`max_info` is the sender)."""
    card = f"BEGIN:VCARD\r\nVERSION:3.0\r\nTEL;TYPE=cell:{phone.removeprefix('+')}\r\nEND:VCARD\r\n"
    message = _message(chat, message_no, at, None)
    message["body"]["attachments"] = [
        {"type": "contact", "payload": {"vcf_info": card, "max_info": _user(chat)}}
    ]
    return _update("message_created", at, chat, {"message": message})


def button(chat: Chat, message_no: int, at: datetime, payload: str) -> Webhook:
    """A press on an inline button under our message `message_no`."""
    press = {
        "timestamp": _millis(at),
        "callback_id": f"keyboard-{chat.user_id}-{message_no}",
        "user": _user(chat),
        "payload": payload,
    }
    under = _message(chat, message_no, at, "…") | {"sender": BOT}
    return _update("message_callback", at, chat, {"callback": press, "message": under})


def started(chat: Chat, at: datetime, payload: str | None = None) -> Webhook:
    """The client presses Start; `payload` is what the link to the bot carried."""
    link = {"payload": payload} if payload else {}
    return _update("bot_started", at, chat, _dialog(chat) | link)


def stopped(chat: Chat, at: datetime) -> Webhook:
    """The client stops the bot: it may not write any more."""
    return _update("bot_stopped", at, chat, _dialog(chat))


def _update(update_type: str, at: datetime, chat: Chat, content: dict[str, Any]) -> Webhook:
    body = content | {"timestamp": _millis(at), "user_locale": chat.language, "update_type": update_type}
    return Webhook("max", json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def _dialog(chat: Chat) -> dict[str, Any]:
    return {"chat_id": chat.chat_id, "user": _user(chat)}


def _message(chat: Chat, message_no: int, at: datetime, words: str | None) -> dict[str, Any]:
    return {
        "recipient": {"chat_id": chat.chat_id, "chat_type": "dialog", "user_id": BOT["user_id"]},
        "timestamp": _millis(at),
        "body": {"mid": f"mid.{chat.chat_id:012x}{message_no:012x}", "seq": message_no, "text": words},
        "sender": _user(chat),
    }


def _user(chat: Chat) -> dict[str, Any]:
    name = {"first_name": chat.first_name, "name": chat.first_name}
    return {"user_id": chat.user_id, "is_bot": False} | name


def _millis(at: datetime) -> int:
    return int(at.timestamp() * 1000)
