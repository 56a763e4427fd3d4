"""MAX: the secret header, composed keys, messages, buttons and consents of dialogs; the old name vkmax (domain.md A6)."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webhook_fixtures import (
    KEYS,
    NOON,
    all_delivered,
    body_of,
    delivered,
    event_of,
    names,
    opened,
    value_of,
)
from turnout_common.events.values import Channel
from turnout_ingest.providers import PROVIDERS, resolve
from turnout_ingest.providers.provider import ChannelContext, Delivery, Fate, Item, Refused

MAX = PROVIDERS["max"]
IGNORED = [
    "bot_added", "button_in_group", "channel_post", "dialog_cleared", "dialog_muted", "dialog_unmuted",
    "edited_by_bot", "group_text", "removed", "type_of_the_future",
]  # fmt: skip
TWO_ITEMS = ["started", "started_by_link"]
CHAT_HASH = KEYS.contact_hash("max", "730044112")
TEXT = "Canary text: хочу записаться на пятницу"
SECRET_HEADER = b"x-max-bot-api-secret"


def sample(name: str) -> dict[str, Any]:
    return event_of("max", body_of("max", name))


def shared(card: str | None, **payload: Any) -> dict[str, Any]:
    """The sender's own contact with another vCard."""
    update: dict[str, Any] = value_of("max", "contact_own")
    (attachment,) = update["message"]["body"]["attachments"]
    attachment["payload"] |= {"vcf_info": card} | payload
    return update


@pytest.mark.parametrize("name", names("max"))
def test_every_sample_is_published_or_ignored_for_a_reason(name: str) -> None:
    rows = all_delivered("max", body_of("max", name))

    assert len(rows) == (2 if name in TWO_ITEMS else 1)
    assert {row.fate for row in rows} == {Fate.IGNORED if name in IGNORED else Fate.PUBLISHED}
    assert all((row.reason is not None) == (name in IGNORED) for row in rows)


def test_answer_is_exactly_200_whatever_becomes_of_it() -> None:
    assert (MAX.answers.success, MAX.answers.quarantined, MAX.answers.conflict) == (200, 200, 200)


@pytest.mark.parametrize(
    ("told", "holds"), [(b"s", True), (b"old", True), (b"S", False), (b"", False), (b"\xff", False)]
)
def test_secret_header(told: bytes, holds: bool) -> None:
    secrets = (*MAX.secret_bytes("s"), *MAX.secret_bytes("old"))

    assert MAX.verify({SECRET_HEADER: told}, b"", secrets, NOON) is holds


def test_missing_or_empty_secret_never_verifies() -> None:
    assert not MAX.verify({}, b"", (b"s",), NOON)
    assert not MAX.verify({}, b"", (b"",), NOON)
    assert not MAX.verify({SECRET_HEADER: b""}, b"", (b"",), NOON)
    assert not MAX.verify({SECRET_HEADER: b"s"}, b"", (), NOON)


@pytest.mark.parametrize(
    ("name", "kind", "message_no"),
    [
        ("text", "text", 116327994376978001),
        ("command", "command", 116327994376978002),
        ("photo", "other", 116327994376978003),
        ("contact_own", "contact", 116327994376978004),
        ("edited", "text", 116327994376978001),
        ("button", "button", 116327994376978010),
        ("button_message_null", "button", 0),
        ("button_message_gone", "button", 0),
    ],
)
def test_kind_and_place_in_the_chat(name: str, kind: str, message_no: int) -> None:
    event = sample(name)

    assert (event["type"], event["kind"], event["message_no"]) == ("inbound.message", kind, message_no)


def test_text_carries_chat_text_and_locale_and_the_time_of_the_message() -> None:
    event = sample("text")

    assert event["chat_hash"] == CHAT_HASH
    assert opened("chat", event["chat_sealed"]) == "730044112"
    assert opened("text", event["text_sealed"]) == TEXT
    assert event["locale"] == "ru"
    assert event["sent_at"] == event["occurred_at"] == "2026-11-24T08:00:11.640000Z"


