"""`turnout reconcile calcom` against the mock of Cal.com's API, real Postgres and booking's own consumers: what was lost is
found and put in, and what comes after all changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.booking_world import Booking as BookingService
from tests.integration.booking_world import booking_on
from tests.integration.sender_world import MockProviders, mock_providers
from tests.integration.test_booking_any_history import named_by_place
from turnout_cli.errors import CommandError
from turnout_cli.reconcile_calcom import reconcile_calcom
from turnout_cli.webhooks import Webhook, calcom
from turnout_cli.webhooks.calcom_shapes import Booking, EventType, Guest, Host, instant
from turnout_common.events import parse_event
from turnout_common.events.values import Channel
from turnout_common.security import TenantKeys
from turnout_common.tenants import create_tenant, set_channel, tenant_keys
from turnout_ingest.acceptance import rows_of
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Delivery
from turnout_ingest.reconcile import Listed, rows_for, statements_of, take_in

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)
HOST, KIND = Host(4101, "Anna Weiss", "anna"), EventType(77001, "cut", "Haircut", 45, 4200)
SECRET, PATH = "reconcile-test-secret", "/_admin/calcom/bookings"


@dataclass
class Life:
    """What happened to one booking at Cal.com: its webhooks, and how it is listed at the end. `unlisted` are webhooks of
    which the list says nothing any more."""

    webhooks: list[Webhook]
    listed: list[dict[str, Any]]
    unlisted: int = 0


def guest(name: str) -> Guest:
    return Guest(name.title(), f"{name}@guest.example", f"+49302312{sum(map(ord, name)) % 10000:04d}", "de")


def booked(name: str, start: datetime, at: datetime) -> Booking:
    return Booking(f"uid-of-{name}", 1000 + len(name), start, HOST, KIND, guest(name), at)


def listed(booking: Booking, status: str, updated: datetime, **more: Any) -> dict[str, Any]:
    """The booking as `GET /v2/bookings` shows it."""
    who = booking.guest
    attendee = {
        "name": who.name,
        "email": who.email,
        "timeZone": who.timezone,
        "language": who.locale,
        "absent": False,
    }
    return {
        "id": booking.booking_id,
        "uid": booking.uid,
        "title": "Haircut",
        "status": status,
        "start": instant(booking.start),
        "end": instant(booking.end),
        "duration": 45,
        "eventTypeId": KIND.event_type_id,
        "eventType": {"id": KIND.event_type_id, "slug": KIND.slug},
        "hosts": [{"id": HOST.user_id, "name": HOST.name, "email": HOST.email, "username": HOST.handle}],
        "attendees": [attendee | {"phoneNumber": who.phone}],
        "bookingFieldsResponses": {"email": who.email, "name": who.name, "guests": []},
        "absentHost": False,
        "createdAt": instant(booking.booked_at),
        "updatedAt": instant(updated),
        "metadata": {},
    } | more


def kept() -> Life:
    booking = booked("kept", NOW + 5 * DAY, NOW - 2 * DAY)
    return Life(
        [calcom.created(booking, booking.booked_at)], [listed(booking, "accepted", booking.booked_at)]
    )


def moved() -> Life:
    old = booked("moved", NOW + 5 * DAY, NOW - 3 * DAY)
    new = replace(old, uid="uid-of-moved-2", start=NOW + 6 * DAY, booked_at=NOW - 2 * DAY)
    return Life(
        [calcom.created(old, old.booked_at), calcom.rescheduled(old, new, new.booked_at)],
        [
            listed(
                old, "cancelled", new.booked_at, rescheduledToUid=new.uid, rescheduledByEmail=old.guest.email
            ),
            listed(new, "accepted", new.booked_at, rescheduledFromUid=old.uid),
        ],
    )


def given_up() -> Life:
    booking, at = booked("cancelled", NOW + 5 * DAY, NOW - 3 * DAY), NOW - DAY
    webhooks = [calcom.created(booking, booking.booked_at), calcom.cancelled(booking, at)]
    return Life(webhooks, [listed(booking, "cancelled", at, cancelledByEmail=booking.guest.email)])


def refused() -> Life:
    booking, at = booked("refused", NOW + 5 * DAY, NOW - 3 * DAY), NOW - DAY
    webhooks = [calcom.requested(booking, booking.booked_at), calcom.rejected(booking, at)]
    return Life(webhooks, [listed(booking, "rejected", at)])


def waiting() -> Life:
    booking = booked("waiting", NOW + 5 * DAY, NOW - 3 * DAY)
    return Life(
        [calcom.requested(booking, booking.booked_at)], [listed(booking, "pending", booking.booked_at)]
    )


def absent() -> Life:
    booking, at = booked("absent", NOW - 2 * DAY, NOW - 4 * DAY), NOW - DAY
    shown = listed(booking, "accepted", at)
    shown["attendees"][0]["absent"] = True
    return Life([calcom.created(booking, booking.booked_at), calcom.no_show(booking, at)], [shown])


def seats() -> Life:
    """A class of two, of whom one gave up: the list does not say that they ever had a seat."""
    first, at = booked("seat", NOW + 5 * DAY, NOW - 3 * DAY), NOW - DAY
    second = replace(first, guest=guest("other"))
    webhooks = [
        seated(calcom.created(first, first.booked_at)),
        seated(calcom.created(second, first.booked_at)),
        seated(calcom.cancelled(second, at, by=HOST.email)),
    ]
    shown = listed(first, "accepted", at, cancelledByEmail=HOST.email)
    shown["attendees"][0] |= {"seatUid": "seat-1", "bookingFieldsResponses": {}}
    return Life(webhooks, [shown], unlisted=0b010)


def seated(webhook: Webhook) -> Webhook:
    body = json.loads(webhook.body)
    body["payload"]["seatsPerTimeSlot"] = 8
    return replace(webhook, body=json.dumps(body).encode())


LIVES: tuple[Callable[[], Life], ...] = (kept, moved, given_up, refused, waiting, absent, seats)


@dataclass
class World:
    """Ingest's tables and booking's consumers, with the mock of Cal.com."""

    database: Database
    booking: BookingService
    mock: MockProviders
    maintenance: asyncpg.Connection
    carried: int = 0

    async def tenant(self, *, token: bool = True) -> str:
        name = "c" + os.urandom(6).hex()
        connection = await asyncpg.connect(self.database.dsn("platform"))
        try:
            await create_tenant(connection, MASTER_KEY, name, "Europe/Berlin", actor="test")
            given = token_of(name) if token else None
            await set_channel(connection, MASTER_KEY, name, "calcom", secret=SECRET, api_token=given)
        finally:
            await connection.close()
        return name

    async def deliver(self, tenant_id: str, webhooks: Iterable[Webhook]) -> None:
        """What arrives of them, as ingest takes it in."""
        keys = await self.keys(tenant_id)
        context = ChannelContext(tenant_id, Channel.CALCOM, (), keys)
        for webhook in webhooks:
            rows = rows_of(PROVIDERS["calcom"], Delivery(context, {}, webhook.body, NOW))
            assert set(await take_in(self.maintenance, rows)) <= {"published", "duplicate"}
        await self.carry()

    async def keys(self, tenant_id: str) -> TenantKeys:
        return await tenant_keys(self.maintenance, MASTER_KEY, tenant_id)

    async def carry(self) -> None:
        """What was published goes to booking, as relay and Kafka would bring it."""
        rows = await self.booking.admin.fetch(
            "SELECT seq, kind, payload FROM ingest.inbox WHERE seq > $1 AND fate = 'published' ORDER BY seq",
            self.carried,
        )
        await self.booking.admin.execute("DELETE FROM ingest.outbox")
        for row in rows:
            event: Any = parse_event(f"inbound.{row['kind']}", row["payload"].encode())
            await self.booking.apply(event)
            self.carried = row["seq"]
        await self.booking.admin.execute(
            "DELETE FROM booking.read_marks"
        )  # records of tests are of another day

    async def show(self, tenant_id: str, bookings: Sequence[dict[str, Any]]) -> None:
        body = {"token": token_of(tenant_id), "bookings": list(bookings)}
        async with self.mock.session.put(self.mock.url + PATH, json=body) as answer:
            assert answer.status == 200

    async def behave(self, tenant_id: str, *behaviours: dict[str, Any]) -> None:
        body = {"token": token_of(tenant_id), "behaviours": list(behaviours)}
        async with self.mock.session.put(f"{self.mock.url}/_admin/calcom/behaviours", json=body) as answer:
            assert answer.status == 200

    async def calls(self, tenant_id: str) -> list[int]:
        """How the mock answered each request."""
        query = {"token": token_of(tenant_id)}
        async with self.mock.session.get(f"{self.mock.url}/_admin/calcom/calls", params=query) as answer:
            return [call["status"] for call in (await answer.json())["calls"]]

    async def picture(self, tenant_id: str) -> list[str]:
        """Everything that the tenant's items come to."""
        return named_by_place(await self.booking.picture(tenant_id))


