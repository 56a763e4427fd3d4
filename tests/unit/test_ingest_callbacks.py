"""GET handshakes, callbacks that tenants share, and the alias: who gets what, and who gets nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.webhook_fixtures import KEYS, NOON, ROUTING_IDS, body_of, names, value_of
from tests.webhook_route import Route, channel_of, part, tenant
from turnout_cli.webhooks import whatsapp
from turnout_common.events.values import Channel
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Delivery, Fate, Headers

QUERY = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="
META = ("whatsapp", "instagram")
ONE, TWO, THREE = "310000000000001", "310000000000002", "310000000000003"
CLIENT = whatsapp.Client("493023125000", "Igor")


def salons(*secrets: str) -> list[Any]:
    """Tenants one, two, three with a number each."""
    named = zip(("one", "two", "three"), (ONE, TWO, THREE), secrets, strict=False)
    return [tenant(name, channel_of("whatsapp", account, secret)) for name, account, secret in named]


def batch(*accounts: str) -> bytes:
    """One POST of Meta with a text to each number."""
    bodies = [
        json.loads(whatsapp.text(whatsapp.Number(account, "1"), CLIENT, f"wamid.{n}", NOON, "hi").body)
        for n, account in enumerate(accounts)
    ]
    return json.dumps({"object": whatsapp.OBJECT, "entry": [e for b in bodies for e in b["entry"]]}).encode()


def kept(route: Route) -> list[tuple[str, str]]:
    return sorted((row.tenant_id, row.fate.value) for row in route.inbox.rows)


@pytest.mark.parametrize("channel", META)
async def test_handshake_that_holds_is_answered_with_the_challenge_alone(channel: str) -> None:
    route = Route(tenant("salon", channel_of(channel, "1", handshake="verify-me")))

    status, text, headers = await route.get(f"/webhooks/{channel}/salon", QUERY + "verify-me")

    assert (status, text) == (200, b"1158201444")
    assert headers[b"content-type"].startswith(b"text/plain")


@pytest.mark.parametrize(
    "query",
    [
        QUERY + "other",
        QUERY,
        "",
        "hub.challenge=1&hub.verify_token=verify-me",
        "hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=verify-me",
        QUERY + "verify-me" + "&a=1" * 30,
        "hub.mode=subscribe&hub.challenge=%3Cscript%3E&hub.verify_token=verify-me",
        "%ff%fe",
    ],
)
@pytest.mark.parametrize("path", ["/webhooks/whatsapp/salon", "/webhooks/whatsapp"])
async def test_handshake_that_does_not_hold_is_403_and_echoes_nothing(path: str, query: str) -> None:
    route = Route(tenant("salon", channel_of("whatsapp", "1", handshake="verify-me")))

    assert (await route.get(path, query))[:2] == (403, b"")


async def test_channel_without_a_verify_token_confirms_no_callback() -> None:
    route = Route(tenant("salon", channel_of("whatsapp", "1")))

    for query in (QUERY, QUERY + "None", QUERY + "verify-me"):
        assert (await route.get("/webhooks/whatsapp/salon", query))[0] == 403


async def test_shared_callback_knows_every_tenants_verify_token() -> None:
    route = Route(
        tenant("one", channel_of("whatsapp", ONE, handshake="first")),
        tenant("two", channel_of("whatsapp", TWO, handshake="second")),
        tenant("gone", channel_of("whatsapp", THREE, handshake="third"), status="suspended"),
    )

    statuses = [(await route.get("/webhooks/whatsapp", QUERY + t))[0] for t in ("first", "second", "third")]

    assert statuses == [200, 200, 403]


async def test_handshake_of_an_unknown_tenant_looks_like_a_bad_signature() -> None:
    assert (await Route().get("/webhooks/whatsapp/nobody", QUERY))[0] == 401


@pytest.mark.parametrize(
    ("path", "method", "status", "allow"),
    [
        ("/webhooks/calcom/salon", "GET", 405, b"POST"),
        ("/webhooks/vk/salon", "GET", 405, b"POST"),
        ("/webhooks/vk", "GET", 405, b"POST"),
        ("/webhooks/vkmax/salon", "GET", 405, b"POST"),
        ("/webhooks/whatsapp/salon", "HEAD", 405, b"GET, POST"),
        ("/webhooks/whatsapp", "OPTIONS", 405, b"GET, POST"),
        ("/webhooks/whatsapp", "DELETE", 405, b"GET, POST"),
        ("/webhooks/telegram", "GET", 404, None),
        ("/webhooks/telegram", "POST", 404, None),
    ],
)
async def test_methods(path: str, method: str, status: int, allow: bytes | None) -> None:
    found, text, headers = await Route().get(path, method=method)

    assert (found, text, headers.get(b"allow")) == (status, b"", allow)


async def test_shared_delivery_gives_each_tenant_its_own_items_in_one_commit() -> None:
    route = Route(*salons("app", "app"))

    status, _ = await route.deliver("whatsapp", batch(ONE, TWO, ONE), "app", path="/webhooks/whatsapp")

    assert status == 200
    assert kept(route) == [("one", "published"), ("one", "published"), ("two", "published")]
    assert route.inbox.calls == 1


async def test_tenant_whose_secret_does_not_hold_gets_nothing() -> None:
    route = Route(*salons("app", "other app", "app"))

    status, _ = await route.deliver("whatsapp", batch(TWO, ONE, THREE), "app", path="/webhooks/whatsapp")

    assert status == 200
    # Of the second's item nobody can say that it is true, nor that it may see it.
    assert kept(route) == [("one", "published"), ("one", "wrong_tenant"), ("three", "published")]


async def test_account_of_nobody_is_kept_once_under_the_first_that_is_verified() -> None:
    route = Route(*salons("app", "app"))

    await route.deliver("whatsapp", batch("399999999999999", TWO, ONE), "app", path="/webhooks/whatsapp")

    assert kept(route) == [("one", "published"), ("one", "wrong_tenant"), ("two", "published")]


async def test_part_that_names_no_account_is_kept_once() -> None:
    body = json.loads(batch(ONE, TWO))
    body["entry"].append({"id": "1", "changes": [{"field": "messages", "value": "nothing"}]})
    route = Route(*salons("app", "app"))

    await route.deliver("whatsapp", json.dumps(body).encode(), "app", path="/webhooks/whatsapp")

    assert sum(row.fate is not Fate.PUBLISHED for row in route.inbox.rows) == 1
    assert len(route.inbox.rows) == 3


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[", b"\xff", batch("399999999999999"), batch(ONE), b'{"object":"page"}'],
    ids=["empty", "object", "no json", "no text", "unknown account", "wrong secret", "other object"],
)
async def test_shared_delivery_that_nobody_verifies_is_401_and_leaves_nothing(body: bytes) -> None:
    route = Route(*salons("app", "app"))

    assert await route.deliver("whatsapp", body, "forged", path="/webhooks/whatsapp") == (401, b"")
    assert route.inbox.calls == 0


async def test_suspended_tenant_gets_nothing_on_a_shared_callback() -> None:
    suspended = tenant("one", channel_of("whatsapp", ONE, "app"), status="suspended")
    route = Route(suspended, *salons("", "app")[1:])

    await route.deliver("whatsapp", batch(ONE, TWO), "app", path="/webhooks/whatsapp")

    assert kept(route) == [("two", "published"), ("two", "wrong_tenant")]


async def test_one_look_is_enough_for_tenants_of_one_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a stranger who names a thousand salons makes us hash three megabytes a thousand times."""
    provider, looks = PROVIDERS["whatsapp"], 0
    real = provider.verify

    def counting(headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: Any) -> bool:
        nonlocal looks
        looks += 1
        return real(headers, body, secrets, now)

    monkeypatch.setattr(provider, "verify", counting)
    one_app = [tenant(f"t{n}", channel_of("whatsapp", str(10**14 + n), "app")) for n in range(60)]
    many_apps = [tenant(f"u{n}", channel_of("whatsapp", str(2 * 10**14 + n), f"app {n}")) for n in range(60)]
    route = Route(*one_app, *many_apps, max_body_bytes=1024 * 1024)

    status, _ = await route.deliver(
        "whatsapp", batch(*(str(10**14 + n) for n in range(60))), "app", path="/webhooks/whatsapp"
    )
    assert (status, looks) == (200, 1)

    looks = 0
    accounts = [str(2 * 10**14 + n) for n in range(60)]
    assert (await route.deliver("whatsapp", batch(*accounts), "forged", path="/webhooks/whatsapp"))[0] == 401
    assert looks == 16


