"""Runs a service and kills it, once, at a named point: `python dying.py POINT ORDER MODULE`.

It dies when it next passes POINT after a file ORDER came to be, and leaves the ids that it held then in ORDER.died. No
service knows of it: the points are wrapped round from here.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from turnout_common.consumer import BatchConsumer
from turnout_common.dead_letters import Raw
from turnout_common.events.envelope import from_headers
from turnout_common.postgres import Connection
from turnout_common.read_marks import ReadMarks
from turnout_common.relay import Relay
from turnout_ingest.acceptance import Row
from turnout_ingest.inbox import Inbox

Die = Callable[[Iterable[UUID]], None]


def before_commit(die: Die) -> None:
    """Ingest's statement has claimed the keys and inserted the rows; it is not committed, as it otherwise is when it ends."""
    write = Inbox._write_new

    async def writing(self: Inbox, connection: asyncpg.Connection, rows: Sequence[Row]) -> Any:
        async with connection.transaction():
            written = await write(self, connection, rows)
            die(row.item_id for row in rows)
            return written

    Inbox._write_new = writing  # type: ignore[method-assign]


def before_answer(die: Die) -> None:
    """Ingest has committed; no request of the batch was answered."""
    answer = Inbox._answer

    def answering(self: Inbox, batch: list[Any], fates: dict[UUID, Any]) -> None:
        die(row.item_id for waiting in batch for row in waiting.rows)
        answer(self, batch, fates)

    Inbox._answer = answering  # type: ignore[method-assign]


def before_delete(die: Die) -> None:
    """The relay has every acknowledgement; the outbox rows are not deleted."""
    publish = Relay._publish

    async def publishing(self: Relay, rows: Sequence[Any]) -> None:
        await publish(self, rows)
        die(row["record_id"] for row in rows)

    Relay._publish = publishing  # type: ignore[method-assign]


def before_effect(die: Die) -> None:
    """A consumer has written a batch's effect, its claims and its read marks; the transaction is not committed."""
    write = ReadMarks.write

    async def writing(self: ReadMarks, connection: Connection, records: Sequence[Raw]) -> None:
        await write(self, connection, records)
        die(from_headers(record.headers).id for record in records)

    ReadMarks.write = writing  # type: ignore[method-assign]


def before_offsets(die: Die) -> None:
    """A consumer has committed the effect of a batch; Kafka does not know that it was read."""
    process = BatchConsumer.process

    async def processing(self: BatchConsumer, records: Sequence[Raw]) -> None:
        await process(self, records)
        die(from_headers(record.headers).id for record in records)

    BatchConsumer.process = processing  # type: ignore[method-assign]


POINTS = {
    "before commit": before_commit,
    "before answer": before_answer,
    "before delete": before_delete,
    "before effect": before_effect,
    "before offsets": before_offsets,
}


def main(point: str, order: Path, module: str) -> None:
    def die(held: Iterable[UUID]) -> None:
        if order.exists():
            order.with_suffix(".died").write_text(json.dumps([str(each) for each in held]))
            os.kill(os.getpid(), signal.SIGKILL)

    POINTS[point](die)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
