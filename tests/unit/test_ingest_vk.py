"""VK: the secret in the body, the confirmation, messages, presses and consents of private chats (domain.md A5)."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from tests.webhook_fixtures import KEYS, NOON, body_of, delivered, event_of, names, opened, value_of
from turnout_common.events.values import Channel
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Delivery, Fate, Item, Refused
from turnout_ingest.providers.vk import NO_CODE

VK = PROVIDERS["vk"]
IGNORED = [
    "button_in_group", "confirmation", "edited_by_salon", "from_community", "group_chat", "read", "reply_of_bot",
    "type_of_the_future", "typing", "wall_post",
]  # fmt: skip
CHAT_HASH = KEYS.contact_hash("vk", "730044112")
TEXT = "Canary text: хочу записаться на пятницу"
SECRET = "Canary-vk-secret"


def sample(name: str) -> dict[str, Any]:
    return event_of("vk", body_of("vk", name))


def changed(name: str, **message: Any) -> dict[str, Any]:
    """A sample of the newer form with fields of its message replaced."""
    event: dict[str, Any] = value_of("vk", name)
    event["object"]["message"] |= message
    return event


def pressed(payload: Any) -> dict[str, Any]:
    event: dict[str, Any] = value_of("vk", "button")
    event["object"]["payload"] = payload
    return event


@pytest.mark.parametrize("name", names("vk"))
def test_every_sample_is_published_or_ignored_for_a_reason(name: str) -> None:
    row = delivered("vk", body_of("vk", name))

    assert row.fate is (Fate.IGNORED if name in IGNORED else Fate.PUBLISHED)
    assert (row.reason is not None) == (name in IGNORED)


@pytest.mark.parametrize("name", names("vk"))
def test_every_sample_is_verified_by_the_secret_in_it(name: str) -> None:
    body = body_of("vk", name)

    assert VK.verify({}, body, (b"other", SECRET.encode()), NOON) is True
    assert VK.verify({}, body, (b"other",), NOON) is False
    assert VK.verify({}, body, (), NOON) is False


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"s"',
        b'{"type":"message_new"}',
        b'{"secret":null}',
        b'{"secret":""}',
        b'{"secret":["s"]}',
        b'{"secret":1}',
        b'{"secret":"s"',
        b'{"secret":"\\udc00"}',
        b'{"secret":"S"}',
        b'\xff{"secret":"s"}',
        b"secret=s",
        b"[" * 100000,
    ],
)
def test_body_without_the_secret_never_verifies(body: bytes) -> None:
    assert VK.verify({b"secret": b"s"}, body, (b"s",), NOON) is False
    assert VK.verify({}, body, (b"",), NOON) is False


def test_secret_that_is_not_ascii_verifies() -> None:
    assert VK.verify({}, '{"secret":"тайна"}'.encode(), VK.secret_bytes("тайна"), NOON)


def test_confirmation_is_answered_with_the_code_of_that_tenant() -> None:
    row = delivered("vk", body_of("vk", "confirmation"), handshake=b"a1b2c3d4")

    assert (row.fate, row.reply) == (Fate.IGNORED, b"a1b2c3d4")


def test_confirmation_without_a_code_says_how_to_set_one_and_confirms_nothing() -> None:
    row = delivered("vk", body_of("vk", "confirmation"))

    assert row.reason is not None
    assert row.reason.endswith("turnout tenant channel set salon vk --handshake CODE")
    assert (row.fate, row.reply) == (Fate.IGNORED, NO_CODE)


def test_group_of_another_tenant_is_not_confirmed() -> None:
    row = delivered("vk", body_of("vk", "confirmation"), handshake=b"a1b2c3d4", routing_id="7")

    assert (row.fate, row.reply) == (Fate.WRONG_TENANT, None)


@pytest.mark.parametrize("name", [name for name in names("vk") if name != "confirmation"])
def test_everything_but_a_confirmation_is_answered_ok(name: str) -> None:
    assert delivered("vk", body_of("vk", name), handshake=b"a1b2c3d4").reply is None
    assert VK.answers.text == b"ok"
    assert (VK.answers.success, VK.answers.quarantined, VK.answers.conflict) == (200, 200, 200)


@pytest.mark.parametrize(
    ("name", "kind", "message_no"),
    [
        ("text", "text", 37),
        ("text_flat", "text", 38),
        ("text_without_event_id", "text", 43),
        ("start", "command", 1),
        ("command", "command", 2),
        ("keyboard_button", "button", 40),
        ("photo", "other", 41),
        ("edited", "text", 37),
        ("button", "button", 44),
        ("button_as_string", "button", 44),
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


def test_flat_message_of_old_versions_says_the_same() -> None:
    event = sample("text_flat")

    assert (event["chat_hash"], opened("text", event["text_sealed"])) == (CHAT_HASH, TEXT)


def test_messages_of_a_chat_share_a_partition() -> None:
    keys = {delivered("vk", body_of("vk", name)).kafka_key for name in ("text", "button", "deny", "allow")}

    assert keys == {f"salon:{CHAT_HASH}"}


def test_edit_keeps_its_place_and_has_its_own_time() -> None:
    event = sample("edited")

    assert event["edited"] is True
    assert (event["sent_at"], event["occurred_at"]) == ("2026-11-24T08:00:11Z", "2026-11-24T08:01:00Z")


def test_reply_that_an_admin_wrote_is_a_fact_about_that_chat() -> None:
    event = sample("reply_of_admin")

    assert (event["type"], event["fact"]) == ("inbound.fact", "admin.reply")
    assert event["chat_hash"] == CHAT_HASH
    assert delivered("vk", body_of("vk", "reply_of_admin")).kafka_key == "salon"


@pytest.mark.parametrize(("name", "opted_in"), [("allow", True), ("deny", False), ("deny_old", False)])
def test_permission_to_write_is_a_consent(name: str, opted_in: bool) -> None:
    event = sample(name)

    assert (event["type"], event["opted_in"], event["chat_hash"]) == ("inbound.consent", opted_in, CHAT_HASH)


@pytest.mark.parametrize(
    ("name", "button"),
    [
        ("button", "offer:7f3a:1"),
        ("button_as_string", "offer:7f3a:1"),
        ("keyboard_button", "offer:7f3a:2"),
    ],
)
def test_button_has_the_label_that_we_gave_it(name: str, button: str) -> None:
    assert sample(name)["button"] == button


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "",
        "offer:7f3a:1",
        "{",
        "[]",
        {},
        {"button": 1},
        {"button": "two words"},
        {"button": "x" * 65},
        {"button": "a\x00b"},
        {"payload": "week"},
        '{"button":"x"}' + " " * 255,
        ["button"],
    ],
)
def test_payload_that_a_client_made_up_is_quarantined(payload: Any) -> None:
    row = delivered("vk", pressed(payload))

    assert (row.fate, row.reason) == (Fate.QUARANTINED, "its payload is not that of a button of ours")
    assert row.event_type == "message_event"


@pytest.mark.parametrize("payload", ['{"button":"two words"}', "nonsense", '{"command":"other"}', 5])
def test_message_with_a_payload_of_somebody_else_is_a_text(payload: Any) -> None:
    event = event_of("vk", changed("text", payload=payload))

    assert (event["kind"], event.get("button")) == ("text", None)


@pytest.mark.parametrize(
    "message", [{"from_id": -5}, {"out": 1}, {"peer_id": 2_000_000_001}, {"peer_id": -5}, {"from_id": 0}]
)
def test_what_no_client_wrote_in_a_private_chat_is_ignored(message: dict[str, int]) -> None:
    assert delivered("vk", changed("text", **message)).fate is Fate.IGNORED


def test_message_older_than_its_key_is_kept_is_stale() -> None:
    body = body_of("vk", "text")

    fresh = delivered("vk", body, now=NOON + timedelta(days=13, hours=20))
    late = delivered("vk", body, now=NOON + timedelta(days=13, hours=21))

    assert (fresh.fate, late.fate) == (Fate.PUBLISHED, Fate.STALE)


@pytest.mark.parametrize("name", ["button", "deny", "allow"])
def test_events_without_a_time_of_their_own_never_grow_stale(name: str) -> None:
    assert delivered("vk", body_of("vk", name), now=NOON + timedelta(days=99)).fate is Fate.PUBLISHED


@pytest.mark.parametrize("name", ["edited", "reply_of_admin", "keyboard_button"])
def test_edits_replies_and_keyboard_buttons_grow_stale(name: str) -> None:
    assert delivered("vk", body_of("vk", name), now=NOON + timedelta(days=15)).fate is Fate.STALE


def test_key_is_the_delivery_of_that_group_and_not_the_token_of_a_press() -> None:
    button, text = value_of("vk", "button"), value_of("vk", "text")
    again = button | {"object": button["object"] | {"event_id": "another-token"}}

    assert delivered("vk", button).key_hash == delivered("vk", again).key_hash
    assert delivered("vk", button).key_hash != delivered("vk", text).key_hash
    elsewhere = delivered("vk", button | {"group_id": 7}, routing_id="7")
    assert delivered("vk", button).key_hash != elsewhere.key_hash


def test_every_sample_has_a_key_of_its_own() -> None:
    assert len({delivered("vk", body_of("vk", name)).key_hash for name in names("vk")}) == len(names("vk"))


def test_event_without_an_id_is_told_apart_by_its_content() -> None:
    event = value_of("vk", "text_without_event_id")
    other = event | {"object": event["object"] | {"text": "other"}}

    assert delivered("vk", event).key_hash == delivered("vk", dict(reversed(event.items()))).key_hash
    assert delivered("vk", event).key_hash != delivered("vk", other).key_hash


def test_a_rotated_secret_is_no_other_content() -> None:
    event = value_of("vk", "text")
    rotated = delivered("vk", event | {"secret": "the-next-one"})

    assert (rotated.key_hash, rotated.content_hash) == (
        delivered("vk", event).key_hash,
        delivered("vk", event).content_hash,
    )


def test_retry_is_taken_in_as_any_other() -> None:
    first = delivered("vk", body_of("vk", "text"))
    retry = delivered("vk", body_of("vk", "text"), {b"x-retry-counter": b"3"})

    assert (retry.fate, retry.key_hash) == (Fate.PUBLISHED, first.key_hash)


def test_routing_id_is_the_group() -> None:
    assert delivered("vk", body_of("vk", "text"), routing_id="204733002").fate is Fate.WRONG_TENANT
    assert VK.routing_ids(body_of("vk", "text")) == {"204733001"}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"group_id":"5"}', b'{"group_id":true}', b'{"group_id":-5}']
)
def test_body_without_a_group_routes_nowhere(body: bytes) -> None:
    assert VK.routing_ids(body) == frozenset()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"",
        b'"x"',
        b'{"type":"message_new"}',
        b'{"type":1,"group_id":1}',
        b'{"type":"message_new","group_id":"1"}',
        b'{"type":"message_new","group_id":204733001}',
        b'{"type":"message_new","group_id":204733001,"object":[]}',
        b'{"type":"message_deny","group_id":204733001,"object":{"user_id":-1}}',
        b'{"type":"message_event","group_id":204733001,"object":{"user_id":1}}',
        b'{"type":"message_new","group_id":204733001,"object":{"message":{"date":1,"from_id":1,"peer_id":1}}}',
    ],
)
def test_what_is_no_event_is_quarantined(body: bytes) -> None:
    assert delivered("vk", body).fate is Fate.QUARANTINED


@pytest.mark.parametrize(
    "body",
    [
        {
            "type": "message_event",
            "group_id": 204733001,
            "object": {"user_id": 5, "peer_id": 5, "payload": {"x": 1}},
        },
        {"type": "message_new", "group_id": 204733001, "object": []},
        {"type": 1},
    ],
)
def test_what_cannot_be_read_is_kept_without_the_secret_too(body: dict[str, Any]) -> None:
    row = delivered("vk", to_json(body | {"secret": SECRET}))

    assert row.fate is Fate.QUARANTINED and row.sealed is not None
    assert from_json(KEYS.open("raw", row.sealed)) == body


@pytest.mark.parametrize("name", names("vk"))
def test_what_is_kept_has_no_secret_and_gives_the_same_item(name: str) -> None:
    (item,) = items(body_of("vk", name))

    assert SECRET.encode() not in item.raw
    assert fixed(items(item.raw)) == fixed([item])


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
objects = st.fixed_dictionaries(
    {},
    optional={
        "message": anything,
        "date": st.integers(1_795_000_000, 1_795_507_000) | anything,
        "from_id": st.integers(-3, 3) | anything,
        "peer_id": st.sampled_from([1, 2_000_000_001, -1]) | anything,
        "user_id": st.integers(-3, 3) | anything,
        "payload": st.just('{"button":"b"}') | anything,
        "text": anything,
    },
)
events = st.fixed_dictionaries(
    {"type": st.sampled_from(["confirmation", "message_new", "message_edit", "message_reply", "message_event", "message_allow", "message_deny", "like_add"]) | anything},
    optional={"group_id": st.just(204733001) | anything, "object": objects | anything, "event_id": anything, "secret": anything},
)  # fmt: skip


@given(value=events | anything)
def test_any_json_gives_items_or_is_refused_and_verify_never_raises(value: Any) -> None:
    body = json.dumps(value).encode()

    assert VK.verify({}, body, (b"s",), NOON) in (True, False)
    try:
        found = items(body)
    except Refused:
        return
    assert fixed([again for item in found for again in items(item.raw)]) == fixed(found)


def items(body: bytes) -> list[Item]:
    context = ChannelContext("salon", Channel.VK, (), KEYS, "204733001")
    return VK.items(Delivery(context, {}, body, NOON))


def fixed(found: list[Item]) -> list[tuple[Item, str]]:
    """Items without what differs each time: their ids, and sealed text, which is sealed anew."""
    return [(replace(item, item_id=UUID(int=0), event=None), _plain(item)) for item in found]


def _plain(item: Item) -> str:
    if item.event is None:
        return ""
    event = item.event.model_dump(mode="json", exclude={"item_id"})
    return str({name: value for name, value in event.items() if not name.endswith("_sealed")})
