"""The channel `events`: Standard Webhooks v1 and v1a (domain.md A7), carrying the catalogue of business facts.

Signed is `{id}.{timestamp}.{body}`; `webhook-id` stays through a sender's retries and is the key. A secret `whsec_…` is
shared (v1, HMAC-SHA256), `whpk_…` is the sender's public key (v1a, ed25519). One is never tried as the other: with a
public key as a shared secret everybody could sign.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import operator
from datetime import datetime
from typing import Annotated, Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from turnout_common.events import FactItem, FactType
from turnout_common.events.values import Channel
from turnout_common.ids import new_id
from turnout_common.security import equal
from turnout_ingest.contacts import label
from turnout_ingest.providers.facts import CATALOGUE
from turnout_ingest.providers.provider import (
    Answers,
    Delivery,
    Fate,
    Headers,
    Item,
    Provider,
    Refused,
    Time,
    canonical16,
    event_fields,
    hash16,
    in_words,
    parse_json,
)

TOLERANCE_SECONDS = 300
SECRET_PREFIX = "whsec_"
PUBLIC_PREFIX = "whpk_"
V1, V1A = b"v1", b"v1a"
#: More signatures than any rotation needs are not looked at.
MOST_SIGNATURES = 10
_PUBLIC_BYTES = 32


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: str
    timestamp: Time
    data: Any


def _envelope_of(fact: FactType) -> Any:
    fields: dict[str, Any] = {"type": (Literal[fact.value], ...), "data": (CATALOGUE[fact], ...)}
    return create_model(f"{CATALOGUE[fact].__name__}Envelope", __base__=_Envelope, **fields)


#: One envelope per type of the catalogue, told apart by `type`: a body is parsed once.
_ENVELOPES: Any = Annotated[
    functools.reduce(operator.or_, map(_envelope_of, FactType)), Field(discriminator="type")
]
BODY: TypeAdapter[Any] = TypeAdapter(_ENVELOPES)


class StandardWebhooks(Provider):
    channel = Channel.EVENTS
    answers = Answers(success=202, quarantined=400, conflict=409)
    kept_headers = (b"webhook-id",)

    def secret_bytes(self, secret: str) -> tuple[bytes, ...]:
        """`v1,` or `v1a,` and the key. Base64 is padded or not; without a prefix libraries differ in how they read a
        secret: both ways."""
        if secret.startswith(PUBLIC_PREFIX):
            public = _decoded(secret.removeprefix(PUBLIC_PREFIX))
            return (V1A + b"," + public,) if len(public) == _PUBLIC_BYTES else ()
        decoded = _decoded(secret.removeprefix(SECRET_PREFIX))
        plain = () if secret.startswith(SECRET_PREFIX) else (secret.encode(),)
        return tuple(V1 + b"," + key for key in (decoded, *plain) if key)

    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        message_id, sent_at = headers.get(b"webhook-id", b""), headers.get(b"webhook-timestamp", b"")
        if not message_id or not _is_recent(sent_at, now):
            return False
        given = _signatures(headers.get(b"webhook-signature", b""))
        signed = b".".join((message_id, sent_at, body))
        for secret in secrets:
            version, _, key = secret.partition(b",")
            holds = _v1_holds if version == V1 else _v1a_holds
            if any(holds(key, signed, signature) for its, signature in given if its == version):
                return True
        return False

    def items(self, delivery: Delivery) -> list[Item]:
        message_id = delivery.headers.get(b"webhook-id")
        key = hash16(message_id) if message_id else hash16(delivery.body)
        content = canonical16(parse_json(delivery.body))
        extra: Literal["ignore"] | None = None if delivery.context.strict_schema else "ignore"
        try:
            envelope = BODY.validate_json(delivery.body, extra=extra)
        except ValidationError as error:
            return [_unknown(delivery, key, content, error)]
        return [_fact(delivery, key, content, envelope)]


def _is_recent(sent_at: bytes, now: datetime) -> bool:
    """The attempt's time: whole seconds, at most five minutes off. It changes with each retry, the id stays."""
    if not sent_at.isdigit() or len(sent_at) > 12:
        return False
    return abs(now.timestamp() - int(sent_at)) <= TOLERANCE_SECONDS


def _signatures(header: bytes) -> list[tuple[bytes, bytes]]:
    """Version and signature of a space-separated list; other versions and malformed parts are passed over."""
    parts = [part.partition(b",") for part in header.split()]
    return [(its, signature) for its, _, signature in parts if its in (V1, V1A) and signature][
        :MOST_SIGNATURES
    ]


def _v1_holds(key: bytes, signed: bytes, signature: bytes) -> bool:
    return equal(base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()), signature)


def _v1a_holds(key: bytes, signed: bytes, signature: bytes) -> bool:
    try:
        _public_key(key).verify(base64.b64decode(signature, validate=True), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


@functools.lru_cache(maxsize=4096)
def _public_key(key: bytes) -> Ed25519PublicKey:
    """Raises ValueError for bytes that are no key."""
    return Ed25519PublicKey.from_public_bytes(key)


def _decoded(encoded: str) -> bytes:
    """The bytes of base64, padded or not; none where it is no base64."""
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        return b""


def _unknown(delivery: Delivery, key: bytes, content: bytes, error: ValidationError) -> Item:
    """A type that the catalogue does not have is ignored, and an object without one: Standard Webhooks sign any body,
    and a sender's test delivery is often such. Raises Refused for all else that does not fit."""
    fault = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] not in ("union_tag_not_found", "union_tag_invalid"):
        raise Refused(in_words(error), str(fault["loc"][0]) if fault["loc"] else "unknown")
    named = fault["type"] == "union_tag_invalid"
    event_type = label(str(fault["ctx"]["tag"])) if named else None
    what = "an event type that the catalogue of facts does not have" if named else "an event without a type"
    return Item(
        event_type=event_type or "unknown", key=key, content=content, occurred_at=delivery.received_at,
        raw=delivery.body, fate=Fate.IGNORED, reason=what,
    )  # fmt: skip


def _fact(delivery: Delivery, key: bytes, content: bytes, envelope: Any) -> Item:
    item_id, fact = new_id(), FactType(envelope.type)
    common = event_fields(delivery, item_id, key, envelope.timestamp)
    event = FactItem(**common, fact=fact, **envelope.data.fields(delivery.context.keys))
    about = (event.booking.uid if event.booking else None) or event.subject_id or event.chat_hash or fact
    return Item(
        event_type=fact, key=key, content=content, occurred_at=envelope.timestamp, raw=delivery.body,
        item_id=item_id, event=event, subject=about, kafka_key=delivery.context.tenant_id,
    )  # fmt: skip
