"""Standard Webhooks v1a: the sender's ed25519 key, alone and beside a shared secret (domain.md A7)."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.webhook_fixtures import NOON
from turnout_ingest.providers import PROVIDERS

EVENTS = PROVIDERS["events"]
BODY = b'{"type":"feedback.received"}'
STAMP = b"%d" % NOON.timestamp()
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
WHPK = "whpk_" + base64.b64encode(PUBLIC).decode()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
SHARED = b"a shared key of thirty-two bytes"
WHSEC = "whsec_" + base64.b64encode(SHARED).decode()
VECTOR = b"v1a,G5Qx2a0LRxxtH1L59J+wCS0KjLyqstQBxpPSxUJ4ZhfZUuMzhV2BtFwiB2EfOgAjkA8z4Vlok3YAt2Nar2C9Dg=="


def v1a(key: Ed25519PrivateKey = PRIVATE, *, body: bytes = BODY, stamp: bytes = STAMP) -> bytes:
    return b"v1a," + base64.b64encode(key.sign(b"msg_1." + stamp + b"." + body))


def v1(key: bytes = SHARED) -> bytes:
    digest = hmac.new(key, b"msg_1." + STAMP + b"." + BODY, hashlib.sha256).digest()
    return b"v1," + base64.b64encode(digest)


def verified(signature: bytes, *secrets: str, body: bytes = BODY, stamp: bytes = STAMP) -> bool:
    headers = {b"webhook-id": b"msg_1", b"webhook-timestamp": stamp, b"webhook-signature": signature}
    forms = tuple(form for secret in secrets for form in EVENTS.secret_bytes(secret))
    return EVENTS.verify(headers, body, forms, NOON)


def test_vector_of_our_own() -> None:
    """Fixed once, so that a change of what is signed is seen: id, timestamp and body, with dots between them."""
    headers = {
        b"webhook-id": b"msg_2Lml6MGqTmw0pXR9sVbYdPqK1",
        b"webhook-timestamp": STAMP,
        b"webhook-signature": VECTOR,
    }

    assert EVENTS.verify(headers, b'{"test": 2432232314}', EVENTS.secret_bytes(WHPK), NOON)
    assert not EVENTS.verify(headers, b'{"test":2432232314}', EVENTS.secret_bytes(WHPK), NOON)


@pytest.mark.parametrize(
    ("signature", "holds"),
    [
        (v1a(), True),
        (v1a(OTHER), False),
        (v1a(OTHER) + b" " + v1a(), True),
        (v1() + b" " + v1a(), True),
        (b"v2,abc , v1a v1a, v1a,*** v1a,AAAA " + v1a(), True),
        (b"v1a,\xff\xfe " + v1a(), True),
        (v1a().replace(b"v1a,", b"v1,"), False),
        (v1a().replace(b"v1a,", b"V1A,"), False),
        (v1a()[:-4], False),
        (v1a() + b"AAAA", False),
        (v1a(body=b"{}"), False),
        (v1a(stamp=b"1"), False),
        (b"", False),
        (b"v1a,", False),
    ],
)
def test_a_public_key_verifies_its_v1a_signatures_only(signature: bytes, holds: bool) -> None:
    assert verified(signature, WHPK) is holds


@pytest.mark.parametrize("signature", [v1a(), v1(), v1() + b" " + v1a(OTHER), v1(b"x") + b" " + v1a()])
def test_during_a_rotation_from_a_shared_secret_to_a_key_either_proves(signature: bytes) -> None:
    assert verified(signature, WHPK, WHSEC)
    assert verified(signature, WHSEC, WHPK)


def test_a_rotation_accepts_no_third_key() -> None:
    assert not verified(v1a(OTHER) + b" " + v1(b"another"), WHPK, WHSEC)


@pytest.mark.parametrize(
    "key", [PUBLIC, WHPK.encode(), WHPK.removeprefix("whpk_").encode(), b"v1a," + PUBLIC]
)
def test_a_public_key_is_never_a_shared_secret(key: bytes) -> None:
    """Everybody knows it: a v1 signature made with it proves nothing."""
    assert not verified(v1(key), WHPK)


def test_a_shared_secret_is_never_a_public_key() -> None:
    assert not verified(v1a(), "whsec_" + base64.b64encode(PUBLIC).decode(), PUBLIC.hex())


@pytest.mark.parametrize(
    "secret",
    ["whpk_", "whpk_!!!", "whpk_AAAA", WHPK + "AAAA", "whpk_" + base64.b64encode(b"x" * 31).decode()],
)
def test_a_key_that_is_none_verifies_nothing(secret: str) -> None:
    assert EVENTS.secret_bytes(secret) == ()
    assert not verified(v1a() + b" " + v1(secret.encode()), secret)


def test_a_key_may_be_written_without_padding() -> None:
    assert verified(v1a(), WHPK.rstrip("="))


def test_v1a_has_the_same_time_limit() -> None:
    late = b"%d" % (NOON.timestamp() - 301)

    assert not verified(v1a(stamp=late), WHPK, stamp=late)


def test_at_most_ten_signatures_are_tried() -> None:
    wrong = b" ".join([v1a(OTHER)] * 10)

    assert not verified(wrong + b" " + v1a(), WHPK)
    assert verified(b" ".join([v1a(OTHER)] * 9) + b" " + v1a(), WHPK)