def test_edit_keeps_its_place_and_has_its_own_time() -> None:
    event = sample("edited")

    assert event["edited"] is True
    assert (event["sent_at"], event["occurred_at"]) == (
        "2026-11-24T08:00:11.640000Z",
        "2026-11-24T08:01:00.640000Z",
    )


def test_all_of_a_client_is_in_one_chat_also_where_the_message_is_gone() -> None:
    told = ("text", "button", "button_message_null", "button_message_gone", "started", "stopped", "edited")
    rows = [row for name in told for row in all_delivered("max", body_of("max", name))]

    assert {(row.subject, row.kafka_key) for row in rows} == {(CHAT_HASH, f"salon:{CHAT_HASH}")}


def test_pressing_start_is_an_opt_in_and_a_first_word() -> None:
    consent, message = map(json.loads, filter(None, (row.payload for row in all_delivered("max", body_of("max", "started_by_link")))))  # fmt: skip

    assert (consent["type"], consent["opted_in"]) == ("inbound.consent", True)
    assert (message["type"], message["kind"]) == ("inbound.message", "command")
    assert opened("text", message["text_sealed"]) == "/start vk_ad_7"


def test_start_without_a_link_is_the_bare_command() -> None:
    _, message = all_delivered("max", body_of("max", "started"))

    assert opened("text", json.loads(message.payload or "")["text_sealed"]) == "/start"


@pytest.mark.parametrize("name", ["stopped", "dialog_removed"])
def test_stopping_the_bot_and_removing_the_dialog_are_opt_outs(name: str) -> None:
    event = sample(name)

    assert (event["type"], event["opted_in"], event["chat_hash"]) == ("inbound.consent", False, CHAT_HASH)


def test_muted_dialog_is_no_opt_out() -> None:
    row = delivered("max", body_of("max", "dialog_muted"))

    assert (row.fate, row.reason) == (Fate.IGNORED, "a client muted the dialog: what we send arrives, unseen")


def test_own_contact_is_vouched_for_and_gets_its_plus() -> None:
    event = sample("contact_own")

    assert event["contact_verified"] is True
    assert event["contact"]["phone_hash"] == KEYS.contact_hash("phone", "+493023125077")
    assert json.loads(opened("contact", event["contact"]["sealed"]))["name"] == "Zinaida Quillfeather"


@pytest.mark.parametrize("name", ["contact_of_another", "contact_by_card"])
def test_contact_of_somebody_else_is_not_vouched_for(name: str) -> None:
    event = sample(name)

    assert event["contact_verified"] is False
    assert event["contact"]["phone_hash"] == KEYS.contact_hash("phone", "+493023125077")


@pytest.mark.parametrize("number", ["030 23125077", "493023125077"])
def test_number_of_another_without_its_plus_links_nobody(number: str) -> None:
    update = shared(f"TEL:{number}", max_info={"user_id": 1})

    assert "contact" not in event_of("max", update)


@pytest.mark.parametrize(
    ("card", "phone"),
    [
        ("TEL:+493023125077", True),
        ("tel;type=CELL,PREF:493023125077\nTEL:+4930999", True),
        ("item1.TEL;TYPE=cell:+49 30 23125077", True),
        ("TEL;VALUE=uri:tel:+49-30-23125077", True),
        ("BEGIN:VCARD\r\nNOTE:TEL:+4930999\r\nTEL:+493023125077\r\n", True),
        ("NOTE:TEL:+493023125077", False),
        ("TELEPHONE:+493023125077", False),
        ("TEL;", False),
        ("TEL:", False),
        ("TEL:\n+493023125077", False),
        ("TEL:" + "1" * 500, False),
        ("x" * 5000 + "\nTEL:+493023125077", False),
        ("", False),
        (None, False),
    ],
)
def test_phone_of_a_card(card: str | None, phone: bool) -> None:
    contact = event_of("max", shared(card))["contact"]

    assert contact.get("phone_hash") == (KEYS.contact_hash("phone", "+493023125077") if phone else None)


