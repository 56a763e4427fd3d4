"""What booking keeps in Postgres: rows in, rows out, set-based.

In: which chains and clients a batch touches, and afterwards what was decided. Promise: every read happens after the
locks under which its rows change, and all writes belong to the caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from turnout_booking.clients import People
from turnout_booking.domain.intents import ChatItem, KnownIntent
from turnout_booking.domain.items import Item, item_from_json, item_to_json
from turnout_booking.domain.states import Chat
from turnout_booking.intake import ChatEvent, NewFact
from turnout_booking.tenant_rules import SQL
from turnout_common.events import (
    BookingEvent,
    ChainState,
    FactState,
    IntentState,
    MessagePlanned,
    MessageWithdrawn,
)
from turnout_common.postgres import Connection


@dataclass(slots=True)
class ChainRow:
    """A chain as it is stored; a new one has version 0 and no state."""

    booking_id: UUID
    tenant_id: str
    version: int = 0
    state: ChainState | None = None
    client_id: UUID | None = None
    pinned_intent_id: UUID | None = None
    first_source_at: datetime | None = None
    fold_basis: str = ""
    slots: dict[str, str] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    @property
    def is_merged(self) -> bool:
        return self.state is not None and self.state.merged_into is not None


@dataclass(frozen=True, slots=True)
class IntentRow:
    """An intent as it is stored."""

    version: int
    tenant_id: str
    client_id: UUID | None
    opening_key: UUID | None
    state: IntentState

    @property
    def known(self) -> KnownIntent:
        opening_key = None if self.state.implicit else self.opening_key
        return KnownIntent(self.state.intent_id, opening_key, self.state.booking_id)


@dataclass(frozen=True, slots=True)
class FactRow:
    """A fact as it is stored. `base` is what the fact itself tells, `state` is it joined with its booking."""

    version: int
    tenant_id: str
    item_key: UUID
    base: FactState
    state: FactState | None


@dataclass(frozen=True, slots=True)
class ClientChats:
    """A client's chats, and the locale of the one that was used last."""

    chats: Sequence[Chat]
    locale: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a batch works on, under its locks. `since` holds the clients who have chats: their intents are derived
    again from there on. `tenants` says whose each client is."""

    chains: dict[UUID, ChainRow]
    tenants: Mapping[UUID, str]
    intents: dict[UUID, IntentRow]
    chat_items: Mapping[UUID, Sequence[ChatItem]]
    chats: Mapping[UUID, ClientChats]
    since: Mapping[UUID, datetime]


@dataclass(frozen=True, slots=True)
class ChainWrite:
    row: ChainRow
    version: int
    state: ChainState
    pinned_intent_id: UUID | None
    fold_basis: str
    slots: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class IntentWrite:
    version: int
    tenant_id: str
    opening_key: UUID | None
    state: IntentState


@dataclass(frozen=True, slots=True)
class FactWrite:
    version: int
    tenant_id: str
    item_key: UUID
    base: FactState
    state: FactState


@dataclass(frozen=True, slots=True)
class OutboundRow:
    record_id: UUID
    message: MessagePlanned | MessageWithdrawn
    occurred_at: datetime


@dataclass(slots=True)
class Decided:
    """What a batch comes to."""

    items: list[tuple[UUID, Item]] = field(default_factory=list)
    chains: list[ChainWrite] = field(default_factory=list)
    intents: list[IntentWrite] = field(default_factory=list)
    facts: list[FactWrite] = field(default_factory=list)
    events: list[BookingEvent] = field(default_factory=list)
    outbound: list[OutboundRow] = field(default_factory=list)


async def lock_chains(connection: Connection, booking_ids: Iterable[UUID]) -> dict[UUID, ChainRow]:
    """The chains, locked in the order of their ids, without their items."""
    wanted = sorted(booking_ids)
    rows = await connection.fetch(SQL["lock_chains"], wanted) if wanted else []
    return {
        row["booking_id"]: ChainRow(
            booking_id=row["booking_id"],
            tenant_id=row["tenant_id"],
            version=row["version"],
            state=ChainState.model_validate_json(row["state"], extra="ignore"),
            client_id=row["client_id"],
            pinned_intent_id=row["pinned_intent_id"],
            first_source_at=row["first_source_at"],
            fold_basis=row["fold_basis"],
            slots=json.loads(row["slots"]),
        )
        for row in rows
    }


async def read_items(connection: Connection, chains: Mapping[UUID, ChainRow]) -> None:
    """Fills in the items of chains that are in the database."""
    wanted = [booking_id for booking_id, chain in chains.items() if chain.version]
    for row in await connection.fetch(SQL["read_items"], wanted) if wanted else []:
        chains[row["booking_id"]].items.append(item_from_json(row["item"]))


async def write_chats(
    connection: Connection, people: People, events: Sequence[ChatEvent], merges: Mapping[UUID, UUID]
) -> None:
    """Client merges, chats, consents, and when somebody wrote: before intents are derived from them."""
    if merges:
        pairs = list(merges), list(merges.values())
        for query in ("merge_clients", "move_contacts", "move_chats", "move_chat_items", "move_intents"):
            await connection.execute(SQL[query], *pairs)
    chats = _newest_chats(people, events)
    if chats:
        await connection.execute(SQL["upsert_chats"], *_columns(chats))
    consents = [
        (e.tenant_id, e.channel, e.chat.hash, e.item_key, e.at, e.opted_in, e.scope)
        for e in events
        if e.opted_in is not None
    ]
    if consents:
        await connection.execute(SQL["insert_consents"], *_columns(consents))
        await connection.execute(SQL["refresh_opted_out"], *_columns([row[:3] for row in consents]))
    said = [
        (
            people.client_of_chat(e),
            e.item_key,
            e.tenant_id,
            "reply" if e.answers else "message",
            e.channel,
            e.at,
        )
        for e in events
        if e.opens or e.answers
    ]
    if said:
        await connection.execute(SQL["insert_chat_items"], *_columns(said))


def _newest_chats(people: People, events: Sequence[ChatEvent]) -> list[tuple[Any, ...]]:
    """One row a chat: an INSERT … ON CONFLICT may not touch a row twice."""
    by_chat: dict[tuple[str, str, str], list[ChatEvent]] = {}
    for event in events:
        if event.chat_sealed is not None:
            by_chat.setdefault((event.tenant_id, event.channel, event.chat.hash), []).append(event)
    rows = []
    for key, said in by_chat.items():
        said.sort(key=lambda event: (event.at, event.item_key))
        locale = next((event.locale for event in reversed(said) if event.locale), None)
        client_id = people.client_of_chat(said[-1])
        rows.append((*key, client_id, said[-1].chat_sealed, locale, said[0].at, said[-1].at))
    return rows


async def read_intents(
    connection: Connection, chains: Iterable[UUID], since: Mapping[UUID, datetime]
) -> dict[UUID, IntentRow]:
    """The intents of the chains, and the explicit ones of the clients from `since` on."""
    rows = await connection.fetch(SQL["intents_of_chains"], list(chains))
    if since:
        rows += await connection.fetch(SQL["intents_of_clients"], list(since), list(since.values()))
    return {
        row["intent_id"]: IntentRow(
            version=row["version"],
            tenant_id=row["tenant_id"],
            client_id=row["client_id"],
            opening_key=row["opening_key"],
            state=IntentState.model_validate_json(row["state"], extra="ignore"),
        )
        for row in rows
    }


async def read_chat_items(
    connection: Connection, since: Mapping[UUID, datetime]
) -> dict[UUID, list[ChatItem]]:
    found: dict[UUID, list[ChatItem]] = {client_id: [] for client_id in since}
    if since:
        rows = await connection.fetch(SQL["chat_items_of_clients"], list(since), list(since.values()))
        for row in rows:
            item = ChatItem(row["item_key"], row["at"], row["channel"], row["kind"] == "reply")
            found[row["client_id"]].append(item)
    return found


async def read_chats(connection: Connection, clients: Iterable[UUID]) -> dict[UUID, ClientChats]:
    wanted = list(clients)
    if not wanted:
        return {}
    by_client: dict[UUID, list[Any]] = {}
    for row in await connection.fetch(SQL["chats_of_clients"], wanted):
        by_client.setdefault(row["client_id"], []).append(row)
    return {client_id: _client_chats(rows) for client_id, rows in by_client.items()}


def _client_chats(rows: list[Any]) -> ClientChats:
    rows.sort(key=lambda row: (row["last_seen_at"], row["channel"], row["chat_hash"]))
    chats = [
        Chat(row["first_seen_at"], list(zip(row["consent_at"], row["opted_in"], strict=True))) for row in rows
    ]
    return ClientChats(chats, next((row["locale"] for row in reversed(rows) if row["locale"]), None))


async def claim_facts(connection: Connection, facts: Sequence[NewFact]) -> dict[UUID, FactRow]:
    """The rows of facts that came, locked; one that is new has version 0 and no state."""
    if not facts:
        return {}
    newest = {fact.state.fact_id: fact for fact in sorted(facts, key=lambda f: (f.state.at, f.item_key))}
    columns = _columns(
        [
            (fact_id, fact.tenant_id, fact.item_key, fact.state.model_dump_json())
            for fact_id, fact in newest.items()
        ]
    )
    claimed = await connection.fetch(SQL["claim_facts"], *columns)
    known = await read_facts(
        connection, [r["fact_id"] for r in claimed if r["known_version"] is not None], ()
    )
    return known | {
        fact_id: FactRow(0, fact.tenant_id, fact.item_key, fact.state, None)
        for fact_id, fact in newest.items()
        if fact_id not in known
    }


async def read_facts(
    connection: Connection, fact_ids: Iterable[UUID], chains: Iterable[UUID]
) -> dict[UUID, FactRow]:
    """Facts by id, and those about the chains."""
    by_id, by_chain = list(fact_ids), list(chains)
    rows = await connection.fetch(SQL["read_facts"], by_id, by_chain) if by_id or by_chain else []
    return {
        row["fact_id"]: FactRow(
            version=row["version"],
            tenant_id=row["tenant_id"],
            item_key=row["item_key"],
            base=FactState.model_validate_json(row["base"], extra="ignore"),
            state=FactState.model_validate_json(row["state"], extra="ignore"),
        )
        for row in rows
    }


async def write(connection: Connection, decided: Decided) -> None:
    """All that a batch came to, with the outbox rows of what it tells others."""
    if decided.items:
        rows = [(booking_id, item.key, item_to_json(item)) for booking_id, item in decided.items]
        await connection.execute(SQL["insert_items"], *_columns(rows))
    if decided.chains:
        await connection.execute(SQL["upsert_chains"], *_columns([_chain(w) for w in decided.chains]))
    if decided.intents:
        await connection.execute(SQL["upsert_intents"], *_columns([_intent(w) for w in decided.intents]))
    if decided.facts:
        await connection.execute(SQL["upsert_facts"], *_columns([_fact(w) for w in decided.facts]))
    if decided.events:
        await connection.execute(SQL["insert_events"], *_columns([_event(e) for e in decided.events]))
    if decided.outbound:
        await connection.execute(SQL["insert_outbound"], *_columns([_message(r) for r in decided.outbound]))


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _chain(w: ChainWrite) -> tuple[Any, ...]:
    s = w.state
    return (
        s.booking_id, w.row.tenant_id, w.version, s.status, s.merged_into, s.client_id, s.intent_id,
        w.pinned_intent_id, s.staff_id, s.created_at, s.start_at, w.fold_basis, s.model_dump_json(),
        json.dumps(dict(w.slots)),
    )  # fmt: skip


def _intent(w: IntentWrite) -> tuple[Any, ...]:
    s = w.state
    return (
        s.intent_id, w.tenant_id, w.version, s.client_id, s.booking_id, s.implicit, s.withdrawn, s.opened_at,
        w.opening_key, s.model_dump_json(),
    )  # fmt: skip


def _fact(w: FactWrite) -> tuple[Any, ...]:
    return (
        w.state.fact_id, w.tenant_id, w.version, w.state.booking_id, w.item_key, w.base.model_dump_json(),
        w.state.model_dump_json(),
    )  # fmt: skip


def _event(e: BookingEvent) -> tuple[Any, ...]:
    return (
        e.event_id, e.tenant_id, e.entity_kind, e.entity_id, e.version, e.event_type, e.source, e.occurred_at,
        e.model_dump_json(),
    )  # fmt: skip


def _message(row: OutboundRow) -> tuple[Any, ...]:
    m = row.message
    return (
        row.record_id, m.tenant_id, m.type, m.client_id, m.booking_id, m.booking_version, row.occurred_at,
        m.model_dump_json(),
    )  # fmt: skip
