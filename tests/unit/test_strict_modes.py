"""docs/STRICT_MODES.md, row by row: what each mode does on every channel, on and off."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
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
MODES = [True, False]
#: Where a channel's sample says when it happened, or how much it was: what we read.
READ = {
    "calcom": ("payload", "startTime"),
    "events": ("data", "gross_minor"),
    "instagram": ("entry", 0, "messaging", 0, "timestamp"),
    "max": ("message", "timestamp"),
    "telegram": ("message", "date"),
    "vk": ("object", "message", "date"),
    "whatsapp": ("entry", 0, "changes", 0, "value", "messages", 0, "timestamp"),
}


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


def another_secret(channel: str) -> str:
    """One that is well-formed, and not the salon's."""
    return "whsec_YW5vdGhlciBzZWNyZXQgb2YgMzIgYnl0ZXMhISE=" if channel == "events" else "another-secret"


async def badly_signed(route: Route, channel: str, how: str) -> tuple[int, bytes]:
    """What is answered to a sample whose signature or secret is `missing`, `wrong` or `of another tenant`."""
    if how == "missing":
        return await unsigned(route, channel, sample(channel)), b""
    if how == "of another tenant":
        route.directory.tenants["other"] = tenant("other", channel_of(channel, "1", another_secret(channel)))
    return await route.deliver(channel, sample(channel), another_secret(channel))


def fates(route: Route) -> list[str]:
    return [row.fate.value for row in route.inbox.rows]


@pytest.mark.parametrize("on", MODES)
@pytest.mark.parametrize("channel", CHANNELS)
async def test_what_is_signed_is_taken_in_and_not_counted(channel: str, on: bool) -> None:
    route, before = route_of(channel, strict_webhook_signature=on), would_refuse(channel)

    status, _ = await route.deliver(channel, sample(channel), secret_of(channel))

    assert (status, fates(route)) == (PROVIDERS[channel].answers.success, ["published"])
    assert would_refuse(channel) == before


@pytest.mark.parametrize("how", ["missing", "wrong", "of another tenant"])
@pytest.mark.parametrize("channel", CHANNELS)
async def test_signature_on_refuses_what_is_not_signed_and_does_not_ask_the_database(
    channel: str, how: str
) -> None:
    route = route_of(channel)

    assert await badly_signed(route, channel, how) == (401, b"")
    assert (route.inbox.rows, route.inbox.calls) == ([], 0)


@pytest.mark.parametrize("how", ["missing", "wrong", "of another tenant"])
@pytest.mark.parametrize("channel", CHANNELS)
async def test_signature_off_takes_it_in_and_counts_what_would_be_refused(channel: str, how: str) -> None:
    route, before = route_of(channel, strict_webhook_signature=False), would_refuse(channel)

    assert (await badly_signed(route, channel, how))[0] == PROVIDERS[channel].answers.success
    assert [(row.tenant_id, row.fate.value) for row in route.inbox.rows] == [("salon", "published")]
    assert would_refuse(channel) == before + 1


@pytest.mark.parametrize(
    ("on", "answer", "kept"), [(True, (401, b""), []), (False, (200, b"ok"), ["quarantined"])]
)
async def test_signature_decides_about_a_body_of_vk_that_is_not_json(
    on: bool, answer: tuple[int, bytes], kept: list[str]
) -> None:
    route = route_of("vk", strict_webhook_signature=on)

    assert await route.deliver("vk", b"no json", secret_of("vk")) == answer
    assert fates(route) == kept


def shared_route(channel: str, *, on: bool) -> Route:
    """Two salons, each with an account and a secret of its own."""
    salons = [tenant(name, channel_of(channel, f"50{name}", f"secret of {name}")) for name in ("1", "2")]
    return Route(*salons, strict_webhook_signature=on, env="development", max_body_bytes=65536)


