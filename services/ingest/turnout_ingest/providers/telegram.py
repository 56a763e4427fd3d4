"""Telegram Bot API: a secret header, one update a delivery (domain.md A2).

`update_id` is no sequence: after a quiet week it starts again at random, so keys are kept 7 days and older messages
are stale. Legacy updates lack `is_bot` and `chat_instance`; everything not read may be missing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import Field, ValidationError

from turnout_common.events import ConsentItem, Contact, MessageItem, MessageKind
from turnout_common.events.values import Channel
from turnout_common.ids import new_id
from turnout_common.security import equal
from turnout_ingest.contacts import label, sealed_contact, sealed_text
from turnout_ingest.providers.provider import (
    Delivery,
    Fate,
    Headers,
    Id,
    Item,
    Provider,
    Read,
    Refused,
    Seconds,
    Text,
    canonical16,
    event_fields,
    hash16,
    in_words,
    parse_json,
)

MESSAGE_KINDS = ("message", "edited_message")
#: Update kinds that exist and are no client's word to the salon; a name beyond them is stored as `unknown`.
NOT_NEEDED = frozenset({
    "channel_post", "edited_channel_post", "business_connection", "business_message", "edited_business_message",
    "deleted_business_messages", "message_reaction", "message_reaction_count", "inline_query", "chosen_inline_result",
    "shipping_query", "pre_checkout_query", "purchased_paid_media", "poll", "poll_answer", "chat_member",
    "chat_join_request", "chat_boost", "removed_chat_boost",
})  # fmt: skip
#: The status of our bot in a private chat while the client blocks it, and while they do not.
OPTED_IN = {"kicked": False, "left": False, "member": True}


class User(Read):
    id: Id
    is_bot: bool = False
    first_name: Text | None = None
    last_name: Text | None = None
    language_code: Text | None = None


class Chat(Read):
    id: Id
    type: Text


class SharedContact(Read):
    phone_number: Text
    first_name: Text | None = None
    last_name: Text | None = None
    user_id: Id | None = None


class Message(Read):
    message_id: Id
    date: Seconds
    chat: Chat
    sender: User | None = Field(None, alias="from")
    edit_date: Seconds | None = None
    text: Text | None = None
    caption: Text | None = None
    contact: SharedContact | None = None


class MessageOfButton(Read):
    """May be an inaccessible message, whose date is 0."""

    message_id: Id
    chat: Chat


class CallbackQuery(Read):
    id: Text
    sender: User = Field(alias="from")
    message: MessageOfButton | None = None
    data: str | None = None


class ChatMember(Read):
    status: Text


class MyChatMember(Read):
    chat: Chat
    sender: User = Field(alias="from")
    date: Seconds
    new_chat_member: ChatMember


class Telegram(Provider):
    channel = Channel.TELEGRAM
    key_days = 7

    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        given = headers.get(b"x-telegram-bot-api-secret-token", b"")
        return any(equal(secret, given) for secret in secrets)

    def items(self, delivery: Delivery) -> list[Item]:
        update = parse_json(delivery.body)
        update_id = update.get("update_id") if isinstance(update, dict) else None
        if not isinstance(update_id, int) or isinstance(update_id, bool) or not 0 <= update_id < 2**62:
            raise Refused("no update_id: not an update of Telegram's Bot API")
        bot = (delivery.context.routing_id or "").encode()
        found = _Update(delivery, hash16(b"%s:%d" % (bot, update_id)), update)
        try:
            return [found.item()]
        except ValidationError as error:
            raise Refused(in_words(error), found.kind) from error


class _Update:
    """One update on its way to an item."""

    def __init__(self, delivery: Delivery, key: bytes, update: dict[str, Any]) -> None:
        self._delivery = delivery
        self._key = key
        self._update = update
        self._item_id: UUID = new_id()
        self.kind = _kind(update)

    def item(self) -> Item:
        part = self._update.get(self.kind)
        match self.kind:
            case "message" | "edited_message":
                return self._message(Message.model_validate(part))
            case "callback_query":
                return self._button(CallbackQuery.model_validate(part))
            case "my_chat_member":
                return self._consent(MyChatMember.model_validate(part))
            case _:
                return self._ignored("an update of a kind that no client's word to the salon has")

    def _message(self, message: Message) -> Item:
        if message.chat.type != "private":
            return self._ignored("a message in a group or channel, not a client's own chat")
        if message.sender is not None and message.sender.is_bot:
            return self._ignored("a message that a bot wrote")
        sent_at = datetime.fromtimestamp(message.date, UTC)
        own_time = datetime.fromtimestamp(message.edit_date or message.date, UTC)
        keys = self._delivery.context.keys
        shared = message.contact
        event = MessageItem(
            **self._common(own_time, message.chat),
            kind=_message_kind(message),
            message_no=message.message_id,
            sent_at=sent_at,
            edited=self.kind == "edited_message",
            text_sealed=sealed_text(keys, "text", message.text or message.caption),
            contact=self._contact(shared) if shared else None,
            contact_verified=shared is not None and message.sender is not None and shared.user_id == message.sender.id,
            locale=label(message.sender.language_code) if message.sender else None,
        )  # fmt: skip
        return self._published(event, event.chat_hash, own_time, own_time)

    def _contact(self, shared: SharedContact) -> Contact | None:
        """Telegram leaves the + of a shared number out."""
        name = " ".join(filter(None, (shared.first_name, shared.last_name)))
        number = shared.phone_number.strip()
        phone = number if number.startswith("+") else f"+{number}"
        return sealed_contact(self._delivery.context.keys, name=name, phone=phone)

    def _button(self, query: CallbackQuery) -> Item:
        """A button has no time of its own: it is valid by its one-time offer id. Its data is the client's to forge."""
        chat = query.message.chat if query.message else Chat(id=query.sender.id, type="private")
        if chat.type != "private":
            return self._ignored("a button in a group or channel, not a client's own chat")
        button = label(query.data)
        if button is None:
            raise Refused("its data is not that of a button of ours", self.kind)
        now = self._delivery.received_at
        event = MessageItem(
            **self._common(now, chat),
            kind=MessageKind.BUTTON,
            message_no=query.message.message_id if query.message else 0,
            sent_at=now,
            button=button,
            locale=label(query.sender.language_code),
        )
        return self._published(event, event.chat_hash, now, None)

    def _consent(self, change: MyChatMember) -> Item:
        opted_in = OPTED_IN.get(change.new_chat_member.status)
        if change.chat.type != "private" or opted_in is None:
            return self._ignored("a change of the bot's membership in a group or channel")
        own_time = datetime.fromtimestamp(change.date, UTC)
        event = ConsentItem(**self._common(own_time, change.chat), opted_in=opted_in)
        return self._published(event, event.chat_hash, own_time, own_time)

    def _common(self, occurred_at: datetime, chat: Chat) -> dict[str, Any]:
        keys, chat_id = self._delivery.context.keys, str(chat.id)
        return event_fields(self._delivery, self._item_id, self._key, occurred_at) | {
            "chat_hash": keys.contact_hash("telegram", chat_id),
            "chat_sealed": keys.seal_text("chat", chat_id),
        }

    def _published(
        self,
        event: MessageItem | ConsentItem,
        chat_hash: str,
        occurred_at: datetime,
        own_time: datetime | None,
    ) -> Item:
        return Item(
            event_type=self.kind, key=self._key, content=canonical16(self._update), occurred_at=occurred_at,
            raw=self._delivery.body, item_id=self._item_id, event=event, subject=chat_hash,
            kafka_key=f"{event.tenant_id}:{chat_hash}", own_time=own_time,
        )  # fmt: skip

    def _ignored(self, reason: str) -> Item:
        return Item(
            event_type=self.kind, key=self._key, content=canonical16(self._update),
            occurred_at=self._delivery.received_at, raw=self._delivery.body, fate=Fate.IGNORED, reason=reason,
        )  # fmt: skip


def _kind(update: dict[str, Any]) -> str:
    """The update's kind, a word of Telegram's, or `unknown`."""
    for kind in (*MESSAGE_KINDS, "callback_query", "my_chat_member"):
        if kind in update:
            return kind
    return next((kind for kind in update if kind in NOT_NEEDED), "unknown")


def _message_kind(message: Message) -> MessageKind:
    if message.contact is not None:
        return MessageKind.CONTACT
    if message.text is None:
        return MessageKind.OTHER
    return MessageKind.COMMAND if message.text.startswith("/") else MessageKind.TEXT
