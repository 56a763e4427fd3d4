"""The settings of our Kafka clients that a test's broker cannot show, since it loses nothing and creates no topic."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from faststream import AckPolicy

from turnout_common import kafka


def asked_for(monkeypatch: pytest.MonkeyPatch, client: str) -> dict[str, Any]:
    """What our factory asks `client` for."""
    made = Mock()
    monkeypatch.setattr(kafka, client, made)
    factory = {"AIOKafkaProducer": kafka.create_producer, "ConsumingBroker": kafka.create_broker}[client]
    factory("one:1,two:2", "name")
    return dict(made.call_args.kwargs)


def test_producer_is_idempotent_and_waits_for_all_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_for(monkeypatch, "AIOKafkaProducer")

    assert asked["enable_idempotence"] is True
    assert asked["acks"] == "all"


def test_consumer_acknowledges_by_hand_and_creates_no_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_for(monkeypatch, "ConsumingBroker")

    assert asked["allow_auto_create_topics"] is False
    assert asked["ack_policy"] is AckPolicy.MANUAL
