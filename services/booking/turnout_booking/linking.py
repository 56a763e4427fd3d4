"""From the uids that items name to chains (design §4, Chain identity).

In: the items of a batch. Out: for each its chain, new refs inserted, chains that turn out to be one, and items to be
parked since nobody founded their uid yet. An item with a start and an end founds the chain for all uids that it names.
Of items that leave open whether the booking has seats, see seats.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from turnout_booking.domain.items import Item, item_from_json, item_to_json
from turnout_booking.intake import NewItem, Ref
from turnout_booking.moved import Moved
from turnout_booking.seats import Seats, looked_up, read_seats, tenants_to_lock
from turnout_booking.tenant_rules import SQL
from turnout_common.postgres import Connection

Node = Ref | UUID


@dataclass(slots=True)
class Linked:
    """Where the items of a batch belong. `merges` maps the younger chain to the one that stays."""

    known: Mapping[Ref, UUID]
    new_refs: dict[Ref, UUID] = field(default_factory=dict)
    new_chains: set[UUID] = field(default_factory=set)
    merges: dict[UUID, UUID] = field(default_factory=dict)
    placed: list[tuple[UUID, NewItem]] = field(default_factory=list)
    unlinked: list[NewItem] = field(default_factory=list)
    unknown: list[NewItem] = field(default_factory=list)
    seats: Seats = field(default_factory=Seats)

    def chain_of(self, ref: Ref) -> UUID | None:
        found = self.new_refs.get(ref) or self.known.get(ref)
        if found is None or (not ref.seat and self.seats.is_adopted(found)):
            return None
        return self.merges.get(found, found)

    def home_of(self, ref: Ref) -> UUID | None:
        """The seat's chain, else that of the booking as a whole."""
        return self.chain_of(ref) or self.chain_of(ref.whole)

    @property
    def existing_chains(self) -> set[UUID]:
        """Chains of the database that the batch touches, those that go among them."""
        touched = {booking_id for booking_id, _ in self.placed} | set(self.merges) | set(self.merges.values())
        return (touched | set(self.seats.donors.values())) - self.new_chains


class _Groups:
    """Union-find over refs and chains: what an item names together is one appointment."""

    def __init__(self) -> None:
        self._parents: dict[Node, Node] = {}

    def root(self, node: Node) -> Node:
        path = []
        while (parent := self._parents.get(node, node)) != node:
            path.append(node)
            node = parent
        for passed in path:
            self._parents[passed] = node
        return node

    def join(self, nodes: Sequence[Node]) -> None:
        first = self.root(nodes[0])
        self._parents.setdefault(first, first)
        for node in nodes[1:]:
            self._parents[self.root(node)] = first

    def all(self) -> Iterable[list[Node]]:
        groups: dict[Node, list[Node]] = {}
        for node in list(self._parents):
            groups.setdefault(self.root(node), []).append(node)
        return groups.values()


async def link(
    connection: Connection, items: Sequence[NewItem], extra: Iterable[Ref], new_id: Callable[[], UUID]
) -> Linked:
    """Finds or founds the chain of each item, and looks `extra` refs up. Raises Moved when another consumer was faster.

    Refs are inserted here; chains are locked by the caller, who then calls `confirm`.
    """
    wanted = looked_up(items, extra)
    known = await read_refs(connection, wanted)
    if tenants := tenants_to_lock(items, known):
        await connection.execute(SQL["lock_seats"], tenants)
        known = await read_refs(connection, wanted)
    linked = Linked(known, seats=await read_seats(connection, items, known))
    groups = _Groups()
    for names in linked.seats.names(items, known):
        groups.join([*names, *filter(None, map(known.get, names))])
    for ref, booking_id in linked.seats.adoptions.items():
        groups.join([ref, booking_id])
    for group in groups.all():
        _settle(linked, group, new_id)
    if linked.new_refs:
        rows = [(*ref, booking_id) for ref, booking_id in linked.new_refs.items()]
        done = await connection.execute(SQL["insert_refs"], *map(list, zip(*rows, strict=True)))
        if done != f"INSERT 0 {len(rows)}":
            raise Moved
    survivors = await _read_survivors(connection, items)
    for new in items:
        _place(linked, new, survivors)
    return linked


def _settle(linked: Linked, group: list[Node], new_id: Callable[[], UUID]) -> None:
    chains = sorted(node for node in group if isinstance(node, UUID))
    booking_id = chains[0] if chains else new_id()  # ids grow with time: the older chain stays
    if not chains:
        linked.new_chains.add(booking_id)
    linked.merges.update(dict.fromkeys(chains[1:], booking_id))
    for node in group:
        if isinstance(node, Ref) and node not in linked.known:
            linked.new_refs[node] = booking_id


def _place(linked: Linked, new: NewItem, survivors: Mapping[UUID, UUID]) -> None:
    if new.ref is not None:
        booking_id = linked.home_of(new.ref)
        if booking_id is None:
            linked.unlinked.append(new)
        else:
            linked.placed.append((booking_id, new))
    elif new.booking_id is not None and new.booking_id in survivors:
        stays = survivors[new.booking_id]
        linked.placed.append((linked.merges.get(stays, stays), new))
    else:
        linked.unknown.append(new)


async def confirm(connection: Connection, linked: Linked) -> None:
    """Once the chains are locked: raises Moved when a ref belongs to another chain by now."""
    if await read_refs(connection, linked.known) != linked.known:
        raise Moved


async def read_refs(connection: Connection, refs: Iterable[Ref]) -> dict[Ref, UUID]:
    wanted = list(refs)
    if not wanted:
        return {}
    rows = await connection.fetch(SQL["read_refs"], *map(list, zip(*wanted, strict=True)))
    return {Ref(row["tenant_id"], row["source"], row["uid"], row["seat"]): row["booking_id"] for row in rows}


async def _read_survivors(connection: Connection, items: Sequence[NewItem]) -> dict[UUID, UUID]:
    named = {new.booking_id for new in items if new.booking_id is not None}
    if not named:
        return {}
    rows = await connection.fetch(SQL["read_survivors"], list(named))
    return {row["asked"]: row["booking_id"] for row in rows}


async def merge_chains(connection: Connection, merges: Mapping[UUID, UUID]) -> None:
    """Moves what belongs to the younger chains to those that stay; all of them are locked."""
    if merges:
        pairs = list(merges), list(merges.values())
        for query in ("move_refs", "move_items", "move_notes"):
            await connection.execute(SQL[query], *pairs)


async def park(connection: Connection, items: Sequence[NewItem], now: datetime) -> None:
    """Keeps what nobody founded yet."""
    rows = [
        (*new.ref, new.item.key, new.record_id, item_to_json(new.item))
        for new in items
        if new.ref is not None
    ]
    if rows:
        await connection.execute(SQL["insert_parked"], *map(list, zip(*rows, strict=True)), now)


async def unpark(connection: Connection, refs: Iterable[Ref]) -> list[tuple[Ref, Item]]:
    """Takes out what waited for these refs; their records count as applied now."""
    wanted = sorted(refs)
    if not wanted:
        return []
    rows = await connection.fetch(SQL["unpark"], *map(list, zip(*wanted, strict=True)))
    if rows:
        await connection.execute(SQL["mark_unparked"], sorted({row["record_id"] for row in rows}))
    return [
        (Ref(row["tenant_id"], row["source"], row["uid"], row["seat"]), item_from_json(row["item"]))
        for row in rows
    ]