def token_of(tenant_id: str) -> str:
    return f"cal_live_{tenant_id}"


@asynccontextmanager
async def _world(database: Database) -> AsyncIterator[World]:
    async with booking_on(database) as booking, mock_providers() as mock:
        maintenance = await asyncpg.connect(database.dsn("maintenance"))
        try:
            seen = await booking.admin.fetchval("SELECT coalesce(max(seq), 0) FROM ingest.inbox")
            yield World(database, booking, mock, maintenance, seen)
        finally:
            await maintenance.close()


@pytest.fixture
async def world(database: Database, command_environment: None) -> AsyncIterator[World]:
    async with _world(database) as made:
        made.booking.clock.at = NOW
        yield made


async def run(
    world: World, capsys: pytest.CaptureFixture[str], tenant_id: str | None, **options: Any
) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and report; the command has an event loop of its own."""
    capsys.readouterr()
    status = await asyncio.to_thread(
        lambda: reconcile_calcom(tenant=tenant_id, api=world.mock.url, as_json=True, **options)
    )
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("life", LIVES)
async def test_whatever_was_lost_of_a_booking_reconciling_gives_the_state_without_loss(
    world: World, capsys: pytest.CaptureFixture[str], life: Callable[[], Life]
) -> None:
    whole, made = await world.tenant(), life()
    await world.deliver(whole, made.webhooks)
    expected = await world.picture(whole)
    count = len(made.webhooks)
    for lost in (each for each in range(1, 2**count) if not each & made.unlisted):
        tenant_id = await world.tenant()
        arrived = [webhook for at, webhook in enumerate(made.webhooks) if not lost & 1 << at]
        await world.deliver(tenant_id, arrived)
        await world.show(tenant_id, made.listed)
        status, (gap,) = await run(world, capsys, tenant_id)
        await world.carry()

        assert await world.picture(tenant_id) == expected, f"lost {lost:0{count}b}"
        assert status == 0
        assert gap["injected"] == sum(gap["missing"].values())


async def test_a_booking_that_was_moved_is_not_taken_for_a_cancelled_one(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cal.com lists it as cancelled too."""
    tenant_id = await world.tenant()
    await world.show(tenant_id, moved().listed)
    await run(world, capsys, tenant_id)
    told = [json.loads(item["payload"])["trigger"] for item in await _items(world, tenant_id)]

    assert sorted(told) == ["created", "rescheduled"]