@pytest.mark.parametrize("part", ["TEL;", "a.", "-" * 21 + ".TEL", "TEL;" + ";" * 200, "\n", "TEL;a:tel:"])
def test_card_made_to_be_slow_is_not(part: str) -> None:
    update = shared(part * (200_000 // len(part)))

    started = time.process_time()
    event_of("max", update)

    assert time.process_time() - started < 0.2


@pytest.mark.parametrize("payload", [None, "", "two words", "x" * 65, "я", "a\x00b", "<script>"])
def test_button_payload_that_a_client_made_up_is_quarantined(payload: str | None) -> None:
    update = value_of("max", "button")
    update["callback"]["payload"] = payload

    row = delivered("max", update)

    assert (row.fate, row.reason) == (Fate.QUARANTINED, "its payload is not that of a button of ours")
    assert row.event_type == "message_callback"


@pytest.mark.parametrize("name", ["text", "edited", "button", "stopped"])
def test_what_has_a_time_grows_stale_by_it(name: str) -> None:
    body = body_of("max", name)

    assert delivered("max", body, now=NOON + timedelta(days=13)).fate is Fate.PUBLISHED
    assert delivered("max", body, now=NOON + timedelta(days=15)).fate is Fate.STALE


def test_every_sample_has_keys_of_its_own() -> None:
    keys = [row.key_hash for name in names("max") for row in all_delivered("max", body_of("max", name))]

    assert len(keys) == len(names("max")) + len(TWO_ITEMS) == len(set(keys))


def test_message_is_known_by_its_mid_however_often_it_comes() -> None:
    update = value_of("max", "text")
    later = update | {"timestamp": update["timestamp"] + 60_000}

    assert delivered("max", update).key_hash == delivered("max", later).key_hash
    assert delivered("max", update).key_hash != delivered("max", update, routing_id="7").key_hash


@pytest.mark.parametrize("name", ["edited", "stopped", "dialog_removed", "dialog_muted"])
def test_what_may_happen_again_is_known_by_its_time_too(name: str) -> None:
    update = value_of("max", name)
    again = update | {"timestamp": update["timestamp"] + 1}

    assert delivered("max", update).key_hash != delivered("max", again).key_hash


def test_button_is_known_by_keyboard_and_time() -> None:
    update = value_of("max", "button")
    redelivered = update | {"timestamp": update["timestamp"] + 1}
    again = update | {"callback": update["callback"] | {"timestamp": update["callback"]["timestamp"] + 1}}

    assert delivered("max", update).key_hash == delivered("max", redelivered).key_hash
    assert delivered("max", update).key_hash != delivered("max", again).key_hash


def test_types_share_no_key() -> None:
    stopped = value_of("max", "stopped")
    removed = stopped | {"update_type": "dialog_removed"}

    assert delivered("max", stopped).key_hash != delivered("max", removed).key_hash


@pytest.mark.parametrize("name", names("max"))
def test_key_never_depends_on_the_order_of_fields(name: str) -> None:
    update = value_of("max", name)
    turned = all_delivered("max", dict(reversed(update.items())))
    straight = all_delivered("max", update)

    assert [(r.key_hash, r.content_hash) for r in turned] == [(r.key_hash, r.content_hash) for r in straight]


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"",
        b'"x"',
        b'{"update_type":1,"timestamp":1795507211640}',
        b'{"update_type":"message_created","timestamp":1795507211640}',
        b'{"update_type":"message_created","timestamp":1795507211640,"message":null}',
        b'{"update_type":"bot_stopped","timestamp":1795507211,"user":{"user_id":1}}',
        b'{"update_type":"bot_stopped","timestamp":true,"user":{"user_id":1}}',
        b'{"update_type":"bot_stopped","timestamp":1795507211640}',
        b'{"update_type":"message_callback","timestamp":1795507211640}',
        b"[" * 100000,
    ],
)
def test_what_is_no_update_is_quarantined(body: bytes) -> None:
    assert delivered("max", body).fate is Fate.QUARANTINED


