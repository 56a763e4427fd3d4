"""The channel `events`: Standard Webhooks v1 and the typed catalogue of facts (domain.md A7, docs/FACTS.md)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.webhook_fixtures import KEYS, NOON, body_of, delivered, event_of, names, value_of
from turnout_common.events import FactType
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.facts import CATALOGUE
from turnout_ingest.providers.provider import Fate

EVENTS = PROVIDERS["events"]
KEY = b"a key of thirty-two bytes, or so"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
FACTS = Path(__file__).resolve().parents[2] / "docs" / "FACTS.md"
ID = {b"webhook-id": b"msg_1"}
FACT_SAMPLES = [name for name in names("events") if name not in ("example_event", "untyped")]
#: One value that another type or bound makes wrong, for each kind of field.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("feedback_received", {"rating": 6}, "data.rating"),
    ("feedback_received", {"rating": "5"}, "data.rating is not a whole number"),
    ("feedback_received", {"booking": None}, "data.booking is not an object"),
    ("inventory_counted", {"counted": -1}, "data.counted is too small"),
    ("inventory_counted", {"counted": 2**60}, "data.counted is too large"),
    ("inventory_sold", {"quantity": 0}, "data.quantity is too small"),
    ("inventory_sold", {"currency": "eur"}, "data.currency has characters"),
    ("inventory_sold", {"discount_minor": 9999}, "discount_minor is more than gross_minor"),
    ("payment_received", {"gross_minor": 12.5}, "data.gross_minor"),
    ("payment_received", {"discount_minor": 99999}, "discount_minor is more than gross_minor"),
    ("staff_shift_planned", {"end_at": "2026-12-05T08:00:00Z"}, "end_at is not after start_at"),
    ("staff_shift_planned", {"break_minutes": 1441}, "data.break_minutes"),
    ("admin_manual_reschedule", {"start_at": "2026-12-05"}, "data.start_at is not a time"),
    ("admin_override_booking", {"status": "pending"}, "data.status"),
    ("admin_reply", {"chat": None}, "needs a booking or a chat"),
    ("admin_reply", {"chat": {"channel": "telegram", "id": "a b"}}, "data.chat.id"),
]


def signed(message_id: bytes, sent_at: bytes, body: bytes, key: bytes = KEY) -> bytes:
    digest = hmac.new(key, b".".join((message_id, sent_at, body)), hashlib.sha256).digest()
    return b"v1," + base64.b64encode(digest)


def verified(
    signature: bytes, *, sent_at: bytes | None = None, secret: str = SECRET, body: bytes = b"{}"
) -> bool:
    stamp = sent_at if sent_at is not None else b"%d" % NOON.timestamp()
    headers = {b"webhook-id": b"msg_1", b"webhook-timestamp": stamp, b"webhook-signature": signature}
    return EVENTS.verify(headers, body, EVENTS.secret_bytes(secret), NOON)


def stamp(seconds: int = 0) -> bytes:
    return b"%d" % (NOON + timedelta(seconds=seconds)).timestamp()


def test_vector_of_the_standard() -> None:
    headers = {
        b"webhook-id": b"msg_p5jXN8AQM9LWM0D4loKWxJek",
        b"webhook-timestamp": b"1614265330",
        b"webhook-signature": b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secrets = EVENTS.secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    assert EVENTS.verify(headers, b'{"test": 2432232314}', secrets, datetime.fromtimestamp(1614265330, UTC))
    assert not EVENTS.verify(
        headers, b'{"test":2432232314}', secrets, datetime.fromtimestamp(1614265330, UTC)
    )


@pytest.mark.parametrize(
    ("signature", "holds"),
    [
        (signed(b"msg_1", stamp(), b"{}"), True),
        (b"v1a,ZWQ= v2,xx " + signed(b"msg_1", stamp(), b"{}"), True),
        (b"v1,bm90IHRoaXMgb25l " + signed(b"msg_1", stamp(), b"{}"), True),
        (b"nocomma v1, ,, v1 " + signed(b"msg_1", stamp(), b"{}"), True),
        (signed(b"msg_2", stamp(), b"{}"), False),
        (signed(b"msg_1", stamp(), b"{} "), False),
        (signed(b"msg_1", stamp(), b"{}", b"other"), False),
        (signed(b"msg_1", stamp(), b"{}").replace(b"v1,", b"v1a,"), False),
        (b"", False),
        (b"v1,\xff\xfe", False),
        (b" ", False),
    ],
)
def test_signature_list(signature: bytes, holds: bool) -> None:
    assert verified(signature) is holds


@pytest.mark.parametrize(("seconds", "holds"), [(-300, True), (300, True), (-301, False), (301, False)])
def test_attempt_is_at_most_five_minutes_off(seconds: int, holds: bool) -> None:
    assert verified(signed(b"msg_1", stamp(seconds), b"{}"), sent_at=stamp(seconds)) is holds


@pytest.mark.parametrize(
    "sent_at", [b"", b"-1", b"1e9", b"now", b"1795521600.5", b"9" * 400, "１".encode(), b"\xff"]
)
def test_timestamp_that_is_no_whole_number(sent_at: bytes) -> None:
    assert not verified(signed(b"msg_1", sent_at, b"{}"), sent_at=sent_at)


@pytest.mark.parametrize("missing", [b"webhook-id", b"webhook-timestamp", b"webhook-signature"])
def test_missing_header(missing: bytes) -> None:
    headers = {
        b"webhook-id": b"m",
        b"webhook-timestamp": stamp(),
        b"webhook-signature": signed(b"m", stamp(), b""),
    }
    headers.pop(missing)

    assert not EVENTS.verify(headers, b"", EVENTS.secret_bytes(SECRET), NOON)


@pytest.mark.parametrize(
    ("secret", "key"),
    [(SECRET.rstrip("="), KEY), (SECRET.removeprefix("whsec_"), KEY), ("plain words!", b"plain words!")],
)
def test_secret_as_senders_write_it(secret: str, key: bytes) -> None:
    assert verified(signed(b"msg_1", stamp(), b"{}", key), secret=secret)


@pytest.mark.parametrize(
    ("key", "holds"), [(KEY, True), (b"new key of the rotation", True), (b"other", False)]
)
def test_either_secret_of_a_rotation_verifies(key: bytes, holds: bool) -> None:
    forms = EVENTS.secret_bytes("whsec_" + base64.b64encode(b"new key of the rotation").decode())
    headers = {
        **ID,
        b"webhook-timestamp": stamp(),
        b"webhook-signature": signed(b"msg_1", stamp(), b"{}", key),
    }

    assert EVENTS.verify(headers, b"{}", forms + EVENTS.secret_bytes(SECRET), NOON) is holds


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!!!"])
def test_secret_that_is_none_verifies_nothing(secret: str) -> None:
    assert EVENTS.secret_bytes(secret) == ()


def test_body_that_is_no_text_is_verified_and_quarantined() -> None:
    body = b"\xff\xfe\x00"

    assert verified(signed(b"msg_1", stamp(), body), body=body)
    assert delivered("events", body, ID).fate is Fate.QUARANTINED


@pytest.mark.parametrize("name", FACT_SAMPLES)
def test_every_fact_is_published(name: str) -> None:
    event = event_of("events", body_of("events", name), ID)

    assert (event["type"], event["occurred_at"]) == ("inbound.fact", "2026-11-24T08:00:00.344522Z")
    assert event["fact"] == value_of("events", name)["type"]


def test_samples_cover_the_catalogue() -> None:
    types = {value_of("events", name)["type"] for name in FACT_SAMPLES}

    assert types == set(FactType) == set(CATALOGUE)


def test_type_that_the_catalogue_does_not_have_is_ignored() -> None:
    row = delivered("events", body_of("events", "example_event"), ID)

    assert (row.fate, row.event_type) == (Fate.IGNORED, "example.event")


def test_fact_names_its_booking() -> None:
    event = event_of("events", body_of("events", "payment_received"), ID)

    assert event["booking"] == {"source": "calcom", "uid": "qk7Yx2VnUeS4cD1mPzHr9a"}
    assert (event["gross_minor"], event["discount_minor"], event["currency"]) == (12900, 900, "EUR")


def test_fact_names_its_own_entity() -> None:
    shift = event_of("events", body_of("events", "staff_shift_planned"), ID)
    sold = event_of("events", body_of("events", "inventory_sold"), ID)

    assert (shift["subject_id"], shift["staff_id"], shift["status"]) == (
        "mara-2026-12-05",
        "mara",
        "confirmed",
    )
    assert (sold["subject_id"], sold["quantity"]) == ("wax-250", 2)


def test_chat_of_a_reply_is_the_hash_that_messages_carry() -> None:
    event = event_of("events", body_of("events", "admin_reply"), ID)

    assert event["chat_hash"] == KEYS.contact_hash("telegram", "730044112")


@pytest.mark.parametrize(("name", "change", "reason"), WRONG)
def test_data_is_read_strictly(name: str, change: dict[str, Any], reason: str) -> None:
    body = value_of("events", name)
    body["data"] |= change

    row = delivered("events", body, ID)

    assert row.fate is Fate.QUARANTINED
    assert row.reason is not None and reason in row.reason


def test_unknown_field_is_refused_unless_the_mode_is_off_and_never_named() -> None:
    body = value_of("events", "payment_received")
    body["data"]["canary_field"] = 1

    strict, loose = delivered("events", body, ID), delivered("events", body, ID, strict_schema=False)

    assert (strict.fate, loose.fate) == (Fate.QUARANTINED, Fate.PUBLISHED)
    assert strict.reason == "payment.received.data has a field that the catalogue does not know"


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"7", b'{"type":7}', b'{"type":"payment.received"}', b"[" * 9999]
)
def test_what_is_no_event_is_quarantined_or_unknown(body: bytes) -> None:
    assert delivered("events", body, ID).fate in (Fate.QUARANTINED, Fate.IGNORED)


def test_key_is_the_webhook_id_and_what_is_quarantined_does_not_hold_it() -> None:
    good = delivered("events", body_of("events", "payment_received"), ID)
    other = delivered("events", body_of("events", "payment_refunded"), ID)
    bad = delivered("events", b'{"type":"payment.received"}', ID)

    assert good.key_hash == other.key_hash == hashlib.sha256(b"msg_1").digest()[:16]
    assert good.content_hash != other.content_hash
    assert bad.key_hash != good.key_hash


def examples_of_the_docs() -> dict[str, str]:
    return dict(
        re.findall(r"^## `([a-z_.]+)`\n.*?```json\n(.*?)```", FACTS.read_text(), re.MULTILINE | re.DOTALL)
    )


def test_docs_have_every_fact() -> None:
    assert set(examples_of_the_docs()) == set(FactType)


@pytest.mark.parametrize("fact", list(FactType))
def test_example_in_the_docs_is_accepted_and_every_field_is_explained(fact: FactType) -> None:
    example = examples_of_the_docs()[fact]
    section = FACTS.read_text().split(f"## `{fact}`")[1].split("\n## ")[0]

    row = delivered("events", example.encode(), ID)

    assert (row.fate, row.reason) == (Fate.PUBLISHED, None)
    assert [f for f in CATALOGUE[fact].model_fields if f"| `{f}` |" not in section] == []
    assert set(json.loads(example)["data"]) <= set(CATALOGUE[fact].model_fields)
