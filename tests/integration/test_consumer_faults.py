"""The batch consumer under attack: hostile records, faults of our own, and batches that are too much for one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from aiokafka import ConsumerRecord

from tests.infrastructure import Database, Infrastructure
from tests.integration.consumer_probe import Probe, dead, has, start_probe
from tests.integration.probe import add_probe_schema, consent, envelope_of, publish, until
from turnout_common import metrics
from turnout_common.dead_letters import POISON_ROW, PoisonFlood, Raw
from turnout_common.events.envelope import from_headers
from turnout_common.kafka import create_producer
from turnout_common.postgres import is_ours, is_transient

#: One that no consumer here has, so that none marks it as idle.
PARTITION = 7


@pytest.fixture(scope="module", autouse=True)
async def schema(database: Database) -> None:
    await add_probe_schema(database)


@pytest.fixture
async def probe(database: Database, infrastructure: Infrastructure) -> AsyncIterator[Probe]:
    async with start_probe(database, infrastructure, f"faults.{consent().item_id.hex[-12:]}.") as started:
        yield started


async def send_raw(probe: Probe, key: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
    producer = create_producer(probe.kafka, "test")
    await producer.start()
    try:
        await producer.send_and_wait(probe.topic, b"{}", key=key, headers=headers)
    finally:
        await producer.stop()


HOSTILE: dict[str, tuple[bytes | None, list[tuple[str, bytes | None]]]] = {
    "header without a value": (b"salon", [("ce_id", None)]),
    "stray header without a value": (b"salon", [*envelope_of(consent()).headers(), ("x", None)]),
    "NUL in the tenant": (
        b"salon",
        [(n, b"sa\x00lon" if n == "ce_tenantid" else v) for n, v in envelope_of(consent()).headers()],
    ),
    "NUL in the key": (b"sa\x00lon:x", []),
    "NUL in a header's name": (b"salon", [("ce_\x00id", b"1")]),
    "no key": (None, []),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_record_is_dead_lettered_and_stops_nobody(probe: Probe, name: str) -> None:
    good = consent()

    await send_raw(probe, *HOSTILE[name])
    await publish(probe.kafka, probe.topic, good)
    await until(lambda: has(probe, good.item_id), f"the record behind: {name}", seconds=10)
    await until(lambda: dead(probe, 1), "the dead letter", seconds=10)

    assert not probe.consumer.fatal.done()


async def test_tenant_of_a_dead_letter_is_a_tenant_or_unknown_so_that_no_label_is_a_strangers(
    probe: Probe,
) -> None:
    await send_raw(probe, b"Not A Tenant \xff", [])
    await send_raw(probe, b"salon:chat", [])
    await until(lambda: dead(probe, 2), "two dead letters")

    assert {row["tenant_id"] for row in await probe.dead()} == {"unknown", "salon"}


async def test_handler_that_fails_for_every_tenant_stops_the_consumer_though_records_come_one_by_one(
    probe: Probe,
) -> None:
    probe.fault = ValueError("a bug of ours")

    for number in range(POISON_ROW):
        await probe.consumer.process([record_of(probe, f"tenant-{number % 3}", number)])
    with pytest.raises(PoisonFlood, match="of 3 tenants"):
        await probe.consumer.process([record_of(probe, "tenant-0", POISON_ROW)])

    assert len(await probe.dead()) == POISON_ROW


async def test_record_that_is_applied_ends_a_row_of_failures(probe: Probe) -> None:
    for number in range(150):
        probe.fault = ValueError("poison") if number % 50 else None
        await probe.consumer.process([record_of(probe, f"tenant-{number % 3}", number)])

    assert len(await probe.dead()) == 147


@pytest.mark.parametrize(
    "fault",
    [
        asyncpg.UndefinedTableError("migration missing"),
        asyncpg.InsufficientPrivilegeError("grant missing"),
        asyncpg.InternalServerError("cache lookup failed"),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_fault_of_the_schema_is_no_fault_of_a_record_and_dead_letters_none(
    probe: Probe, fault: Exception
) -> None:
    probe.fault = fault
    records = [record_of(probe, "only-tenant", number) for number in range(5)]

    with pytest.raises(type(fault)):
        await probe.consumer.process(records)
    assert await probe.dead() == []

    probe.fault = None
    await probe.consumer.process(records)
    assert len(await probe.effects()) >= 5


async def test_batch_that_was_not_applied_is_not_committed_to_kafka_and_nothing_after_it_is_read(
    database: Database, infrastructure: Infrastructure
) -> None:
    prefix = f"fatal.{consent().item_id.hex[-12:]}."
    first, second = consent(), consent()
    async with start_probe(database, infrastructure, prefix) as probe:
        probe.fault = asyncpg.UndefinedTableError("migration missing")
        await publish(probe.kafka, probe.topic, first)
        await until(lambda: stopped(probe), "the consumer to stop")
        probe.fault = None
        await publish(probe.kafka, probe.topic, second)
        reading = probe.consumer._subscriber.consumer
        for _ in range(20):
            assert [await reading.committed(tp) for tp in reading.assignment()] == [None, None]
            assert not await has(probe, second.item_id)
            await asyncio.sleep(0.1)
    async with start_probe(database, infrastructure, prefix, create=False) as probe:
        await until(lambda: has(probe, first.item_id), "the record that stopped the consumer")
        await until(lambda: has(probe, second.item_id), "the record behind it")


async def test_two_consumers_with_the_same_records_in_opposite_order_do_not_deadlock(probe: Probe) -> None:
    records = [record_of(probe, "salon", number) for number in range(40)]
    records.sort(key=lambda record: from_headers(record.headers).id)
    middle = from_headers(records[20].headers).id
    retries = metrics.BATCH_RETRIES.labels("in")._value.get()
    async with probe.pool.acquire() as connection:
        holding = connection.transaction()
        await holding.start()
        await connection.execute("INSERT INTO probe.applied (record_id) VALUES ($1)", middle)
        both = [
            asyncio.create_task(probe.consumer.process(batch)) for batch in (records, list(reversed(records)))
        ]
        await until(lambda: blocked(probe, 2), "both to wait for a lock")
        await holding.rollback()
    await asyncio.gather(*both)

    assert metrics.BATCH_RETRIES.labels("in")._value.get() == retries
    assert len(await probe.effects()) >= 40


async def stopped(probe: Probe) -> bool:
    return probe.consumer.fatal.done()


async def blocked(probe: Probe, count: int) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return int(await probe.pool.fetchval(waiting)) == count


async def test_partition_is_marked_as_read_with_the_last_part_of_its_batch_only(probe: Probe) -> None:
    own_partition = PARTITION + 1
    records = [record_of(probe, "salon", number, own_partition) for number in range(4)]
    probe.faults_in_turn = [ValueError("halve it"), None, asyncpg.UndefinedTableError("stop")]

    with pytest.raises(asyncpg.UndefinedTableError):
        await probe.consumer.process(records)

    assert len(await probe.effects()) >= 2
    marked = "SELECT count(*) FROM probe.read_marks WHERE partition = $1 AND read_until < '2024-01-01'"
    assert await probe.pool.fetchval(marked, own_partition) == 0
    await probe.consumer.process(records)
    assert await probe.pool.fetchval(marked, own_partition) == 1


async def test_batch_that_is_too_much_for_one_transaction_is_done_in_parts(
    probe: Probe, database: Database
) -> None:
    records = [record_of(probe, "salon", number) for number in range(4)]
    probe.seconds_each = 0.35
    await limit_transactions(database, "1s")
    await probe.pool.expire_connections()
    try:
        async with asyncio.timeout(60):
            await probe.consumer.process(records)
    finally:
        await limit_transactions(database, "30s")
        await probe.pool.expire_connections()

    assert max(probe.batches) == 4
    ids = [from_headers(record.headers).id for record in records]
    assert await probe.applied(ids) == dict.fromkeys(ids, "applied")
    assert await probe.dead() == []


async def test_dead_letter_that_is_replayed_twice_takes_effect_once(probe: Probe) -> None:
    item = consent()
    probe.poison = {item.item_id}
    await publish(probe.kafka, probe.topic, item)
    await until(lambda: dead(probe, 1), "the dead letter")
    probe.poison = set()
    request = (
        "UPDATE probe.dead_letters SET replay_requested_at = now(), replayed_at = NULL WHERE record_id = $1"
    )
    for _ in range(2):
        await probe.pool.execute(request, item.item_id)
        await until(lambda: replayed(probe), "the replay")

    assert (await probe.effects()).count(item.item_id) == 1
    assert await probe.applied([item.item_id]) == {item.item_id: "applied"}


async def replayed(probe: Probe) -> bool:
    return all(row["replayed_at"] is not None for row in await probe.dead())


async def test_replay_of_many_records_that_are_still_bad_does_not_stop_the_consumer(probe: Probe) -> None:
    probe.fault = ValueError("poison")
    for number in range(120):
        probe.consumer._floods.applied()
        await probe.consumer.process([record_of(probe, f"tenant-{number % 3}", number)])
    topic = probe.consumer._broker_topic
    await probe.pool.execute(
        "UPDATE probe.dead_letters SET replay_requested_at = now() WHERE topic = $1", topic
    )

    async def tried_again() -> bool:
        return all(row["attempts"] == 2 for row in await probe.dead())

    await until(tried_again, "120 dead letters tried again")
    assert len(await probe.dead()) == 120
    assert not probe.running.done()


def record_of(probe: Probe, tenant_id: str, offset: int, partition: int = PARTITION) -> Raw:
    item = consent(tenant_id)
    value = item.model_dump_json().encode()
    return ConsumerRecord(
        probe.topic, partition, offset, 1_700_000_000_000, 0, b"k", value, None, 1, len(value), tuple(envelope_of(item).headers())
    )  # fmt: skip


async def limit_transactions(database: Database, limit: str) -> None:
    """For connections that are opened from now on; none of those that are open."""
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(
        f"ALTER ROLE turnout_booking IN DATABASE \"{database.name}\" SET transaction_timeout = '{limit}'"
    )
    await admin.close()


async def test_error_without_words_is_dead_lettered_as_any_other(probe: Probe) -> None:
    probe.fault = ValueError()

    await probe.consumer.process([record_of(probe, "salon", 1)])

    assert [row["reason"] for row in await probe.dead()] == ["ValueError: "]


@pytest.mark.parametrize(
    "fault",
    [
        asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress"),
        asyncpg.InvalidCachedStatementError("cached statement plan is invalid"),
        asyncpg.OutdatedSchemaCacheError("cache"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.TransactionTimeoutError("terminating connection due to transaction timeout"),
        asyncpg.LockNotAvailableError("lock timeout"),
        asyncpg.DiskFullError("no space left on device"),
        TimeoutError(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_what_goes_away_by_itself_is_no_fault_of_a_record(fault: Exception) -> None:
    assert is_transient(fault)
    assert not is_ours(fault)