def to_accounts(channel: str, *accounts: str) -> bytes:
    """A sample for each of the accounts, in one body where the provider has such bodies."""
    told = json.loads(sample(channel))
    if channel == "vk":
        (account,) = accounts
        return json.dumps(told | {"group_id": int(account)}).encode()
    entries = []
    for account in accounts:
        (entry,) = copy.deepcopy(told["entry"])
        if channel == "instagram":
            entry["id"] = account
        else:
            entry["changes"][0]["value"]["metadata"]["phone_number_id"] = account
        entries.append(entry)
    return json.dumps(told | {"entry": entries}).encode()


async def shared(
    route: Route, channel: str, secret: str, *accounts: str
) -> tuple[int, list[tuple[str, str]]]:
    """Status, and whose the items are that were kept of a delivery to the callback that all tenants share."""
    body = to_accounts(channel, *accounts)
    status, _ = await route.deliver(channel, body, secret, path=f"/webhooks/{channel}")
    return status, sorted((row.tenant_id, row.fate.value) for row in route.inbox.rows)


@pytest.mark.parametrize("channel", NAMING_AN_ACCOUNT)
async def test_signature_on_gives_on_a_shared_callback_only_to_whose_secret_holds(channel: str) -> None:
    told = [("1", "published")]
    assert await shared(shared_route(channel, on=True), channel, "secret of 1", "501") == (200, told)
    assert await shared(shared_route(channel, on=True), channel, "secret of 2", "501") == (401, [])
    assert await shared(shared_route(channel, on=True), channel, "nobody's secret", "501") == (401, [])


@pytest.mark.parametrize("channel", ["whatsapp", "instagram"])
async def test_signature_on_keeps_of_a_shared_batch_under_whose_secret_holds_what_is_of_nobody_proven(
    channel: str,
) -> None:
    kept = [("1", "published"), ("1", "wrong_tenant")]
    for other in ("502", "599"):  # of a salon whose secret does not hold, and of none
        both = await shared(shared_route(channel, on=True), channel, "secret of 1", "501", other)
        assert both == (200, kept)

    nobodys = await shared(shared_route(channel, on=True), channel, "secret of 2", "599")
    assert nobodys == (200, [("2", "wrong_tenant")])


@pytest.mark.parametrize("channel", NAMING_AN_ACCOUNT)
async def test_signature_off_gives_on_a_shared_callback_to_every_tenant_that_the_body_names(
    channel: str,
) -> None:
    named = ("501",) if channel == "vk" else ("501", "502")
    route, before = shared_route(channel, on=False), would_refuse(channel)

    status, kept = await shared(route, channel, "nobody's secret", *named)

    assert (status, kept) == (200, [(account[-1], "published") for account in named])
    assert would_refuse(channel) == before + 1


@pytest.mark.parametrize(("on", "status"), [(True, 401), (False, 404)])
@pytest.mark.parametrize("path", ["/webhooks/calcom/nobody", "/webhooks/pager/salon", "/webhooks/max/salon"])
async def test_tenant_config_decides_what_an_unknown_tenant_or_channel_looks_like(
    path: str, on: bool, status: int
) -> None:
    route = route_of("calcom", strict_tenant_config=on)

    assert await route.deliver("calcom", b"{}", path=path) == (status, b"")


@pytest.mark.parametrize(("on", "status"), [(True, 401), (False, 404)])
@pytest.mark.parametrize("state", ["switched off", "suspended"])
@pytest.mark.parametrize("channel", CHANNELS)
async def test_tenant_config_decides_what_a_channel_looks_like_that_is_switched_off_or_suspended(
    channel: str, state: str, on: bool, status: int
) -> None:
    own = channel_of(channel, ROUTING_IDS.get(channel), secret_of(channel))
    changes = {"status": "suspended"} if state == "suspended" else {}
    own = replace(own, enabled=state != "switched off")
    route = Route(tenant("salon", own, **changes), strict_tenant_config=on, env="development")

    assert await route.deliver(channel, sample(channel), secret_of(channel)) == (status, b"")
    assert route.inbox.rows == []