async def test_a_second_run_finds_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id = await world.tenant()
    lives = [life() for life in LIVES]
    await world.show(tenant_id, [row for life in lives for row in life.listed])
    _, (first,) = await run(world, capsys, tenant_id)
    _, (before_booking_read,) = await run(world, capsys, tenant_id)
    await world.carry()
    _, (after,) = await run(world, capsys, tenant_id)

    assert first["injected"] == sum(first["missing"].values()) > 8
    for again in (before_booking_read, after):
        assert (again["missing"], again["injected"]) == ({}, 0)
        assert again["known"] + again["recent"] == again["listed"] == 8


@pytest.mark.parametrize("life", LIVES)
async def test_a_webhook_that_arrives_after_all_changes_nothing(
    world: World, capsys: pytest.CaptureFixture[str], life: Callable[[], Life]
) -> None:
    whole, late, made = await world.tenant(), await world.tenant(), life()
    await world.deliver(whole, made.webhooks)
    await world.show(late, made.listed)
    await run(world, capsys, late)
    await world.carry()
    reconciled = await world.picture(late)
    await world.deliver(late, made.webhooks)

    assert await world.picture(late) == await world.picture(whole)
    assert made.unlisted or await world.picture(late) == reconciled


@pytest.mark.parametrize("life", LIVES)
async def test_before_or_after_the_webhooks_a_statement_of_the_list_comes_to_the_same(
    world: World, life: Callable[[], Life]
) -> None:
    """Cal.com's row is a moment older than the webhook about it."""
    made, pictures = life(), []
    for first in ("list", "webhooks"):
        tenant_id = await world.tenant()
        if first == "webhooks":
            await world.deliver(tenant_id, made.webhooks)
        keys = await world.keys(tenant_id)
        context = ChannelContext(tenant_id, Channel.CALCOM, (), keys)
        for row in made.listed:
            early = row | {
                "createdAt": instant(datetime.fromisoformat(row["createdAt"]) - timedelta(seconds=1.5))
            }
            booking = Listed.model_validate_json(json.dumps(early))
            statements = statements_of(booking, {}, keys, [each["uid"] for each in made.listed])
            delivery = Delivery(context, {}, json.dumps(early).encode(), NOW)
            assert set(await take_in(world.maintenance, rows_for(delivery, booking, statements))) == {
                "published"
            }
        await world.carry()
        if first == "list":
            await world.deliver(tenant_id, made.webhooks)
        pictures.append(await world.picture(tenant_id))

    assert pictures[0] == pictures[1]


