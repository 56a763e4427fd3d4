"""Instagram: one update under one key in both shapes, echoes as the salon's own answers, buttons, read receipts."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.meta_items import given_again
from tests.webhook_fixtures import (
    KEYS,
    NOON,
    ROUTING_IDS,
    all_delivered,
    body_of,
    delivered,
    event_of,
    names,
    opened,
    value_of,
)
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import Fate

INSTAGRAM = PROVIDERS["instagram"]
IGNORED = [
    "comment", "echo_of_app", "empty", "optin", "reaction", "referral", "standby", "test_event", "unsend",
]  # fmt: skip
ACCOUNT, CLIENT = ROUTING_IDS["instagram"], "1730044112555"
CHAT_HASH = KEYS.contact_hash("instagram", CLIENT)
TEXT = "Canary text: хочу записаться на пятницу"
AT = "2026-11-24T08:00:11.349000Z"
MILLIS = 1795507211349


def sample(name: str) -> dict[str, Any]:
    return event_of("instagram", body_of("instagram", name))


def update_in(body: dict[str, Any]) -> dict[str, Any]:
    update: dict[str, Any] = body["entry"][0]["messaging"][0]
    return update


def changed(name: str, **fields: Any) -> dict[str, Any]:
    body = value_of("instagram", name)
    update_in(body).update(fields)
    return dict(body)


@pytest.mark.parametrize("name", [name for name in names("instagram") if name != "batch"])
def test_every_sample_is_published_or_ignored_for_a_reason(name: str) -> None:
    row = delivered("instagram", body_of("instagram", name))

    assert row.fate is (Fate.IGNORED if name in IGNORED else Fate.PUBLISHED)
    assert (row.reason is not None) == (name in IGNORED)


@pytest.mark.parametrize(
    ("name", "kind", "text", "button"),
    [
        ("text", "text", TEXT, None),
        ("text_escaped", "text", TEXT, None),
        ("text_in_changes", "text", TEXT, None),
        ("story_reply", "text", TEXT, None),
        ("edited", "text", TEXT + "!", None),
        ("quick_reply", "button", "Canary Confirm", "confirm:7f3a"),
        ("postback", "button", "Canary Book", "book:start"),
        ("postback_without_mid", "button", "Canary Book", "book:start"),
        ("image", "other", None, None),
        ("unsupported", "other", None, None),
    ],
)
def test_kind_text_and_button(name: str, kind: str, text: str | None, button: str | None) -> None:
    event = sample(name)

    assert (event["type"], event["kind"], event.get("button")) == ("inbound.message", kind, button)
    assert (opened("text", event["text_sealed"]) if "text_sealed" in event else None) == text
    assert event["edited"] is (name == "edited")
    assert (event["chat_hash"], opened("chat", event["chat_sealed"])) == (CHAT_HASH, CLIENT)
    assert event["sent_at"] == event["occurred_at"] == AT
    assert event["contact_verified"] is False


def test_both_shapes_of_a_delivery_are_one_item() -> None:
    rows = [
        delivered("instagram", body_of("instagram", name))
        for name in ("text", "text_in_changes", "text_with_time_as_text")
    ]

    assert len({(row.key_hash, row.content_hash) for row in rows}) == 1
    assert {row.fate for row in rows} == {Fate.PUBLISHED}


def test_kinds_of_one_message_are_told_apart() -> None:
    mid = {"mid": "aWdfSame"}
    bodies = [
        changed("text", message=mid | {"text": "a"}),
        changed("echo_of_human", message=mid | {"text": "a", "is_echo": True}),
        changed("unsend", message=mid | {"is_deleted": True}),
        changed("read", read=mid),
        changed("postback", postback=mid | {"payload": "a"}),
        changed("edited", message_edit=mid | {"text": "a", "num_edit": 1}),
        changed("edited", message_edit=mid | {"text": "a", "num_edit": 2}),
        changed("reaction", reaction=mid | {"action": "react"}),
    ]

    assert len({delivered("instagram", body).key_hash for body in bodies}) == len(bodies)


def test_read_is_known_by_reader_and_message() -> None:
    key = delivered("instagram", changed("read")).key_hash

    assert delivered("instagram", changed("read", timestamp=MILLIS + 1)).key_hash == key
    assert delivered("instagram", changed("read", sender={"id": "9"})).key_hash != key
    assert delivered("instagram", changed("read", read={"mid": "other"})).key_hash != key


def test_read_is_a_receipt_of_our_message() -> None:
    event = sample("read")

    assert (event["type"], event["provider_message_id"]) == ("inbound.receipt", "aWdfZAG1fbQ0900")
    assert (event["status"], event["rank"], event["occurred_at"]) == ("read", 4, AT)


def test_answer_that_a_human_wrote_in_the_app_is_an_admins_reply_in_the_clients_chat() -> None:
    row = delivered("instagram", body_of("instagram", "echo_of_human"))
    event = sample("echo_of_human")

    assert (event["type"], event["fact"], event["chat_hash"]) == ("inbound.fact", "admin.reply", CHAT_HASH)
    assert row.kafka_key == "salon"  # as all facts
    assert "Canary" not in str(row.payload)


def test_message_of_the_salons_account_is_an_echo_even_without_the_mark() -> None:
    body = changed("text", sender={"id": ACCOUNT}, recipient={"id": CLIENT})

    assert event_of("instagram", body)["fact"] == "admin.reply"


@pytest.mark.parametrize("name", ["read", "postback", "edited"])
def test_act_of_the_salons_own_account_is_ignored(name: str) -> None:
    assert delivered("instagram", changed(name, sender={"id": ACCOUNT})).fate is Fate.IGNORED


@pytest.mark.parametrize("data", [None, "", "two words", "x" * 65, "я", "a\x00b", "<script>"])
@pytest.mark.parametrize("name", ["quick_reply", "postback"])
def test_button_data_that_is_not_ours_is_quarantined(name: str, data: str | None) -> None:
    body = value_of("instagram", name)
    update = update_in(body)
    (update["message"]["quick_reply"] if name == "quick_reply" else update["postback"])["payload"] = data

    row = delivered("instagram", body)

    assert (row.fate, row.reason) == (Fate.QUARANTINED, "its data is not that of a button of ours")


@pytest.mark.parametrize(
    "fields",
    [
        {"read": {"mid": "x"}},
        {"message": None},
        {"message": 7},
        {"message": {"text": "no mid"}},
        {"message": {"mid": ""}},
        {"message": {"mid": "x", "is_echo": "yes"}},
        {"sender": None},
        {"sender": {}},
        {"sender": {"id": "two words"}},
        {"recipient": {"id": 7}},
        {"timestamp": "soon"},
        {"timestamp": 1795507211},
        {"timestamp": 10**18},
        {"timestamp": True},
    ],
)
def test_update_that_is_not_exactly_one_readable_thing_is_quarantined(fields: dict[str, Any]) -> None:
    assert delivered("instagram", changed("text", **fields)).fate is Fate.QUARANTINED


def test_update_of_no_kind_is_quarantined_and_of_an_unknown_kind_ignored() -> None:
    bare = value_of("instagram", "text")
    del update_in(bare)["message"]

    assert delivered("instagram", bare).fate is Fate.QUARANTINED
    update_in(bare)["hologram"] = {}
    assert delivered("instagram", bare).fate is Fate.IGNORED


@pytest.mark.parametrize("name", ["text", "quick_reply", "read", "postback"])
def test_what_has_a_time_of_its_own_grows_stale_with_its_key(name: str) -> None:
    body = body_of("instagram", name)

    assert delivered("instagram", body, now=NOON + timedelta(days=13)).fate is Fate.PUBLISHED
    assert delivered("instagram", body, now=NOON + timedelta(days=14)).fate is Fate.STALE


def test_batch_gives_each_item_its_own_fate() -> None:
    rows = all_delivered("instagram", body_of("instagram", "batch"))

    assert [row.fate.value for row in rows] == [
        "published", "quarantined", "published", "quarantined", "wrong_tenant", "published",
    ]  # fmt: skip
    assert len({row.key_hash for row in rows}) == len(rows)


def test_update_of_another_account_is_not_taken_in() -> None:
    body = value_of("instagram", "text")
    body["entry"][0]["id"] = "17841400730999"

    assert delivered("instagram", body).fate is Fate.WRONG_TENANT


def test_test_of_the_dashboard_is_seen_as_what_it_is_by_whoever_pressed_the_button() -> None:
    row = delivered("instagram", body_of("instagram", "test_event"))

    assert (row.fate, row.reason) == (Fate.IGNORED, "a test delivery of Meta's App Dashboard")


def test_routing_ids_are_the_accounts_that_a_body_names() -> None:
    assert INSTAGRAM.routing_ids(body_of("instagram", "batch")) == {ACCOUNT, "17841400730999"}
    assert INSTAGRAM.routing_ids(body_of("instagram", "text_in_changes")) == {ACCOUNT}


@given(st.binary(max_size=100))
def test_routing_ids_of_any_bytes_do_not_raise(body: bytes) -> None:
    assert INSTAGRAM.routing_ids(body) == frozenset()


@pytest.mark.parametrize("name", names("instagram"))
def test_kept_bytes_of_each_item_of_a_sample_give_it_again(name: str) -> None:
    assert given_again("instagram", body_of("instagram", name))


def _update(**kind: Any) -> dict[str, Any]:
    return {"sender": {"id": CLIENT}, "recipient": {"id": ACCOUNT}, "timestamp": MILLIS} | kind


_updates = st.one_of(
    st.builds(lambda n: _update(message={"mid": f"m{n}", "text": f"word {n}"}), st.integers(0, 9)),
    st.builds(lambda n: _update(message={"mid": f"m{n}", "is_echo": True}), st.integers(0, 9)),
    st.builds(lambda n: _update(read={"mid": f"m{n}"}, timestamp=str(MILLIS)), st.integers(0, 9)),
    st.sampled_from([
        None, 7, [], {}, _update(), _update(message=7), _update(message={"mid": "m", "text": "\x00"}), _update(optin={}),
        _update(message={"mid": "m"}, read={"mid": "m"}), _update(postback={"payload": "<"}), _update(reaction={}),
    ]),
)  # fmt: skip
_changes = st.fixed_dictionaries(
    {"field": st.sampled_from(["messages", "standby", "comments", 7]), "value": _updates}
)
_entries: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"id": st.sampled_from([ACCOUNT, "1", "0", 7])},
        optional={
            "time": st.integers(0, 9), "messaging": st.lists(_updates, max_size=4) | st.just(7),
            "standby": st.lists(_updates, max_size=2), "changes": st.lists(_changes | st.none(), max_size=3),
        },
    ),
    st.sampled_from([None, {}, 7]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_entries, max_size=3))
def test_any_mix_of_good_and_bad_items_gives_each_its_fate_and_gives_it_again_from_its_kept_bytes(
    entries: list[Any],
) -> None:
    body = json.dumps({"object": "instagram", "entry": entries}).encode()

    rows = all_delivered("instagram", body)

    assert len(rows) == len(given_again("instagram", body)) >= max(1, len(entries))
    assert all(
        (row.payload is not None) == (row.fate is Fate.PUBLISHED) == (row.reason is None) for row in rows
    )


def test_reasons_and_event_types_hold_nothing_that_was_sent() -> None:
    for name in names("instagram"):
        for row in all_delivered("instagram", body_of("instagram", name)):
            said = f"{row.reason} {row.event_type}"
            assert not [word for word in ("Canary", "quillfeather", CLIENT) if word in said], name


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"null", b"[" * 100_000, b'{"object":"page","entry":[]}', b'{"object":"instagram"}',
        b'{"object":"instagram","entry":{}}',
    ],
)  # fmt: skip
def test_what_is_no_delivery_of_instagram_is_quarantined(body: bytes) -> None:
    assert delivered("instagram", body).fate is Fate.QUARANTINED
    assert INSTAGRAM.routing_ids(body) == frozenset()
