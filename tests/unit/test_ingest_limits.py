"""Limits of the route: what one tenant, and one stranger, may ask; and whom they never hit."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from tests.webhook_fixtures import ROUTING_IDS, body_of
from tests.webhook_route import Route, channel_of, part, tenant
from turnout_common.client_address import Proxies, is_near
from turnout_common.http_protocol import ConnectionLimits
from turnout_ingest import limits
from turnout_ingest.acceptance import Row
from turnout_ingest.inbox import Inbox, InboxFull
from turnout_ingest.limits import Bucket, Refusals
from turnout_ingest.providers.provider import Fate

TEXT = body_of("telegram", "text")
BOOKING = body_of("calcom", "created_sparse")


def salons() -> list[Any]:
    return [tenant(name, channel_of("calcom"), channel_of("telegram")) for name in ("salon", "other")]


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=2.0, burst=3.0)

    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.5), bucket.take(100.5)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_clock_that_is_set_back_fills_no_bucket() -> None:
    bucket = Bucket(rate=1.0, burst=1.0)

    assert [bucket.take(100.0), bucket.take(0.0), bucket.take(0.9), bucket.take(1.0)] == [
        True,
        False,
        False,
        True,
    ]


async def test_tenant_over_its_rate_is_429_with_retry_after_and_others_are_not() -> None:
    route = Route(*salons(), tenant_requests_per_second=1, tenant_request_burst=3)

    statuses = [(await route.deliver("telegram", TEXT))[0] for _ in range(5)]
    other = (await route.deliver("telegram", TEXT, path="/webhooks/telegram/other"))[0]
    route.clock.pass_by(1)
    later = (await route.deliver("telegram", TEXT))[0]

    assert statuses == [200, 200, 200, 429, 429]
    assert (other, later) == (200, 200)
    assert len(route.inbox.rows) == 5


async def test_rate_is_the_tenants_over_all_channels_and_survives_a_new_configuration() -> None:
    both = [channel_of("telegram"), channel_of("max")]
    route = Route(tenant("salon", *both), tenant_requests_per_second=1, tenant_request_burst=2)

    first = (await route.deliver("telegram", TEXT))[0]
    second = (await route.deliver("max", body_of("max", "text")))[0]
    route.directory.tenants["salon"] = tenant("salon", *both)
    sent = await route.call(
        [part(TEXT)],
        path="/webhooks/telegram/salon",
        headers={b"x-telegram-bot-api-secret-token": b"route-secret"},
    )

    assert (first, second, sent[0]["status"]) == (200, 200, 429)
    assert (b"retry-after", b"1") in sent[0]["headers"]


async def test_unverified_requests_use_up_no_ones_rate() -> None:
    route = Route(tenant_requests_per_second=1, tenant_request_burst=1, refusals_per_minute=0)

    refused = [(await route.deliver("telegram", TEXT, "wrong"))[0] for _ in range(5)]

    assert refused == [401] * 5
    assert (await route.deliver("telegram", TEXT))[0] == 200


async def test_calcom_is_never_told_to_come_later() -> None:
    route = Route(tenant_requests_per_second=1, tenant_request_burst=1, refusals_per_minute=2)

    refused = [(await route.deliver("calcom", BOOKING, "wrong"))[0] for _ in range(5)]
    accepted = [(await route.deliver("calcom", BOOKING))[0] for _ in range(5)]

    assert refused == [401] * 5
    assert accepted == [202] * 5


@pytest.mark.parametrize("setting", ["tenant_requests_per_second", "refusals_per_minute"])
async def test_zero_switches_a_limit_off(setting: str) -> None:
    route = Route(**{"tenant_request_burst": 1, setting: 0})

    if setting == "refusals_per_minute":
        assert [(await route.deliver("telegram", TEXT, "wrong"))[0] for _ in range(50)] == [401] * 50
    else:
        assert [(await route.deliver("telegram", TEXT))[0] for _ in range(5)] == [200] * 5


async def test_who_was_refused_too_often_is_429_before_the_body_is_read_until_the_minute_has_passed() -> None:
    route = Route(refusals_per_minute=3)
    refused = [(await route.deliver("telegram", TEXT, "wrong"))[0] for _ in range(3)]
    reads = route.reads
    route.clock.pass_by(20)

    sent = await route.call([part(TEXT)], path="/webhooks/telegram/salon")

    assert refused == [401] * 3
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"retry-after"]) == (429, b"40")
    assert route.reads == reads
    route.clock.pass_by(40)
    assert (await route.deliver("telegram", TEXT))[0] == 200


async def test_one_salons_wrong_secret_locks_out_no_other_salon_and_no_other_address() -> None:
    """All salons' webhooks of a provider come from the same few addresses."""
    route = Route(*salons(), refusals_per_minute=3)
    for _ in range(5):
        await route.deliver("telegram", TEXT, "wrong")

    locked_out = (await route.deliver("telegram", TEXT))[0]
    other_salon = (await route.deliver("telegram", TEXT, path="/webhooks/telegram/other"))[0]
    other_address = (await route.deliver("telegram", TEXT, address="203.0.113.8"))[0]

    assert (locked_out, other_salon, other_address) == (429, 200, 200)


