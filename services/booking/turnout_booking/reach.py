"""What a batch may change: its own chains, and those whose intents or reachability depend on the same clients.

A client's intents are derived from all that the client said and booked, so a message or a booking can move the intent
of another chain; a consent or a first chat makes the client's coming appointments reachable or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from turnout_booking.clients import People
from turnout_booking.domain.items import ItemKind
from turnout_booking.intake import Intake
from turnout_booking.linking import Linked
from turnout_booking.store import ChainRow
from turnout_booking.tenant_rules import SQL
from turnout_common.postgres import Connection

LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)
LATER = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Reach:
    """`chains` of the database to lock, `clients` to lock, `chatting` those of them who have chats, `since` from when
    on their intents are derived again."""

    chains: set[UUID]
    clients: set[UUID]
    chatting: set[UUID] = field(default_factory=set)
    since: dict[UUID, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Head:
    client_id: UUID | None
    first_source_at: datetime
    pinned_intent_id: UUID | None


async def find_reach(
    connection: Connection,
    intake: Intake,
    people: People,
    linked: Linked,
    chains: set[UUID],
    extra_clients: set[UUID],
    locked: Mapping[UUID, ChainRow] | None,
) -> Reach:
    """Computed twice: without locks to learn what to lock, and from the `locked` rows to see that nothing moved."""
    heads = await _read_heads(connection, chains, locked)
    reach = Reach(set(chains), set(extra_clients))
    for new in intake.items:
        if (client_id := people.client_of(new)) is not None:
            reach.clients.add(client_id)
    reach.clients |= {people.client_of_chat(event) for event in intake.chats}
    reach.clients |= set(people.merges) | {survivor for survivor, _ in people.merges.values()}
    reach.clients |= {head.client_id for head in heads.values() if head.client_id is not None}
    opened = await _pinned_intents(connection, reach, intake, heads)
    newest_chats = await _find_chatting(connection, reach, intake, people)
    touched = _reachability_changes(intake, people, newest_chats)
    if touched:
        for row in await connection.fetch(
            SQL["chains_starting_after"], list(touched), list(touched.values())
        ):
            heads[row["booking_id"]] = _head(row)
            reach.chains.add(row["booking_id"])
    changed = _changed_at(intake, people, linked, heads, opened)
    deriving = {client_id: at for client_id, at in changed.items() if client_id in reach.chatting}
    if deriving:
        rows = await connection.fetch(SQL["derive_since"], list(deriving), list(deriving.values()))
        reach.since = {row["client_id"]: row["since"] for row in rows}
        found = await connection.fetch(SQL["chains_since"], list(reach.since), list(reach.since.values()))
        reach.chains |= {row["booking_id"] for row in found}
    return reach


async def _read_heads(
    connection: Connection, chains: Iterable[UUID], locked: Mapping[UUID, ChainRow] | None
) -> dict[UUID, _Head]:
    wanted = list(chains)
    if locked is not None:
        return {
            booking_id: _Head(row.client_id, row.first_source_at, row.pinned_intent_id)
            for booking_id in wanted
            if (row := locked.get(booking_id)) is not None and row.first_source_at is not None
        }
    rows = await connection.fetch(SQL["read_heads"], wanted) if wanted else []
    return {row["booking_id"]: _head(row) for row in rows}


def _head(row: Any) -> _Head:
    return _Head(row["client_id"], row["first_source_at"], row["pinned_intent_id"])


async def _pinned_intents(
    connection: Connection, reach: Reach, intake: Intake, heads: Mapping[UUID, _Head]
) -> dict[UUID, datetime]:
    """When the intents that chains name were opened, by their client, who is concerned too."""
    pins = {new.item.intent_id for new in intake.items} | {head.pinned_intent_id for head in heads.values()}
    pins.discard(None)
    opened: dict[UUID, datetime] = {}
    for row in await connection.fetch(SQL["owners_of_intents"], list(pins)) if pins else []:
        client_id = row["client_id"]
        reach.clients.add(client_id)
        opened[client_id] = min(row["opened_at"], opened.get(client_id, row["opened_at"]))
    return opened


async def _find_chatting(
    connection: Connection, reach: Reach, intake: Intake, people: People
) -> dict[UUID, datetime]:
    """Fills in who has chats, or has with this batch. Gives since when the known ones have all of theirs."""
    known = reach.clients - set(people.new_clients)
    rows = await connection.fetch(SQL["clients_with_chats"], list(known)) if known else []
    newest_chats = {row["client_id"]: row["newest_chat_at"] for row in rows}
    reach.chatting = set(newest_chats) | {people.client_of_chat(event) for event in intake.chats}
    return newest_chats


def _reachability_changes(
    intake: Intake, people: People, newest_chats: Mapping[UUID, datetime]
) -> dict[UUID, datetime]:
    """The clients whose appointments, from some start on, may be reachable from now on, or no more."""
    after: dict[UUID, datetime] = {}
    for event in intake.chats:
        client_id = people.client_of_chat(event)
        is_new = event.chat not in people.known or event.at < newest_chats.get(client_id, LATER)
        of_reminders = event.opted_in is not None and event.scope == "all"
        if event.chat_sealed is not None and (is_new or of_reminders):
            after[client_id] = min(event.at, after.get(client_id, event.at))
    for absorbed, (survivor, _) in people.merges.items():
        after[absorbed] = after[survivor] = LONG_AGO
    return after


def _changed_at(
    intake: Intake,
    people: People,
    linked: Linked,
    heads: Mapping[UUID, _Head],
    opened: Mapping[UUID, datetime],
) -> dict[UUID, datetime]:
    """The earliest moment of each client at which something may be otherwise than it was."""
    changed = dict(opened)

    def note(client_id: UUID | None, at: datetime) -> None:
        if client_id is not None:
            changed[client_id] = min(at, changed.get(client_id, at))

    for event in intake.chats:
        if event.opens or event.answers or event.phone is not None:
            note(people.client_of_chat(event), event.at)
    first_at: dict[UUID, datetime] = {b: head.first_source_at for b, head in heads.items()}
    for absorbed, survivor in linked.merges.items():
        if absorbed in first_at and survivor in first_at:
            first_at[survivor] = min(first_at[survivor], first_at[absorbed])
    for booking_id, new in linked.placed:
        if new.item.kind is ItemKind.SOURCE:
            at = min(new.item.at, new.item.start_at or new.item.at)
            first_at[booking_id] = min(at, first_at.get(booking_id, at))
    for booking_id, new in linked.placed:
        note(people.client_of(new), first_at.get(booking_id, new.item.at))
    for booking_id, head in heads.items():
        note(head.client_id, first_at[booking_id])
    for absorbed, (
        survivor,
        _,
    ) in people.merges.items():  # what each ever wrote stands between the other's words now
        changed[absorbed] = changed[survivor] = LONG_AGO
    return changed
