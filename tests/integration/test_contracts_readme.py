"""The consumer that contracts/README.md shows does what it is shown for: killed in the middle, it ends with the newest states."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import until
from turnout_cli.contract_files import Example, examples
from turnout_common.kafka import create_producer
from turnout_common.topics import BOOKING_EVENTS, contracts_folder

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    yield connection
    await connection.execute("DROP TABLE IF EXISTS bookings")
    await connection.close()


@pytest.fixture
def program(tmp_path: Path, topic_prefix: str) -> Path:
    """The code of the document, reading the test's topic under a group of its own."""
    found = CODE.search((contracts_folder() / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    code = found[1].replace('"booking_events"', f'"{topic_prefix}{BOOKING_EVENTS}"')
    file = tmp_path / "consumer.py"
    file.write_text(code.replace('"my-bookings"', f'"{topic_prefix}my-bookings"'), encoding="utf-8")
    return file


async def test_shown_consumer_keeps_the_newest_state_through_copies_disorder_and_a_kill(
    reader: asyncpg.Connection,
    program: Path,
    database: Database,
    infrastructure: Infrastructure,
    topic_prefix: str,
) -> None:
    events = [example for example in examples() if example.topic == BOOKING_EVENTS]
    chains = [example for example in events if example.value["entity_kind"] == "chain"]
    newest: dict[str, int] = defaultdict(int)
    for each in chains:
        newest[each.value["entity_id"]] = max(newest[each.value["entity_id"]], each.value["version"])
    oldest = next(each for each in chains if each.value["version"] < newest[each.value["entity_id"]])
    after_it = replace(oldest, value=oldest.value | {"entity_id": str(UUID(int=1))})

    async def versions() -> dict[str, int]:
        if not await reader.fetchval("SELECT to_regclass('bookings') IS NOT NULL"):
            return {}
        return {str(row["id"]): row["version"] for row in await reader.fetch("SELECT * FROM bookings")}

    async def some() -> bool:
        return bool(await versions())

    async def all_of_them() -> bool:
        return await versions() == newest

    async def what_came_last() -> bool:
        return after_it.value["entity_id"] in await versions()

    half = len(events) // 2
    async with _running(program, database, infrastructure):
        await _send(infrastructure, topic_prefix, events[half:])
        await until(some, "the consumer to store something", seconds=30)
    await _send(infrastructure, topic_prefix, [*events[:half], *reversed(events)])
    async with _running(program, database, infrastructure):
        await until(all_of_them, "the newest state of each booking", seconds=30)
        await _send(infrastructure, topic_prefix, [oldest, after_it])
        await until(what_came_last, "what was sent last")

    assert await versions() == newest | {after_it.value["entity_id"]: oldest.value["version"]}


async def _send(infrastructure: Infrastructure, prefix: str, sent: list[Example]) -> None:
    producer = create_producer(infrastructure.kafka, "test-contracts-readme")
    async with producer:
        for each in sent:
            await producer.send_and_wait(
                prefix + each.topic, each.wire_value, key=each.key.encode(), headers=each.wire_headers
            )


@asynccontextmanager
async def _running(program: Path, database: Database, infrastructure: Infrastructure) -> AsyncIterator[None]:
    """The program until the end of the block, where it is killed."""
    environment = os.environ | {"DSN": database.admin_dsn, "KAFKA": infrastructure.kafka}
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), env=environment)
    try:
        yield
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
