"""Every example of the contracts that rollup consumes goes through its consumer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest
from aiokafka import ConsumerRecord

from tests.conftest import MASTER_KEY
from tests.contract.salon import create_salon
from tests.infrastructure import Database
from tests.integration.rollup_world import Rollup, rollup_on
from turnout_cli import contract_files
from turnout_rollup.handlers import TOPICS

EXAMPLES = [example for example in contract_files.examples() if example.topic in TOPICS]
OFFSETS = count()


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    await create_salon(database.dsn("platform"), MASTER_KEY)
    async with rollup_on(database) as started:
        yield started


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
async def test_example_becomes_a_fact(rollup: Rollup, example: contract_files.Example) -> None:
    key, value = example.key.encode(), example.wire_value
    record = ConsumerRecord(
        example.topic, 0, next(OFFSETS), 0, 0, key, value, None, len(key), len(value), tuple(example.wire_headers)
    )  # fmt: skip

    await rollup.consumers[example.topic].process([record])

    assert await rollup.admin.fetchval(
        "SELECT outcome FROM rollup.applied WHERE record_id = $1", example.envelope.id
    ) == "applied"  # fmt: skip
    entity = example.value.get("entity_id") or example.value["message_id"]
    assert await rollup.admin.fetchval(
        """SELECT EXISTS (SELECT FROM rollup.chain_facts WHERE booking_id = $1)
               OR EXISTS (SELECT FROM rollup.intent_facts WHERE intent_id = $1)
               OR EXISTS (SELECT FROM rollup.other_facts WHERE fact_id = $1)
               OR EXISTS (SELECT FROM rollup.message_facts WHERE message_id = $1)""",
        entity,
    )
