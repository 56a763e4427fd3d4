"""One batch, from what came to what is written (design §4, Chain identity).

The order of locks is the same for everybody: contacts and refs as they are inserted, chains by id, clients by id, facts
by id. What was read before its lock is read again under it; if it moved, the batch is rolled back to its start and done
again. All of it belongs to the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

import asyncpg

from turnout_booking import clients, linking, store
from turnout_booking.changes import Arrivals, Changes
from turnout_booking.clients import People
from turnout_booking.domain.attendees import has_no_sure_founder
from turnout_booking.domain.items import Item, ItemKind, OwnTrigger
from turnout_booking.intake import Intake, NewFact, Ref, rating_id
from turnout_booking.linking import Linked
from turnout_booking.moved import Moved
from turnout_booking.reach import Reach, find_reach
from turnout_booking.seats import HandedOver, drop_handed_over
from turnout_booking.store import ChainRow, Loaded
from turnout_booking.tenant_rules import SQL, read_rules
from turnout_booking.versions import Cause, cause_of, newest_cause
from turnout_common.consumer import Outcome
from turnout_common.ids import derived_id, new_id
from turnout_common.postgres import Connection

MOST_ATTEMPTS = 8
#: No appointment has more; without a bound one chain could make a batch longer than a transaction may last.
MOST_ITEMS = 2000


class ChainTooLong(ValueError):
    """A booking of which more is said than any real one: the record goes to the dead letters."""

    def __init__(self, booking_id: UUID) -> None:
        super().__init__(f"booking {booking_id} has more than {MOST_ITEMS} items")


@dataclass(frozen=True, slots=True)
class Task:
    """What to apply: a batch's intake, refs whose parked items may be linked now, chains to fold again."""

    intake: Intake = field(default_factory=Intake)
    unpark: Sequence[Ref] = ()
    refold: Sequence[UUID] = ()
    tenant_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of it. `outcomes` are those that are not `applied`; nothing of other tenants was applied."""

    outcomes: Mapping[UUID, Outcome]
    tenant_ids: Set[str]
    events: int
    chains: int


async def apply(
    connection: Connection, task: Task, now: datetime, make_id: Callable[[], UUID] = new_id
) -> Applied:
    """Applies `task` in the open transaction.

    Raises ChainTooLong, and asyncpg.SerializationError when others kept moving what it reads: then it is tried later.
    """
    if not (task.intake.tenant_ids or task.unpark or task.refold):
        return Applied({}, frozenset(), 0, 0)
    extra = Moved()
    for _ in range(MOST_ATTEMPTS):
        try:
            async with connection.transaction():
                return await _Attempt(connection, task, now, make_id, extra).run()
        except Moved as moved:
            extra = extra.widened(moved)
    raise asyncpg.SerializationError("other consumers keep moving the chains of this batch")


class _Attempt:
    def __init__(
        self, connection: Connection, task: Task, now: datetime, make_id: Callable[[], UUID], extra: Moved
    ) -> None:
        self._connection = connection
        self._task = task
        self._now = now
        self._make_id = make_id
        self._extra = extra
        self._intake = task.intake
        self._tenants: dict[UUID, str] = {}

    async def run(self) -> Applied:
        task = self._task
        tenant_ids = task.intake.tenant_ids | task.tenant_ids | {ref.tenant_id for ref in task.unpark}
        rules = await read_rules(self._connection, tenant_ids)
        self._intake = task.intake.only(rules)
        people = await clients.resolve(self._connection, self._intake, self._make_id)
        linked = await linking.link(self._connection, self._intake.items, task.unpark, self._make_id)
        loaded, arrivals = await self._load(people, linked)
        decided = Changes(loaded, arrivals, rules, self._now, self._make_id).decide()
        await store.write(self._connection, decided)
        await linking.park(self._connection, linked.unlinked, self._now)
        await self._write_notes(linked)
        outcomes = {new.record_id: Outcome.IGNORED for new in linked.unknown}
        outcomes |= {new.record_id: Outcome.PARKED for new in linked.unlinked}
        return Applied(outcomes, rules.keys(), len(decided.events), len(decided.chains))

    async def _load(self, people: People, linked: Linked) -> tuple[Loaded, Arrivals]:
        reach = await self._find_reach(people, linked, None)
        rows = await store.lock_chains(self._connection, reach.chains)
        if len(rows) != len(reach.chains) or any(row.is_merged for row in rows.values()):
            raise Moved
        await store.read_items(self._connection, rows)
        relinked = await self._lock_clients(people, reach, rows)
        await linking.confirm(self._connection, linked)
        await clients.confirm(self._connection, people)
        under_locks = await self._find_reach(people, linked, rows)
        if not (under_locks.chains <= reach.chains and under_locks.clients <= reach.clients):
            raise Moved(under_locks.chains, under_locks.clients)
        handed = await self._hand_over(linked, rows)
        await self._merge(people, linked, rows)
        arrivals = await self._arrivals(people, linked, rows, relinked, handed)
        return await self._read(people, under_locks, linked, rows, arrivals), arrivals

    async def _find_reach(
        self, people: People, linked: Linked, locked: Mapping[UUID, ChainRow] | None
    ) -> Reach:
        chains = linked.existing_chains | set(self._task.refold) | self._extra.chains
        chains |= {found for ref in self._task.unpark if (found := linked.home_of(ref)) is not None}
        return await find_reach(
            self._connection, self._intake, people, linked, chains, self._extra.clients, locked
        )

    async def _lock_clients(
        self, people: People, reach: Reach, rows: Mapping[UUID, ChainRow]
    ) -> dict[UUID, UUID]:
        """Locks all clients that any item names. Gives those of older items who are someone else by now."""
        named = {item.client_id for row in rows.values() for item in row.items if item.client_id is not None}
        wanted = (reach.clients | named) - set(people.new_clients)
        found = await self._connection.fetch(SQL["lock_clients"], sorted(wanted)) if wanted else []
        self._tenants = {row["client_id"]: row["tenant_id"] for row in found} | people.new_clients
        merged = {row["client_id"]: row["merged_into"] for row in found if row["merged_into"] is not None}
        if merged.keys() & reach.clients:
            raise Moved
        others = named - reach.clients - merged.keys()
        chatting = await self._connection.fetch(SQL["clients_with_chats"], list(others)) if others else []
        missing = {row["client_id"] for row in chatting} | (
            set(merged.values()) - reach.clients - merged.keys()
        )
        if missing:
            raise Moved(clients=missing)
        return merged

    async def _hand_over(self, linked: Linked, rows: Mapping[UUID, ChainRow]) -> HandedOver:
        """What was said of attendees goes to their seats, from chains that were taken for bookings without seats."""
        handed = HandedOver()
        for donor in sorted(set(linked.seats.donors.values())):
            row, adopted = rows[donor], linked.seats.is_adopted(donor)
            if adopted and not has_no_sure_founder(row.items):
                raise Moved
            for item in [item for item in row.items if item.leaves_seat_open]:
                ref = Ref(row.tenant_id, item.source, item.uid or "", item.attendee or "")
                seat = linked.chain_of(ref)
                if seat == linked.merges.get(donor, donor) or (seat is None and not adopted):
                    continue
                row.items.remove(item)
                handed.take(donor, ref, item, seat)
        await drop_handed_over(self._connection, handed, linked.seats.adoptions.values())
        if handed.waiting:
            await linking.park(self._connection, handed.waiting, self._now)
        return handed

    async def _merge(self, people: People, linked: Linked, rows: dict[UUID, ChainRow]) -> None:
        merges = {absorbed: survivor for absorbed, (survivor, _) in people.merges.items()}
        await store.write_chats(self._connection, people, self._intake.chats, merges)
        await linking.merge_chains(self._connection, linked.merges)
        for absorbed, survivor in linked.merges.items():
            stays = rows[survivor]
            keys = {item.key for item in stays.items}
            stays.items.extend(item for item in rows[absorbed].items if item.key not in keys)
            rows[absorbed].items = []

    async def _arrivals(
        self,
        people: People,
        linked: Linked,
        rows: dict[UUID, ChainRow],
        relinked: Mapping[UUID, UUID],
        handed: HandedOver,
    ) -> Arrivals:
        arrivals = Arrivals(merges=linked.merges)
        facts = list(self._intake.facts)
        for booking_id, new in linked.placed:
            item = replace(new.item, client_id=people.client_of(new))
            _add(arrivals, rows, booking_id, new.tenant_id, item)
        for new in (*(new for _, new in linked.placed), *linked.unlinked):
            if new.fact is not None:
                facts.append(NewFact(new.tenant_id, new.item.key, new.fact))
                if new.ref is not None and (chain := linked.home_of(new.ref)) is not None:
                    arrivals.chain_of_fact[new.fact.fact_id] = chain
        waited = await linking.unpark(self._connection, {*linked.new_refs, *self._task.unpark})
        for ref, item in waited:
            if (chain := linked.home_of(ref)) is not None:
                _add(arrivals, rows, chain, ref.tenant_id, item)
                _note_fact(arrivals, ref.tenant_id, item, chain)
        for chain, tenant_id, item in handed.to_seats:
            _add(arrivals, rows, chain, tenant_id, item)
            _note_fact(arrivals, tenant_id, item, chain)
        for new in handed.waiting:
            _note_fact(arrivals, new.tenant_id, new.item, None)
        self._relink(people, rows, relinked, arrivals)
        self._note_causes(people, arrivals)
        arrivals.facts = facts
        arrivals.fact_rows = await store.claim_facts(self._connection, facts)
        for booking_id, row in rows.items():
            # What a client merge says comes with no record that could be refused for it.
            more = sum(item.kind is not ItemKind.RELINK for item in arrivals.items.get(booking_id, ()))
            if more and len(row.items) + more > MOST_ITEMS:
                raise ChainTooLong(booking_id)
        return arrivals

    def _relink(
        self,
        people: People,
        rows: Mapping[UUID, ChainRow],
        relinked: Mapping[UUID, UUID],
        arrivals: Arrivals,
    ) -> None:
        """Says in every chain that names an absorbed client who that is now: a statement as any other."""
        merges = {absorbed: (survivor, event.at) for absorbed, (survivor, event) in people.merges.items()}
        for row in list(rows.values()):
            for client_id in {item.client_id for item in row.items if item.client_id is not None}:
                if client_id in merges:
                    survivor, at = merges[client_id]
                elif client_id in relinked:
                    survivor, at = relinked[client_id], self._now
                else:
                    continue
                item = Item(
                    key=derived_id("relink", client_id.hex, survivor.hex),
                    kind=ItemKind.RELINK,
                    trigger=str(OwnTrigger.CLIENT_RELINKED),
                    at=at,
                    source="booking",
                    channel="own",
                    client_id=survivor,
                    relinked_from=client_id,
                )
                arrivals.items.setdefault(row.booking_id, []).append(item)

    def _note_causes(self, people: People, arrivals: Arrivals) -> None:
        """For what changes without an item of its own: what its client, or a chain of its client, last said."""
        said: dict[UUID, list[Cause]] = {}
        for event in self._intake.chats:
            cause = Cause(event.item_key, event.at, event.channel)
            said.setdefault(people.client_of_chat(event), []).append(cause)
        for items in arrivals.items.values():
            for item in items:
                if item.client_id is not None:
                    said.setdefault(item.client_id, []).append(cause_of(item))
        for client_id, causes in said.items():
            newest = newest_cause(causes)
            if newest is not None:
                arrivals.client_causes[client_id] = newest
        everything = [cause for causes in said.values() for cause in causes]
        everything += [cause_of(item) for items in arrivals.items.values() for item in items]
        arrivals.fallback = newest_cause(everything) or Cause(self._make_id(), self._now, "booking")

    async def _read(
        self,
        people: People,
        reach: Reach,
        linked: Linked,
        rows: dict[UUID, ChainRow],
        arrivals: Arrivals,
    ) -> Loaded:
        since: dict[UUID, datetime] = {}
        for client_id, at in reach.since.items():
            stays = people.root(client_id)
            since[stays] = min(at, since.get(stays, at))
        existing = [booking_id for booking_id, row in rows.items() if row.version]
        facts = await store.read_facts(self._connection, arrivals.chain_of_fact, existing)
        for fact_id, row in facts.items():
            booking_id = row.state.booking_id if row.state is not None else None
            if booking_id is not None:
                arrivals.chain_of_fact.setdefault(fact_id, linked.merges.get(booking_id, booking_id))
        arrivals.fact_rows = facts | dict(arrivals.fact_rows)
        return Loaded(
            chains=rows,
            tenants=self._tenants,
            intents=await store.read_intents(self._connection, existing, since),
            chat_items=await store.read_chat_items(self._connection, since),
            chats=await store.read_chats(self._connection, {people.root(c) for c in reach.chatting}),
            since=since,
        )

    async def _write_notes(self, linked: Linked) -> None:
        rows = [
            (booking_id, new.item.key, new.tenant_id, new.notes_sealed, new.item.at)
            for booking_id, new in linked.placed
            if new.notes_sealed is not None
        ]
        if rows:
            await self._connection.execute(SQL["insert_notes"], *map(list, zip(*rows, strict=True)))


def _note_fact(arrivals: Arrivals, tenant_id: str, item: Item, booking_id: UUID | None) -> None:
    """Where the fact belongs that may have come with an item."""
    if item.kind is ItemKind.FACT:
        arrivals.chain_of_fact[derived_id("fact", tenant_id, "item", item.key.hex)] = booking_id
    elif item.rating is not None:
        arrivals.chain_of_fact[rating_id(tenant_id, item.source, item.uid, item.seat)] = booking_id


def _add(
    arrivals: Arrivals, rows: dict[UUID, ChainRow], booking_id: UUID, tenant_id: str, item: Item
) -> None:
    rows.setdefault(booking_id, ChainRow(booking_id, tenant_id))
    arrivals.items.setdefault(booking_id, []).append(item)
