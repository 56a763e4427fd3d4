"""WhatsApp Cloud API: messages, receipts and marketing preferences of one or many numbers (domain.md A3).

A chat is the client's number (`from`) where Meta gives it, as salons, their other tools and old messages know it, else
the business-scoped id ("US.1349…") that users with a username write under. Whoever is seen with both has the number's
chat; one seen by the id alone first, and with the number later, stays two chats. The number comes with Meta's word, so
it links the client with their bookings.

What is not published, and why: a reaction is no word to the salon; a system notice (number or identity changed) comes
with nothing to answer, and what the client writes next has its new sender; `revoke` erases the words of the message that
it names (not those of its edits, which have ids of their own); messages from the salon's own number, in groups, and all
fields but `messages` and `user_preferences` are no client's word to the salon. Answers of forms (`nfm_reply`) are taken
without their content: we send no forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from turnout_common.events import (
    RECEIPT_RANKS,
    ConsentItem,
    MessageItem,
    MessageKind,
    ReceiptItem,
    ReceiptStatus,
)
from turnout_common.events.values import Channel, Key
from turnout_common.ids import idempotency_key, new_id
from turnout_ingest.contacts import label, sealed_contact, sealed_text
from turnout_ingest.providers.meta import (
    MetaProvider,
    Part,
    PartyId,
    Reading,
    Whole,
    at_seconds,
    bounded,
)
from turnout_ingest.providers.provider import Delivery, Read, Refused, Text, event_fields

FIELDS = ("messages", "user_preferences")
LISTS = ("messages", "statuses", "user_preferences", "errors")
WITH_CAPTION = frozenset({"image", "video", "document"})
#: Words of a client that carry no text which we read.
WORDLESS = frozenset({"audio", "sticker", "location", "contacts", "order", "unsupported"})
NOT_NEEDED = {
    "reaction": "a reaction, no word to the salon",
    "system": "a notice that the client's number or identity changed",
    "revoke": "the client took a message back",
    "request_welcome": "the client opened the chat and wrote nothing yet",
}
TYPES = frozenset({"text", "button", "interactive", "edit"}) | WITH_CAPTION | WORDLESS | NOT_NEEDED.keys()
RECEIPTS: dict[str, ReceiptStatus] = {
    "sent": "sent",
    "delivered": "delivered",
    "read": "read",
    "played": "read",
    "failed": "failed",
}
OPTED_IN = {"stop": False, "resume": True, "signup": True}
#: What Meta puts into marketing templates as their way out; pressed, its label comes as its data.
STOP_PROMOTIONS = "Stop promotions"
LONGEST_NAME = 255

#: Unix seconds from 2000 to 2200.
Seconds = Annotated[int, Whole, Field(ge=946_684_800, lt=7_258_118_400)]


class TextBody(Read):
    body: Text


class Media(Read):
    caption: Text | None = None


class Button(Read):
    """A quick reply of a template."""

    payload: str | None = None
    text: Text | None = None


class Reply(Read):
    id: str
    title: Text | None = None


class Interactive(Read):
    button_reply: Reply | None = None
    list_reply: Reply | None = None


class Words(Read):
    """What a message says, by its type."""

    type: Text
    text: TextBody | None = None
    image: Media | None = None
    video: Media | None = None
    document: Media | None = None


class Edit(Read):
    message: Words


class Revoke(Read):
    original_message_id: Key


class Message(Words):
    id: Key
    timestamp: Seconds
    sender: PartyId | None = Field(None, alias="from")
    from_user_id: PartyId | None = None
    group_id: Text | None = None
    button: Button | None = None
    interactive: Interactive | None = None
    edit: Edit | None = None
    revoke: Revoke | None = None


class Status(Read):
    id: Key
    status: Text
    timestamp: Seconds
    type: Text | None = None
    errors: Any = None


class Preference(Read):
    value: Text
    timestamp: Seconds
    wa_id: PartyId | None = None
    user_id: PartyId | None = None


class WhatsApp(MetaProvider):
    channel = Channel.WHATSAPP
    named = "whatsapp_business_account"

    def parts(self, entry: Mapping[str, Any]) -> Iterator[Part]:
        changes = entry.get("changes")
        if not isinstance(changes, list):
            yield Part(self.around([entry]), "entry", entry, refused="an entry without a list of changes")
            return
        named = {"id": entry_id} if (entry_id := bounded(entry.get("id"))) else {}
        for change in changes:
            yield from self._of_change(named, change)
        if not changes:
            alone = self.around([named | {"changes": []}])
            yield Part(alone, "entry", named, ignored="an entry without a change")

    def _of_change(self, named: dict[str, Any], change: Any) -> Iterator[Part]:
        whole = self.around([named | {"changes": [change]}])
        if not isinstance(change, dict) or not isinstance(value := change.get("value"), dict):
            yield Part(whole, "change", change, refused="a change is not an object with a value")
            return
        field, head = change.get("field"), _head(value)
        account = bounded(head["metadata"].get("phone_number_id"))
        if field not in FIELDS:
            kind = label(field) if isinstance(field, str) else None
            reason = "a field that is no client's word to the salon"
            yield Part(whole, kind or "unknown", change, account, ignored=reason)
            return
        found = [name for name in LISTS if value.get(name) not in (None, [])]
        contacts = _contacts(value.get("contacts")) if "messages" in found else {}
        own = {"own": "".join(filter(str.isdigit, head["metadata"].get("display_phone_number", "")))}
        for name in found:
            elements = value[name] if isinstance(value[name], list) else [value[name]]
            for element in elements:
                contact = _contact_of(element, contacts) if name == "messages" else None
                content = head | ({"contacts": [contact]} if contact else {}) | {name: [element]}
                alone = self.around([named | {"changes": [{"field": field, "value": content}]}])
                yield Part(alone, name, element, account, own | (contact or {}))
        if not found:
            yield Part(whole, field, change, account, ignored="a change with nothing in it")

    def read(self, delivery: Delivery, part: Part, content: bytes) -> Reading:
        beside = part.beside or {}
        if part.kind == "errors":
            return Reading("errors", content, ignored="an error that WhatsApp reports of this number")
        if part.account is None:
            raise Refused("metadata.phone_number_id is missing", part.kind)
        match part.kind:
            case "messages":
                return _Message(delivery, Message.model_validate(part.value), beside).read()
            case "statuses":
                return _receipt(delivery, Status.model_validate(part.value))
            case _:
                return _consent(delivery, Preference.model_validate(part.value), content)


def _head(value: Mapping[str, Any]) -> dict[str, Any]:
    """What each item of a change keeps of it: which number it is about."""
    metadata = value.get("metadata")
    given = metadata if isinstance(metadata, dict) else {}
    names = ("display_phone_number", "phone_number_id")
    return {
        "messaging_product": "whatsapp",
        "metadata": {name: given[name] for name in names if bounded(given.get(name))},
    }


def _contacts(contacts: Any) -> dict[str, dict[str, Any]]:
    """The people of a change by each of their ids, cut to what is read: their name and the ids."""
    found: dict[str, dict[str, Any]] = {}
    for contact in contacts if isinstance(contacts, list) else ():
        if not isinstance(contact, dict):
            continue
        ids = {name: contact[name] for name in ("wa_id", "user_id") if bounded(contact.get(name))}
        profile = contact.get("profile")
        name = profile.get("name") if isinstance(profile, dict) else None
        known = (
            {"profile": {"name": name[:LONGEST_NAME]}} if isinstance(name, str) and "\x00" not in name else {}
        )
        found |= dict.fromkeys(ids.values(), known | ids)
    return found


def _contact_of(message: Any, contacts: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    if not contacts or not isinstance(message, dict):
        return None
    ids = (message.get("from"), message.get("from_user_id"))
    return next((contacts[each] for each in ids if isinstance(each, str) and each in contacts), None)


class _Message:
    """One message on its way to an item."""

    def __init__(self, delivery: Delivery, message: Message, beside: Mapping[str, Any]) -> None:
        self._delivery = delivery
        self._message = message
        self._beside = beside
        self._key = idempotency_key("message", message.id)
        self._kind = f"message.{message.type if message.type in TYPES else 'unknown'}"

    def read(self) -> Reading:
        reason = self._not_needed()
        if reason is not None:
            return Reading(self._kind, self._key, ignored=reason, takes_back=self._taken_back())
        message, keys = self._message, self._delivery.context.keys
        number = message.sender or self._beside.get("wa_id")
        chat = number or message.from_user_id
        if chat is None:
            raise Refused("it has neither from nor from_user_id", self._kind)
        at = at_seconds(message.timestamp)
        if message.button is not None and message.button.payload == STOP_PROMOTIONS:
            stop = _of_chat(self._delivery, self._key, at, chat)
            return _published(self._kind, self._key, ConsentItem(**stop, opted_in=False, scope="marketing"))
        kind, text, button = self._said()
        name = (self._beside.get("profile") or {}).get("name")
        contact = sealed_contact(keys, name=name, phone=f"+{number}" if number and number.isdigit() else None)
        event = MessageItem(
            **_of_chat(self._delivery, self._key, at, chat),
            kind=kind,
            message_no=0,
            sent_at=at,
            edited=message.type == "edit",
            button=button,
            text_sealed=sealed_text(keys, "text", text),
            contact=contact,
            contact_verified=contact is not None and contact.phone_hash is not None,
        )
        return _published(self._kind, self._key, event)

    def _not_needed(self) -> str | None:
        message = self._message
        if message.group_id is not None:
            return "a message in a group, not a client's own chat"
        if message.type not in TYPES:
            return "a message of a type that is no client's word, or newer than this version"
        if message.sender is not None and message.sender == self._beside.get("own"):
            return "a message from the salon's own number"
        return NOT_NEEDED.get(message.type)

    def _taken_back(self) -> tuple[bytes, ...]:
        revoke = self._message.revoke if self._message.type == "revoke" else None
        return (idempotency_key("message", revoke.original_message_id),) if revoke is not None else ()

    def _said(self) -> tuple[MessageKind, str | None, str | None]:
        """Kind, text and button."""
        message = self._message
        if message.type in ("button", "interactive"):
            return self._pressed()
        words: Words | None = message
        if message.type == "edit":
            words = message.edit.message if message.edit else None
        if words is None:
            raise Refused("edit is missing", self._kind)
        if words.type == "text":
            if words.text is None:
                raise Refused("text is missing", self._kind)
            return MessageKind.TEXT, words.text.body, None
        media = getattr(words, words.type) if words.type in WITH_CAPTION else None
        return MessageKind.OTHER, media.caption if media else None, None

    def _pressed(self) -> tuple[MessageKind, str | None, str | None]:
        """A button of a template or of a message; the answer to a form has neither. Templates made elsewhere have other data."""
        button, interactive = self._message.button, self._message.interactive
        if self._message.type == "button":
            data, title = (button.payload, button.text) if button else (None, None)
        else:
            reply = (interactive.button_reply or interactive.list_reply) if interactive else None
            if interactive is not None and reply is None:
                return MessageKind.OTHER, None, None
            data, title = (reply.id, reply.title) if reply else (None, None)
        pressed = label(data)
        if pressed is None:
            raise Refused("its data is not that of a button of ours", self._kind)
        return MessageKind.BUTTON, title, pressed


def _receipt(delivery: Delivery, status: Status) -> Reading:
    """A template's payment has statuses too, by the same words."""
    said = RECEIPTS.get(status.status)
    kind = f"status.{status.status if said else 'unknown'}"
    key = idempotency_key("status", status.id, status.status, str(status.timestamp))
    if said is None or status.type == "payment":
        return Reading(kind, key, ignored="a status that says nothing of a message's delivery")
    at = at_seconds(status.timestamp)
    event = ReceiptItem(
        **event_fields(delivery, new_id(), key, at), provider_message_id=status.id, status=said,
        rank=RECEIPT_RANKS[said], reason=_code(status.errors) if said == "failed" else None,
    )  # fmt: skip
    return Reading(kind, key, event, status.id, f"{event.tenant_id}:{status.id}", at)


