"""Exactly once, one transaction, found again, nothing dropped, nobody stopped (design §2) in the booking service."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.infrastructure import Database
from tests.integration.booking_world import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    START,
    Booking,
    Event,
    booking,
    booking_on,
    fact,
    life,
    message,
    new_tenant,
    person,
    record_of,
)
from tests.integration.probe import until
from tests.integration.test_booking_flows import set_settings
from tests.integration.test_booking_order import batches, salon_day
from turnout_booking.batch import MOST_ITEMS
from turnout_booking.domain import rules
from turnout_booking.moved import Moved
from turnout_booking.operations import WATCHES
from turnout_booking.refold import refold
from turnout_common import metrics
from turnout_common.events import BookingEvent, BookingTrigger, MessagePlanned, parse_event
from turnout_common.ids import new_id
from turnout_common.tenants import UnknownTenant


@pytest.fixture(scope="module")
async def world(database: Database) -> AsyncIterator[Booking]:
    async with booking_on(database) as service:
        yield service


def counted(metric: Any, *labels: str) -> float:
    value = metric.labels(*labels)._value.get()
    assert isinstance(value, float)
    return value


async def rows_of(world: Booking, tenant_id: str) -> tuple[int, ...]:
    tables = ("booking_events", "outbox", "outbound", "chains", "intents", "facts", "parked", "clients")
    return tuple([
        await world.admin.fetchval(f"SELECT count(*) FROM booking.{table} WHERE tenant_id = $1", tenant_id)
        for table in tables
    ])  # fmt: skip


async def test_redelivery_of_everything_changes_nothing(world: Booking, tenant_id: str) -> None:
    events = salon_day(tenant_id)
    records = [record_of(event) for event in events]
    consumer = world.consumers["inbound_webhooks"]
    await consumer.process(records)
    before, duplicates = await rows_of(world, tenant_id), counted(metrics.DUPLICATES, "inbound_webhooks")
    await consumer.process(records)
    for record in records:
        await consumer.process([record])

    assert await rows_of(world, tenant_id) == before
    assert counted(metrics.DUPLICATES, "inbound_webhooks") - duplicates == 2 * len(records)


async def test_the_same_item_under_another_record_id_is_no_second_one(world: Booking, tenant_id: str) -> None:
    """A replay that lost its `applied` rows: the chain's own set of keys refuses it (design §2.2)."""
    events = salon_day(tenant_id)
    await world.apply(*events)
    before, picture = await rows_of(world, tenant_id), await world.picture(tenant_id)
    again: list[Event] = [event.model_copy(update={"item_id": new_id()}) for event in events]
    random.Random(1).shuffle(again)
    await world.apply(*again)
    await world.one_by_one(*(event.model_copy(update={"item_id": new_id()}) for event in again))

    assert await rows_of(world, tenant_id) == before
    assert await world.picture(tenant_id) == picture


