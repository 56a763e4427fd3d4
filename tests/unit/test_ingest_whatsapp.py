"""WhatsApp: batches whose items have a key and a fate each, chats by number or business-scoped id, receipts, consents."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
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
from turnout_ingest.acceptance import Row
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.meta import MOST_ITEMS
from turnout_ingest.providers.provider import Fate, Refused

WHATSAPP = PROVIDERS["whatsapp"]
IGNORED = [
    "chat_opened", "echo_of_app", "empty", "error", "group_text", "number_changed", "own_number", "phone_quality",
    "reaction", "revoked", "status_of_payment", "status_of_the_future", "template_status", "test_event",
    "type_of_the_future",
]  # fmt: skip
NUMBER, USER_ID = "493023125077", "DE.730044112900"
CHAT_HASH = KEYS.contact_hash("whatsapp", NUMBER)
TEXT = "Canary text: хочу записаться на пятницу"
AT = "2026-11-24T08:00:11Z"
OURS = "wamid.HBgMOURS0001"


def sample(name: str) -> dict[str, Any]:
    return event_of("whatsapp", body_of("whatsapp", name))


def value_in(body: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = body["entry"][0]["changes"][0]["value"]
    return value


def changed(name: str, **message: Any) -> dict[str, Any]:
    """A sample with fields of its message replaced; None removes one."""
    body = value_of("whatsapp", name)
    content = value_in(body)["messages"][0]
    content |= message
    for field in [field for field, given_value in message.items() if given_value is None]:
        del content[field]
    return dict(body)


def batch(*messages: Any, contacts: Any = None) -> dict[str, Any]:
    body = value_of("whatsapp", "text")
    value_in(body)["messages"] = list(messages)
    if contacts is not None:
        value_in(body)["contacts"] = contacts
    return dict(body)


def text_message(number: int, **more: Any) -> dict[str, Any]:
    message = {
        "from": f"49305550{number:04d}",
        "id": f"wamid.{number}",
        "timestamp": "1795507211",
        "type": "text",
    }
    return message | {"text": {"body": f"word {number}"}} | more


def fates(rows: list[Row]) -> list[str]:
    return [row.fate.value for row in rows]


@pytest.mark.parametrize("name", [name for name in names("whatsapp") if name != "batch"])
def test_every_sample_is_published_or_ignored_for_a_reason(name: str) -> None:
    row = delivered("whatsapp", body_of("whatsapp", name))

    assert row.fate is (Fate.IGNORED if name in IGNORED else Fate.PUBLISHED)
    assert (row.reason is not None) == (name in IGNORED)


@pytest.mark.parametrize(
    ("name", "kind", "text", "button"),
    [
        ("text", "text", TEXT, None),
        ("text_escaped", "text", TEXT, None),
        ("edited", "text", TEXT + "!", None),
        ("quick_reply", "button", "Canary Confirm", "confirm:7f3a"),
        ("button_reply", "button", "Canary Fri 10:00", "offer:7f3a:1"),
        ("list_reply", "button", "Canary Anna", "staff:anna"),
        ("form_reply", "other", None, None),
        ("image_with_caption", "other", TEXT, None),
        ("voice", "other", None, None),
        ("sticker", "other", None, None),
        ("location", "other", None, None),
        ("shared_contacts", "other", None, None),
        ("order", "other", None, None),
        ("unsupported", "other", None, None),
    ],
)
def test_kind_text_and_button(name: str, kind: str, text: str | None, button: str | None) -> None:
    event = sample(name)

    assert (event["type"], event["kind"], event.get("button")) == ("inbound.message", kind, button)
    assert (opened("text", event["text_sealed"]) if "text_sealed" in event else None) == text
    assert event["edited"] is (name == "edited")


def test_message_has_its_chat_its_time_and_a_person_whom_meta_vouches_for() -> None:
    event = sample("text")

    assert (event["chat_hash"], opened("chat", event["chat_sealed"])) == (CHAT_HASH, NUMBER)
    assert event["sent_at"] == event["occurred_at"] == AT
    assert event["contact_verified"] is True
    assert event["contact"]["phone_hash"] == KEYS.contact_hash("phone", "+493023125077")
    person = json.loads(opened("contact", event["contact"]["sealed"]))
    assert (person["name"], person["phone"]) == ("Zinaida Quillfeather", "+493023125077")


def test_user_with_a_username_is_the_chat_of_the_business_scoped_id() -> None:
    event = sample("text_by_username")

    assert event["chat_hash"] == KEYS.contact_hash("whatsapp", USER_ID)
    assert opened("chat", event["chat_sealed"]) == USER_ID
    assert event["contact_verified"] is False
    assert json.loads(opened("contact", event["contact"]["sealed"]))["name"] == "Zinaida Quillfeather"


@pytest.mark.parametrize("fields", [{"from_user_id": None}, {"from": None}, {}])
def test_client_seen_with_number_and_id_is_one_chat_however_a_message_names_them(
    fields: dict[str, None],
) -> None:
    assert event_of("whatsapp", changed("text", **fields))["chat_hash"] == CHAT_HASH


def test_message_that_names_nobody_is_quarantined() -> None:
    row = delivered("whatsapp", changed("text", **{"from": None, "from_user_id": None}))

    assert (row.fate, row.reason) == (Fate.QUARANTINED, "it has neither from nor from_user_id")


def test_contacts_that_cannot_be_read_cost_the_name_and_nothing_else() -> None:
    for contacts in (
        None,
        7,
        [7, {}, {"wa_id": NUMBER, "profile": 7}, {"wa_id": ["x"]}],
        [{"wa_id": NUMBER, "profile": {"name": "a\x00"}}],
    ):
        body = batch(value_in(value_of("whatsapp", "text"))["messages"][0])
        value_in(body)["contacts"] = contacts
        person = json.loads(opened("contact", event_of("whatsapp", body)["contact"]["sealed"]))

        assert (person["name"], person["phone"]) == (None, "+493023125077")


@pytest.mark.parametrize("data", [None, "", "two words", "x" * 65, "я", "a\x00b", "<script>"])
@pytest.mark.parametrize("name", ["quick_reply", "button_reply", "list_reply"])
def test_button_data_that_is_not_ours_is_quarantined(name: str, data: str | None) -> None:
    body = value_of("whatsapp", name)
    message = value_in(body)["messages"][0]
    if name == "quick_reply":
        message["button"]["payload"] = data
    elif data is not None:
        message["interactive"][name]["id"] = data
    else:
        message.pop("interactive")

    row = delivered("whatsapp", body)

    assert (row.fate, row.reason) == (Fate.QUARANTINED, "its data is not that of a button of ours")


@pytest.mark.parametrize(
    ("name", "status", "rank", "reason"),
    [
        ("sent", "sent", 1, None),
        ("failed", "failed", 2, "code_131026"),
        ("delivered", "delivered", 3, None),
        ("read", "read", 4, None),
        ("played", "read", 4, None),
    ],
)
def test_status_is_a_receipt_of_our_message(name: str, status: str, rank: int, reason: str | None) -> None:
    event = sample(f"status_{name}")

    assert (event["type"], event["provider_message_id"]) == ("inbound.receipt", OURS)
    assert (event["status"], event["rank"], event.get("reason")) == (status, rank, reason)
    assert event["occurred_at"] == AT


@pytest.mark.parametrize(
    "errors", [None, [], {}, [7], [{"code": "131026"}], [{"code": True}], [{"code": 10**400}]]
)
def test_failure_without_a_code_has_no_reason(errors: Any) -> None:
    body = value_of("whatsapp", "status_failed")
    value_in(body)["statuses"][0]["errors"] = errors

    assert "reason" not in event_of("whatsapp", body)


@pytest.mark.parametrize(("name", "opted_in"), [("stop", False), ("resume", True)])
def test_marketing_preference_is_a_consent_of_the_chat(name: str, opted_in: bool) -> None:
    event = sample(f"preference_{name}")

    assert (event["type"], event["opted_in"], event["chat_hash"]) == ("inbound.consent", opted_in, CHAT_HASH)
    assert (event["scope"], event["occurred_at"]) == ("marketing", AT)


def test_metas_own_button_that_stops_promotions_is_a_marketing_opt_out() -> None:
    event = sample("stop_promotions")

    assert (event["type"], event["opted_in"], event["scope"]) == ("inbound.consent", False, "marketing")
    assert (event["chat_hash"], event["occurred_at"]) == (CHAT_HASH, AT)
    other_words = changed("quick_reply", button={"payload": "Stop promotion", "text": "Stop promotion"})
    assert delivered("whatsapp", other_words).fate is Fate.QUARANTINED


def test_preference_that_is_neither_is_ignored() -> None:
    body = value_of("whatsapp", "preference_stop")
    value_in(body)["user_preferences"][0]["value"] = "perhaps"

    assert delivered("whatsapp", body).fate is Fate.IGNORED


def test_times_are_read_as_text_and_as_numbers() -> None:
    for written in ("1795507211", 1795507211):
        assert event_of("whatsapp", changed("text", timestamp=written))["sent_at"] == AT


@pytest.mark.parametrize(
    "written", ["soon", "", "-1", "1795507211.5", 17.5, True, None, "9" * 30, "17955072110000", "١٧٩٥٥٠٧٢١١"]
)
def test_time_that_is_none_is_quarantined(written: Any) -> None:
    body = changed("text")
    value_in(body)["messages"][0]["timestamp"] = written

    assert delivered("whatsapp", body).fate is Fate.QUARANTINED


@pytest.mark.parametrize("name", ["text", "button_reply", "status_read", "preference_stop", "edited"])
def test_what_has_a_time_of_its_own_grows_stale_with_its_key(name: str) -> None:
    body = body_of("whatsapp", name)

    assert delivered("whatsapp", body, now=NOON + timedelta(days=13)).fate is Fate.PUBLISHED
    assert delivered("whatsapp", body, now=NOON + timedelta(days=14)).fate is Fate.STALE


def test_messages_and_consents_of_a_chat_share_a_partition() -> None:
    keys = {
        delivered("whatsapp", body_of("whatsapp", name)).kafka_key
        for name in ("text", "quick_reply", "preference_stop")
    }

    assert keys == {f"salon:{CHAT_HASH}"}


def test_key_of_a_message_is_its_id_and_of_a_status_its_id_status_and_time() -> None:
    def key(body: dict[str, Any]) -> bytes:
        return delivered("whatsapp", body).key_hash

    def status(**fields: Any) -> dict[str, Any]:
        body = value_of("whatsapp", "status_sent")
        value_in(body)["statuses"][0] |= fields
        return dict(body)

    assert key(changed("text")) == key(changed("text", text={"body": "other"}))
    assert key(changed("text")) != key(changed("text", id="wamid.other"))
    assert key(status()) == key(status(timestamp=1795507211, pricing={"billable": False}))
    assert (
        len(
            {
                key(status()),
                key(status(status="read")),
                key(status(timestamp="1795507212")),
                key(status(id="wamid.2")),
            }
        )
        == 4
    )


def test_content_covers_the_item_and_not_who_stands_beside_it() -> None:
    message = text_message(1)
    alone = all_delivered("whatsapp", batch(message, contacts=[]))
    among = all_delivered(
        "whatsapp",
        batch(
            text_message(2), message, contacts=[{"wa_id": message["from"], "profile": {"name": "New Name"}}]
        ),
    )

    assert (alone[0].key_hash, alone[0].content_hash) == (among[1].key_hash, among[1].content_hash)
    other = all_delivered("whatsapp", batch(text_message(1, text={"body": "other"})))
    assert (other[0].key_hash, other[0].content_hash != alone[0].content_hash) == (alone[0].key_hash, True)


def test_batch_gives_each_item_its_own_fate() -> None:
    rows = all_delivered("whatsapp", body_of("whatsapp", "batch"))

    assert fates(rows) == [
        "published", "quarantined", "published", "quarantined", "published", "quarantined", "ignored", "wrong_tenant",
        "published",
    ]  # fmt: skip
    assert len({row.key_hash for row in rows}) == len(rows)


def test_message_cut_within_an_emoji_is_quarantined_alone() -> None:
    cut = text_message(1, text={"body": "CUT"})
    for half, fate in (
        (rb"\ud83d", "quarantined"),
        (rb"\uDE00", "quarantined"),
        (rb"\ud83d\ude00", "published"),
        (rb"\\ud83d", "published"),
    ):
        body = json.dumps(batch(cut, text_message(2))).encode().replace(b"CUT", half)

        assert fates(all_delivered("whatsapp", body)) == [fate, "published"]


def test_body_of_one_item_is_kept_as_it_came_and_of_a_batch_each_item_alone() -> None:
    assert given_again("whatsapp", body_of("whatsapp", "text_escaped")) == [
        body_of("whatsapp", "text_escaped")
    ]
    raws = given_again("whatsapp", body_of("whatsapp", "batch"))

    assert "Igor" not in raws[0].decode() and "Igor" in raws[2].decode()
    assert sum(b"wamid.HBgMNDk" in raw for raw in raws) == 5


def test_what_stands_beside_the_items_of_a_batch_is_not_kept_with_each_of_them() -> None:
    messages = [text_message(1, id=f"wamid.{number}") for number in range(500)]
    long = batch(*messages, contacts=[{"wa_id": messages[0]["from"], "profile": {"name": "N" * 100_000}}])
    value_in(long)["metadata"]["display_phone_number"] = "9" * 100_000
    body = json.dumps(long).encode()

    assert sum(map(len, given_again("whatsapp", body))) < 3 * len(body)


@pytest.mark.parametrize("name", names("whatsapp"))
def test_kept_bytes_of_each_item_of_a_sample_give_it_again(name: str) -> None:
    assert given_again("whatsapp", body_of("whatsapp", name))


_messages = st.one_of(
    st.builds(text_message, st.integers(0, 9)),
    st.builds(lambda n: text_message(n, timestamp="soon"), st.integers(0, 9)),
    st.builds(lambda n: text_message(n, text={"body": "\x00"}), st.integers(0, 9)),
    st.builds(lambda n: text_message(n, type="reaction"), st.integers(0, 9)),
    st.sampled_from([None, 7, "", {}, []]),
)
_statuses = st.fixed_dictionaries(
    {
        "id": st.sampled_from([OURS, "", 7]),
        "status": st.sampled_from(["sent", "read", "lost"]),
        "timestamp": st.sampled_from(["1795507211", "x"]),
    }
)
_values = st.fixed_dictionaries(
    {
        "metadata": st.sampled_from(
            [{"phone_number_id": ROUTING_IDS["whatsapp"]}, {"phone_number_id": "1"}, {}, None]
        )
    },
    optional={
        "messages": st.lists(_messages, max_size=4) | st.just(7),
        "statuses": st.lists(_statuses, max_size=3),
        "user_preferences": st.lists(
            st.fixed_dictionaries(
                {
                    "wa_id": st.just(NUMBER),
                    "value": st.sampled_from(["stop", 7]),
                    "timestamp": st.just(1795507211),
                }
            ),
            max_size=2,
        ),
        "errors": st.lists(st.just({"code": 1}), max_size=2),
        "contacts": st.just([{"wa_id": "493055500001", "profile": {"name": "Ida"}}]),
    },
)
_changes = st.one_of(
    st.fixed_dictionaries(
        {"field": st.sampled_from(["messages", "user_preferences", "account_update", 7]), "value": _values}
    ),
    st.sampled_from([None, {}, {"field": "messages"}]),
)
_entries = st.one_of(
    st.fixed_dictionaries(
        {"id": st.sampled_from(["1", "0", 7, "x" * 99]), "changes": st.lists(_changes, max_size=3)}
    ),
    st.sampled_from([None, {}, {"id": "1", "changes": {}}]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_entries, max_size=3))
def test_any_mix_of_good_and_bad_items_gives_each_its_fate_and_gives_it_again_from_its_kept_bytes(
    entries: list[Any],
) -> None:
    body = json.dumps({"object": "whatsapp_business_account", "entry": entries}).encode()

    rows = all_delivered("whatsapp", body)

    assert len(rows) == len(given_again("whatsapp", body)) >= 1
    assert all(
        (row.payload is not None) == (row.fate is Fate.PUBLISHED) == (row.reason is None) for row in rows
    )
    assert len(rows) >= sum(len(_list(change)) for entry in entries for change in _changes_of(entry))


def _changes_of(entry: Any) -> list[Any]:
    changes = entry.get("changes") if isinstance(entry, dict) else None
    return changes if isinstance(changes, list) else []


def _list(change: Any) -> list[Any]:
    value = change.get("value") if isinstance(change, dict) and change.get("field") == "messages" else None
    messages = value.get("messages") if value else None
    return messages if isinstance(messages, list) else []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True), st.data())
def test_batch_sent_again_in_another_composition_holds_the_same_items(
    numbers: list[int], data: st.DataObject
) -> None:
    first = all_delivered("whatsapp", batch(*map(text_message, numbers)))
    shuffled = data.draw(st.permutations(numbers))
    cut = data.draw(st.integers(0, len(numbers)))
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if part]
    again = [row for part in parts for row in all_delivered("whatsapp", batch(*map(text_message, part)))]

    assert {(row.key_hash, row.content_hash) for row in first} == {
        (row.key_hash, row.content_hash) for row in again
    }


def test_item_of_another_number_is_not_taken_in() -> None:
    body = value_of("whatsapp", "text")
    value_in(body)["metadata"]["phone_number_id"] = "310044550077"

    assert delivered("whatsapp", body).fate is Fate.WRONG_TENANT


@pytest.mark.parametrize(
    "metadata", [None, {}, 7, {"phone_number_id": 7}, {"phone_number_id": ""}, {"phone_number_id": "1" * 65}]
)
@pytest.mark.parametrize("name", ["text", "status_read", "preference_stop"])
def test_item_that_names_no_number_of_ours_is_quarantined(name: str, metadata: Any) -> None:
    body = value_of("whatsapp", name)
    value_in(body)["metadata"] = metadata

    row = delivered("whatsapp", body)

    assert (row.fate, row.reason) == (Fate.QUARANTINED, "metadata.phone_number_id is missing")


def test_routing_ids_are_the_numbers_that_a_body_names() -> None:
    assert WHATSAPP.routing_ids(body_of("whatsapp", "batch")) == {"310044550066", "310044550077"}


@pytest.mark.parametrize("name", ["empty", "test_event", "template_status"])
def test_body_about_no_number_names_none(name: str) -> None:
    assert WHATSAPP.routing_ids(body_of("whatsapp", name)) == frozenset()


@given(st.binary(max_size=100))
def test_routing_ids_of_any_bytes_do_not_raise(body: bytes) -> None:
    assert WHATSAPP.routing_ids(body) == frozenset()


def test_delivery_of_more_items_than_a_queue_holds_is_refused_whole() -> None:
    most = batch(*map(text_message, range(MOST_ITEMS)))
    more = batch(*map(text_message, range(MOST_ITEMS + 1)))

    assert len(all_delivered("whatsapp", most)) == MOST_ITEMS
    assert [(row.fate, row.reason) for row in all_delivered("whatsapp", more)] == [
        (Fate.QUARANTINED, f"more than {MOST_ITEMS} updates in one delivery")
    ]
    assert len(WHATSAPP.routing_ids(json.dumps(more).encode())) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'"x"', b"null", b"\xff", b"[" * 100_000, b'{"object":"instagram","entry":[]}',
        b'{"object":"whatsapp_business_account"}', b'{"object":"whatsapp_business_account","entry":{}}',
        b'{"object":"whatsapp_business_account","entry":null}', b'"\\ud800',
    ],
)  # fmt: skip
def test_what_is_no_delivery_of_whatsapp_is_quarantined(body: bytes) -> None:
    assert delivered("whatsapp", body).fate is Fate.QUARANTINED
    assert WHATSAPP.routing_ids(body) == frozenset()


def test_reasons_and_event_types_hold_nothing_that_was_sent() -> None:
    for name in names("whatsapp"):
        for row in all_delivered("whatsapp", body_of("whatsapp", name)):
            said = f"{row.reason} {row.event_type}"
            assert not [word for word in ("Canary", "Quillfeather", NUMBER, USER_ID) if word in said], name


def signed(body: bytes, secret: bytes = b"app-secret") -> bytes:
    return b"sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()


def holds(header: bytes, body: bytes, *secrets: str) -> bool:
    forms = tuple(form for secret in secrets for form in WHATSAPP.secret_bytes(secret))
    return WHATSAPP.verify({b"x-hub-signature-256": header}, body, forms, datetime.now(UTC))


def test_signature_is_over_the_bytes_as_they_came() -> None:
    body = body_of("whatsapp", "text_escaped")
    rewritten = json.dumps(json.loads(body), ensure_ascii=False).encode()

    assert rb"\u0445\u043e\u0447\u0443" in body
    assert holds(signed(body), body, "app-secret")
    assert not holds(signed(body), rewritten, "app-secret")


def test_either_secret_of_a_rotation_holds() -> None:
    assert holds(signed(b"{}", b"old"), b"{}", "new", "old")
    assert holds(signed(b"{}", b"new"), b"{}", "new", "old")
    assert not holds(signed(b"{}", b"gone"), b"{}", "new", "old")
    assert not holds(signed(b"{}"), b"{}")


@pytest.mark.parametrize("cut", [0, 6, 7, 20, 70])
def test_part_of_a_signature_does_not_verify(cut: int) -> None:
    assert not holds(signed(b"{}")[:cut], b"{}", "app-secret")


def test_missing_signature_never_verifies() -> None:
    assert not WHATSAPP.verify({}, b"{}", WHATSAPP.secret_bytes("app-secret"), NOON)
    assert not WHATSAPP.verify(
        {b"x-hub-signature": signed(b"{}")}, b"{}", WHATSAPP.secret_bytes("app-secret"), NOON
    )


@given(st.binary(max_size=100), st.binary(max_size=50))
def test_header_of_any_bytes_does_not_raise_and_does_not_verify(header: bytes, body: bytes) -> None:
    assert not holds(header, body, "app-secret")


ASKED = {"hub.mode": "subscribe", "hub.verify_token": "token-of-ours", "hub.challenge": "1158201444"}


def test_handshake_gives_the_challenge_and_nothing_else() -> None:
    assert WHATSAPP.handshake(ASKED, b"token-of-ours") == b"1158201444"


@pytest.mark.parametrize(
    "given_query",
    [
        {},
        ASKED | {"hub.mode": "unsubscribe"},
        ASKED | {"hub.verify_token": "token-of-others"},
        ASKED | {"hub.verify_token": ""},
        ASKED | {"hub.verify_token": "\udc80"},
        ASKED | {"hub.challenge": ""},
        ASKED | {"hub.challenge": "<script>alert(1)</script>"},
        ASKED | {"hub.challenge": "1" * 257},
        {name: value for name, value in ASKED.items() if name != "hub.mode"},
    ],
)
def test_handshake_without_our_token_is_refused(given_query: dict[str, str]) -> None:
    assert WHATSAPP.handshake(given_query, b"token-of-ours") is None


def test_handshake_without_a_token_of_ours_is_refused() -> None:
    assert WHATSAPP.handshake(ASKED | {"hub.verify_token": ""}, b"") is None


def test_refused_is_what_items_raises() -> None:
    with pytest.raises(Refused):
        given_again("whatsapp", b"{}")
