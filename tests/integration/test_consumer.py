"""The batch consumer on a real Kafka and Postgres: each record takes effect once, and a poison record stops nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.consumer_probe import Probe, dead, has, start_probe
from tests.integration.probe import add_probe_schema, consent, create_topic, envelope_of, publish, until
from turnout_common.dead_letters import PoisonFlood
from turnout_common.kafka import create_producer


@pytest.fixture(scope="module", autouse=True)
async def schema(database: Database) -> None:
    await add_probe_schema(database)


@pytest.fixture
async def probe(
    database: Database, infrastructure: Infrastructure, request: pytest.FixtureRequest
) -> AsyncIterator[Probe]:
    async with start_probe(
        database, infrastructure, f"{request.node.name}.{consent().item_id.hex[:12]}."
    ) as started:
        yield started


async def test_each_record_takes_effect_once_though_it_is_delivered_again(probe: Probe) -> None:
    item = consent()
    last = consent()

    await publish(probe.kafka, probe.topic, item, item)
    await publish(probe.kafka, probe.topic, item, last)
    await until(lambda: has(probe, last.item_id), "the last record")

    assert (await probe.effects()).count(item.item_id) == 1


async def test_poison_value_is_dead_lettered_and_its_neighbours_are_applied(probe: Probe) -> None:
    before, after = consent(), consent()

    ids = await publish(probe.kafka, probe.topic, before, b"{not json", after)
    await until(lambda: has(probe, after.item_id), "the record behind the poison")
    await until(lambda: dead(probe, 1), "the dead letter")

    found = (await probe.dead())[0]
    assert found["record_id"] == ids[1]
    assert found["reason"].startswith("inbound.consent: body: json_invalid")
    assert await probe.applied(ids) == {ids[0]: "applied", ids[1]: "dead", ids[2]: "applied"}


async def test_header_that_is_not_text_stops_nobody(probe: Probe) -> None:
    good = consent()
    producer = create_producer(probe.kafka, "test")
    await producer.start()
    await producer.send_and_wait(probe.topic, b"{}", key=b"salon", headers=[("ce_id", b"\xff\xfe")])
    await producer.stop()

    await publish(probe.kafka, probe.topic, good)
    await until(lambda: has(probe, good.item_id), "the record behind the bad header")

    assert "ce_id" in (await probe.dead())[0]["reason"]


async def test_record_that_the_handler_cannot_apply_is_found_among_its_neighbours(probe: Probe) -> None:
    items = [consent() for _ in range(40)]
    probe.poison = {items[17].item_id}

    await publish(probe.kafka, probe.topic, *items)
    await until(lambda: has(probe, items[-1].item_id), "the last record")
    await until(lambda: dead(probe, 1), "the dead letter")

    good = [item.item_id for item in items if item is not items[17]]
    assert [e for e in await probe.effects() if e in {i.item_id for i in items}] == good
    assert (await probe.dead())[0]["record_id"] == items[17].item_id
    assert (await probe.dead())[0]["reason"] == "ValueError: planted poison"


async def test_transient_failure_is_tried_again_and_never_dead_letters(probe: Probe) -> None:
    probe.transient_failures = 3
    item = consent()

    await publish(probe.kafka, probe.topic, item)
    await until(lambda: has(probe, item.item_id), "the record after three deadlocks")

    assert probe.transient_failures == 0
    assert await probe.dead() == []


async def test_unknown_event_type_is_ignored_and_noted(probe: Probe) -> None:
    strange, good = consent(), consent()
    envelope = envelope_of(strange)
    producer = create_producer(probe.kafka, "test")
    await producer.start()
    headers = [(n, b"inbound.from_the_future" if n == "ce_type" else v) for n, v in envelope.headers()]
    await producer.send_and_wait(probe.topic, b"{}", key=b"salon", headers=headers)
    await producer.stop()

    await publish(probe.kafka, probe.topic, good)
    await until(lambda: has(probe, good.item_id), "the record behind the unknown type")

    assert await probe.applied([strange.item_id]) == {strange.item_id: "ignored"}


async def test_dead_letter_is_replayed_once_after_the_fault_is_mended(probe: Probe) -> None:
    item = consent()
    probe.poison = {item.item_id}
    await publish(probe.kafka, probe.topic, item)
    await until(lambda: dead(probe, 1), "the dead letter")

    probe.poison = set()
    await probe.pool.execute(
        "UPDATE probe.dead_letters SET replay_requested_at = now() WHERE record_id = $1", item.item_id
    )
    await until(lambda: has(probe, item.item_id), "the replayed record")

    assert (await probe.effects()).count(item.item_id) == 1
    assert await probe.applied([item.item_id]) == {item.item_id: "applied"}
    assert (await probe.dead())[0]["replayed_at"] is not None


async def test_flood_of_bad_records_of_one_tenant_does_not_stop_the_others(probe: Probe) -> None:
    good = consent("calm")

    await publish(probe.kafka, probe.topic, *[b"broken"] * 130, good)
    await until(lambda: has(probe, good.item_id), "the other tenant's record")
    await until(lambda: dead(probe, 130), "130 dead letters")

    assert not probe.consumer.fatal.done()


async def test_flood_of_bad_records_of_three_tenants_stops_the_consumer_before_it_passes_over_them(
    database: Database, infrastructure: Infrastructure
) -> None:
    async with start_probe(database, infrastructure, f"flood.{consent().item_id.hex[:12]}.") as probe:
        producer = create_producer(probe.kafka, "test")
        await producer.start()
        for number in range(150):
            item = consent(f"tenant-{number % 3}")
            await producer.send(probe.topic, b"broken", key=b"same", headers=envelope_of(item).headers())
        await producer.flush()
        await producer.stop()

        with pytest.raises(PoisonFlood, match="in a row of 3 tenants"):
            await probe.consumer.fatal

        committed = await probe.consumer._subscriber.consumer.committed(
            next(iter(probe.consumer._subscriber.consumer.assignment()))
        )
        assert (committed or 0) < 150


async def test_new_group_starts_at_the_earliest_record_and_goes_on_where_it_stopped(
    database: Database, infrastructure: Infrastructure
) -> None:
    prefix = f"restart.{consent().item_id.hex[:12]}."
    first, second, third = consent(), consent(), consent()
    async with start_probe(database, infrastructure, prefix) as probe:
        await publish(probe.kafka, probe.topic, first)
        await until(lambda: has(probe, first.item_id), "the first record")
    await publish(infrastructure.kafka, prefix + "in", second)
    async with start_probe(database, infrastructure, prefix, create=False) as probe:
        await publish(probe.kafka, probe.topic, third)
        await until(lambda: has(probe, third.item_id), "the third record")
        await until(lambda: has(probe, second.item_id), "the record published while nobody read")

        assert (await probe.effects()).count(first.item_id) == 1


async def test_record_that_was_published_before_anybody_read_is_read(
    database: Database, infrastructure: Infrastructure
) -> None:
    prefix = f"before.{consent().item_id.hex[-12:]}."
    first = consent()
    await create_topic(infrastructure.kafka, prefix + "in", partitions=2)
    await publish(infrastructure.kafka, prefix + "in", first)
    async with start_probe(database, infrastructure, prefix, create=False) as probe:
        await until(lambda: has(probe, first.item_id), "the record published before")


async def test_idle_partitions_are_marked_as_read_until_now(probe: Probe) -> None:
    async def marked() -> bool:
        rows = await probe.pool.fetch(
            "SELECT partition, partitions FROM probe.read_marks WHERE topic = 'in' AND read_until > now() - interval '10 s'"
        )
        return {row["partition"] for row in rows} == {0, 1} and rows[0]["partitions"] == 2

    await until(marked, "a fresh mark on both partitions")

    assert probe.consumer.marks.lag == 0