async def test_shared_delivery_is_429_only_when_every_tenant_of_it_is_over_its_rate() -> None:
    route = Route(*salons("app", "app"), tenant_requests_per_second=1, tenant_request_burst=1)

    one = (await route.deliver("whatsapp", batch(ONE), "app", path="/webhooks/whatsapp"))[0]
    again = (await route.deliver("whatsapp", batch(ONE), "app", path="/webhooks/whatsapp"))[0]
    both = (await route.deliver("whatsapp", batch(ONE, TWO), "app", path="/webhooks/whatsapp"))[0]

    assert (one, again, both) == (200, 429, 200)


async def test_switched_off_signature_takes_a_shared_delivery_in_for_all_that_it_names() -> None:
    route = Route(*salons("app", "other"), strict_webhook_signature=False, env="development")

    status, _ = await route.deliver("whatsapp", batch(ONE, TWO), "forged", path="/webhooks/whatsapp")

    assert (status, kept(route)) == (200, [("one", "published"), ("two", "published")])


async def test_vk_groups_share_a_callback_and_each_confirms_with_its_own_code() -> None:
    groups = [
        tenant(name, channel_of("vk", group, f"secret of {name}", f"code-{name}"))
        for name, group in (("one", "501"), ("two", "502"))
    ]
    route = Route(*groups)
    body = b'{"type":"confirmation","group_id":502}'

    assert await route.deliver("vk", body, "secret of two", path="/webhooks/vk") == (200, b"code-two")
    assert await route.deliver("vk", body, "secret of one", path="/webhooks/vk") == (401, b"")


