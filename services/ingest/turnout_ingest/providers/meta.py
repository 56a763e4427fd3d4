"""What WhatsApp and Instagram share as webhooks of Meta: signature, handshake, envelope, batches (domain.md A3, A4).

One POST may hold 1,000 updates. Each becomes an item with its own key and fate: what cannot be read is quarantined
alone. A `Part` is one of them, cut out with what its reading needs; it is read from nothing else, so the minimal body
that is kept of it gives the same item again.
"""

from __future__ import annotations

import hmac
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, StringConstraints, ValidationError
from pydantic_core import to_json

from turnout_common.events import InboundItem
from turnout_common.security import equal
from turnout_ingest.providers.provider import (
    Delivery,
    Fate,
    Headers,
    Item,
    Provider,
    Refused,
    canonical16,
    in_words,
    parse_json,
)

#: Twice what Meta promises to stay under; each item costs a row, and all of a delivery are answered together.
MOST_ITEMS = 2_000
LONGEST_ID = 64
#: The account of what the App Dashboard's "Test" button sends, whatever stands inside.
TEST_ENTRY = "0"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHALLENGE = re.compile(r"[A-Za-z0-9_.~-]{1,256}")
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPES = re.compile(rb"\\\\|" + _HIGH + _LOW + rb"|(?P<lone>" + _HIGH + rb"|" + _LOW + rb")")


def _whole(value: Any) -> Any:
    """Meta writes one and the same time as text or as a number, by field and by who sends it."""
    return (
        int(value)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16
        else value
    )


#: Someone at the other end: a phone number's digits, or an id that Meta made up.
PartyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Whole = BeforeValidator(_whole)


