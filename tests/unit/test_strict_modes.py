"""docs/STRICT_MODES.md, row by row: what each mode does on every channel, on and off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.webhook_fixtures import ROUTING_IDS, body_of, value_of
from tests.webhook_route import Route, channel_of, part, tenant
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.settings import IngestSettings

PAGE = (Path(__file__).parents[2] / "docs" / "STRICT_MODES.md").read_text(encoding="utf-8")
SECRETS = {"events": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
SAMPLES = {"calcom": "created", "events": "payment_received"}
CHANNELS = sorted(PROVIDERS)
NAMING_AN_ACCOUNT = sorted(ROUTING_IDS)


def secret_of(channel: str) -> str:
    return SECRETS.get(channel, "route-secret")


def route_of(channel: str, *, account: str | None = None, **modes: bool) -> Route:
    own = channel_of(channel, account or ROUTING_IDS.get(channel), secret_of(channel))
    settings: dict[str, Any] = {"max_body_bytes": 65536, "env": "development", **modes}
    return Route(tenant("salon", own), **settings)


def sample(channel: str) -> bytes:
    return body_of(channel, SAMPLES.get(channel, "text"))


def would_refuse(channel: str) -> float:
    found = REGISTRY.get_sample_value("turnout_webhooks_would_refuse_total", {"channel": channel})
    return found or 0.0


async def unsigned(route: Route, channel: str, body: bytes) -> int:
    headers = {b"webhook-id": b"m"} if channel == "events" else {}
    return int(
        (await route.call([part(body)], path=f"/webhooks/{channel}/salon", headers=headers))[0]["status"]
    )


@pytest.mark.parametrize("channel", CHANNELS)
async def test_signature_on_refuses_what_is_not_signed(channel: str) -> None:
    route = route_of(channel)

    assert await unsigned(route, channel, sample(channel)) == 401
    assert route.inbox.rows == []


@pytest.mark.parametrize("channel", CHANNELS)
async def test_signature_off_takes_it_in_and_counts_what_would_be_refused(channel: str) -> None:
    route, before = route_of(channel, strict_webhook_signature=False), would_refuse(channel)

    assert await unsigned(route, channel, sample(channel)) == PROVIDERS[channel].answers.success
    assert [row.fate.value for row in route.inbox.rows] == ["published"]
    assert would_refuse(channel) == before + 1


@pytest.mark.parametrize("channel", CHANNELS)
async def test_signature_off_does_not_count_what_is_signed(channel: str) -> None:
    route, before = route_of(channel, strict_webhook_signature=False), would_refuse(channel)

    assert (await route.deliver(channel, sample(channel), secret_of(channel)))[0] < 300
    assert would_refuse(channel) == before


@pytest.mark.parametrize(("on", "status"), [(True, 401), (False, 404)])
@pytest.mark.parametrize("path", ["/webhooks/calcom/nobody", "/webhooks/pager/salon", "/webhooks/max/salon"])
async def test_tenant_config_decides_what_an_unknown_tenant_or_channel_looks_like(
    path: str, on: bool, status: int
) -> None:
    route = route_of("calcom", strict_tenant_config=on)

    assert (await route.deliver("calcom", b"{}", path=path))[0] == status


@pytest.mark.parametrize(("on", "fate"), [(True, "wrong_tenant"), (False, "published")])
@pytest.mark.parametrize("channel", NAMING_AN_ACCOUNT)
async def test_tenant_config_decides_about_an_account_where_none_is_set(
    channel: str, on: bool, fate: str
) -> None:
    own = channel_of(channel, None, secret_of(channel))
    route = Route(tenant("salon", own), strict_tenant_config=on, env="development", max_body_bytes=65536)

    assert (await route.deliver(channel, sample(channel), secret_of(channel)))[0] == 200
    assert [row.fate.value for row in route.inbox.rows] == [fate]


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("channel", NAMING_AN_ACCOUNT)
async def test_tenant_config_never_lets_another_account_in(channel: str, on: bool) -> None:
    route = route_of(channel, account="999999999", strict_tenant_config=on)

    assert (await route.deliver(channel, sample(channel), secret_of(channel)))[0] == 200
    assert [row.fate.value for row in route.inbox.rows] == ["wrong_tenant"]


@pytest.mark.parametrize(("on", "status", "fate"), [(True, 400, "quarantined"), (False, 202, "published")])
async def test_inbound_schema_decides_about_a_field_that_the_catalogue_does_not_know(
    on: bool, status: int, fate: str
) -> None:
    fact = value_of("events", "payment_received")
    fact["data"]["unforeseen"] = 1
    route = route_of("events", strict_inbound_schema=on)

    assert (await route.deliver("events", json.dumps(fact).encode(), secret_of("events")))[0] == status
    assert [row.fate.value for row in route.inbox.rows] == [fate]


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("channel", [channel for channel in CHANNELS if channel != "events"])
async def test_inbound_schema_leaves_providers_alone_who_add_fields_as_they_like(
    channel: str, on: bool
) -> None:
    body = json.loads(sample(channel))
    body["unforeseen"] = 1
    route = route_of(channel, strict_inbound_schema=on)

    assert (await route.deliver(channel, json.dumps(body).encode(), secret_of(channel)))[0] < 300
    assert [row.fate.value for row in route.inbox.rows] == ["published"]


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("channel", CHANNELS)
async def test_inbound_schema_off_takes_in_nothing_that_cannot_be_read(channel: str, on: bool) -> None:
    route = route_of(channel, strict_inbound_schema=on, strict_webhook_signature=False)
    status = await unsigned(route, channel, b"no json")

    assert status == PROVIDERS[channel].answers.quarantined
    assert [row.fate.value for row in route.inbox.rows] == ["quarantined"]


def test_page_names_every_mode_with_its_default_and_every_channel() -> None:
    modes = [name for name in IngestSettings.model_fields if name.startswith("strict_")]

    assert len(modes) == 3
    for mode in modes:
        assert f"TURNOUT_{mode.upper()}" in PAGE
        assert IngestSettings.model_fields[mode].default is True
    assert [channel for channel in CHANNELS if f"`{channel}`" not in PAGE] == []
