"""Records that cannot be applied: how they are stored, tried again, and when they are so many that the fault is ours.

In: raw records. Out: rows of <schema>.dead_letters. Promise: whatever the bytes of a record are, it can be stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
from aiokafka import ConsumerRecord

from turnout_common.events.envelope import Envelope

Raw: TypeAlias = ConsumerRecord[bytes, bytes]
POISON_ROW = 100
POISON_TENANTS = 3
UNKNOWN_TENANT = "unknown"
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Dead:
    """One record that cannot be applied, and why. The reason never holds a value out of the record."""

    record: Raw
    reason: str
    envelope: Envelope | None = None

    @property
    def tenant_id(self) -> str:
        """The tenant that the record names, or `unknown`: it is a metric's label, which strangers must not fill."""
        if self.envelope is not None:
            named = self.envelope.tenant_id
        else:
            named = (self.record.key or b"").decode("utf-8", "replace").split(":", 1)[0]
        return named if _TENANT.fullmatch(named) else UNKNOWN_TENANT


class PoisonFlood(RuntimeError):
    """So many records in a row from several tenants cannot be applied that the fault must be ours."""


class Floods:
    """Counts bad records in a row: those that are no events, and those that the handler cannot apply, each apart.

    Apart, since every record that the handler fails at was a good event before: one count would start again with it.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._malformed: list[str] = []
        self._unapplied: list[str] = []

    def malformed(self, dead: Dead) -> None:
        """Raises PoisonFlood."""
        self._note(self._malformed, dead)

    def well_formed(self) -> None:
        self._malformed.clear()

    def unapplied(self, dead: Dead) -> None:
        """Raises PoisonFlood."""
        self._note(self._unapplied, dead)

    def applied(self) -> None:
        self._unapplied.clear()

    def _note(self, row: list[str], dead: Dead) -> None:
        row.append(dead.tenant_id)
        tenants = set(row)
        if len(row) > POISON_ROW and len(tenants) >= POISON_TENANTS:
            raise PoisonFlood(
                f"{len(row)} records in a row of {len(tenants)} tenants on {self._topic} cannot be applied, the last "
                f"one because: {dead.reason}. Fix that, then start again; nothing was passed over."
            )


def columns(dead: Dead) -> tuple[object, ...]:
    """The values of `insert_dead_letter`. NUL, which text in Postgres cannot hold, becomes the replacement character."""
    record = dead.record
    return (
        dead.envelope.id if dead.envelope else None,
        dead.tenant_id,
        record.topic,
        record.partition,
        record.offset,
        dead.reason.replace("\x00", "\ufffd"),
        record.key,
        [name.replace("\x00", "\ufffd") for name, _ in record.headers],
        [value for _, value in record.headers],
        record.value,
    )


def stored_record(row: Any) -> Raw:
    """The record of a row of dead_letters, as it arrived."""
    headers = tuple(zip(row["header_names"], row["header_values"], strict=True))
    value = row["value"]
    return ConsumerRecord(
        row["topic"], row["partition"], row["record_offset"], int(row["dead_at"].timestamp() * 1000), 0, row["key"],
        value, None, len(row["key"] or b""), len(value or b""), headers,
    )  # fmt: skip


def safe_words(error: BaseException) -> str:
    """The error's own words without the values that Postgres and pydantic put into them."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{error.sqlstate} {getattr(error, 'constraint_name', None) or getattr(error, 'table_name', '') or ''}"
    words = str(error).splitlines() if isinstance(error, ValueError | LookupError) else []
    return words[0][:200] if words else ""
