"""The channel `events`: Standard Webhooks v1 (domain.md A7), carrying the catalogue of business facts.

Signed is `{id}.{timestamp}.{body}`; `webhook-id` stays through a sender's retries and is the key.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import operator
from datetime import datetime
from typing import Annotated, Any, Literal

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
        """`whsec_` and base64, padded or not. Without the prefix libraries differ in how they read it: both ways."""
        encoded = secret.removeprefix(SECRET_PREFIX)
        try:
            decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (ValueError, binascii.Error):
            decoded = b""
        plain = () if secret.startswith(SECRET_PREFIX) else (secret.encode(),)
        return ((decoded,) if decoded else ()) + plain

    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        message_id, sent_at = headers.get(b"webhook-id", b""), headers.get(b"webhook-timestamp", b"")
        if not message_id or not _is_recent(sent_at, now):
            return False
        given = _signatures(headers.get(b"webhook-signature", b""))
        signed = b".".join((message_id, sent_at, body))
        expected = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()) for key in secrets]
        return any(equal(mine, theirs) for mine in expected for theirs in given)

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


def _signatures(header: bytes) -> list[bytes]:
    """The v1 signatures of a space-separated list; other versions and malformed parts are passed over."""
    parts = [part.partition(b",") for part in header.split()]
    return [signature for version, _, signature in parts if version == b"v1" and signature][:10]


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
