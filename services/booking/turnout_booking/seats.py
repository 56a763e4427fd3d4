"""Bookings with seats: each attendee of a uid is a chain of their own (design §4, seat).

A meeting and a no-show mark name an attendee and leave open whether they hold a seat or are a guest. Such an item belongs
to the attendee's seat where there is one, else to the booking as a whole, where the fold passes over it unless it is the
client's. Order of arrival does not matter: a meeting that comes first is taken for one of a booking without seats; when
a seat of its uid turns up, that seat adopts the chain, and what is said of other attendees goes to their seats, or waits
for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from turnout_booking.domain.attendees import has_no_sure_founder
from turnout_booking.domain.items import Item, item_from_json
from turnout_booking.intake import NewItem, Ref
from turnout_booking.tenant_rules import SQL
from turnout_common.postgres import Connection


@dataclass(frozen=True, slots=True)
class Seats:
    """What a batch says about seats. `founded` are seats that it names first; `donors` gives for each of them the chain
    of its booking as a whole, which may hold what is theirs; `adoptions` those of the donors that the seat goes on as.
    `taken` are uids (as a whole) of which seats are known: no meeting founds a booking without seats there.
    """

    founded: frozenset[Ref] = frozenset()
    donors: Mapping[Ref, UUID] = field(default_factory=dict)
    adoptions: Mapping[Ref, UUID] = field(default_factory=dict)
    taken: frozenset[Ref] = frozenset()

    def is_adopted(self, booking_id: UUID | None) -> bool:
        """Whether the chain, taken for a booking without seats before, is a seat's from now on."""
        return booking_id in self.adoptions.values()

    def names(self, items: Sequence[NewItem], known: Mapping[Ref, UUID]) -> Iterable[Sequence[Ref]]:
        """For each item that founds or links: the names that it states to be one booking's."""
        said = {ref for new in items if _is_sure(new) for ref in new.refs}
        for new in items:
            if _is_sure(new):
                yield new.refs
            elif new.item.founds and new.ref is not None:
                is_seat = new.ref in known or new.ref in self.founded
                whole = known.get(new.ref.whole)
                is_whole = new.ref.whole in said or (whole is not None and not self.is_adopted(whole))
                if not is_seat and (is_whole or new.ref.whole not in self.taken):
                    yield new.refs


def _is_sure(new: NewItem) -> bool:
    """Whether it founds a booking of which it is known what it is: a seat, or one without seats."""
    return new.item.founds and bool(new.refs) and not new.item.leaves_seat_open


def _new_seats(items: Iterable[NewItem], known: Mapping[Ref, UUID]) -> set[Ref]:
    return {ref for new in items if _is_sure(new) for ref in new.refs if ref.seat and ref not in known}


def _homeless(items: Iterable[NewItem], known: Mapping[Ref, UUID]) -> set[Ref]:
    """Bookings, as a whole, of which a meeting speaks first."""
    return {
        new.ref.whole
        for new in items
        if new.item.leaves_seat_open and new.item.founds and new.ref is not None
        if new.ref not in known and new.ref.whole not in known
    }


def looked_up(items: Iterable[NewItem], extra: Iterable[Ref]) -> set[Ref]:
    """The names that must be read to place the items, and the waiting ones at `extra`."""
    own = {ref for new in items for ref in (*new.refs, new.ref) if ref is not None}
    both = own | set(extra)
    return both | {ref.whole for ref in both}


def tenants_to_lock(items: Sequence[NewItem], known: Mapping[Ref, UUID]) -> list[str]:
    """Tenants of whom a batch may settle whether a uid has seats: only one may at a time, since no key stands for it."""
    return sorted({ref.tenant_id for ref in _new_seats(items, known) | _homeless(items, known)})


async def read_seats(connection: Connection, items: Sequence[NewItem], known: Mapping[Ref, UUID]) -> Seats:
    """What the batch and the database know about seats."""
    founded = _new_seats(items, known)
    homeless = _homeless(items, known)
    if not founded and not homeless:
        return Seats()
    donors = {ref: known[ref.whole] for ref in founded if ref.whole in known}
    taken = {ref.whole for ref in founded} | await _read_taken(connection, homeless)
    said = {ref for new in items if _is_sure(new) for ref in new.refs}
    unsure = await _read_unsure(connection, set(donors.values()))
    adoptions: dict[Ref, UUID] = {}
    for ref, booking_id in sorted(donors.items()):
        may_adopt = ref.uid in unsure.get(booking_id, ()) and ref.whole not in said
        if may_adopt and booking_id not in adoptions.values():
            adoptions[ref] = booking_id
    return Seats(frozenset(founded), donors, adoptions, frozenset(taken))


async def _read_taken(connection: Connection, wholes: set[Ref]) -> set[Ref]:
    if not wholes:
        return set()
    columns = zip(*((ref.tenant_id, ref.source, ref.uid) for ref in sorted(wholes)), strict=True)
    return {Ref(*row) for row in await connection.fetch(SQL["uids_with_seats"], *map(list, columns))}


async def _read_unsure(connection: Connection, chains: set[UUID]) -> dict[UUID, set[str]]:
    """Those of the chains that stand on meetings only, with the uids of these."""
    if not chains:
        return {}
    items: dict[UUID, list[Item]] = {}
    for row in await connection.fetch(SQL["read_items"], list(chains)):
        items.setdefault(row["booking_id"], []).append(item_from_json(row["item"]))
    return {
        booking_id: {item.uid for item in said if item.uid is not None and item.leaves_seat_open}
        for booking_id, said in items.items()
        if has_no_sure_founder(said)
    }


@dataclass(slots=True)
class HandedOver:
    """What donors gave away: to seats that are known, and what waits for its seat."""

    to_seats: list[tuple[UUID, str, Item]] = field(default_factory=list)
    waiting: list[NewItem] = field(default_factory=list)
    keys: list[tuple[UUID, UUID]] = field(default_factory=list)

    def take(self, donor: UUID, ref: Ref, item: Item, seat: UUID | None) -> None:
        self.keys.append((donor, item.key))
        if seat is not None:
            self.to_seats.append((seat, ref.tenant_id, item))
        else:
            self.waiting.append(NewItem(ref.tenant_id, item.key, item, ref))


async def drop_handed_over(connection: Connection, handed: HandedOver, adopted: Iterable[UUID]) -> None:
    """Takes what was handed over out of its former chain, and their wholes' names from chains that are seats now."""
    if handed.keys:
        await connection.execute(SQL["drop_items"], *map(list, zip(*handed.keys, strict=True)))
    if chains := sorted(adopted):
        await connection.execute(SQL["drop_wholes"], chains)