def sharing(channel: str) -> Route:
    """Two salons on one callback, `own` and `wrong`, whose secret is not what the provider signs with."""
    names = {"own": "101", "wrong": "202"}
    given = [
        tenant(name, channel_of(channel, account, f"secret of {name}", "code"))
        for name, account in names.items()
    ]
    return Route(*given, refusals_per_minute=3)


def delivery(channel: str, account: str) -> bytes:
    value = json.loads(body_of(channel, "text"))
    if channel == "vk":
        return json.dumps(value | {"group_id": int(account)}).encode()
    return json.dumps(value).replace(ROUTING_IDS[channel], account).encode()


async def shared(route: Route, channel: str, account: str, secret: str) -> int:
    path = f"/webhooks/{channel}"
    return (await route.deliver(channel, delivery(channel, account), secret, path=path))[0]


@pytest.mark.parametrize("channel", ["whatsapp", "vk"])
async def test_one_salons_wrong_secret_keeps_no_other_salon_off_a_shared_callback(channel: str) -> None:
    route = sharing(channel)
    assert await shared(route, channel, "101", "secret of own") == 200

    refused = [await shared(route, channel, "202", "not its secret") for _ in range(5)]

    assert refused == [401, 401, 401, 429, 429]
    assert await shared(route, channel, "101", "secret of own") == 200
    route.clock.pass_by(60)
    assert await shared(route, channel, "202", "secret of wrong") == 200


async def test_deliveries_of_a_salon_that_has_left_keep_no_other_off_a_shared_callback() -> None:
    route = sharing("whatsapp")
    assert await shared(route, "whatsapp", "101", "secret of own") == 200

    gone = [await shared(route, "whatsapp", "303", "secret of nobody") for _ in range(5)]

    assert gone == [401] * 5
    assert await shared(route, "whatsapp", "101", "secret of own") == 200


@pytest.mark.parametrize("hours_ago", [None, 1])
async def test_address_that_has_not_verified_for_an_hour_waits_before_its_body_is_read(
    hours_ago: int | None,
) -> None:
    route = sharing("whatsapp")
    if hours_ago:
        assert await shared(route, "whatsapp", "101", "secret of own") == 200
        route.clock.pass_by(hours_ago * 3600)

    refused = [await shared(route, "whatsapp", "303", "guess") for _ in range(3)]
    reads = route.reads

    assert refused == [401] * 3
    assert await shared(route, "whatsapp", "303", "guess") == 429
    assert route.reads == reads


async def test_secret_is_guessed_no_faster_where_deliveries_are_trusted() -> None:
    """A stranger behind the same proxy as the provider: what one salon can be asked is what it can be on its own path."""
    route = sharing("vk")
    assert await shared(route, "vk", "101", "secret of own") == 200

    guesses = [await shared(route, "vk", "202", f"guess {n}") for n in range(4)]
    own_path = (await route.deliver("vk", delivery("vk", "202"), "guess", path="/webhooks/vk/wrong"))[0]

    assert guesses == [401, 401, 401, 429]
    assert own_path == 429


async def test_verify_token_is_guessed_no_faster_where_deliveries_are_trusted() -> None:
    route = sharing("whatsapp")
    assert await shared(route, "whatsapp", "101", "secret of own") == 200
    query = "hub.mode=subscribe&hub.challenge=1&hub.verify_token=guess"

    guesses = [(await route.get("/webhooks/whatsapp", query))[0] for _ in range(4)]

    assert guesses == [403, 403, 403, 429]
    assert await shared(route, "whatsapp", "101", "secret of own") == 200


