"""MAX: a secret header, one update a delivery, no event id: the key is composed per type (domain.md A6).

Any answer but 200 is a failure to MAX, and after eight hours of them it unsubscribes the bot. The chat of a client is
their user id, which every update of a private dialog carries, also where the message of a button is gone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_core import to_json

from turnout_common.events import ConsentItem, Contact, Key, MessageItem, MessageKind
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
    Text,
    canonical16,
    event_fields,
    hash16,
    in_words,
    parse_json,
)

#: Types that exist and say nothing that booking needs, and why; a name beyond them is stored as `unknown`.
NOT_NEEDED = dict.fromkeys(
    ("bot_added", "bot_removed", "user_added", "user_removed", "chat_title_changed", "message_chat_created"),
    "an update about a group or channel",
) | {
    "message_removed": "a client took a message back: what it said was read before",
    "dialog_cleared": "a client emptied the dialog and stays in it",
    "dialog_muted": "a client muted the dialog: what we send arrives, unseen",
    "dialog_unmuted": "a client unmuted the dialog",
}
READ = (
    "message_created", "message_edited", "message_callback", "bot_started", "bot_stopped", "dialog_removed",
)  # fmt: skip
#: Pressing Start is an opt-in and a first word: the raw bytes of each of its two items say which they are.
PART = "turnout_part"
LONGEST_CARD = 4096
_PHONE_LINE = re.compile(
    r"^(?:[\w-]{1,20}\.)?TEL(?:;[^:\r\n]{0,120})?:(?:tel:)?([^;\r\n]{1,40})", re.IGNORECASE | re.MULTILINE
)

#: Unix milliseconds from 2000 to 2200.
Millis = Annotated[int, Field(ge=946_684_800_000, lt=7_258_118_400_000)]


class User(Read):
    user_id: Id
    is_bot: bool = False
    name: Text | None = None
    first_name: Text | None = None
    last_name: Text | None = None


class Recipient(Read):
    chat_type: Text

    @property
    def is_dialog(self) -> bool:
        return self.chat_type == "dialog"


class Attachment(Read):
    type: Text
    payload: Any = None


class SharedContact(Read):
    vcf_info: Text | None = None
    max_info: User | None = None


class Body(Read):
    mid: Key
    seq: Id = 0
    text: Text | None = None
    attachments: list[Attachment] | None = None


class Message(Read):
    recipient: Recipient
    timestamp: Millis
    body: Body
    sender: User | None = None


class MessageUpdate(Read):
    timestamp: Millis
    message: Message
    user_locale: Text | None = None


class Callback(Read):
    timestamp: Millis
    callback_id: Key
    user: User
    payload: str | None = None


class BodyOfButton(Read):
    seq: Id = 0


class MessageOfButton(Read):
    recipient: Recipient
    body: BodyOfButton | None = None


class CallbackUpdate(Read):
    """`message` is missing or null when the message with the button was deleted."""

    callback: Callback
    message: MessageOfButton | None = None
    user_locale: Text | None = None


class DialogUpdate(Read):
    timestamp: Millis
    user: User
    payload: Text | None = None
    user_locale: Text | None = None


class Max(Provider):
    channel = Channel.MAX

    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        given = headers.get(b"x-max-bot-api-secret", b"")
        return bool(given) and any(equal(secret, given) for secret in secrets)

    def items(self, delivery: Delivery) -> list[Item]:
        update = parse_json(delivery.body)
        if not isinstance(update, dict) or not isinstance(update.get("update_type"), str):
            raise Refused("no update_type: not an update of MAX's Bot API")
        found = _Update(delivery, update)
        try:
            return found.items()
        except ValidationError as error:
            raise Refused(in_words(error), found.type) from error


class _Update:
    """One update on its way to its items."""

    def __init__(self, delivery: Delivery, update: dict[str, Any]) -> None:
        self._delivery = delivery
        self._part = update.get(PART)
        self._update = {name: value for name, value in update.items() if name != PART}
        self._content = canonical16(self._update)
        self._bot = delivery.context.routing_id or ""
        given = update["update_type"]
        self.type: str = given if given in READ or given in NOT_NEEDED else "unknown"

    def items(self) -> list[Item]:
        match self.type:
            case "message_created" | "message_edited":
                return [self._message(MessageUpdate.model_validate(self._update))]
            case "message_callback":
                return [self._button(CallbackUpdate.model_validate(self._update))]
            case "bot_started":
                return self._started(DialogUpdate.model_validate(self._update))
            case "bot_stopped" | "dialog_removed":
                return [self._consent(DialogUpdate.model_validate(self._update), opted_in=False)]
            case _:
                reason = NOT_NEEDED.get(self.type, "an update of a type that this version does not know")
                return [self._ignored(self._key_of_unread(), reason)]

    def _key(self, *parts: object) -> bytes:
        """`bot|type|parts`: no type's keys meet another's. A part may hold the separator, so their lengths lead."""
        words = [str(part) for part in (self._bot, self.type, *parts)]
        return hash16("|".join([*(str(len(word)) for word in words), *words]).encode())

    def _key_of_unread(self) -> bytes:
        chat, user, at = (self._update.get(name) for name in ("chat_id", "user_id", "timestamp"))
        if user is None and isinstance(self._update.get("user"), dict):
            user = self._update["user"].get("user_id")
        gone = self._update.get("message_id")
        if self.type == "message_removed" and isinstance(gone, str):
            return self._key(gone, "removed")
        known = self.type != "unknown" and all(isinstance(part, int) for part in (chat, user, at))
        return self._key(chat, user, at) if known else self._key(self._content.hex())

    def _message(self, update: MessageUpdate) -> Item:
        message, edited = update.message, self.type == "message_edited"
        key = self._key(message.body.mid, update.timestamp) if edited else self._key(message.body.mid)
        sender = message.sender
        if not message.recipient.is_dialog or sender is None:
            return self._ignored(key, "a message in a group or channel, not a client's own dialog")
        if sender.is_bot:
            return self._ignored(key, "a message that a bot wrote")
        sent_at = _moment(message.timestamp)
        own_time = _moment(update.timestamp) if edited else sent_at
        shared = _shared_contact(message.body)
        is_own = (
            shared is not None and shared.max_info is not None and shared.max_info.user_id == sender.user_id
        )
        event = MessageItem(
            **self._common(key, own_time, sender),
            kind=_message_kind(message.body, shared),
            message_no=message.body.seq,
            sent_at=sent_at,
            edited=edited,
            text_sealed=sealed_text(self._delivery.context.keys, "text", message.body.text),
            contact=self._contact(shared, is_own) if shared else None,
            contact_verified=is_own,
            locale=label(update.user_locale),
        )
        return self._published(key, event, own_time)

    def _contact(self, shared: SharedContact, is_own: bool) -> Contact | None:
        """MAX leaves the + of its own users' numbers out; a card from an address book may say anything."""
        who = shared.max_info
        name = (who.name or " ".join(filter(None, (who.first_name, who.last_name)))) if who else None
        number = _phone_of(shared.vcf_info)
        if number and is_own and not number.startswith("+"):
            number = f"+{number}"
        return sealed_contact(self._delivery.context.keys, name=name, phone=number)

    def _button(self, update: CallbackUpdate) -> Item:
        """Its payload is the client's to forge. `callback_id` names the keyboard and may repeat, so its time is in the key."""
        press = update.callback
        key = self._key(press.callback_id, press.timestamp)
        if update.message is not None and not update.message.recipient.is_dialog:
            return self._ignored(key, "a button in a group or channel, not a client's own dialog")
        if press.user.is_bot:
            return self._ignored(key, "a button that a bot pressed")
        button = label(press.payload)
        if button is None:
            raise Refused("its payload is not that of a button of ours", self.type)
        pressed_at = _moment(press.timestamp)
        under = update.message.body if update.message else None
        event = MessageItem(
            **self._common(key, pressed_at, press.user),
            kind=MessageKind.BUTTON,
            message_no=under.seq if under else 0,
            sent_at=pressed_at,
            button=button,
            locale=label(update.user_locale),
        )
        return self._published(key, event, pressed_at)

    def _started(self, update: DialogUpdate) -> list[Item]:
        """The opt-in, and `/start` with the deep link's payload as Telegram would say it."""
        made = {
            "consent": lambda: self._consent(update, opted_in=True),
            "message": lambda: self._start(update),
        }
        wanted = [part for part in made if part == self._part] or list(made)
        return [made[part]() for part in wanted]

    def _start(self, update: DialogUpdate) -> Item:
        key = self._key(update.user.user_id, update.timestamp, "message")
        at = _moment(update.timestamp)
        words = f"/start {update.payload}" if update.payload else "/start"
        event = MessageItem(
            **self._common(key, at, update.user),
            kind=MessageKind.COMMAND,
            message_no=0,
            sent_at=at,
            text_sealed=sealed_text(self._delivery.context.keys, "text", words),
            locale=label(update.user_locale),
        )
        return self._published(key, event, at, part="message")

    def _consent(self, update: DialogUpdate, *, opted_in: bool) -> Item:
        key = self._key(self._update.get("chat_id"), update.user.user_id, update.timestamp)
        at = _moment(update.timestamp)
        event = ConsentItem(**self._common(key, at, update.user), opted_in=opted_in)
        return self._published(key, event, at, part="consent" if opted_in else None)

    def _common(self, key: bytes, occurred_at: datetime, client: User) -> dict[str, Any]:
        keys, chat_id = self._delivery.context.keys, str(client.user_id)
        return event_fields(self._delivery, new_id(), key, occurred_at) | {
            "chat_hash": keys.contact_hash("max", chat_id),
            "chat_sealed": keys.seal_text("chat", chat_id),
        }

    def _published(
        self, key: bytes, event: MessageItem | ConsentItem, own_time: datetime, *, part: str | None = None
    ) -> Item:
        raw = to_json(self._update | {PART: part}, inf_nan_mode="null") if part else self._delivery.body
        return Item(
            event_type=self.type, key=key, content=self._content, occurred_at=event.occurred_at, raw=raw,
            item_id=event.item_id, event=event, subject=event.chat_hash,
            kafka_key=f"{event.tenant_id}:{event.chat_hash}", own_time=own_time,
        )  # fmt: skip

    def _ignored(self, key: bytes, reason: str) -> Item:
        return Item(
            event_type=self.type, key=key, content=self._content, occurred_at=self._delivery.received_at,
            raw=self._delivery.body, fate=Fate.IGNORED, reason=reason,
        )  # fmt: skip


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)


def _shared_contact(body: Body) -> SharedContact | None:
    """The first contact among the attachments; one that MAX gives no payload for says nothing."""
    for attachment in body.attachments or ():
        if attachment.type == "contact":
            return SharedContact.model_validate(attachment.payload or {})
    return None


def _phone_of(card: str | None) -> str | None:
    """The first phone of a vCard: `TEL;TYPE=cell:+7…`, also with a group before it or as a `tel:` URI."""
    found = _PHONE_LINE.search(card[:LONGEST_CARD]) if card else None
    return found.group(1).strip() if found else None


def _message_kind(body: Body, shared: SharedContact | None) -> MessageKind:
    if shared is not None:
        return MessageKind.CONTACT
    if not body.text:
        return MessageKind.OTHER
    return MessageKind.COMMAND if body.text.startswith("/") else MessageKind.TEXT
