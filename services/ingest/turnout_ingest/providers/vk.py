"""VK Callback API: the secret stands in the body, one event a delivery (domain.md A5).

The body `remove` would delete our server at VK, so every answer is `ok` or the confirmation code. Events carry no time
of their own, save messages. What is kept of a body is kept without its secret. The chat of a client is their user id.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import to_json

from turnout_common.events import ConsentItem, FactItem, FactType, MessageItem, MessageKind
from turnout_common.events.values import Channel
from turnout_common.ids import new_id
from turnout_common.security import equal
from turnout_ingest.contacts import label, sealed_text
from turnout_ingest.providers.provider import (
    Answers,
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

OK = b"ok"
#: Shown to whoever presses Confirm in VK; it equals no confirmation code.
NO_CODE = b"no confirmation code is set for this tenant"
#: Types that exist and are no client's word to the salon; a name beyond them is stored as `unknown`.
NOT_NEEDED = frozenset({
    "message_read", "message_typing_state", "message_reaction_event", "messages_edit", "photo_new",
    "photo_comment_new", "photo_comment_edit", "photo_comment_restore", "photo_comment_delete", "audio_new",
    "video_new", "video_comment_new", "video_comment_edit", "video_comment_restore", "video_comment_delete",
    "wall_post_new", "wall_repost", "wall_reply_new", "wall_reply_edit", "wall_reply_restore", "wall_reply_delete",
    "wall_schedule_post_new", "wall_schedule_post_delete", "like_add", "like_remove", "board_post_new",
    "board_post_edit", "board_post_restore", "board_post_delete", "market_comment_new", "market_comment_edit",
    "market_comment_restore", "market_comment_delete", "market_order_new", "market_order_edit", "group_leave",
    "group_join", "user_block", "user_unblock", "poll_vote_new", "group_officers_edit", "group_change_settings",
    "group_change_photo", "vkpay_transaction", "app_payload", "lead_forms_new", "donut_subscription_create",
    "donut_subscription_prolonged", "donut_subscription_expired", "donut_subscription_cancelled",
    "donut_subscription_price_changed", "donut_money_withdraw", "donut_money_withdraw_error",
})  # fmt: skip
READ = (
    "confirmation",
    "message_new",
    "message_edit",
    "message_reply",
    "message_event",
    "message_allow",
    "message_deny",
)
FIRST_GROUP_CHAT = 2_000_000_000
LONGEST_PAYLOAD = 255
LANGUAGES = {0: "ru", 1: "uk", 2: "be", 3: "en", 6: "de"}


class Message(Read):
    """`id` is 0 in group chats, `conversation_message_id` is missing in old captures."""

    id: Id = 0
    date: Seconds
    from_id: Id
    peer_id: Id
    out: int = 0
    conversation_message_id: Id | None = None
    update_time: Annotated[Seconds | None, BeforeValidator(lambda value: value or None)] = None
    admin_author_id: Id | None = None
    text: Text | None = None
    payload: Any = None

    @property
    def is_private(self) -> bool:
        return 0 < self.peer_id < FIRST_GROUP_CHAT


class Press(Read):
    """`object.event_id` is a token to answer the press with, not the delivery's id."""

    user_id: Id
    peer_id: Id
    conversation_message_id: Id | None = None
    payload: Any = None


class Permission(Read):
    user_id: Annotated[int, Field(gt=0, lt=2**62)]