def vkmax() -> Route:
    return Route(
        tenant("salon", channel_of("vk", ROUTING_IDS["vk"], handshake="code"), channel_of("max")),
        tenant("only-max", channel_of("max")),
    )


@pytest.mark.parametrize(("channel", "text"), [("vk", b"ok"), ("max", b"")])
async def test_alias_takes_in_what_the_channel_itself_would(channel: str, text: bytes) -> None:
    route = vkmax()

    answer = await route.deliver(channel, body_of(channel, "text"), path="/webhooks/vkmax/salon")

    assert answer == (200, text)
    assert [(row.channel, row.fate) for row in route.inbox.rows] == [(channel, Fate.PUBLISHED)]


@pytest.mark.parametrize(
    ("path", "body", "secret"),
    [
        ("/webhooks/vkmax/salon", body_of("vk", "text"), "wrong"),
        ("/webhooks/vkmax/salon", body_of("max", "text"), "wrong"),
        ("/webhooks/vkmax/salon", b"{}", "route-secret"),
        ("/webhooks/vkmax/salon", b"not json", "route-secret"),
        ("/webhooks/vkmax/only-max", body_of("vk", "text"), "route-secret"),
    ],
)
async def test_alias_lets_nothing_in_that_the_channel_would_not(path: str, body: bytes, secret: str) -> None:
    route = vkmax()
    headers = {b"x-max-bot-api-secret": secret.encode()}
    if body.startswith(b'{\n  "type"') or b'"group_id"' in body:
        body = json.dumps(json.loads(body) | {"secret": secret}).encode()

    sent = await route.call([part(body)], path=path, headers=headers)

    assert (sent[0]["status"], route.inbox.rows) == (401, [])


async def test_alias_of_a_tenant_with_neither_channel_is_401_before_the_body_is_read() -> None:
    route = Route()

    sent = await route.call([part(b"{")], path="/webhooks/vkmax/salon", stalls=True)

    assert (sent[0]["status"], route.reads) == (401, 0)


