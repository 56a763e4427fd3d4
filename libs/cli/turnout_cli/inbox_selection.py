"""Which items of the inbox a command means, and how it keeps from publishing faster than the relay."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from turnout_cli.errors import CommandError
from turnout_common.clock import SystemClock
from turnout_common.postgres import load_queries

SQL = load_queries("turnout_cli", "inbox.sql")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
#: Rows that may wait in the outbox before more are added: a second or less of the relay's work.
MOST_WAITING = 5_000
#: An outbox that does not shrink for so long has no relay.
PATIENCE_SECONDS = 60.0
_POLL = 0.2


@dataclass(frozen=True)
class Selection:
    """Items by their ids, or by what they have in common; `None` leaves a condition out."""

    item_ids: list[UUID] | None
    tenant: str | None
    channel: str | None
    event_type: str | None
    since: datetime | None
    until: datetime | None

    def described(self) -> dict[str, Any]:
        """For the audit log."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return (
            given
            | ({"item_ids": list(map(str, self.item_ids))} if self.item_ids else {})
            | {name: given[name].isoformat() for name in ("since", "until") if name in given}
        )


def selection(
    item_ids: list[UUID] | None,
    every: bool,
    *,
    tenant: str | None,
    channel: str | None,
    event_type: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    """What the options say. Raises CommandError where they name nothing, or ids and a filter at once."""
    filters = (tenant, channel, event_type, since, until)
    if sum((bool(item_ids), every or any(filters))) != 1:
        raise CommandError(
            "name the items by their ids, or by --tenant, --channel, --event-type, --since, --until, or say --all"
        )
    now = SystemClock().now()
    return Selection(
        item_ids or None,
        tenant,
        channel,
        event_type,
        moment(since, now) if since else None,
        moment(until, now) if until else None,
    )


def moment(text: str, now: datetime) -> datetime:
    """The time that `text` names: ISO 8601 (UTC where no zone is given), or an age before `now`."""
    if age := re.fullmatch(r"(\d{1,5})([mhd])", text):
        return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(
            f"{text!r} is neither a time (2026-11-24T08:00Z) nor an age (30m, 2h, 7d)"
        ) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


async def wait_for_room(
    connection: asyncpg.Connection, most: int = MOST_WAITING, patience: float = PATIENCE_SECONDS
) -> None:
    """Returns once the outbox holds fewer than `most` rows. Raises CommandError when it stops shrinking."""
    loop = asyncio.get_running_loop()
    least, since = most * 2 + 1, loop.time()
    while (waiting := await connection.fetchval(SQL["waiting"], most * 2)) >= most:
        if waiting < least:
            least, since = waiting, loop.time()
        if loop.time() - since > patience:
            raise CommandError(
                f"the outbox has not shrunk for {patience:.0f} s: do ingest and Kafka run? What was queued stays queued"
            )
        await asyncio.sleep(_POLL)
