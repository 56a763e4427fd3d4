"""What the builders make is what ingest's providers verify and take in: each webhook becomes one published item."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from turnout_cli.webhooks import (
    Webhook,
    calcom,
    facts,
    instagram,
    max,
    signed_body,
    signed_headers,
    telegram,
    vk,
    whatsapp,
)
from turnout_common.events import (
    BookingItem,
    BookingTrigger,
    ConsentItem,
    FactItem,
    FactType,
    MessageItem,
    MessageKind,
    ReceiptItem,
)
from turnout_common.events.values import Channel
from turnout_common.security import TenantKeys
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Delivery, Fate, Item

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
KEYS = TenantKeys("salon", {1: bytes(32)})
SECRETS = {
    "calcom": "builder-test-calcom",
    "telegram": "builder-test-telegram",
    "vk": "builder-test-vk",
    "whatsapp": "builder-test-whatsapp",
    "instagram": "builder-test-instagram",
    "max": "builder-test-max",
    "events": "whsec_" + base64.b64encode(b"builder test secret, 32 bytes ok").decode(),
}
HOST = calcom.Host(4101, "Anna Weiss", "anna")
KIND = calcom.EventType(77001, "cut", "Haircut", 45, 4200)
GUEST = calcom.Guest("Игорь Petrov", "igor@guest.example", "+493023125001", "ru")
BOOKING = calcom.Booking("uid-old", 9, NOW + timedelta(days=2), HOST, KIND, GUEST, NOW - timedelta(hours=1))
MOVED = calcom.Booking("uid-new", 10, NOW + timedelta(days=3), HOST, KIND, GUEST, NOW, 1)
CHAT = telegram.Chat(730044112, "Igor")
VK_CHAT = vk.Chat(730044112, 204733001)
MAX_CHAT = max.Chat(730044112, "Igor")
NUMBER = whatsapp.Number("310044550066", "493055500110")
WA_CLIENT = whatsapp.Client("493023125001", "Игорь", "DE.7300441129")
BY_USERNAME = whatsapp.Client(None, "Игорь", "DE.7300441129")
ACCOUNT, IG_CLIENT = "17841400730001", "1730044112555"
#: The accounts that a provider's bodies name as their own.
ROUTING_IDS = {"whatsapp": NUMBER.phone_number_id, "instagram": ACCOUNT}


def received(webhook: Webhook, headers: Mapping[str, str] | None = None) -> list[Item]:
    provider = PROVIDERS[webhook.channel]
    sent = headers or signed_headers(webhook, SECRETS[webhook.channel], int(NOW.timestamp()))
    raw = {name.lower().encode(): value.encode() for name, value in sent.items()}
    secrets = provider.secret_bytes(SECRETS[webhook.channel])
    body = signed_body(webhook, SECRETS[webhook.channel])
    assert provider.verify(raw, body, secrets, NOW)
    account = ROUTING_IDS.get(webhook.channel)
    context = ChannelContext("salon", Channel(webhook.channel), secrets, KEYS, account)
    return provider.items(Delivery(context, raw, body, NOW))


@pytest.mark.parametrize(
    ("webhook", "trigger", "at"),
    [
        (calcom.created(BOOKING, NOW), BookingTrigger.CREATED, NOW),
        (calcom.requested(BOOKING, NOW), BookingTrigger.REQUESTED, NOW),
        (calcom.rejected(BOOKING, NOW), BookingTrigger.REJECTED, NOW),
        (calcom.rescheduled(BOOKING, MOVED, NOW), BookingTrigger.RESCHEDULED, NOW),
        (calcom.cancelled(BOOKING, NOW), BookingTrigger.CANCELLED, NOW),
        (calcom.cancelled(BOOKING, NOW, reschedule=True), BookingTrigger.RESCHEDULE_REQUESTED, NOW),
        (calcom.paid(BOOKING, NOW), BookingTrigger.PAID, NOW),
        (calcom.payment_initiated(BOOKING, NOW), BookingTrigger.PAYMENT_INITIATED, NOW),
        (calcom.no_show(BOOKING, NOW), BookingTrigger.NO_SHOW_UPDATED, NOW),
        (calcom.no_show(BOOKING, NOW, marked=False), BookingTrigger.NO_SHOW_UPDATED, NOW),
        (calcom.meeting_started(BOOKING), BookingTrigger.MEETING_STARTED, BOOKING.start),
        (calcom.meeting_ended(BOOKING, absent=True, rating=4), BookingTrigger.MEETING_ENDED, BOOKING.end),
    ],
)
def test_calcom(webhook: Webhook, trigger: BookingTrigger, at: datetime) -> None:
    (item,) = received(webhook)

    assert (item.fate, item.reason) == (Fate.PUBLISHED, None)
    assert isinstance(item.event, BookingItem)
    assert (item.event.trigger, item.event.occurred_at) == (trigger, at)
    assert item.event.uid in ("uid-old", "uid-new")


def test_calcom_says_who_what_when_and_what_it_replaces() -> None:
    (item,) = received(calcom.rescheduled(BOOKING, MOVED, NOW))

    event = item.event
    assert isinstance(event, BookingItem)
    assert (event.previous_uid, event.staff_ref, event.service_ref) == ("uid-old", "4101", "77001")
    assert (event.start_at, event.end_at) == (MOVED.start, MOVED.end)
    assert event.contact is not None
    assert event.contact.phone_hash == KEYS.contact_hash("phone", "+493023125001")


def test_calcoms_test_button_is_ignored() -> None:
    (item,) = received(calcom.ping(NOW))

    assert item.fate is Fate.IGNORED


@pytest.mark.parametrize(
    ("webhook", "kind"),
    [
        (telegram.text(1, CHAT, 5, NOW, "Привет"), MessageKind.TEXT),
        (telegram.text(2, CHAT, 6, NOW, "/start x"), MessageKind.COMMAND),
        (telegram.edited(3, CHAT, 5, NOW, NOW, "Привет!"), MessageKind.TEXT),
        (telegram.contact_shared(4, CHAT, 7, NOW, "+493023125001"), MessageKind.CONTACT),
        (telegram.button(5, CHAT, 7, NOW, "offer:1"), MessageKind.BUTTON),
        (vk.text("e1", VK_CHAT, 5, NOW, "Привет"), MessageKind.TEXT),
        (vk.edited("e2", VK_CHAT, 5, NOW, NOW, "Привет!"), MessageKind.TEXT),
        (vk.keyboard_button("e3", VK_CHAT, 6, NOW, "Да", "offer:1"), MessageKind.BUTTON),
        (vk.button("e4", VK_CHAT, 7, "offer:1"), MessageKind.BUTTON),
        (max.text(MAX_CHAT, 5, NOW, "Привет"), MessageKind.TEXT),
        (max.edited(MAX_CHAT, 5, NOW, NOW, "Привет!"), MessageKind.TEXT),
        (max.contact_shared(MAX_CHAT, 6, NOW, "+493023125001"), MessageKind.CONTACT),
        (max.button(MAX_CHAT, 7, NOW, "offer:1"), MessageKind.BUTTON),
    ],
)
def test_messages(webhook: Webhook, kind: MessageKind) -> None:
    (item,) = received(webhook)

    assert (item.fate, item.reason) == (Fate.PUBLISHED, None)
    assert isinstance(item.event, MessageItem)
    assert item.event.kind is kind
    assert KEYS.open_text("chat", item.event.chat_sealed) == "730044112"


@pytest.mark.parametrize(
    "webhook",
    [
        telegram.contact_shared(4, CHAT, 7, NOW, "+493023125001"),
        max.contact_shared(MAX_CHAT, 7, NOW, "+493023125001"),
    ],
)
def test_a_shared_contact_is_vouched_for(webhook: Webhook) -> None:
    (item,) = received(webhook)

    assert isinstance(item.event, MessageItem)
    assert item.event.contact_verified
    assert item.event.contact is not None
    assert item.event.contact.phone_hash == KEYS.contact_hash("phone", "+493023125001")


@pytest.mark.parametrize(
    ("webhook", "opted_in"),
    [
        (telegram.bot_blocked(9, CHAT, NOW), False),
        (telegram.bot_blocked(9, CHAT, NOW, blocked=False), True),
        (vk.denied("e1", VK_CHAT), False),
        (vk.allowed("e2", VK_CHAT), True),
        (max.stopped(MAX_CHAT, NOW), False),
        (max.started(MAX_CHAT, NOW, "ad-7"), True),
    ],
)
def test_consents(webhook: Webhook, opted_in: bool) -> None:
    item = received(webhook)[0]

    assert isinstance(item.event, ConsentItem)
    assert item.event.opted_in is opted_in


def test_vk_reply_of_an_admin_is_a_fact_and_of_the_bot_is_none() -> None:
    (by_hand,) = received(vk.reply("e1", VK_CHAT, 8, NOW, "Ждём", admin_id=5))
    (by_bot,) = received(vk.reply("e2", VK_CHAT, 8, NOW, "Ждём", admin_id=None))

    assert isinstance(by_hand.event, FactItem) and by_hand.event.fact is FactType.ADMIN_REPLY
    assert by_bot.fate is Fate.IGNORED


def test_vk_confirmation_is_verified_and_ignored() -> None:
    (item,) = received(vk.confirmation(VK_CHAT))

    assert (item.event_type, item.fate) == ("confirmation", Fate.IGNORED)


@pytest.mark.parametrize(
    ("webhook", "kind", "button"),
    [
        (whatsapp.text(NUMBER, WA_CLIENT, "wamid.1", NOW, "Привет"), MessageKind.TEXT, None),
        (whatsapp.text(NUMBER, BY_USERNAME, "wamid.2", NOW, "Привет"), MessageKind.TEXT, None),
        (
            whatsapp.quick_reply(NUMBER, WA_CLIENT, "wamid.3", NOW, "confirm:1", "Да", "wamid.0"),
            MessageKind.BUTTON,
            "confirm:1",
        ),
        (
            whatsapp.button_reply(NUMBER, WA_CLIENT, "wamid.4", NOW, "offer:1", "10:00", "wamid.0"),
            MessageKind.BUTTON,
            "offer:1",
        ),
        (
            whatsapp.list_reply(NUMBER, WA_CLIENT, "wamid.5", NOW, "staff:1", "Anna", "wamid.0"),
            MessageKind.BUTTON,
            "staff:1",
        ),
        (instagram.text(ACCOUNT, IG_CLIENT, "mid.1", NOW, "Привет"), MessageKind.TEXT, None),
        (
            instagram.quick_reply(ACCOUNT, IG_CLIENT, "mid.2", NOW, "offer:1", "10:00"),
            MessageKind.BUTTON,
            "offer:1",
        ),
        (
            instagram.postback(ACCOUNT, IG_CLIENT, "mid.3", NOW, "book:1", "Book"),
            MessageKind.BUTTON,
            "book:1",
        ),
    ],
)
def test_messages_of_meta(webhook: Webhook, kind: MessageKind, button: str | None) -> None:
    (item,) = received(webhook)

    assert (item.fate, item.reason, item.routing_id) == (Fate.PUBLISHED, None, ROUTING_IDS[webhook.channel])
    assert isinstance(item.event, MessageItem)
    assert (item.event.kind, item.event.button, item.event.sent_at) == (kind, button, NOW)
    assert webhook.body.isascii()


@pytest.mark.parametrize(
    ("webhook", "status", "reason"),
    [
        (whatsapp.status(NUMBER, WA_CLIENT, "wamid.0", NOW, "sent"), "sent", None),
        (whatsapp.status(NUMBER, WA_CLIENT, "wamid.0", NOW, "delivered"), "delivered", None),
        (whatsapp.status(NUMBER, WA_CLIENT, "wamid.0", NOW, "read"), "read", None),
        (whatsapp.status(NUMBER, WA_CLIENT, "wamid.0", NOW, "failed", 131026), "failed", "code_131026"),
        (instagram.read(ACCOUNT, IG_CLIENT, "wamid.0", NOW), "read", None),
    ],
)
def test_receipts_of_meta(webhook: Webhook, status: str, reason: str | None) -> None:
    (item,) = received(webhook)

    assert isinstance(item.event, ReceiptItem)
    assert (item.event.provider_message_id, item.event.status, item.event.reason) == (
        "wamid.0",
        status,
        reason,
    )


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("client", [WA_CLIENT, BY_USERNAME])
def test_whatsapp_preferences_are_consents_of_the_chat_that_the_client_writes_in(
    client: whatsapp.Client, stop: bool
) -> None:
    (item,) = received(whatsapp.preference(NUMBER, client, NOW, stop=stop))
    (written,) = received(whatsapp.text(NUMBER, client, "wamid.1", NOW, "hi"))

    assert isinstance(item.event, ConsentItem) and isinstance(written.event, MessageItem)
    assert (item.event.opted_in, item.event.chat_hash) == (not stop, written.event.chat_hash)


def test_instagram_answer_by_hand_is_a_fact_and_an_apps_or_an_unsent_message_is_none() -> None:
    (by_hand,) = received(instagram.echo(ACCOUNT, IG_CLIENT, "mid.4", NOW, "Ждём"))
    (by_app,) = received(instagram.echo(ACCOUNT, IG_CLIENT, "mid.5", NOW, "Ждём", app_id=7))
    (unsent,) = received(instagram.unsent(ACCOUNT, IG_CLIENT, "mid.1", NOW))

    assert isinstance(by_hand.event, FactItem) and by_hand.event.fact is FactType.ADMIN_REPLY
    assert by_hand.event.chat_hash == KEYS.contact_hash("instagram", IG_CLIENT)
    assert (by_app.fate, unsent.fate) == (Fate.IGNORED, Fate.IGNORED)


def test_batch_holds_the_items_of_its_parts() -> None:
    parts = [
        whatsapp.text(NUMBER, WA_CLIENT, "wamid.1", NOW, "Привет"),
        whatsapp.status(NUMBER, WA_CLIENT, "wamid.0", NOW, "read"),
        whatsapp.preference(NUMBER, WA_CLIENT, NOW),
    ]
    shown = [
        instagram.text(ACCOUNT, IG_CLIENT, "mid.1", NOW, "hi"),
        instagram.read(ACCOUNT, IG_CLIENT, "mid.0", NOW),
    ]

    for batched, singles in ((whatsapp.batch(*parts), parts), (instagram.batch(*shown), shown)):
        alone = [item for webhook in singles for item in received(webhook)]
        assert [(i.key, i.content) for i in received(batched)] == [(i.key, i.content) for i in alone]


@pytest.mark.parametrize(
    ("webhook", "fact"),
    [
        (facts.completed("f1", NOW, "u"), FactType.SERVICE_COMPLETED),
        (facts.paid("f2", NOW, "u", 4200, "EUR", 200), FactType.PAYMENT_RECEIVED),
        (facts.refunded("f3", NOW, "u", 100, "EUR"), FactType.PAYMENT_REFUNDED),
        (facts.rated("f4", NOW, 5, "u"), FactType.FEEDBACK_RECEIVED),
        (facts.manual_cancel("f5", NOW, "u", "anna"), FactType.ADMIN_MANUAL_CANCEL),
        (
            facts.manual_reschedule("f6", NOW, "u", NOW, NOW + timedelta(hours=1)),
            FactType.ADMIN_MANUAL_RESCHEDULE,
        ),
        (facts.override("f7", NOW, "u", "completed"), FactType.ADMIN_OVERRIDE_BOOKING),
        (facts.reply("f8", NOW, "telegram", 730044112), FactType.ADMIN_REPLY),
        (facts.counted("f9", NOW, "wax", 3, 2), FactType.INVENTORY_COUNTED),
        (facts.sold("f10", NOW, "wax", 1, 1250, "EUR", "anna", "u"), FactType.INVENTORY_SOLD),
        (facts.shift_planned("f11", NOW, "anna", NOW, NOW + timedelta(hours=8), 30), FactType.SHIFT_PLANNED),
    ],
)
def test_facts(webhook: Webhook, fact: FactType) -> None:
    (item,) = received(webhook)

    assert (item.fate, item.reason) == (Fate.PUBLISHED, None)
    assert isinstance(item.event, FactItem)
    assert (item.event.fact, item.event.occurred_at) == (fact, NOW)


@pytest.mark.parametrize("channel", sorted(SECRETS))
def test_another_secret_does_not_verify(channel: str) -> None:
    webhook = Webhook(channel, b"{}", "id-1")
    other = SECRETS[channel][:-2] + ("A=" if channel == "events" else "zz")
    headers = signed_headers(webhook, other, int(NOW.timestamp()))
    raw = {name.lower().encode(): value.encode() for name, value in headers.items()}
    provider = PROVIDERS[channel]

    assert not provider.verify(raw, signed_body(webhook, other), provider.secret_bytes(SECRETS[channel]), NOW)


def test_a_channel_that_cannot_be_signed_is_refused() -> None:
    with pytest.raises(ValueError, match="pager"):
        signed_headers(Webhook("pager", b""), "secret", 0)