@pytest.mark.parametrize("name", names("max"))
def test_raw_bytes_of_an_item_give_that_item_alone(name: str) -> None:
    for item in items(body_of("max", name)):
        assert fixed(items(item.raw)) == fixed([item])


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
moments = st.integers(1_795_000_000_000, 1_795_507_000_000) | anything
users = st.fixed_dictionaries({"user_id": st.integers(-3, 3) | anything}, optional={"is_bot": st.booleans(), "name": anything})  # fmt: skip
messages = st.fixed_dictionaries({
    "recipient": st.just({"chat_type": "dialog"}) | anything, "timestamp": moments, "sender": users,
    "body": st.fixed_dictionaries({"mid": st.text(max_size=5)}, optional={"text": anything, "attachments": anything, "seq": anything}),
})  # fmt: skip
updates = st.fixed_dictionaries(
    {
        "update_type": st.sampled_from(["message_created", "message_edited", "message_callback", "bot_started", "bot_stopped", "message_removed", "dialog_muted"]) | anything,
        "timestamp": moments,
    },
    optional={
        "message": messages | anything, "user": users, "chat_id": anything, "message_id": anything, "payload": anything,
        "callback": st.fixed_dictionaries({"timestamp": moments, "callback_id": st.text(max_size=3), "user": users, "payload": st.just("b") | anything}),
        "turnout_part": st.sampled_from(["consent", "message"]) | anything,
    },
)  # fmt: skip


@pytest.mark.parametrize("forged", [[], {}, [["consent"]], {"consent": "message"}, None, "neither", 1])
def test_start_is_both_of_its_items_whatever_the_sender_writes_in_our_field(forged: Any) -> None:
    started = value_of("max", "started")

    assert fixed(items(json.dumps(started | {"turnout_part": forged}).encode())) == fixed(
        items(json.dumps(started).encode())
    )


@given(value=updates | anything)
def test_any_json_gives_items_or_is_refused(value: Any) -> None:
    body = json.dumps(value).encode()

    try:
        found = items(body)
    except Refused:
        return
    assert [again for item in found for again in fixed(items(item.raw))] == fixed(found)


@pytest.mark.parametrize(
    ("body", "channel"),
    [
        (body_of("max", "text"), "max"),
        (body_of("max", "started"), "max"),
        (body_of("vk", "text"), "vk"),
        (body_of("vk", "confirmation"), "vk"),
        (b'{"update_type":"x","type":"y","group_id":1}', "max"),
        (b'{"type":"x"}', "vkmax"),
        (b'{"group_id":1}', "vkmax"),
        (b"{}", "vkmax"),
        (b'["update_type"]', "vkmax"),
        (b'"update_type"', "vkmax"),
        (b"", "vkmax"),
        (b"[" * 100000, "vkmax"),
    ],
)
def test_old_name_is_resolved_by_the_shape_of_the_body(body: bytes, channel: str) -> None:
    assert resolve("vkmax", body) == channel


@pytest.mark.parametrize("channel", ["vk", "max", "telegram", "nonsense"])
def test_other_names_stay_whatever_the_body(channel: str) -> None:
    assert resolve(channel, body_of("max", "text")) == channel


def test_old_name_itself_is_no_provider() -> None:
    assert "vkmax" not in PROVIDERS


def items(body: bytes) -> list[Item]:
    return MAX.items(Delivery(ChannelContext("salon", Channel.MAX, (), KEYS), {}, body, NOON))


def fixed(found: list[Item]) -> list[tuple[Item, str]]:
    """Items without what differs each time: their ids, and sealed text, which is sealed anew."""
    return [(replace(item, item_id=UUID(int=0), event=None), _plain(item)) for item in found]


def _plain(item: Item) -> str:
    if item.event is None:
        return ""
    event = item.event.model_dump(mode="json", exclude={"item_id"})
    return str({name: value for name, value in event.items() if not name.endswith(("_sealed", "contact"))})