def _code(errors: Any) -> str | None:
    """The first error's number as a reason; its words may name the client."""
    first = errors[0] if isinstance(errors, list) and errors else None
    code = first.get("code") if isinstance(first, dict) else None
    return (
        f"code_{code}" if isinstance(code, int) and not isinstance(code, bool) and 0 <= code < 10**9 else None
    )


def _consent(delivery: Delivery, preference: Preference, content: bytes) -> Reading:
    """Of marketing messages: reminders go on."""
    opted_in = OPTED_IN.get(preference.value)
    if opted_in is None:
        return Reading("user_preferences", content, ignored="a preference that is neither stop nor resume")
    chat = preference.wa_id or preference.user_id
    if chat is None:
        raise Refused("it has neither wa_id nor user_id", "user_preferences")
    at = at_seconds(preference.timestamp)
    event = ConsentItem(**_of_chat(delivery, content, at, chat), opted_in=opted_in, scope="marketing")
    return _published("user_preferences", content, event)


def _of_chat(delivery: Delivery, key: bytes, at: datetime, chat: str) -> dict[str, Any]:
    keys = delivery.context.keys
    return event_fields(delivery, new_id(), key, at) | {
        "chat_hash": keys.contact_hash("whatsapp", chat),
        "chat_sealed": keys.seal_text("chat", chat),
    }


def _published(kind: str, key: bytes, event: MessageItem | ConsentItem) -> Reading:
    chat = event.chat_hash
    return Reading(kind, key, event, chat, f"{event.tenant_id}:{chat}", event.occurred_at)