async def test_a_batch_that_fails_at_its_end_leaves_no_part_of_itself(
    world: Booking, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    async def fail_twice(*_: Any) -> None:
        seen.append(await rows_of(world, tenant_id))
        if len(seen) < 3:
            raise asyncpg.DeadlockDetectedError("planted after everything was written")

    monkeypatch.setattr("turnout_booking.linking.park", fail_twice)
    retries = counted(metrics.BATCH_RETRIES, "inbound_webhooks")
    await world.apply(*life(tenant_id))

    assert counted(metrics.BATCH_RETRIES, "inbound_webhooks") - retries == 2
    assert [sum(rows) for rows in seen] == [0, 0, 0]
    assert await world.types(tenant_id) == [
        "created", "confirmed", "rescheduled", "rescheduled", "no_show", "no_show_reverted", "cancelled",
    ]  # fmt: skip


async def test_versions_have_no_gaps_and_the_last_one_is_what_is_stored(
    world: Booking, tenant_id: str
) -> None:
    for batch in batches(salon_day(tenant_id), random.Random(7)):
        await world.apply(*batch)
    rows = await world.admin.fetch(
        "SELECT entity_kind, entity_id, version, payload FROM booking.booking_events WHERE tenant_id = $1"
        " ORDER BY entity_id, seq", tenant_id,
    )  # fmt: skip
    last: dict[UUID, Any] = {}
    for row in rows:
        previous = last.get(row["entity_id"])
        assert row["version"] == (previous["version"] + 1 if previous else 1)
        last[row["entity_id"]] = row
    stored = await world.admin.fetch(
        "SELECT booking_id AS id, version, state FROM booking.chains WHERE tenant_id = $1 UNION ALL"
        " SELECT intent_id, version, state FROM booking.intents WHERE tenant_id = $1 UNION ALL"
        " SELECT fact_id, version, state FROM booking.facts WHERE tenant_id = $1", tenant_id,
    )  # fmt: skip

    assert len(stored) == len(last)
    for row in stored:
        assert (row["version"], json.loads(row["state"])) == (
            last[row["id"]]["version"],
            json.loads(last[row["id"]]["payload"]),
        )


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_in(inner)


def string_schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "string":
            yield schema
        for inner in schema.values():
            yield from string_schemas(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from string_schemas(inner)


@pytest.mark.parametrize("model", [BookingEvent, MessagePlanned])
def test_payloads_can_hold_bounded_strings_only(model: Any) -> None:
    bounds = {"maxLength", "enum", "const", "format"}
    unbounded = [
        schema for schema in string_schemas(model.model_json_schema())
        if not bounds & schema.keys() and not re.fullmatch(r"\^.*(\{\d+(,\d+)?\})?\$", schema.get("pattern", ""))
    ]  # fmt: skip

    assert unbounded == []


async def test_no_contact_and_no_text_is_in_what_is_published_or_folded(
    world: Booking, tenant_id: str
) -> None:
    client = person("+49123canary", "canary@mail.example")
    canaries = [
        client.phone_hash,
        client.email_hash,
        "sealed",
        message(tenant_id, "canary-chat", NOW).chat_hash,
    ]
    await world.apply(
        message(tenant_id, "canary-chat", NOW - MINUTE, phone="+49123canary", text_sealed="sealed-text"),
        *life(tenant_id, contact=client, notes_sealed="sealed-note"),
        booking(tenant_id, "created", "coming", NOW, contact=client),
        booking(tenant_id, "no_show_updated", "parked", NOW, None, no_show=True, contact=client),
    )
    texts = [
        str(row["text"])
        for table, column in (
            ("booking_events", "payload"), ("outbox", "payload"), ("outbound", "payload"), ("chains", "state"),
            ("intents", "state"), ("facts", "state"), ("parked", "item"),
        )
        for row in await world.admin.fetch(f"SELECT {column} AS text FROM booking.{table} WHERE tenant_id = $1", tenant_id)
    ]  # fmt: skip
    texts += [
        row["item"]
        for row in await world.admin.fetch(
            "SELECT i.item FROM booking.chain_items i JOIN booking.chains c USING (booking_id) WHERE c.tenant_id = $1",
            tenant_id,
        )
    ]

    assert len(texts) > 20
    assert [canary for canary in canaries if any(str(canary) in text for text in texts)] == []


async def test_a_booking_without_end_goes_to_the_dead_letters_and_its_neighbours_are_applied(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(booking(tenant_id, "created", "O", NOW))
    chain_id = (await world.chain(tenant_id))["booking_id"]
    filler = "SELECT $1::uuid, gen_random_uuid(), replace(item, left(item, 42), left(item, 8) || replace(gen_random_uuid()::text, '-', '') || '\",') FROM booking.chain_items, generate_series(2, $2) WHERE booking_id = $1"
    assert (
        await world.admin.fetchval(
            "SELECT left(item, 8) FROM booking.chain_items WHERE booking_id = $1::uuid", chain_id
        )
        == '{"key":"'
    )
    await world.admin.execute(f"INSERT INTO booking.chain_items {filler}", UUID(chain_id), MOST_ITEMS)
    one_more, neighbour = fact(tenant_id, "admin.reply", NOW, "O"), booking(tenant_id, "created", "N", NOW)
    await world.apply(one_more, neighbour)

    assert await world.outcomes(one_more, neighbour) == ["dead", "applied"]
    (reason,) = await world.admin.fetch(
        "SELECT reason FROM booking.dead_letters WHERE tenant_id = $1", tenant_id
    )
    assert "more than 2000 items" in reason["reason"]


async def test_what_was_lost_after_publishing_is_published_again_as_it_was(
    world: Booking, tenant_id: str
) -> None:
    await world.apply(message(tenant_id, "chat", NOW - HOUR, phone="+491"))
    await world.apply(booking(tenant_id, "created", "O", NOW - MINUTE, contact=person("+491")))
    sent = await world.admin.fetch("DELETE FROM booking.outbox WHERE tenant_id = $1 RETURNING *", tenant_id)
    async with world.pool.acquire() as connection:
        for watch in WATCHES:
            walked = await connection.fetch(watch.walk, 0, HOUR * 0, 100_000)
            assert [row["seq"] for row in walked] == sorted(row["seq"] for row in walked)
            ids = {row["record_id"] for row in walked}
            await connection.execute(watch.republish, [r["record_id"] for r in sent if r["record_id"] in ids])
    again = await world.admin.fetch("SELECT * FROM booking.outbox WHERE tenant_id = $1", tenant_id)

    def told(rows: list[asyncpg.Record]) -> dict[UUID, object]:
        return {
            row["record_id"]: (
                *(row[name] for name in ("topic", "key", "type", "source", "subject", "occurred_at")),
                parse_event(row["type"], row["payload"].encode()),
            )
            for row in rows
        }

    assert {row["type"] for row in sent} >= {"booking.confirmed", "booking.intent_closed", "message.planned"}
    assert told(again) == told(sent)


async def test_refolding_an_unchanged_set_writes_nothing(world: Booking, tenant_id: str) -> None:
    await world.apply(*salon_day(tenant_id))
    before = await rows_of(world, tenant_id)
    done = await refold(world.pool, tenant_id, everything=True, clock=world.clock)

    assert (done.chains, done.events) == (2, 0)
    assert await rows_of(world, tenant_id) == before


async def test_a_changed_rule_is_applied_to_stored_items(
    world: Booking, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.apply(
        booking(tenant_id, "created", "O", NOW - 3 * DAY, NOW - DAY),
        booking(tenant_id, "meeting_ended", "O", NOW - DAY + HOUR, NOW - DAY),
    )
    name = str(BookingTrigger.MEETING_ENDED)
    completes = replace(rules.RULES_BY_NAME[name], effects=(rules.Effect.COMPLETE,))
    monkeypatch.setitem(rules.RULES_BY_NAME, name, completes)
    monkeypatch.setattr("turnout_booking.tenant_rules.REVISION", rules.REVISION + 1)
    progress: list[tuple[int, int]] = []
    done = await refold(world.pool, tenant_id, lambda *figures: progress.append(figures), clock=world.clock)
    again = await refold(world.pool, tenant_id, clock=world.clock)

    assert ((done.chains, done.events), (again.chains, again.events)) == ((1, 1), (0, 0))
    assert (await world.chain(tenant_id))["status"] == "completed"
    assert (await world.types(tenant_id))[-1] == "changed"
    assert progress == [(1, 1)]


async def test_changed_settings_are_applied_to_stored_bookings(world: Booking, database: Database) -> None:
    tenant_id = await new_tenant(database)
    await world.apply(booking(tenant_id, "created", "O", NOW, staff_ref="host"))
    await world.upkeep.refold_changed()
    await set_settings(database, tenant_id, {"staff_map": {"host": "anna"}})
    await world.upkeep.refold_changed()

    assert (await world.chain(tenant_id))["staff_id"] == "anna"
    assert (await world.intents(tenant_id))[0]["staff_id"] == "anna"
    assert await world.types(tenant_id) == ["created", "confirmed", "changed"]


async def test_a_tenants_broken_settings_stop_nobody_and_are_made_good(
    world: Booking, database: Database
) -> None:
    broken, other = await new_tenant(database), await new_tenant(database)
    await set_settings(database, broken, {"quiet_from": "never"})
    await world.apply(
        booking(broken, "created", "O", NOW, staff_ref="host"), booking(other, "created", "O", NOW)
    )
    await world.upkeep.refold_changed()

    assert (await world.chain(broken))["staff_id"] is None
    assert (await world.chain(other))["status"] == "confirmed"
    await set_settings(database, broken, {"staff_map": {"host": "anna"}})
    await world.upkeep.refold_changed()
    assert (await world.chain(broken))["staff_id"] == "anna"


async def test_refold_of_a_tenant_that_is_not_there_says_so(world: Booking) -> None:
    with pytest.raises(UnknownTenant):
        await refold(world.pool, "nobody")


async def test_consumers_on_the_same_chains_at_once_end_as_one_alone_would(
    world: Booking, database: Database
) -> None:
    """Three of them, batches of three tenants mixed: no deadlock, and the state of a single one."""
    alone = await new_tenant(database)
    await world.one_by_one(*sorted(salon_day(alone), key=lambda event: event.occurred_at))
    expected = await world.picture(alone)
    async with booking_on(database) as second, booking_on(database) as third:
        for seed in range(6):
            tenants = [await new_tenant(database) for _ in range(3)]
            cut = batches([event for tenant in tenants for event in salon_day(tenant)], random.Random(seed))

            async def run(service: Booking, mine: list[list[Event]]) -> None:
                for batch in mine:
                    await service.apply(*batch)

            services = (world, second, third)
            await asyncio.gather(*(run(service, cut[n::3]) for n, service in enumerate(services)))
            await world.upkeep.link_parked()

            for tenant in tenants:
                assert await world.picture(tenant) == expected
    deadlocks = await world.admin.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    assert deadlocks == 0


async def test_a_chain_that_another_consumer_merges_meanwhile_is_found_again(
    world: Booking, database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch reads a ref, waits for the chain's lock, and finds that the ref moved: it starts over."""
    await world.apply(booking(tenant_id, "created", "O", NOW - 3 * DAY))
    await world.apply(booking(tenant_id, "created", "N", NOW - 2 * DAY, START + DAY))
    written, may_commit = asyncio.Event(), asyncio.Event()
    again: list[Moved] = []

    async def hold_the_first(*_: Any) -> None:
        if not written.is_set():
            written.set()
            await may_commit.wait()

    def start_over(self: Moved, moved: Moved) -> Moved:
        again.append(moved)
        return Moved()

    monkeypatch.setattr("turnout_booking.linking.park", hold_the_first)
    monkeypatch.setattr(Moved, "widened", start_over)
    merging = booking(tenant_id, "rescheduled", "N", NOW - DAY, START + DAY, previous_uid="O")
    async with booking_on(database) as second:
        tasks = [asyncio.create_task(world.apply(merging))]
        await written.wait()
        tasks.append(
            asyncio.create_task(second.apply(booking(tenant_id, "cancelled", "N", NOW, START + DAY)))
        )
        await until_blocked(world, 1)
        may_commit.set()
        await asyncio.gather(*tasks)

    state = await world.chain(tenant_id)
    assert (state["uid"], state["status"], state["moves"]) == ("N", "cancelled", 1)
    assert len(again) == 1


async def until_blocked(world: Booking, count: int) -> None:
    """Waits until so many of booking's sessions wait for a lock."""
    query = "SELECT count(*) >= $1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async def blocked() -> bool:
        return bool(await world.admin.fetchval(query, count))

    await until(blocked, f"{count} sessions that wait for a lock")
