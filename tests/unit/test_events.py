"""Producers cannot add fields, consumers ignore them, and a bad record's reason never holds its content."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from turnout_common.events import ConsentItem, Envelope, UnknownEventType, from_headers, parse_event
from turnout_common.events.envelope import InvalidEvent
from turnout_common.events.values import Channel

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
CONSENT = ConsentItem(
    tenant_id="salon",
    item_id=uuid4(),
    channel=Channel.TELEGRAM,
    key_hash="0" * 32,
    occurred_at=AT,
    received_at=AT,
    chat_hash="a" * 32,
    chat_sealed="sealed",
    opted_in=True,
)


def test_consumer_ignores_a_field_that_a_newer_producer_added() -> None:
    value = json.loads(CONSENT.model_dump_json()) | {"from_the_future": {"x": 1}}

    assert parse_event("inbound.consent", json.dumps(value).encode()) == CONSENT


def test_consent_that_says_no_scope_is_of_all_messages() -> None:
    value = json.loads(CONSENT.model_dump_json())
    del value["scope"]

    assert parse_event("inbound.consent", json.dumps(value).encode()) == CONSENT
    assert CONSENT.scope == "all"


def test_producer_cannot_add_a_field() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ConsentItem.model_validate(CONSENT.model_dump() | {"extra": 1})


def test_unknown_type_is_told_apart_from_a_bad_event() -> None:
    with pytest.raises(UnknownEventType):
        parse_event("inbound.from_the_future", b"{}")


def test_reason_of_a_bad_event_names_the_field_and_not_its_value() -> None:
    value = json.loads(CONSENT.model_dump_json()) | {"chat_hash": "+49 151 canary"}

    with pytest.raises(InvalidEvent) as caught:
        parse_event("inbound.consent", json.dumps(value).encode())

    assert "chat_hash: string_pattern_mismatch" in str(caught.value)
    assert "canary" not in str(caught.value)


@given(st.binary(max_size=64))
def test_any_bytes_give_an_event_or_a_reason(value: bytes) -> None:
    with pytest.raises(InvalidEvent):
        parse_event("inbound.consent", value)


def test_envelope_survives_kafka_headers() -> None:
    envelope = Envelope(uuid4(), "inbound.consent", "ingest", AT, "salon:1", "salon", "00-abc-def-01")

    assert from_headers(envelope.headers()) == envelope


@given(st.lists(st.tuples(st.sampled_from(["ce_id", "ce_time", "x"]), st.binary(max_size=20)), max_size=4))
def test_any_headers_give_an_envelope_or_a_reason(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(InvalidEvent):
        from_headers(headers)