async def test_shared_callback_forgives_what_a_salon_was_refused_once_its_secret_is_right() -> None:
    route = sharing("vk")

    for _ in range(3):
        assert [await shared(route, "vk", "202", "wrong") for _ in range(2)] == [401] * 2
        assert await shared(route, "vk", "202", "secret of wrong") == 200


def test_trusted_keys_fill_no_memory_and_a_clock_that_is_set_back_trusts_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MOST_KEYS", 2)
    refusals = Refusals(1)
    one, two, three = [(name, "whatsapp", "") for name in ("one", "two", "three")]
    for key in (one, two, three):
        refusals.trust(key, 1000.0)

    for key in (one, two, three):
        refusals.note(key, 1000.0)
        assert (refusals.wait(key, 1001.0) == 0.0) is (key != one)
    refusals.note(two, 900.0)
    assert refusals.wait(two, 901.0) == 59.0


class Small:
    """An inbox that has room for so many rows at a time, and takes them at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: list[Row] = []

    async def accept(self, rows: list[Row]) -> list[Fate]:
        if len(rows) > self.most:
            raise InboxFull
        self.rows += rows
        return [row.fate for row in rows]


async def test_body_of_more_items_than_may_wait_is_taken_in() -> None:
    """Refused, it is refused for ever: a provider sends the same again."""
    own = tenant("salon", channel_of("whatsapp", "101"))
    value = json.loads(delivery("whatsapp", "101"))
    messages = value["entry"][0]["changes"][0]["value"]["messages"]
    value["entry"][0]["changes"][0]["value"]["messages"] = [
        messages[0] | {"id": f"wamid.{n}"} for n in range(105)
    ]
    route = Route(own, inbox_queue_items=20, max_body_bytes=1024 * 1024)
    small = Small(20)
    route.endpoint._inbox = cast(Inbox, small)

    status, _ = await route.deliver("whatsapp", json.dumps(value).encode())

    assert (status, len({row.item_id for row in small.rows})) == (200, 105)
    assert [row.fate for row in small.rows] == [Fate.PUBLISHED] * 105


async def test_who_signs_is_forgiven_what_was_refused_before() -> None:
    route = Route(refusals_per_minute=3)

    for _ in range(5):
        assert [(await route.deliver("telegram", TEXT, "wrong"))[0] for _ in range(2)] == [401] * 2
        assert (await route.deliver("telegram", TEXT))[0] == 200


async def test_guesses_of_names_are_counted_together() -> None:
    route = Route(refusals_per_minute=3)

    tenants = [(await route.deliver("telegram", TEXT, path=f"/webhooks/telegram/t{n}"))[0] for n in range(5)]
    channels = [(await route.deliver("telegram", TEXT, path=f"/webhooks/c{n}/salon"))[0] for n in range(5)]
    aliased = [(await route.deliver("telegram", TEXT, path=f"/webhooks/vkmax/t{n}"))[0] for n in range(5)]

    assert tenants == channels == aliased == [401, 401, 401, 429, 429]
    assert (await route.deliver("telegram", TEXT))[0] == 200


async def test_path_that_does_not_exist_forgives_nobody() -> None:
    route = Route(refusals_per_minute=3)

    statuses = []
    for number in range(4):
        statuses.append((await route.deliver("telegram", TEXT, path=f"/webhooks/pager/t{number}"))[0])
        await route.deliver("telegram", TEXT, path="/webhooks/pager")

    assert statuses == [401, 401, 401, 429]


async def test_guesses_of_a_handshake_are_counted() -> None:
    meta = tenant("salon", channel_of("whatsapp", "1", handshake="token"))
    route = Route(meta, refusals_per_minute=3)
    query = "hub.mode=subscribe&hub.challenge=1&hub.verify_token="

    guesses = [(await route.get("/webhooks/whatsapp/salon", query + "guess"))[0] for _ in range(4)]
    names = [(await route.get(f"/webhooks/whatsapp/t{n}", query + "token"))[0] for n in range(4)]

    assert guesses == [403, 403, 403, 429]
    assert names == [401, 401, 401, 429]
    assert (await route.get("/webhooks/whatsapp", query + "token"))[0] == 200


async def test_who_has_a_network_of_ipv6_is_one_sender() -> None:
    """Under its 64 bits everybody may take an address for each request."""
    route = Route(refusals_per_minute=3)

    statuses = [
        (await route.deliver("telegram", TEXT, "wrong", address=f"2001:db8:0:1::{n:x}"))[0]
        for n in range(1, 6)
    ]

    assert statuses == [401, 401, 401, 429, 429]
    assert (await route.deliver("telegram", TEXT, address="2001:db8:0:2::1"))[0] == 200


def test_connections_of_one_network_of_ipv6_are_counted_together() -> None:
    connections = ConnectionLimits(100, 2, Proxies(""))
    one, other = "2606:4700:0:1::", "2606:4700:0:2::1"

    assert [connections.enter(f"{one}{n}") is None for n in (1, 2, 3)] == [True, True, False]
    assert connections.enter(other) is None
    connections.leave(f"{one}1")
    assert connections.enter(f"{one}3") is None
    for address in (f"{one}2", f"{one}3", other):
        connections.leave(address)
    assert (connections._all, connections._of) == (0, {})


async def test_address_is_taken_from_a_trusted_proxy_and_from_nobody_else() -> None:
    behind = Route(refusals_per_minute=2, trusted_proxies="10.0.0.0/8")
    direct = Route(refusals_per_minute=2)

    async def after_refusals(route: Route) -> int:
        for _ in range(3):
            await route.deliver("telegram", TEXT, "wrong", address="10.0.0.1", forwarded_for="203.0.113.9")
        return (await route.deliver("telegram", TEXT, address="10.0.0.1", forwarded_for="203.0.113.1"))[0]

    assert (await after_refusals(behind), await after_refusals(direct)) == (200, 429)


def test_strangers_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_KEYS", 100)
    refusals = Refusals(2)

    for number in range(1000):
        refusals.note((str(number), "telegram", "salon"), float(number % 50))

    assert len(refusals.known) == 100


def test_who_goes_on_being_refused_is_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_KEYS", 2)
    refusals = Refusals(2)
    one, two, three = [(name, "telegram", "salon") for name in ("one", "two", "three")]

    for key in (one, two, one, three):
        refusals.note(key, 0.0)

    assert refusals.wait(one, 1.0) == 59.0


def test_clock_that_is_set_back_locks_nobody_out_for_longer() -> None:
    refusals, key = Refusals(2), ("a", "telegram", "salon")
    refusals.note(key, 1000.0)

    assert [refusals.note(key, at) for at in (500.0, 501.0)] == [False, True]
    assert refusals.wait(key, 400.0) == 0.0


def test_window_that_has_passed_begins_anew() -> None:
    refusals, key = Refusals(2), ("a", "telegram", "salon")

    assert [refusals.note(key, 0.0), refusals.note(key, 59.0)] == [False, True]
    assert [refusals.wait(key, at) for at in (59.0, 59.9)] == [1.0, pytest.approx(0.1)]
    assert refusals.wait(key, 60.0) == 0.0
    assert [refusals.note(key, 61.0), refusals.wait(key, 61.0)] == [False, 0.0]


PROXIES = Proxies("10.0.0.0/8, 2001:db8::5")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.1", "198.51.100.1", "203.0.113.1"),
        ("10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", "198.51.100.1, 10.2.2.2", "198.51.100.1"),
        ("10.1.1.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("::ffff:10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8::5", "2001:db8::77", "2001:db8::77"),
        ("10.1.1.1", "198.51.100.1, nonsense", "10.1.1.1"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", None, "10.1.1.1"),
        (None, "198.51.100.1", "unknown"),
    ],
)
def test_client_is_the_last_address_that_a_proxy_of_ours_saw(
    peer: str | None, forwarded: str | None, client: str
) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded is not None else []

    assert PROXIES.client(peer, headers) == client


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1", True), ("::1", True), ("10.0.0.1", True), ("192.168.1.1", True), ("fd00::1", True),
        ("::ffff:127.0.0.1", True), ("8.8.8.8", False), ("::ffff:8.8.8.8", False), ("2a00::1", False), ("x", False),
    ],
)  # fmt: skip
def test_near_is_this_machine_or_a_private_network(address: str, near: bool) -> None:
    assert is_near(address) is near


async def test_each_worker_gives_its_part_of_a_tenants_rate() -> None:
    """The kernel spreads connections over them, and they share no memory."""
    route = Route(workers=2, tenant_requests_per_second=2, tenant_request_burst=4)

    at_once = [(await route.deliver("telegram", TEXT))[0] for _ in range(3)]
    route.clock.pass_by(1)
    later = [(await route.deliver("telegram", TEXT))[0] for _ in range(2)]

    assert (at_once, later) == ([200, 200, 429], [200, 429])
