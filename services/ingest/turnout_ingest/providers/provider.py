"""What a provider is to ingest: it verifies a delivery and turns its body into items.

In: a delivery, raw. Out: items, each with its key, its content's hash and its fate so far. Promise: whatever the bytes
are, `verify` gives True or False and `items` gives items or raises Refused; neither touches the database.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from turnout_common.events import InboundItem
from turnout_common.events.values import Channel
from turnout_common.ids import new_id
from turnout_common.security import TenantKeys

NOT_JSON = "the body is not JSON"
#: Header names in lower case, as the server gives them.
Headers = Mapping[bytes, bytes]
#: Text of a person. NUL is refused: Postgres could not store it. (A lone surrogate is no JSON to begin with.)
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
#: A time that an appointment business can mean; what lies outside overflows somewhere downstream.
Time = Annotated[
    AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))
]


#: An id as messengers give it.
Id = Annotated[int, Field(ge=-(2**62), lt=2**62)]
#: Unix seconds from 2000 to 2200.
Seconds = Annotated[int, Field(ge=946_684_800, lt=7_258_118_400)]


class Read(BaseModel):
    """What is read of a provider's body: strict on that, open to the rest."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Fate(StrEnum):
    """What became of an item; the counts of the fates add up to the items received."""

    PUBLISHED = "published"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    STALE = "stale"
    WRONG_TENANT = "wrong_tenant"
    QUARANTINED = "quarantined"


#: Fates of items that were not taken in. They hold no provider's key: what is sent again, corrected, is welcome.
NOT_TAKEN_IN = frozenset({Fate.STALE, Fate.WRONG_TENANT, Fate.QUARANTINED})


class Refused(ValueError):
    """A body that is not this provider's; the message says why, in our words only. `event_type` is the provider's own
    word for what it sent, where that much could be read."""

    def __init__(self, reason: str, event_type: str = "unknown") -> None:
        super().__init__(reason)
        self.event_type = event_type


@dataclass(frozen=True, slots=True)
class Answers:
    """What a provider is answered with: status codes, and the text of a success where the provider wants one."""

    success: int = 200
    text: bytes = b""
    quarantined: int = 200
    conflict: int = 200