@dataclass(frozen=True, slots=True)
class Part:
    """One update of a delivery. `alone` is a body of the provider's shape that holds nothing else; `account` the id
    that it is addressed to; `beside` what the reading needs of its surroundings. Where its fate is clear already,
    `ignored` or `refused` says why."""

    alone: dict[str, Any]
    kind: str
    value: Any
    account: str | None = None
    beside: Mapping[str, Any] | None = None
    ignored: str | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of a part that could be read: an event, or the reason why it is not needed."""

    event_type: str
    key: bytes
    event: InboundItem | None = None
    subject: str = "-"
    kafka_key: str = "-"
    own_time: datetime | None = None
    ignored: str | None = None
    takes_back: tuple[bytes, ...] = ()


class MetaProvider(Provider):
    body_factor = 3
    #: What `object` says in a body of this provider.
    named: ClassVar[str]

    @abstractmethod
    def parts(self, entry: Mapping[str, Any]) -> Iterator[Part]:
        """The updates of one entry. Raises nothing, whatever the entry is."""

    @abstractmethod
    def read(self, delivery: Delivery, part: Part, content: bytes) -> Reading:
        """A part in detail; `content` is its hash. Raises Refused, ValidationError."""

    def verify(self, headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: datetime) -> bool:
        """Over the bytes as they came: Meta escapes what is not ASCII, and signs the escapes."""
        given = headers.get(b"x-hub-signature-256", b"").strip().lower()
        return any(
            equal(b"sha256=" + hmac.digest(key, body, "sha256").hex().encode(), given) for key in secrets
        )

    def handshake(self, query: Mapping[str, str], expected: bytes) -> bytes | None:
        token, challenge = query.get("hub.verify_token", ""), query.get("hub.challenge", "")
        known = equal(token.encode(errors="replace"), expected)
        if (
            not known
            or not expected
            or query.get("hub.mode") != "subscribe"
            or not _CHALLENGE.fullmatch(challenge)
        ):
            return None
        return challenge.encode()

    def routing_ids(self, body: bytes) -> frozenset[str]:
        try:
            parts = list(islice(self._walk(_value_of(body)), MOST_ITEMS))
        except Refused:
            return frozenset()
        return frozenset(part.account for part in parts if part.account is not None)

    def shares(self, body: bytes, accounts: Sequence[str]) -> Mapping[str, bytes]:
        """Cut apart once: were the whole read for each tenant, a hundred of them would hold us up for half a minute."""
        parts = list(islice(self._walk(_value_of(body)), MOST_ITEMS + 1))
        if len(parts) > MOST_ITEMS:
            return {accounts[0]: body}
        entries: dict[str, list[Any]] = {account: [] for account in accounts}
        for part in parts:
            own = part.account if part.account in entries else accounts[0]
            entries[own] += part.alone["entry"]
        return {account: _raw(self.around(own)) for account, own in entries.items() if own}

    def items(self, delivery: Delivery) -> list[Item]:
        parts = list(islice(self._walk(_value_of(delivery.body)), MOST_ITEMS + 1))
        if len(parts) > MOST_ITEMS:
            raise Refused(f"more than {MOST_ITEMS} updates in one delivery")
        if len(parts) == 1:
            return [self._item(delivery, parts[0], delivery.body)]
        return [self._item(delivery, part, _raw(part.alone)) for part in parts]

    def _walk(self, body: Any) -> Iterator[Part]:
        if not isinstance(body, dict) or body.get("object") != self.named:
            raise Refused(f"its object is not {self.named}")
        entries = body.get("entry")
        if not isinstance(entries, list):
            raise Refused("entry is not a list")
        for entry in entries:
            if not isinstance(entry, dict):
                yield Part(self.around([entry]), "entry", entry, refused="an entry is not an object")
            elif entry.get("id") == TEST_ENTRY:
                yield from map(_as_test, self.parts(entry))
            else:
                yield from self.parts(entry)
        if not entries:
            yield Part(self.around([]), "entry", None, ignored="a delivery without an entry")

    def around(self, entries: list[Any]) -> dict[str, Any]:
        return {"object": self.named, "entry": entries}

    def _item(self, delivery: Delivery, part: Part, raw: bytes) -> Item:
        try:
            if part.refused is not None:
                raise Refused(part.refused, part.kind)
            content = canonical16(part.value)
            if part.ignored is not None:
                read = Reading(part.kind, content, ignored=part.ignored)
            else:
                read = self.read(delivery, part, content)
        except (Refused, ValidationError) as error:
            return _quarantined(delivery, part, raw, error)
        if read.event is None:
            return Item(
                event_type=read.event_type, key=read.key, content=content, occurred_at=delivery.received_at, raw=raw,
                fate=Fate.IGNORED, reason=read.ignored, routing_id=part.account, takes_back=read.takes_back,
            )  # fmt: skip
        return Item(
            event_type=read.event_type, key=read.key, content=content, occurred_at=read.event.occurred_at, raw=raw,
            item_id=read.event.item_id, event=read.event, subject=read.subject, kafka_key=read.kafka_key,
            own_time=read.own_time, routing_id=part.account,
        )  # fmt: skip


def bounded(value: Any) -> str | None:
    """An id as Meta has them, else None: what is longer is not carried from one item of a batch to all others."""
    fits = isinstance(value, str) and 0 < len(value) <= LONGEST_ID and value.isascii() and value.isprintable()
    return value if fits else None


def at_seconds(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def at_millis(millis: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=millis)


def _raw(body: dict[str, Any]) -> bytes:
    """Bytes that are read again: a number beyond a double's range is read as infinite, which is no JSON."""
    return to_json(body, inf_nan_mode="null")


def _as_test(part: Part) -> Part:
    """Whoever presses the button wants to see that the delivery came, not that it was for some other account."""
    return Part(part.alone, part.kind, part.value, ignored="a test delivery of Meta's App Dashboard")


def _value_of(body: bytes) -> Any:
    """The JSON value. Half a surrogate pair, which a cut text ends in, is read as NUL: no text may have either, but a
    parser refuses a whole batch for the one."""
    try:
        return parse_json(body)
    except Refused:
        mended = _ESCAPES.sub(lambda found: b"\\u0000" if found["lone"] else found[0], body)
        if mended == body:
            raise
    return parse_json(mended)


def _quarantined(delivery: Delivery, part: Part, raw: bytes, error: Refused | ValidationError) -> Item:
    reason = in_words(error) if isinstance(error, ValidationError) else str(error)
    return Item(
        event_type=error.event_type if isinstance(error, Refused) else part.kind, key=b"", content=b"",
        occurred_at=delivery.received_at, raw=raw, fate=Fate.QUARANTINED, reason=reason, routing_id=part.account,
    )  # fmt: skip