class Vk(Provider):
    channel = Channel.VK
    answers = Answers(text=OK)

    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        """Parsed here and once more in `items`: two microseconds, for which no value is worth keeping in between."""
        try:
            event = parse_json(body)
        except Refused:
            return False
        given = event.get("secret") if isinstance(event, dict) else None
        if not isinstance(given, str) or not given:
            return False
        told = given.encode()
        return any(equal(secret, told) for secret in secrets)

    def items(self, delivery: Delivery) -> list[Item]:
        event = parse_json(delivery.body)
        if not isinstance(event, dict) or not isinstance(event.get("type"), str) or _group(event) is None:
            raise Refused("no type and group_id: not an event of VK's Callback API")
        found = _Event(delivery, event)
        try:
            return [found.item()]
        except ValidationError as error:
            raise Refused(in_words(error), found.type) from error

    def kept(self, body: bytes) -> bytes:
        try:
            event = parse_json(body)
        except Refused:
            return body
        return _bytes_of(_without_secret(event)) if isinstance(event, dict) else body

    def routing_ids(self, body: bytes) -> frozenset[str]:
        try:
            group = _group(parse_json(body))
        except Refused:
            return frozenset()
        return frozenset() if group is None else frozenset({group})


def _group(event: Any) -> str | None:
    group = event.get("group_id") if isinstance(event, dict) else None
    usable = isinstance(group, int) and not isinstance(group, bool) and 0 < group < 2**62
    return str(group) if usable else None


def _without_secret(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "secret"}


def _bytes_of(event: dict[str, Any]) -> bytes:
    return to_json(event, inf_nan_mode="null")


class _Event:
    """One event on its way to an item."""

    def __init__(self, delivery: Delivery, event: dict[str, Any]) -> None:
        self._delivery = delivery
        self._event = _without_secret(event)
        self._content = canonical16(self._event)
        self._group = _group(event) or ""
        self._key = self._key_of(event.get("event_id"))
        self._item_id: UUID = new_id()
        given = event["type"]
        self.type: str = given if given in READ or given in NOT_NEEDED else "unknown"

    def _key_of(self, event_id: object) -> bytes:
        """Captures of 2020 have no event_id everywhere, nor has a confirmation: those are told apart by content."""
        if isinstance(event_id, str) and event_id:
            return hash16(f"{self._group}:{event_id}".encode())
        return hash16(f"{self._group}#".encode() + self._content)

    def item(self) -> Item:
        told = self._event.get("object")
        match self.type:
            case "confirmation":
                return self._confirmation()
            case "message_new":
                return self._message(*_message_and_locale(told))
            case "message_edit":
                return self._message(Message.model_validate(told), None)
            case "message_reply":
                return self._reply(Message.model_validate(told))
            case "message_event":
                return self._button(Press.model_validate(told))
            case "message_allow" | "message_deny":
                return self._consent(Permission.model_validate(told).user_id)
            case _:
                return self._ignored("an event of a type that no client's word to the salon has")

    def _confirmation(self) -> Item:
        code = self._delivery.context.handshake
        if code is not None:
            return self._ignored("VK checks that this server is ours", reply=code)
        advice = f"turnout tenant channel set {self._delivery.context.tenant_id} vk --handshake CODE"
        return self._ignored(f"no confirmation code is set: {advice}", reply=NO_CODE)

    def _message(self, message: Message, locale: str | None) -> Item:
        if not message.is_private:
            return self._ignored("a message in a group chat, not a client's own")
        if message.from_id <= 0 or message.out:
            return self._ignored("a message that a community wrote")
        edited = self.type == "message_edit"
        sent_at = datetime.fromtimestamp(message.date, UTC)
        own_time = datetime.fromtimestamp(
            (message.update_time or message.date) if edited else message.date, UTC
        )
        payload = _payload(message.payload)
        button = _button_of(payload)
        event = MessageItem(
            **self._common(own_time, message.peer_id),
            kind=_message_kind(message, payload, button),
            message_no=message.conversation_message_id or message.id,
            sent_at=sent_at,
            edited=edited,
            button=button,
            text_sealed=sealed_text(self._delivery.context.keys, "text", message.text),
            locale=locale,
        )
        return self._published(event, event.chat_hash, own_time)

    def _reply(self, message: Message) -> Item:
        """What the salon wrote: by hand where VK names the admin, else by our own sender."""
        if not message.is_private or message.admin_author_id is None:
            return self._ignored("a message of the salon that no admin wrote by hand")
        own_time = datetime.fromtimestamp(message.date, UTC)
        common = event_fields(self._delivery, self._item_id, self._key, own_time)
        chat_hash = self._delivery.context.keys.contact_hash("vk", str(message.peer_id))
        event = FactItem(**common, fact=FactType.ADMIN_REPLY, chat_hash=chat_hash)
        return self._published(event, chat_hash, own_time, kafka_key=event.tenant_id)

    def _button(self, press: Press) -> Item:
        """A press has no time of its own: it is valid by its one-time offer id. Its payload is the client's to forge."""
        if not 0 < press.peer_id < FIRST_GROUP_CHAT:
            return self._ignored("a button in a group chat, not a client's own")
        button = _button_of(_payload(press.payload))
        if button is None:
            raise Refused("its payload is not that of a button of ours", self.type)
        now = self._delivery.received_at
        event = MessageItem(
            **self._common(now, press.peer_id),
            kind=MessageKind.BUTTON,
            message_no=press.conversation_message_id or 0,
            sent_at=now,
            button=button,
        )
        return self._published(event, event.chat_hash, None)

    def _consent(self, user_id: int) -> Item:
        common = self._common(self._delivery.received_at, user_id)
        event = ConsentItem(**common, opted_in=self.type == "message_allow")
        return self._published(event, event.chat_hash, None)

    def _common(self, occurred_at: datetime, chat: int) -> dict[str, Any]:
        keys, chat_id = self._delivery.context.keys, str(chat)
        return event_fields(self._delivery, self._item_id, self._key, occurred_at) | {
            "chat_hash": keys.contact_hash("vk", chat_id),
            "chat_sealed": keys.seal_text("chat", chat_id),
        }

    def _published(
        self,
        event: MessageItem | ConsentItem | FactItem,
        chat_hash: str,
        own_time: datetime | None,
        *,
        kafka_key: str | None = None,
    ) -> Item:
        return Item(
            event_type=self.type, key=self._key, content=self._content, occurred_at=event.occurred_at,
            raw=self._raw(), item_id=self._item_id, event=event, subject=chat_hash,
            kafka_key=kafka_key or f"{event.tenant_id}:{chat_hash}", own_time=own_time, routing_id=self._group,
        )  # fmt: skip

    def _ignored(self, reason: str, *, reply: bytes | None = None) -> Item:
        return Item(
            event_type=self.type, key=self._key, content=self._content, occurred_at=self._delivery.received_at,
            raw=self._raw(), item_id=self._item_id, fate=Fate.IGNORED, reason=reason, routing_id=self._group,
            reply=reply,
        )  # fmt: skip

    def _raw(self) -> bytes:
        return _bytes_of(self._event)