@dataclass(frozen=True, slots=True)
class ChannelContext:
    """One channel of one tenant, as held in memory; `secrets` are prepared by the provider's `secret_bytes`.

    `handshake` proves us to the provider when a callback is set up: Meta's verify token, VK's confirmation code.
    """

    tenant_id: str
    channel: Channel
    secrets: tuple[bytes, ...] = field(repr=False)
    keys: TenantKeys = field(repr=False)
    routing_id: str | None = None
    handshake: bytes | None = field(default=None, repr=False)
    strict_schema: bool = True
    strict_tenant: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request, verified."""

    context: ChannelContext
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Item:
    """One statement of a provider.

    `key` and `content` are 16 bytes each: the idempotency key, and the hash of what stands under it. `own_time` is set
    where the item falls under the stale rule (messages and receipts that carry a time of their own). `routing_id` is the
    account that the item names as its own, where the provider's bodies name one. `raw` is a body by which `items` would
    give this item alone: the delivery's own bytes where it holds one item. `reply` is answered in place of the
    provider's success text. `takes_back` holds the keys of items whose words are erased.
    """

    event_type: str
    key: bytes
    content: bytes
    occurred_at: datetime
    raw: bytes = field(repr=False)
    item_id: UUID = field(default_factory=new_id)
    fate: Fate = Fate.PUBLISHED
    reason: str | None = None
    event: InboundItem | None = None
    subject: str = "-"
    kafka_key: str = "-"
    own_time: datetime | None = None
    routing_id: str | None = None
    reply: bytes | None = field(default=None, repr=False)
    takes_back: tuple[bytes, ...] = ()


class Provider(ABC):
    """One webhook provider. A new one is one file with a subclass and one line in the registry."""

    channel: ClassVar[Channel]
    answers: ClassVar[Answers] = Answers()
    #: How long its keys are kept; a message older than that is stale.
    key_days: ClassVar[int] = 14
    #: Whether it sends again what was not answered with success. What does not is never told to come later.
    sends_again: ClassVar[bool] = True
    #: How many times the size limit its bodies may have: some post batches.
    body_factor: ClassVar[int] = 1
    #: The headers, beside the signature, that `items` reads: kept with quarantined bytes, for `inbox release`.
    kept_headers: ClassVar[tuple[bytes, ...]] = ()

    @abstractmethod
    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        """Whether the delivery is authentic: over the raw bytes, in constant time, with any of the secrets."""

    @abstractmethod
    def items(self, delivery: Delivery) -> list[Item]:
        """The items of a body. Raises Refused when the body is not this provider's envelope."""

    def secret_bytes(self, secret: str) -> tuple[bytes, ...]:
        """The forms of a configured secret that `verify` compares with; made once, not per request."""
        return (secret.encode(),)

    def kept(self, body: bytes) -> bytes:
        """A body that could not be read, as it is kept: without a secret that stands in it."""
        return body

    def routing_ids(self, body: bytes) -> frozenset[str]:
        """The accounts that a body names, before it is verified: whose secrets to verify it with on a callback that
        tenants share. Empty for anything that cannot be read, and for a provider without such callbacks."""
        return frozenset()

    def shares(self, body: bytes, accounts: Sequence[str]) -> Mapping[str, bytes]:
        """A verified body that names several `accounts`, in a body for each; what names none of them goes to the first."""
        return {accounts[0]: body}

    def handshake(self, query: Mapping[str, str], expected: bytes) -> bytes | None:
        """The answer to the GET by which a provider checks a callback, or None to refuse it."""
        return None


def hash16(content: bytes) -> bytes:
    """16 bytes that stand for `content`."""
    return hashlib.sha256(content).digest()[:16]


def canonical16(value: Any) -> bytes:
    """16 bytes that stand for a parsed JSON value, however it was written."""
    return hash16(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. Raises Refused, also where it nests too deep or a number is too long."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(NOT_JSON) from error


def event_fields(delivery: Delivery, item_id: UUID, key: bytes, occurred_at: datetime) -> dict[str, Any]:
    """What every event of `inbound_webhooks` carries."""
    context = delivery.context
    return {
        "tenant_id": context.tenant_id,
        "item_id": item_id,
        "channel": context.channel,
        "key_hash": key.hex(),
        "occurred_at": occurred_at,
        "received_at": delivery.received_at,
    }


_IN_WORDS = {
    "missing": "is missing",
    "string_type": "is not text",
    "int_type": "is not a whole number",
    "bool_type": "is neither true nor false",
    "list_type": "is not a list",
    "dict_type": "is not an object",
    "model_type": "is not an object",
    "datetime_type": "is not a time",
    "datetime_parsing": "is not a time",
    "datetime_from_date_parsing": "is not a time",
    "timezone_aware": "is a time without a zone",
    "greater_than_equal": "is too small or too early",
    "less_than": "is too large or too late",
    "string_pattern_mismatch": "has characters that are not allowed there, or is too long",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "extra_forbidden": "has a field that the catalogue does not know",
}


def in_words(error: ValidationError) -> str:
    """What is wrong, for a person: paths of our own models and never a value or a name that the sender wrote."""
    sentences: dict[str, None] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        where, words = fault["loc"], _IN_WORDS.get(fault["type"], f"is not valid ({fault['type']})")
        if fault["type"] == "json_invalid":
            return NOT_JSON
        if fault["type"] == "extra_forbidden":
            where = where[:-1]
        elif fault["type"] == "value_error":
            words = fault["msg"].removeprefix("Value error, ")
        sentences[f"{'.'.join(map(str, where)) or 'the body'} {words}"] = None
    return "; ".join(list(sentences)[:3])
