"""Instagram messaging: messages, buttons and read receipts of one or many accounts (domain.md A4).

Two shapes of a delivery, `messaging[]` and `changes[].value`, carry the same update under the same key. What the salon
wrote itself comes back as an echo: without an `app_id` a human wrote it in Instagram's app, which is the fact
admin.reply on the client's chat; with one an app did, most likely we.

What is not published, and why: reactions and referrals (a link that opened the chat) are no words; an unsent message
(`is_deleted`) erases the words of the one that it takes back; `standby` is a conversation that another app has taken
over; the App Dashboard's test event is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from turnout_common.events import RECEIPT_RANKS, FactItem, FactType, MessageItem, MessageKind, ReceiptItem
from turnout_common.events.values import Channel, Key
from turnout_common.ids import idempotency_key, new_id
from turnout_ingest.contacts import label, sealed_text
from turnout_ingest.providers.meta import MetaProvider, Part, PartyId, Reading, Whole, at_millis, bounded
from turnout_ingest.providers.provider import Delivery, Read, Refused, Text, event_fields

#: Of `changes`, those whose value is what stands in `messaging` otherwise.
#: So many versions of a message are erased with it; Instagram lets it be edited five times.
MOST_EDITS = 10
FIELDS = frozenset({
    "messages", "messaging_postbacks", "messaging_seen", "message_reactions", "messaging_referral", "message_edit",
})  # fmt: skip
LISTS = ("messaging", "standby", "changes")
KINDS = ("message", "postback", "reaction", "read", "referral", "message_edit")
NOT_NEEDED = {
    "reaction": "a reaction, no word to the salon",
    "referral": "a link opened the chat, nothing was written yet",
}
FRAME = frozenset({"sender", "recipient", "timestamp"})

#: Unix milliseconds from 2000 to 2200.
Millis = Annotated[int, Whole, Field(ge=946_684_800_000, lt=7_258_118_400_000)]


class Party(Read):
    id: PartyId


class QuickReply(Read):
    payload: str | None = None


class Message(Read):
    mid: Key
    text: Text | None = None
    quick_reply: QuickReply | None = None
    is_echo: bool = False
    is_deleted: bool = False
    app_id: Any = None


class Postback(Read):
    mid: Key | None = None
    payload: str | None = None
    title: Text | None = None


class Seen(Read):
    mid: Key


class Edit(Read):
    mid: Key
    text: Text | None = None
    num_edit: Annotated[int, Whole] = 0


class Update(Read):
    sender: Party
    recipient: Party
    timestamp: Millis
    message: Message | None = None
    postback: Postback | None = None
    read: Seen | None = None
    message_edit: Edit | None = None


class Instagram(MetaProvider):
    channel = Channel.INSTAGRAM
    named = "instagram"

    def parts(self, entry: Mapping[str, Any]) -> Iterator[Part]:
        account = bounded(entry.get("id"))
        given = {name: entry[name] for name in LISTS if entry.get(name) is not None}
        if account is None or not given:
            reason = "an entry without an id or without updates"
            yield Part(self.around([entry]), "entry", entry, account, refused=reason)
            return
        for name, updates in given.items():
            for update in updates if isinstance(updates, list) else [updates]:
                yield self._of_entry(account, name, update)
        if not any(updates != [] for updates in given.values()):
            alone = self.around([{"id": account} | given])
            yield Part(alone, "entry", list(given), account, ignored="an entry with nothing in it")

    def _of_entry(self, account: str, name: str, element: Any) -> Part:
        alone = self.around([{"id": account, name: [element]}])
        field: Any = name
        update = element
        if name == "changes" and isinstance(element, dict):
            field, update = element.get("field"), element.get("value")
        if not isinstance(field, str) or not isinstance(update, dict):
            return Part(alone, "entry", element, account, refused="an update is not an object")
        if field == "standby":
            return Part(
                alone, field, element, account, ignored="a conversation that another app has taken over"
            )
        if name == "changes" and field not in FIELDS:
            reason = "a field that is no client's word to the salon"
            return Part(alone, label(field) or "unknown", element, account, ignored=reason)
        named = [kind for kind in KINDS if kind in update]
        if len(named) == 1:
            return Part(alone, named[0], _same_in_both_shapes(update), account)
        if named or not update.keys() - FRAME:
            return Part(
                alone, "unknown", update, account, refused="an update with none or several of its kinds"
            )
        return Part(
            alone, "unknown", update, account, ignored="an update of a kind that this version does not know"
        )

    def read(self, delivery: Delivery, part: Part, content: bytes) -> Reading:
        update = Update.model_validate(part.value)
        if part.kind in NOT_NEEDED:
            return Reading(part.kind, content, ignored=NOT_NEEDED[part.kind])
        return _Update(delivery, part, update, content).read()


def _same_in_both_shapes(update: dict[str, Any]) -> dict[str, Any]:
    """The update with its time as a number: as text or not, it is the same content."""
    at = update.get("timestamp")
    whole = isinstance(at, str) and at.isascii() and at.isdigit() and len(at) < 16
    return update | {"timestamp": int(at)} if whole else update  # type: ignore[arg-type]


class _Update:
    """One update on its way to an item."""

    def __init__(self, delivery: Delivery, part: Part, update: Update, content: bytes) -> None:
        self._delivery = delivery
        self._update = update
        self._content = content
        self._at = at_millis(update.timestamp)
        self._of_salon = update.sender.id == part.account
        self._kind = part.kind

    def read(self) -> Reading:
        update = self._update
        if update.message is not None:
            return self._message(update.message)
        if self._of_salon:
            return Reading(self._kind, self._content, ignored="an act of the salon's own account")
        if update.postback is not None:
            return self._postback(update.postback)
        if update.read is not None:
            return self._seen(update.read)
        if update.message_edit is not None:
            edit = update.message_edit
            key = idempotency_key("edit", edit.mid, str(edit.num_edit))
            return self._published("message.edit", key, MessageKind.TEXT, edit.text, edited=True)
        raise Refused(f"{self._kind} is missing", self._kind)

    def _message(self, message: Message) -> Reading:
        if message.is_deleted:
            key = idempotency_key("unsend", message.mid)
            edits = (("edit", message.mid, str(number)) for number in range(1, MOST_EDITS + 1))
            said = tuple(idempotency_key(*names) for names in (("message", message.mid), *edits))
            return Reading("message.unsend", key, ignored="a message was taken back", takes_back=said)
        if message.is_echo or self._of_salon:
            return self._echo(message)
        key = idempotency_key("message", message.mid)
        if message.quick_reply is not None:
            return self._button("message.quick_reply", key, message.quick_reply.payload, message.text)
        kind = MessageKind.TEXT if message.text is not None else MessageKind.OTHER
        return self._published("message", key, kind, message.text)

    def _echo(self, message: Message) -> Reading:
        key = idempotency_key("echo", message.mid)
        if message.app_id is not None:
            return Reading("message.echo", key, ignored="an echo of what an app of the salon sent")
        chat = self._hash(self._update.recipient.id)
        event = FactItem(**self._common(key), fact=FactType.ADMIN_REPLY, chat_hash=chat)
        return Reading("message.echo", key, event, chat, event.tenant_id)

    def _postback(self, postback: Postback) -> Reading:
        key = idempotency_key("postback", postback.mid) if postback.mid else self._content
        return self._button("postback", key, postback.payload, postback.title)

    def _button(self, kind: str, key: bytes, data: str | None, title: str | None) -> Reading:
        button = label(data)
        if button is None:
            raise Refused("its data is not that of a button of ours", kind)
        return self._published(kind, key, MessageKind.BUTTON, title, button=button)

    def _seen(self, seen: Seen) -> Reading:
        key = idempotency_key("read", self._update.sender.id, seen.mid)
        event = ReceiptItem(
            **self._common(key), provider_message_id=seen.mid, status="read", rank=RECEIPT_RANKS["read"]
        )
        return Reading("read", key, event, seen.mid, f"{event.tenant_id}:{seen.mid}", self._at)

    def _published(
        self, event_type: str, key: bytes, kind: MessageKind, text: str | None,
        *, edited: bool = False, button: str | None = None,
    ) -> Reading:  # fmt: skip
        """A message has no number in its chat but its time: it is 0."""
        keys, chat_id = self._delivery.context.keys, self._update.sender.id
        event = MessageItem(
            **self._common(key),
            chat_hash=self._hash(chat_id),
            chat_sealed=keys.seal_text("chat", chat_id),
            kind=kind,
            message_no=0,
            sent_at=self._at,
            edited=edited,
            button=button,
            text_sealed=sealed_text(keys, "text", text),
        )
        return Reading(
            event_type, key, event, event.chat_hash, f"{event.tenant_id}:{event.chat_hash}", self._at
        )

    def _hash(self, chat_id: str) -> str:
        return self._delivery.context.keys.contact_hash("instagram", chat_id)

    def _common(self, key: bytes) -> dict[str, Any]:
        return event_fields(self._delivery, new_id(), key, self._at)
