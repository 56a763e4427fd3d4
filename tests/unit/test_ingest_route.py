"""The route alone: what it answers to bodies that stop, grow or crash an adapter, without a database."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Any

import pytest

from tests.webhook_fixtures import KEYS, body_of
from tests.webhook_route import SECRET, Route, part, tenant
from turnout_common import metrics
from turnout_common.tenants import ChannelConfig
from turnout_ingest import webhook
from turnout_ingest.acceptance import Row
from turnout_ingest.inbox import InboxFull, NotStored
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import Fate


async def test_body_in_pieces_is_put_together() -> None:
    route, body = Route(), b"{}"
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest().encode()

    sent = await route.call(
        [part(b"{", True), part(b"", True), part(b"}")], headers={b"x-cal-signature-256": digest}
    )

    assert sent[0]["status"] == 400
    assert [KEYS.open("raw", row.sealed or b"") for row in route.inbox.rows] == [body]


async def test_client_that_goes_before_its_body_ends_is_not_answered() -> None:
    route = Route()

    assert await route.call([part(b"{", True)]) == []
    assert route.inbox.rows == []


async def test_body_that_stops_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "BODY_SECONDS", 0.05)

    assert (await Route().call([part(b"{", True)], stalls=True))[0]["status"] == 408


async def test_body_that_grows_over_the_limit_is_413_before_it_ends() -> None:
    sent = await Route().call([part(b" " * 3000, True)] * 2, stalls=True)

    assert sent[0]["status"] == 413


@pytest.mark.parametrize(("length", "status"), [(b"4097", 413), (b"9" * 30, 401), (b"-5", 401), (b"x", 401)])
async def test_declared_length(length: bytes, status: int) -> None:
    assert (await Route().call([part(b"{}")], headers={b"content-length": length}))[0]["status"] == status


async def test_adapter_that_crashes_leaves_a_quarantined_item_and_no_500(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(delivery: Any) -> Any:
        raise KeyError("a secret of the body")

    monkeypatch.setattr(PROVIDERS["telegram"], "items", crash)
    route = Route()

    assert await route.post(body_of("telegram", "text"), path="/webhooks/telegram/salon") == 200
    (row,) = route.inbox.rows
    assert (row.fate, row.reason) == (Fate.QUARANTINED, "it could not be read: a fault of this version")


@pytest.mark.parametrize("error", [InboxFull(), NotStored(), TimeoutError()])
async def test_what_cannot_be_stored_is_503_with_retry_after(error: Exception) -> None:
    route = Route()
    route.inbox.error = error
    body = body_of("calcom", "created_sparse")
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest().encode()

    sent = await route.call([part(body)], headers={b"x-cal-signature-256": digest})

    assert sent[0]["status"] == 503
    assert (b"retry-after", b"1") in sent[0]["headers"]


async def test_inbox_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(rows: list[Row]) -> list[Fate]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(webhook, "ANSWER_SECONDS", 0.05)
    route = Route()
    monkeypatch.setattr(route.inbox, "accept", never)

    assert await route.post(body_of("calcom", "created_sparse")) == 503


def test_answer_comes_within_two_seconds_of_the_body() -> None:
    assert webhook.ANSWER_SECONDS < 2.0


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 202),
        ({"status": "suspended"}, 401),
        ({"keys": None}, 401),
        ({"channels": {}}, 401),
        ({"channels": {"calcom": ChannelConfig("calcom", False, None, (SECRET,), None)}}, 401),
        ({"channels": {"calcom": ChannelConfig("calcom", True, None, (), None)}}, 401),
        ({"channels": {"calcom": ChannelConfig("calcom", True, None, ("",), None)}}, 401),
        ({"channels": {"calcom": ChannelConfig("calcom", True, None, ("new", SECRET), None)}}, 202),
    ],
)
async def test_configuration_of_the_channel(changes: dict[str, Any], status: int) -> None:
    assert await Route(tenant(**changes)).post(body_of("calcom", "created_sparse")) == status


async def test_empty_secret_signs_nothing() -> None:
    assert await Route().post(body_of("calcom", "created_sparse"), secret="") == 401


async def test_configuration_that_was_read_again_counts_at_once() -> None:
    route, body = Route(), body_of("calcom", "created_sparse")
    assert await route.post(body) == 202

    route.directory.tenants["salon"] = tenant(status="suspended")
    assert await route.post(body) == 401
    route.directory.tenants.clear()
    assert await route.post(body) == 401
    route.directory.tenants["salon"] = tenant()
    assert await route.post(body) == 202


async def test_channel_without_a_provider_is_unknown() -> None:
    lax = Route(strict_tenant_config=False, env="development")

    assert await Route().post(b"{}", path="/webhooks/pager/salon") == 401
    assert await lax.post(b"{}", path="/webhooks/pager/salon") == 404


@pytest.mark.parametrize("path", ["/webhooks/", "/webhooks/calcom/salon/", "/webhooks/calcom/salon/more"])
async def test_path_that_is_no_callback_is_404(path: str) -> None:
    assert await Route().post(body_of("calcom", "created_sparse"), path=path) == 404


async def test_name_that_a_stranger_makes_up_is_no_label_of_a_metric() -> None:
    """Each label is kept for ever, by us and by whoever scrapes."""
    route = Route()
    for number in range(3):
        await route.post(b"{}", path=f"/webhooks/made-up-{number}/salon")
        await route.get(f"/webhooks/made-up-{number}/salon")

    counted = [metric.collect() for metric in (metrics.WEBHOOKS, metrics.WEBHOOKS_REFUSED)]
    labels = {s.labels["channel"] for found in counted for each in found for s in each.samples}

    assert "unknown" in labels
    assert not any(label.startswith("made-up") for label in labels)