@pytest.mark.parametrize(("on", "fate"), [(True, "wrong_tenant"), (False, "published")])
@pytest.mark.parametrize("channel", NAMING_AN_ACCOUNT)
async def test_tenant_config_decides_about_an_account_where_none_is_set(
    channel: str, on: bool, fate: str
) -> None:
    own = channel_of(channel, None, secret_of(channel))
    route = Route(tenant("salon", own), strict_tenant_config=on, env="development", max_body_bytes=65536)

    assert (await route.deliver(channel, sample(channel), secret_of(channel)))[0] == 200
    assert fates(route) == [fate]


@pytest.mark.parametrize("on", MODES)
@pytest.mark.parametrize("channel", NAMING_AN_ACCOUNT)
async def test_tenant_config_never_lets_another_account_in(channel: str, on: bool) -> None:
    route = route_of(channel, account="999999999", strict_tenant_config=on)

    assert (await route.deliver(channel, sample(channel), secret_of(channel)))[0] == 200
    assert fates(route) == ["wrong_tenant"]


@pytest.mark.parametrize(("on", "status", "fate"), [(True, 400, "quarantined"), (False, 202, "published")])
async def test_inbound_schema_decides_about_a_field_that_the_catalogue_does_not_know(
    on: bool, status: int, fate: str
) -> None:
    fact = value_of("events", "payment_received")
    fact["data"]["unforeseen"] = 1
    route = route_of("events", strict_inbound_schema=on)

    assert (await route.deliver("events", json.dumps(fact).encode(), secret_of("events")))[0] == status
    assert fates(route) == [fate]


def without(value: Any, path: tuple[str | int, ...]) -> None:
    """Takes out what stands at `path`."""
    for step in path[:-1]:
        value = value[step]
    del value[path[-1]]


def of_wrong_type(value: Any, path: tuple[str | int, ...]) -> None:
    """Puts at `path` what is neither a number nor a time."""
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = ["Canary"]


@pytest.mark.parametrize("on", MODES)
@pytest.mark.parametrize("spoil", [without, of_wrong_type])
@pytest.mark.parametrize("channel", CHANNELS)
async def test_inbound_schema_on_or_off_keeps_what_is_missing_or_of_a_wrong_type_in_quarantine(
    channel: str, spoil: Callable[[Any, tuple[str | int, ...]], None], on: bool
) -> None:
    route, body = route_of(channel, strict_inbound_schema=on), json.loads(sample(channel))
    spoil(body, READ[channel])
    status, _ = await route.deliver(channel, json.dumps(body).encode(), secret_of(channel))

    assert status == (400 if channel in ("calcom", "events") else PROVIDERS[channel].answers.success)
    assert fates(route) == ["quarantined"]


@pytest.mark.parametrize("on", MODES)
@pytest.mark.parametrize("channel", [channel for channel in CHANNELS if channel != "events"])
async def test_inbound_schema_leaves_providers_alone_who_add_fields_as_they_like(
    channel: str, on: bool
) -> None:
    body = json.loads(sample(channel))
    body["unforeseen"] = 1
    route = route_of(channel, strict_inbound_schema=on)

    assert (await route.deliver(channel, json.dumps(body).encode(), secret_of(channel)))[0] < 300
    assert fates(route) == ["published"]


@pytest.mark.parametrize("on", MODES)
@pytest.mark.parametrize("channel", CHANNELS)
async def test_inbound_schema_off_takes_in_nothing_that_cannot_be_read(channel: str, on: bool) -> None:
    route = route_of(channel, strict_inbound_schema=on, strict_webhook_signature=False)
    status = await unsigned(route, channel, b"no json")

    assert status == (400 if channel in ("calcom", "events") else PROVIDERS[channel].answers.success)
    assert fates(route) == ["quarantined"]


def test_page_names_every_mode_with_its_default_and_every_channel() -> None:
    modes = [name for name in IngestSettings.model_fields if name.startswith("strict_")]

    assert len(modes) == 3
    for mode in modes:
        assert f"TURNOUT_{mode.upper()}" in PAGE
        assert IngestSettings.model_fields[mode].default is True
    assert [channel for channel in CHANNELS if f"`{channel}`" not in PAGE] == []
