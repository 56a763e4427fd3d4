"""How fast and how much: slots of a second shared by all replicas, and a tenant's count of the day (design §5).

A grant is a time slot in Postgres: the row of a bot (and of a chat) says from when the next message may go out, and a
grant moves it on. The slots lie in the near future only; one that is not used in time is given up, not caught up on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from time import monotonic
from typing import NamedTuple
from uuid import UUID

from turnout_common.postgres import Connection, load_queries

SQL = load_queries("turnout_sender")
#: A grant that was not used this long after its slot is given up.
GRANT_SECONDS = 0.05
#: How far ahead slots are given: what a claim may wait for its turn.
HORIZON_SECONDS = 0.25
CHAT_SECONDS = 1.0


class SlotName(NamedTuple):
    """Whose next slot it is: a bot's (`chat` empty) or a chat's."""

    tenant_id: str
    channel: str
    chat: str


@dataclass(frozen=True)
class Ask:
    """One message that wants a slot. `holds_chat`: the chat's last slot is this message's own, which it missed."""

    message_id: UUID
    tenant_id: str
    channel: str
    client_id: UUID
    per_second: int
    holds_chat: bool = False

    @property
    def bot(self) -> SlotName:
        return SlotName(self.tenant_id, self.channel, "")

    @property
    def chat(self) -> SlotName:
        return SlotName(self.tenant_id, self.channel, str(self.client_id))


@dataclass
class Allotment:
    """In seconds from now: `granted` slots, `later` = when a chat opens again, `next_at` = the moved slots. A message
    that is in neither found its bot's near slots taken."""

    granted: dict[UUID, float]
    later: dict[UUID, float]
    next_at: dict[SlotName, float]


def allot(asks: Sequence[Ask], opens: Mapping[SlotName, float], lead: float) -> Allotment:
    """Slots for `asks`, in their order. `opens` says in how many seconds each bot and chat is free; `lead` is what the
    caller needs before it can send. Pure."""
    found = Allotment({}, {}, {})
    for ask in asks:
        at = max(found.next_at.get(ask.bot, opens.get(ask.bot, 0.0)), lead)
        if at > lead + HORIZON_SECONDS:
            continue
        chat_opens = found.next_at.get(ask.chat, opens.get(ask.chat, 0.0))
        if chat_opens > at and not ask.holds_chat:
            found.later[ask.message_id] = chat_opens
            continue
        found.granted[ask.message_id] = at
        found.next_at[ask.bot] = at + 1 / ask.per_second
        found.next_at[ask.chat] = at + CHAT_SECONDS
    return found


@dataclass(frozen=True)
class Slots:
    """Slots taken at `taken_at`. `granted`: moments of this process's monotonic clock; `later`: in seconds."""

    taken_at: float
    granted: Mapping[UUID, float]
    later: Mapping[UUID, float]


async def take_slots(connection: Connection, asks: Sequence[Ask], lead: float) -> Slots:
    """Grants slots in the caller's transaction, one UPDATE for the batch; replicas wait for each other here."""
    names = sorted({name for ask in asks for name in (ask.bot, ask.chat)})
    keys = [list(column) for column in zip(*names, strict=True)]
    await connection.execute(SQL["add_rate_slots"], *keys)
    rows = await connection.fetch(SQL["lock_rate_slots"], *keys)
    now: datetime = await connection.fetchval(SQL["clock"])
    here = monotonic()
    opens = {
        SlotName(r["tenant_id"], r["channel"], r["chat"]): (r["next_at"] - now).total_seconds() for r in rows
    }
    found = allot(asks, opens, lead)
    moved = sorted(found.next_at)
    if moved:
        moments = [now + timedelta(seconds=found.next_at[name]) for name in moved]
        await connection.execute(SQL["set_rate_slots"], *(list(c) for c in zip(*moved, strict=True)), moments)
    return Slots(here, {message_id: here + at for message_id, at in found.granted.items()}, found.later)


class DayKey(NamedTuple):
    """Whose count: a tenant's, on its local day, by queue."""

    tenant_id: str
    day: date
    queue: str


class DayCounts:
    """The counts of a claim's tenants, locked until its transaction ends."""

    def __init__(self, used: dict[DayKey, int]) -> None:
        self._used = used
        self._asked: dict[DayKey, int] = {}
        self._changed: set[DayKey] = set()

    @classmethod
    async def lock(cls, connection: Connection, keys: set[DayKey]) -> DayCounts:
        if not keys:
            return cls({})
        columns = [list(column) for column in zip(*sorted(keys), strict=True)]
        await connection.execute(SQL["add_day_counts"], *columns)
        rows = await connection.fetch(SQL["lock_day_counts"], *columns)
        return cls({DayKey(r["tenant_id"], r["day"], r["queue"]): r["used"] for r in rows})

    def has_room(self, key: DayKey, limit: int) -> bool:
        """Whether one more message fits, counting those that this claim asked for before."""
        asked = self._asked.get(key, 0)
        if self._used[key] + asked >= limit:
            return False
        self._asked[key] = asked + 1
        return True

    def count(self, key: DayKey) -> None:
        self._used[key] += 1
        self._changed.add(key)

    async def write(self, connection: Connection) -> None:
        if self._changed:
            keys = sorted(self._changed)
            columns = [list(column) for column in zip(*keys, strict=True)]
            await connection.execute(SQL["set_day_counts"], *columns, [self._used[key] for key in keys])
