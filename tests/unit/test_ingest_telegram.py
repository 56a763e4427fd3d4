"""Telegram: messages, buttons, consents and shared contacts of private chats; the rest is ignored (domain.md A2)."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.webhook_fixtures import KEYS, NOON, body_of, delivered, event_of, names, opened, value_of
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import Fate

TELEGRAM = PROVIDERS["telegram"]
IGNORED = ["channel_post", "group_text", "inline_query", "kind_of_the_future"]
CHAT_HASH = KEYS.contact_hash("telegram", "730044112")
TEXT = "Canary text: хочу записаться на пятницу"


def sample(name: str) -> dict[str, Any]:
    return event_of("telegram", body_of("telegram", name))


@pytest.mark.parametrize("name", names("telegram"))
def test_every_sample_is_published_or_ignored_for_a_reason(name: str) -> None:
    row = delivered("telegram", body_of("telegram", name))

    assert row.fate is (Fate.IGNORED if name in IGNORED else Fate.PUBLISHED)
    assert (row.reason is not None) == (name in IGNORED)


@pytest.mark.parametrize(
    ("name", "kind", "message_no"),
    [
        ("text", "text", 11),
        ("legacy_text", "command", 1365),
        ("command", "command", 12),
        ("edited", "text", 11),
        ("photo_with_caption", "other", 14),
        ("sticker_scheduled", "other", 0),
        ("contact_own", "contact", 16),
        ("button", "button", 18),
        ("button_inline", "button", 0),
        ("legacy_button", "button", 0),
    ],
)
def test_kind_and_place_in_the_chat(name: str, kind: str, message_no: int) -> None:
    event = sample(name)

    assert (event["type"], event["kind"], event["message_no"]) == ("inbound.message", kind, message_no)


def test_text_carries_chat_text_and_locale() -> None:
    event = sample("text")

    assert event["chat_hash"] == CHAT_HASH
    assert opened("chat", event["chat_sealed"]) == "730044112"
    assert opened("text", event["text_sealed"]) == TEXT
    assert event["locale"] == "ru"
    assert event["sent_at"] == event["occurred_at"] == "2026-11-24T08:00:11Z"


def test_messages_of_a_chat_share_a_partition() -> None:
    keys = {
        delivered("telegram", body_of("telegram", name)).kafka_key for name in ("text", "button", "blocked")
    }

    assert keys == {f"salon:{CHAT_HASH}"}


def test_caption_is_text_too() -> None:
    assert opened("text", sample("photo_with_caption")["text_sealed"]) == TEXT


def test_edit_keeps_its_place_and_has_its_own_time() -> None:
    event = sample("edited")

    assert event["edited"] is True
    assert (event["sent_at"], event["occurred_at"]) == ("2026-11-24T08:00:11Z", "2026-11-24T08:01:00Z")


def test_own_contact_is_vouched_for_and_gets_its_plus() -> None:
    event = sample("contact_own")

    assert event["contact_verified"] is True
    assert event["contact"]["phone_hash"] == KEYS.contact_hash("phone", "+493023125077")
    assert json.loads(opened("contact", event["contact"]["sealed"]))["name"] == "Zinaida"


def test_contact_of_somebody_else_is_not_vouched_for() -> None:
    assert sample("contact_of_another")["contact_verified"] is False


def test_contact_without_a_user_is_not_vouched_for_by_a_sender_without_an_id() -> None:
    update = value_of("telegram", "contact_own")
    update["message"].pop("from")
    update["message"]["contact"].pop("user_id")

    assert event_of("telegram", update)["contact_verified"] is False


@pytest.mark.parametrize(("name", "opted_in"), [("blocked", False), ("unblocked", True)])
def test_blocking_the_bot_is_a_consent(name: str, opted_in: bool) -> None:
    event = sample(name)

    assert (event["type"], event["opted_in"], event["chat_hash"]) == ("inbound.consent", opted_in, CHAT_HASH)


def test_button_has_the_data_that_we_gave_it() -> None:
    assert sample("button")["button"] == "offer:7f3a:1"


@pytest.mark.parametrize("data", [None, "", "two words", "x" * 65, "я" * 33, "a\x00b", "<script>"])
def test_button_data_that_a_client_made_up_is_quarantined(data: str | None) -> None:
    update = value_of("telegram", "button")
    update["callback_query"]["data"] = data

    row = delivered("telegram", update)

    assert (row.fate, row.reason) == (Fate.QUARANTINED, "its data is not that of a button of ours")
    assert row.event_type == "callback_query"


def test_message_of_a_bot_is_ignored() -> None:
    update = value_of("telegram", "text")
    update["message"]["from"]["is_bot"] = True

    assert delivered("telegram", update).fate is Fate.IGNORED


def test_message_older_than_its_key_is_kept_is_stale() -> None:
    update = body_of("telegram", "text")

    seven_days = delivered("telegram", update, now=NOON + timedelta(days=6, hours=20))
    later = delivered("telegram", update, now=NOON + timedelta(days=6, hours=21))

    assert (seven_days.fate, later.fate) == (Fate.PUBLISHED, Fate.STALE)
    assert later.reason is not None and "older than 7 days" in later.reason
    assert later.key_hash != seven_days.key_hash  # what is stale holds no provider's key


@pytest.mark.parametrize("name", ["edited", "blocked"])
def test_edits_and_consents_grow_stale_by_their_own_time(name: str) -> None:
    assert delivered("telegram", body_of("telegram", name), now=NOON + timedelta(days=7)).fate is Fate.STALE


def test_button_never_grows_stale() -> None:
    assert (
        delivered("telegram", body_of("telegram", "button"), now=NOON + timedelta(days=99)).fate
        is Fate.PUBLISHED
    )


def test_message_from_the_future_is_quarantined() -> None:
    assert (
        delivered("telegram", body_of("telegram", "text"), now=NOON - timedelta(hours=6)).fate
        is Fate.QUARANTINED
    )


def test_key_is_the_update_id_of_that_bot() -> None:
    text, edited = value_of("telegram", "text"), value_of("telegram", "edited")
    same_id = edited | {"update_id": text["update_id"]}

    assert delivered("telegram", text).key_hash == delivered("telegram", same_id).key_hash
    assert delivered("telegram", text).key_hash != delivered("telegram", edited).key_hash
    assert delivered("telegram", text).key_hash != delivered("telegram", text, routing_id="7").key_hash


def test_content_is_told_apart_by_meaning_and_not_by_spelling() -> None:
    text = value_of("telegram", "text")
    spelled = json.dumps(dict(reversed(text.items())), indent=3, ensure_ascii=True).encode()

    assert delivered("telegram", text).content_hash == delivered("telegram", spelled).content_hash
    text["message"]["text"] = "other"
    assert delivered("telegram", text).content_hash != delivered("telegram", spelled).content_hash


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"",
        b'"x"',
        b'{"update_id":"1"}',
        b'{"update_id":true}',
        b'{"update_id":-1}',
        b'{"update_id":%s}' % (b"9" * 400),
        b'{"update_id":1,"message":null}',
        b'{"update_id":1,"message":[]}',
        b'{"update_id":1,"message":{"message_id":1,"date":"now","chat":{"id":1,"type":"private"}}}',
        b'{"update_id":1,"message":{"message_id":1,"date":99999999999999999,"chat":{"id":1,"type":"private"}}}',
        b'{"update_id":1,"message":{"message_id":1,"date":1795507200,"chat":{"id":1,"type":"private"},"text":"\\u0000"}}',
        b'{"update_id":1,"message":{"message_id":1,"date":1795507200,"chat":{"id":1,"type":"private"},"text":"\\udc00"}}',
        b'{"update_id":1,"callback_query":{"id":"1"}}',
        b"[" * 100000,
    ],
)
def test_what_is_no_update_is_quarantined(body: bytes) -> None:
    assert delivered("telegram", body).fate is Fate.QUARANTINED


@pytest.mark.parametrize(
    ("given", "holds"), [(b"s", True), (b"old", True), (b"S", False), (b"", False), (b"\xff", False)]
)
def test_secret_header(given: bytes, holds: bool) -> None:
    secrets = (*TELEGRAM.secret_bytes("s"), *TELEGRAM.secret_bytes("old"))

    assert TELEGRAM.verify({b"x-telegram-bot-api-secret-token": given}, b"", secrets, NOON) is holds


def test_missing_secret_header_never_verifies() -> None:
    assert not TELEGRAM.verify({}, b"", TELEGRAM.secret_bytes("s"), NOON)


def test_edge_of_the_window_and_of_the_hour_ahead_is_taken_in_and_a_second_beyond_is_not() -> None:
    def fate(at: int) -> Fate:
        body = value_of("telegram", "text")
        body["message"]["date"] = at
        return delivered("telegram", body).fate

    now = int(NOON.timestamp())
    oldest, newest = now - 7 * 86_400, now + 3_600

    assert [fate(at) for at in (oldest - 1, oldest)] == [Fate.STALE, Fate.PUBLISHED]
    assert [fate(at) for at in (newest, newest + 1)] == [Fate.PUBLISHED, Fate.QUARANTINED]


def test_what_is_not_taken_in_holds_no_key_of_the_providers_and_none_of_another_body() -> None:
    """Else a corrected update would be a duplicate, and of two bad ones the second would be kept nowhere."""
    body = value_of("telegram", "text")
    stale = body | {"message": body["message"] | {"date": int(NOON.timestamp()) - 8 * 86_400}}
    bad = [body | {"message": number} for number in (1, 2)]

    keys = [delivered("telegram", each).key_hash for each in (body, stale, *bad)]

    assert len(set(keys)) == 4


def test_button_in_a_group_is_nobodys_word_to_the_salon() -> None:
    body = value_of("telegram", "button")
    body["callback_query"]["message"]["chat"] |= {"id": -5, "type": "group"}

    assert delivered("telegram", body).fate is Fate.IGNORED
