"""Every example runs through every consumer of its topic, on a real database: applied, ignored or parked, never dead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
from aiokafka import ConsumerRecord
from pydantic import SecretStr

from tests.conftest import MASTER_KEY
from tests.contract.consumers import CONSUMERS, ConsumerCase
from tests.contract.salon import TENANT, create_salon
from tests.infrastructure import Database
from turnout_cli import contract_files
from turnout_cli.contract_files import Example
from turnout_common.consumer import BatchConsumer
from turnout_common.kafka import create_broker
from turnout_common.postgres import create_pool
from turnout_common.settings import ServiceSettings
from turnout_common.topics import load_topics

EXAMPLES = list(contract_files.examples())


@pytest.fixture(scope="module", autouse=True)
async def salon(database: Database) -> None:
    await create_salon(database.dsn("platform"), MASTER_KEY)


def records(examples: Sequence[Example], offset: int = 0) -> list[ConsumerRecord[bytes, bytes]]:
    return [
        ConsumerRecord(
            example.topic, 0, offset + number, int(example.envelope.time.timestamp() * 1000), 0,
            example.key.encode(), example.wire_value, None, 0, len(example.wire_value), tuple(example.wire_headers),
        )
        for number, example in enumerate(examples)
    ]  # fmt: skip


@pytest.fixture(params=CONSUMERS, ids=[case.name for case in CONSUMERS])
async def case(request: pytest.FixtureRequest) -> ConsumerCase:
    found: ConsumerCase = request.param
    return found


@pytest.fixture
async def pool(database: Database, case: ConsumerCase) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(database.dsn(case.service), "contract-test", 3)
    yield opened
    await opened.close()


async def consumer_of(case: ConsumerCase, database: Database, pool: asyncpg.Pool) -> BatchConsumer:
    settings = ServiceSettings(
        env="development",
        postgres_dsn=SecretStr(database.dsn(case.service)),
        kafka_bootstrap="127.0.0.1:1",
    )
    return BatchConsumer(
        broker=create_broker("127.0.0.1:1", "contract-test"),
        settings=settings,
        pool=pool,
        schema=case.service,
        topic=case.topic,
        handler=case.handler(),
        wanted=case.wanted,
    )


def test_every_consumer_that_topics_yaml_names_is_tested_here() -> None:
    named = {(topic.name, service) for topic in load_topics().values() for service in topic.consumers}

    assert {(case.topic, case.service) for case in CONSUMERS} == named


def test_every_event_type_is_wanted_by_some_consumer() -> None:
    for topic in load_topics().values():
        wanted = {name for case in CONSUMERS if case.topic == topic.name for name in case.wanted}
        assert wanted == set(topic.event_types), topic.name


async def test_every_example_is_consumed_and_a_second_time_changes_nothing(
    case: ConsumerCase, database: Database, pool: asyncpg.Pool
) -> None:
    examples = [example for example in EXAMPLES if example.topic == case.topic]
    consumer = await consumer_of(case, database, pool)

    await consumer.process(records(examples))
    outcomes = await outcomes_of(pool, case, examples)
    applied = consumer.applied
    await consumer.process(records(examples, offset=len(examples)))

    assert await dead_letters(pool, case) == []
    for example in examples:
        expected = {"applied", "parked", "ignored"} if example.event_type in case.wanted else {"ignored"}
        assert outcomes.get(example.envelope.id) in expected, example.name
    taken = {outcomes[example.envelope.id] for example in examples if example.event_type in case.wanted}
    assert case.takes_some == bool(taken - {"ignored"})
    assert consumer.applied == applied


async def test_an_example_of_a_newer_producer_is_consumed(
    case: ConsumerCase, database: Database, pool: asyncpg.Pool
) -> None:
    """Fields that this build does not know are passed over, and so are types that it does not know."""
    known = next(example for example in EXAMPLES if example.event_type in case.wanted)
    newer = widened(known, "00000000-0000-4000-8000-0000000000aa", known.event_type)
    stranger = widened(known, "00000000-0000-4000-8000-0000000000bb", "booking.invented_later")
    consumer = await consumer_of(case, database, pool)

    await consumer.process(records([newer, stranger], offset=10_000))

    assert await dead_letters(pool, case) == []
    outcomes = await outcomes_of(pool, case, [newer, stranger])
    assert outcomes[newer.envelope.id] in {"applied", "parked", "ignored"}
    assert outcomes[stranger.envelope.id] == "ignored"


def widened(example: Example, record_id: str, event_type: str) -> Example:
    own = {name: record_id for name in ("event_id", "item_id") if name in example.value}
    return Example(
        example.topic,
        event_type,
        example.case,
        example.key,
        example.headers | {"ce_id": record_id, "ce_type": event_type},
        example.value | own | {"added_by_a_newer_version": {"deep": [1]}},
    )


async def outcomes_of(
    pool: asyncpg.Pool, case: ConsumerCase, examples: Sequence[Example]
) -> dict[object, str]:
    ids = [example.envelope.id for example in examples]
    sql = f"SELECT record_id, outcome FROM {case.service}.applied WHERE record_id = ANY ($1)"
    return {row["record_id"]: row["outcome"] for row in await pool.fetch(sql, ids)}


async def dead_letters(pool: asyncpg.Pool, case: ConsumerCase) -> list[str]:
    sql = f"SELECT reason FROM {case.service}.dead_letters WHERE topic = $1 AND tenant_id = $2"
    return [row["reason"] for row in await pool.fetch(sql, case.topic, TENANT)]