async def test_alias_is_a_shared_callback_for_vk() -> None:
    body = json.dumps(value_of("vk", "text")).encode()

    assert (await vkmax().deliver("vk", body, path="/webhooks/vkmax"))[0] == 200
    assert (await vkmax().deliver("max", body_of("max", "text"), path="/webhooks/vkmax"))[0] == 401


def nobody(*, template: bool = True) -> bytes:
    """A delivery that names no account: of a template's review, or of the App Dashboard's Test button."""
    return body_of("whatsapp", "template_status" if template else "test_event")


@pytest.mark.parametrize("body", [nobody(), nobody(template=False)], ids=["template", "test button"])
async def test_delivery_of_an_app_that_names_no_account_is_taken_in_and_ignored(body: bytes) -> None:
    """Refused, Meta sends it for a week."""
    route = Route(*salons("lone", "app", "app"))

    assert await route.deliver("whatsapp", body, "app", path="/webhooks/whatsapp") == (200, b"")
    assert kept(route) == [("three", "ignored")]


async def test_delivery_for_a_number_that_is_nobodys_any_more_is_taken_in_as_wrong_tenant() -> None:
    route = Route(*salons("app"))

    status, _ = await route.deliver("whatsapp", batch(TWO), "app", path="/webhooks/whatsapp")

    assert (status, kept(route)) == (200, [("one", "wrong_tenant")])


@pytest.mark.parametrize("strict", [True, False])
async def test_delivery_that_names_no_account_needs_a_signature_in_every_mode(strict: bool) -> None:
    route = Route(*salons("app"), strict_webhook_signature=strict, env="development")

    assert await route.deliver("whatsapp", nobody(), "forged", path="/webhooks/whatsapp") == (401, b"")
    assert route.inbox.calls == 0


async def test_delivery_that_names_an_account_is_verified_by_no_other_tenants_secret() -> None:
    route = Route(*salons("app", "other"))

    assert (await route.deliver("whatsapp", batch(ONE), "other", path="/webhooks/whatsapp"))[0] == 401
    assert route.inbox.calls == 0


def apps(number: int) -> list[Any]:
    """Tenants that have each an app of their own."""
    return [tenant(f"a{n:03}", channel_of("whatsapp", str(10**14 + n), f"own {n}")) for n in range(number)]


@pytest.mark.parametrize("body", [nobody(), nobody(template=False)], ids=["template", "test button"])
async def test_delivery_that_names_no_account_is_taken_in_for_whichever_of_many_apps_signed_it(
    body: bytes,
) -> None:
    route = Route(*apps(300), *salons("app", "app"))

    for secret in ("app", "own 16", "own 299"):
        assert (await route.deliver("whatsapp", body, secret, path="/webhooks/whatsapp"))[0] == 200
    assert (await route.deliver("whatsapp", body, "forged", path="/webhooks/whatsapp"))[0] == 401
    assert kept(route) == [("a016", "ignored"), ("a299", "ignored"), ("one", "ignored")]


async def test_stranger_makes_us_hash_no_more_for_many_apps_than_the_largest_body_for_a_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider, secrets_seen, hashed = PROVIDERS["whatsapp"], 0, 0
    real = provider.verify

    def counting(headers: Headers, body: bytes, secrets: tuple[bytes, ...], now: Any) -> bool:
        nonlocal secrets_seen, hashed
        secrets_seen += len(secrets)
        hashed += len(secrets) * len(body)
        return real(headers, body, secrets, now)

    monkeypatch.setattr(provider, "verify", counting)
    route = Route(*apps(300), max_body_bytes=1024 * 1024)
    large, larger = b" " * 1024 * 1024 + nobody(), b" " * (3 * 1024 * 1024 - 2000) + nobody()

    for body in (large, larger):
        secrets_seen = hashed = 0
        assert (await route.deliver("whatsapp", body, "forged", path="/webhooks/whatsapp"))[0] == 401
        assert secrets_seen >= 16 and hashed <= 16 * 3 * 1024 * 1024