def _message_and_locale(told: Any) -> tuple[Message, str | None]:
    """Since version 5.103 the message stands beside the client's abilities, before it was the object itself."""
    nested = isinstance(told, dict) and isinstance(told.get("message"), dict)
    abilities = told.get("client_info") if nested else None
    language = abilities.get("lang_id") if isinstance(abilities, dict) else None
    locale = LANGUAGES.get(language) if isinstance(language, int) else None
    return Message.model_validate(told["message"] if nested else told), locale


def _payload(given: Any) -> dict[str, Any]:
    """A button's payload; our sender makes it `{"button": "<label>"}`. JSON in a string, or the object itself."""
    if isinstance(given, str):
        if len(given) > LONGEST_PAYLOAD:
            return {}
        try:
            given = parse_json(given.encode())
        except Refused:
            return {}
    return given if isinstance(given, dict) else {}


def _button_of(payload: dict[str, Any]) -> str | None:
    given = payload.get("button")
    return label(given) if isinstance(given, str) else None


def _message_kind(message: Message, payload: dict[str, Any], button: str | None) -> MessageKind:
    """VK's own Start button says `{"command": "start"}`."""
    if button is not None:
        return MessageKind.BUTTON
    if payload.get("command") == "start":
        return MessageKind.COMMAND
    if not message.text:
        return MessageKind.OTHER
    return MessageKind.COMMAND if message.text.startswith("/") else MessageKind.TEXT