async def test_a_list_of_the_past_texts_nobody(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id = await world.tenant()
    await world.show(tenant_id, [row for life in LIVES for row in life().listed])
    _, (gap,) = await run(world, capsys, tenant_id)
    await world.carry()

    assert gap["injected"] > 8
    assert await world.booking.told(tenant_id) == []


async def test_a_dry_run_tells_and_takes_nothing_in(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id = await world.tenant()
    await world.show(tenant_id, given_up().listed)
    status, (gap,) = await run(world, capsys, tenant_id, dry_run=True)

    assert (status, gap["missing"], gap["injected"]) == (0, {"booking": 2}, 0)
    assert await _items(world, tenant_id) == []


async def test_what_is_taken_in_is_an_item_as_any_other_of_its_own_kind(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id = await world.tenant()
    await world.show(tenant_id, kept().listed)
    await run(world, capsys, tenant_id)
    (item,) = await _items(world, tenant_id)
    raw = await world.booking.admin.fetchval(
        "SELECT sealed FROM ingest.raw_items WHERE item_id = $1", item["item_id"]
    )
    counts = await world.booking.admin.fetch(
        "SELECT fate, items FROM ingest.fates WHERE tenant_id = $1", tenant_id
    )
    seen = await world.booking.admin.fetchval(
        "SELECT last_at FROM ingest.last_seen WHERE tenant_id = $1", tenant_id
    )

    assert (item["event_type"], item["kind"], item["fate"]) == ("reconciled", "booking", "published")
    assert json.loads((await world.keys(tenant_id)).open("raw", raw)) == kept().listed[0]
    assert "guest.example" not in item["payload"]
    assert [tuple(row) for row in counts] == [("published", 1)]
    assert seen is None, "that we asked is no sign that the channel speaks"
    assert await world.booking.admin.fetchval(
        "SELECT count(*) FROM platform.audit_log WHERE tenant_id = $1 AND action = 'reconcile.calcom'",
        tenant_id,
    )


async def test_what_changed_a_moment_ago_is_left_for_the_next_run(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id = await world.tenant()
    just = (
        datetime.now(UTC).replace(microsecond=0) - MINUTE
    )  # NOW may be as old as the whole run of the tests
    fresh = booked("fresh", NOW + DAY, just)
    await world.show(tenant_id, [listed(fresh, "accepted", just)])
    _, (gap,) = await run(world, capsys, tenant_id)
    _, (later,) = await run(world, capsys, tenant_id, settled="0m")

    assert (gap["recent"], gap["injected"]) == (1, 0)
    assert later["injected"] == 1


async def test_what_waits_for_publishing_is_not_missing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id = await world.tenant()
    await world.show(tenant_id, kept().listed)
    await world.carry()
    await world.booking.admin.execute(
        "INSERT INTO ingest.outbox (item_id, created_at) VALUES (gen_random_uuid(), $1)", NOW - 6 * DAY
    )
    _, (gap,) = await run(world, capsys, tenant_id)
    await world.carry()

    assert (gap["recent"], gap["injected"]) == (1, 0)


async def test_only_what_changed_since_then_is_asked_for(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id = await world.tenant()
    await world.show(tenant_id, [*kept().listed, *given_up().listed])
    _, (gap,) = await run(world, capsys, tenant_id, since="36h")

    assert (gap["listed"], gap["missing"]) == (1, {"booking": 2})


async def test_every_page_is_read_and_limits_of_rate_are_kept_to(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id = await world.tenant()
    many = [booked(f"n{number}", NOW + DAY, NOW - DAY - number * MINUTE) for number in range(250)]
    await world.show(tenant_id, [listed(booking, "accepted", NOW - DAY) for booking in many])
    await world.behave(
        tenant_id, {"kind": "throttle", "times": 2, "retry_after": 0}, {"kind": "cut", "times": 1}
    )
    status, (gap,) = await run(world, capsys, tenant_id)

    assert (status, gap["listed"], gap["injected"]) == (0, 250, 250)
    assert await world.calls(tenant_id) == [429, 429, 0, 200, 200, 200]


async def test_a_list_that_is_not_read_to_its_end_is_told_by_the_exit_status(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = await world.tenant(), await world.tenant()
    await world.show(bad, kept().listed)
    await world.show(good, kept().listed)
    await world.behave(bad, {"kind": "revoked"})
    status, gaps = await run(world, capsys, None)
    by_tenant = {gap["tenant_id"]: gap for gap in gaps}

    assert status == 1
    assert (by_tenant[bad]["state"], by_tenant[bad]["injected"]) == ("failed", 0)
    assert (by_tenant[good]["state"], by_tenant[good]["injected"]) == ("done", 1)
    assert token_of(bad) not in json.dumps(gaps)


async def test_a_listed_booking_that_cannot_be_read_is_told_and_holds_up_no_other(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id = await world.tenant()
    await world.show(tenant_id, [*kept().listed, given_up().listed[0] | {"start": "soon"}])
    status, (gap,) = await run(world, capsys, tenant_id)

    assert (status, gap["unreadable"], gap["injected"]) == (1, 1, 1)
    assert "soon" not in json.dumps(gap)


async def test_a_tenant_without_a_key_is_named_and_not_taken_for_one_without_a_gap(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id = await world.tenant(token=False)
    await world.booking.admin.execute(
        "UPDATE platform.channels SET enabled = false WHERE channel = 'calcom' AND tenant_id <> $1", tenant_id
    )
    status, (gap,) = await run(world, capsys, None)

    assert (status, gap["tenant_id"], gap["state"]) == (1, tenant_id, "no_token")
    assert f"./turnout tenant channel set {tenant_id} calcom --api-token" in gap["detail"]
    with pytest.raises(CommandError, match="no API key"):
        await run(world, capsys, tenant_id)


async def test_a_salons_own_move_is_not_undone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id, made = await world.tenant(), kept()
    await world.deliver(tenant_id, made.webhooks)
    await world.booking.admin.execute(
        "UPDATE booking.chains SET start_at = start_at + interval '1 day', state = state || '{\"admin_actions\": 1}'"
        " WHERE tenant_id = $1", tenant_id,
    )  # fmt: skip
    await world.show(tenant_id, made.listed)
    _, (gap,) = await run(world, capsys, tenant_id)

    assert gap["missing"] == {}


async def test_a_time_that_our_chain_does_not_show_is_a_move_under_the_same_uid(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id, made = await world.tenant(), kept()
    await world.deliver(tenant_id, made.webhooks)
    for day in (1, 2):
        start = NOW + (5 + day) * DAY
        changed = made.listed[0] | {"start": instant(start), "end": instant(start + HOUR)}
        await world.show(tenant_id, [changed | {"updatedAt": instant(NOW - DAY + day * HOUR)}])
        _, (gap,) = await run(world, capsys, tenant_id)
        await world.carry()
        chain = await world.booking.chain(tenant_id)

        assert gap["missing"] == {"move": 1}
        assert datetime.fromisoformat(chain["start_at"]) == start


async def _items(world: World, tenant_id: str) -> list[Any]:
    return list(
        await world.booking.admin.fetch(
            "SELECT * FROM ingest.inbox WHERE tenant_id = $1 ORDER BY seq", tenant_id
        )
    )