async def test_group_of_nobody_is_refused_whoever_else_has_a_secret_at_vk() -> None:
    """VK has no apps: a secret is one group's."""
    route = Route(tenant("one", channel_of("vk", "204733001")))
    body = value_of("vk", "text") | {"group_id": 7}

    status, _ = await route.deliver("vk", json.dumps(body).encode(), path="/webhooks/vk")

    assert (status, route.inbox.calls) == (401, 0)


async def test_delivery_for_many_tenants_is_read_once_and_not_once_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand updates for a hundred tenants held the process up for half a minute."""
    provider, read = PROVIDERS["whatsapp"], 0
    real = provider.read  # type: ignore[attr-defined]

    def counting(*arguments: Any) -> Any:
        nonlocal read
        read += 1
        return real(*arguments)

    monkeypatch.setattr(provider, "read", counting)
    accounts = [str(10**14 + n) for n in range(30)]
    named = [tenant(f"t{n:02}", channel_of("whatsapp", account)) for n, account in enumerate(accounts)]
    route = Route(*named, max_body_bytes=1024 * 1024)

    await route.deliver("whatsapp", batch(*accounts, *accounts), path="/webhooks/whatsapp")

    assert (len(route.inbox.rows), read) == (60, 60)
    assert {row.fate for row in route.inbox.rows} == {Fate.PUBLISHED}


@pytest.mark.parametrize("channel", META)
async def test_shared_delivery_gives_the_items_that_each_tenants_own_delivery_would(channel: str) -> None:
    """Else a retry by the other callback would be taken for something new."""
    bodies = [value_of(channel, name) for name in names(channel) if name != "test_event"]
    entries = [entry for body in bodies for entry in body["entry"]]
    account, last = ROUTING_IDS[channel], "9"
    text = json.dumps({"object": bodies[0]["object"], "entry": entries})
    both = json.dumps(
        {"object": bodies[0]["object"], "entry": entries + json.loads(text.replace(account, last))["entry"]}
    )
    # The order of tenants is that of their accounts: what names none is kept under the first.
    salon, other = tenant("salon", channel_of(channel, account)), tenant("other", channel_of(channel, last))
    shared, alone = Route(salon, other, max_body_bytes=10**6), Route(salon, max_body_bytes=10**6)

    await shared.deliver(channel, both.encode(), path=f"/webhooks/{channel}")
    await alone.deliver(channel, text.encode(), path=f"/webhooks/{channel}/salon")

    told = [
        {
            (row.key_hash, row.content_hash, row.fate, row.event_type)
            for row in route.inbox.rows
            if row.tenant_id == "salon"
        }
        for route in (shared, alone)
    ]
    assert len(told[1]) > 5
    assert told[1] - told[0] == set()


async def test_delivery_with_too_many_updates_is_kept_once() -> None:
    body = json.loads(batch(ONE, TWO))
    body["entry"] += [body["entry"][0]] * 2000
    route = Route(*salons("app", "app"), max_body_bytes=1024 * 1024)

    status, _ = await route.deliver("whatsapp", json.dumps(body).encode(), "app", path="/webhooks/whatsapp")

    assert (status, kept(route)) == (200, [("one", "quarantined")])


def test_kept_bytes_of_a_part_are_json_whatever_numbers_it_has() -> None:
    """Infinite numbers are none: what is quarantined could not be released."""
    message = '{"id": "wamid.1", "timestamp": "x", "type": "text", "size": 1e999}'
    change = '{"field": "messages", "value": {"metadata": {"phone_number_id": "310044550066"}, "messages": [%s, %s]}}'
    text = '{"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [%s]}]}'

    body = (text % (change % (message, message))).encode()
    items = PROVIDERS["whatsapp"].items(
        Delivery(ChannelContext("salon", Channel.WHATSAPP, (), KEYS), {}, body, NOON)
    )

    for item in items:
        json.loads(item.raw, parse_constant=pytest.fail)
