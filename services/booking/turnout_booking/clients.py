"""Who is who: contacts resolved to clients (design §4, Clients).

In: the contacts that a batch names. Out: a client for each, new contacts and clients to insert, and which clients turn
out to be one. A booking's client is whoever has its phone, or its email where it names no phone: two unproven contacts
of one form make no two clients one, since then the order of arrival would decide who is who, and whoever books with
another's email would become them. A chat's client is the chat's own, and a phone that the messenger vouches for makes
the chat's and the phone's client one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from turnout_booking.intake import ChatEvent, ContactKey, Intake, NewItem, Person
from turnout_booking.moved import Moved
from turnout_booking.tenant_rules import SQL
from turnout_common.postgres import Connection


@dataclass(slots=True)
class People:
    """The clients of one batch. `known` is what the database said when the batch was read."""

    known: Mapping[ContactKey, UUID]
    new_id: Callable[[], UUID]
    added: dict[ContactKey, tuple[UUID, str | None]] = field(default_factory=dict)
    new_clients: dict[UUID, str] = field(default_factory=dict)
    merged: dict[UUID, tuple[UUID, ChatEvent]] = field(default_factory=dict)
    of_items: dict[UUID, UUID] = field(default_factory=dict)
    of_chats: dict[ContactKey, UUID] = field(default_factory=dict)

    def root(self, client_id: UUID) -> UUID:
        """The client who stays."""
        while client_id in self.merged:
            client_id = self.merged[client_id][0]
        return client_id

    def client_of(self, new: NewItem) -> UUID | None:
        found = self.of_items.get(new.item.key) if new.person is not None else None
        return self.root(found) if found is not None else None

    def client_of_chat(self, event: ChatEvent) -> UUID:
        return self.root(self.of_chats[event.chat])

    def take_person(self, item_key: UUID, person: Person) -> None:
        client_id = self._owner(person.key)
        if client_id is None:
            client_id = self._new_client(person.key.tenant_id)
            self.added[person.key] = (client_id, person.sealed)
        self.of_items[item_key] = client_id

    def take_chat(self, event: ChatEvent) -> None:
        by_phone = self._owner(event.phone) if event.phone is not None else None
        client_id = self._owner(event.chat)
        if client_id is None:
            client_id = by_phone or self._new_client(event.tenant_id)
            self.added[event.chat] = (client_id, None)
        if event.phone is not None and by_phone is None:
            self.added[event.phone] = (client_id, event.phone_sealed)
        elif by_phone is not None and by_phone != client_id:
            survivor, absorbed = sorted((by_phone, client_id))  # ids grow with time: the older one stays
            self.merged[absorbed] = (survivor, event)
        self.of_chats[event.chat] = client_id

    def _owner(self, key: ContactKey) -> UUID | None:
        owner = self.known.get(key)
        if owner is None and key in self.added:
            owner = self.added[key][0]
        return self.root(owner) if owner is not None else None

    def _new_client(self, tenant_id: str) -> UUID:
        client_id = self.new_id()
        self.new_clients[client_id] = tenant_id
        return client_id

    @property
    def merges(self) -> dict[UUID, tuple[UUID, ChatEvent]]:
        """Clients of the database who are someone else from now on."""
        return {
            absorbed: (self.root(absorbed), event)
            for absorbed, (_, event) in self.merged.items()
            if absorbed not in self.new_clients
        }


async def resolve(connection: Connection, intake: Intake, new_id: Callable[[], UUID]) -> People:
    """The clients of the batch, with new contacts inserted. Raises Moved when another consumer was faster."""
    keys = _keys(intake)
    people = People(await read_contacts(connection, keys), new_id)
    for new in intake.items:
        if new.person is not None:
            people.take_person(new.item.key, new.person)
    for event in intake.chats:
        people.take_chat(event)
    await _insert(connection, people)
    return people


async def confirm(connection: Connection, people: People) -> None:
    """Once all locks are held: raises Moved when a contact belongs to someone else by now."""
    if await read_contacts(connection, people.known) != people.known:
        raise Moved


async def read_contacts(connection: Connection, keys: Iterable[ContactKey]) -> dict[ContactKey, UUID]:
    wanted = list(keys)
    if not wanted:
        return {}
    rows = await connection.fetch(SQL["read_contacts"], *map(list, zip(*wanted, strict=True)))
    return {ContactKey(row["tenant_id"], row["kind"], row["hash"]): row["client_id"] for row in rows}


def _keys(intake: Intake) -> set[ContactKey]:
    keys = {new.person.key for new in intake.items if new.person is not None}
    for event in intake.chats:
        keys.add(event.chat)
        if event.phone is not None:
            keys.add(event.phone)
    return keys


async def _insert(connection: Connection, people: People) -> None:
    new = {client: tenant for client, tenant in people.new_clients.items() if people.root(client) == client}
    if new:
        await connection.execute(SQL["insert_clients"], list(new), list(new.values()))
    if people.added:
        rows = [(*key, people.root(client), sealed) for key, (client, sealed) in people.added.items()]
        done = await connection.execute(SQL["insert_contacts"], *map(list, zip(*rows, strict=True)))
        if done != f"INSERT 0 {len(rows)}":
            raise Moved
