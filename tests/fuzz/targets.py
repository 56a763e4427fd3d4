"""What a fuzzer calls, with what must hold whatever the bytes are: each raises AssertionError where it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from tests.fuzz.authenticity import (
    PLAIN,
    PUBLIC,
    SECRET,
    STRANGER,
    authentic,
    signed,
    signed_by_all,
    signed_v1a,
)
from tests.webhook_fixtures import KEYS, NOON
from turnout_common.events import parse_event
from turnout_common.events.values import Channel
from turnout_ingest.acceptance import Row, rows_of
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Delivery, Fate, Headers, Refused

NOW = int(NOON.timestamp())
#: Where a body carries the secret itself.
SECRET_HERE = b"$SECRET"
#: Where a header line carries the proof of the same header, among others.
PROOF_HERE = b"$PROOF"
#: More signatures than these are not looked at, a genuine one behind them neither.
MOST_SIGNATURES = 10
CONTENT_TYPES = (b"application/json", b"application/x-www-form-urlencoded", b"", b"\xff")


def parse(channel: str, data: bytes) -> None:
    """The first byte chooses headers, the rest is the body: it gives rows, each with a fate and its reason."""
    choice, body = (data[0], data[1:]) if data else (0, b"")
    headers = {b"content-type": CONTENT_TYPES[choice % 4]}
    if choice & 4:
        headers[b"webhook-id"] = b"msg_1"
    check(channel, body, headers)


def check(channel: str, body: bytes, headers: Headers) -> None:
    """What `items` and `rows_of` promise of a verified delivery."""
    provider = PROVIDERS[channel]
    context = ChannelContext("salon", Channel(channel), (), KEYS, strict_tenant=False)
    delivery = Delivery(context, headers, body, NOON)
    with contextlib.suppress(Refused):  # anything else that `items` raises is a fault
        assert provider.items(delivery), "a body without an item has no fate"
    rows = rows_of(provider, delivery)
    assert rows, "a body without a row has no fate"
    for row in rows:
        _check_row(row)
    provider.routing_ids(body)


def _check_row(row: Row) -> None:
    assert (row.payload is None) == (row.fate is not Fate.PUBLISHED) == (row.reason is not None)
    assert row.reason != "it could not be read: a fault of this version"
    assert len(row.key_hash) == len(row.content_hash) == 16
    assert "\x00" not in f"{row.event_type}{row.subject}{row.kafka_key}{row.reason}"
    if row.payload is not None:
        assert "\x00" not in row.payload and "\\u0000" not in row.payload
        parse_event(f"inbound.{row.kind}", row.payload.encode())


def verify(channel: str, data: bytes) -> None:
    """`choice position change` (a byte each), header lines `name: value`, NUL, body.

    Bit 0 of `choice` signs the body, bit 3 at another time; bit 1 spoils the proof at `position`, bit 2 cuts it there;
    the lines come last. For `events`, bits 4 and 5 choose which secrets the tenant has, 6 and 7 who signs (`_signed_as`).
    The verifier and the second reading of the provider's document agree, so nothing is accepted wrongly.
    """
    choice, position, change = (*data[:3], 0, 0, 0)[:3]
    head, _, body = data[3:].partition(b"\x00")
    secret = spoilt(PLAIN, choice, position, change) if choice & 1 else b""
    body = body.replace(SECRET_HERE, secret)
    at = NOW + (change - 128) * 5 if choice & 8 else NOW
    proofs = _signed_as(channel, choice, body, at) if choice & 1 else {}
    headers = {name: spoilt(value, choice, position, change) for name, value in proofs.items()}
    for line in head.split(b"\n")[:8]:
        name, colon, value = line.partition(b": ")
        if colon:
            headers[name.lower()] = value.replace(PROOF_HERE, headers.get(name.lower(), b""))
    provider = PROVIDERS[channel]
    secrets = SECRETS[choice >> 4 & 3] if channel == "events" else (SECRET,)
    forms = tuple(form for each in secrets for form in provider.secret_bytes(each))
    said = provider.verify(headers, body, forms, NOON)
    assert said in (True, False)
    known = authentic(channel, headers, body, NOON.timestamp(), secrets)
    assert known or not said, "accepted what is not authentic"
    crowded = len(headers.get(b"webhook-signature", b"").split()) > MOST_SIGNATURES
    # VK's secret is read out of JSON, and ours is stricter than Python's (NaN, lone surrogates, UTF-16).
    assert said or not known or channel == "vk" or crowded, "refused what is authentic"


#: What a tenant of `events` may have: a shared secret, a public key, and both during a rotation.
SECRETS = ((SECRET,), (PUBLIC,), (SECRET, PUBLIC), (PUBLIC, SECRET))


def _signed_as(channel: str, choice: int, body: bytes, at: int) -> dict[bytes, bytes]:
    """By the shared secret; by the sender's key; by a stranger's; by the public key as if it were a shared secret."""
    match choice >> 6 if channel == "events" else 0:
        case 0:
            return signed(channel, body, at)
        case 1:
            return signed_v1a(body, at)
        case 2:
            return signed_v1a(body, at, STRANGER)
        case _:
            return signed_by_all(body, at)


def spoilt(proof: bytes, choice: int, position: int, change: int) -> bytes:
    at = position % len(proof)
    if choice & 2:
        proof = proof[:at] + bytes([proof[at] ^ change]) + proof[at + 1 :]
    return proof[:at] if choice & 4 else proof


TARGETS: dict[str, Callable[[str, bytes], None]] = {"parse": parse, "verify": verify}
