"""What a batch comes to: new versions of chains, intents and facts, and what clients are told. Pure.

In: what is stored, and what came. Out: `Decided`. Promise: a version is written only where the state is another one,
and versions of one entity grow by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from turnout_booking.domain.fold import Folded, Step, fold, grow
from turnout_booking.domain.intents import ChainWish, ChatItem, Wish, derive, intent_state
from turnout_booking.domain.items import Item
from turnout_booking.domain.reminders import Change, Planned, plan, slots_after
from turnout_booking.domain.rules import RULES_BY_NAME
from turnout_booking.domain.states import Joins, chain_state, fact_state, merged_state, reachable
from turnout_booking.intake import NewFact
from turnout_booking.store import (
    ChainRow,
    ChainWrite,
    Decided,
    FactRow,
    FactWrite,
    IntentRow,
    IntentWrite,
    Loaded,
    OutboundRow,
)
from turnout_booking.tenant_rules import TenantRules
from turnout_booking.versions import FACT_EVENTS, Cause, Versions, cause_of
from turnout_common.events import (
    BookingEventType,
    ChainState,
    ChainStatus,
    EntityKind,
    FactState,
    IntentState,
    MessagePlanned,
    MessageWithdrawn,
    Queue,
)
from turnout_common.ids import derived_id


@dataclass(slots=True)
class Arrivals:
    """What a batch brings, by where it belongs. `merges` maps chains to the one that they go into."""

    items: dict[UUID, list[Item]] = field(default_factory=dict)
    facts: Sequence[NewFact] = ()
    fact_rows: Mapping[UUID, FactRow] = field(default_factory=dict)
    chain_of_fact: dict[UUID, UUID | None] = field(default_factory=dict)
    merges: Mapping[UUID, UUID] = field(default_factory=dict)
    client_causes: dict[UUID, Cause] = field(default_factory=dict)
    fallback: Cause | None = None


@dataclass(slots=True)
class _Work:
    """One chain in the making."""

    row: ChainRow
    fresh: list[Item]
    steps: list[Step]
    folded: Folded
    joins: Joins = field(default_factory=lambda: Joins(None))
    state: ChainState | None = None


class Changes:
    """Decides one batch."""

    def __init__(
        self,
        loaded: Loaded,
        arrivals: Arrivals,
        rules: Mapping[str, TenantRules],
        now: datetime,
        new_id: Callable[[], UUID],
    ) -> None:
        self._loaded = loaded
        self._arrivals = arrivals
        self._rules = rules
        self._now = now
        self._new_id = new_id
        self._decided = Decided()
        self._works: dict[UUID, _Work] = {}

    def decide(self) -> Decided:
        for booking_id, row in self._loaded.chains.items():
            if booking_id not in self._arrivals.merges:
                self._fold(row)
        self._derive_intents()
        for work in self._works.values():
            self._write_chain(work)
        for absorbed, survivor in self._arrivals.merges.items():
            self._write_absorbed(self._loaded.chains[absorbed], survivor)
        self._write_facts()
        return self._decided

    def _fold(self, row: ChainRow) -> None:
        settings = self._rules[row.tenant_id].fold
        known = {item.key for item in row.items}
        fresh = []
        for item in self._arrivals.items.get(row.booking_id, ()):
            if item.key not in known:
                known.add(item.key)
                fresh.append(item)
        steps = grow(row.items, fresh, settings)
        folded = steps[-1].folded if steps else fold(row.items, settings)
        assert folded is not None, "a chain is founded by an item with a start and an end"
        self._works[row.booking_id] = _Work(row, fresh, steps, folded)
        self._decided.items.extend((row.booking_id, item) for item in fresh)

    # Intents

    def _derive_intents(self) -> None:
        """For clients who have chats from all that they said and booked, for every other chain from itself."""
        by_client, alone = self._chains_by_owner()
        explicit: dict[UUID | None, list[IntentRow]] = {}
        implicit: dict[UUID | None, list[IntentRow]] = {}
        for row in self._loaded.intents.values():
            if row.state.implicit:
                implicit.setdefault(row.state.booking_id, []).append(row)
            elif row.client_id in by_client and row.state.opened_at >= self._loaded.since[row.client_id]:
                explicit.setdefault(row.client_id, []).append(row)
        kept: set[UUID] = set()

        def settle(client_id: UUID | None, chains: Sequence[ChainWish], chat: Iterable[ChatItem]) -> None:
            rows = [*explicit.get(client_id, ())] if client_id in by_client else []
            rows += [row for chain in chains for row in implicit.get(chain.booking_id, ())]
            for wish in derive(chat, chains, [row.known for row in rows], self._new_id):
                kept.add(self._settle(wish, client_id))

        for client_id, chains in by_client.items():
            settle(client_id, chains, self._loaded.chat_items[client_id])
        for chain in alone:
            settle(chain.folded.client_id, [chain], ())
        for rows in (*explicit.values(), *implicit.values()):
            for row in rows:
                if row.state.intent_id not in kept:
                    self._withdraw(row)

    def _chains_by_owner(self) -> tuple[dict[UUID, list[ChainWish]], list[ChainWish]]:
        """Chains by the client with chats whose intents they may belong to, and those of nobody such."""
        owners = {i: row.client_id for i, row in self._loaded.intents.items() if not row.state.implicit}
        by_client: dict[UUID, list[ChainWish]] = {client_id: [] for client_id in self._loaded.since}
        alone: list[ChainWish] = []
        for work in self._works.values():
            pin = work.folded.pinned_intent_id
            client_id = (owners.get(pin) if pin is not None else None) or work.folded.client_id
            wish = ChainWish(work.row.booking_id, work.folded)
            group = by_client.get(client_id, alone) if client_id is not None else alone
            group.append(wish)
        return by_client, alone

    def _settle(self, wish: Wish, client_id: UUID | None) -> UUID:
        """Writes the intent, and joins its chain to it."""
        state = intent_state(wish, client_id)
        cause = self._cause_of_client(client_id)
        if wish.chain is not None:
            work = self._works[wish.chain.booking_id]
            work.joins = Joins(state.intent_id, wish.replies, self._is_reachable(work.folded))
            cause = self._cause(work)
        self._write_intent(self._loaded.intents.get(state.intent_id), wish, state, cause)
        return state.intent_id

    def _withdraw(self, row: IntentRow) -> None:
        if row.state.withdrawn:
            return
        state = row.state.model_copy(update={"withdrawn": True})
        booking_id = row.state.booking_id
        work = self._works.get(self._arrivals.merges.get(booking_id, booking_id)) if booking_id else None
        cause = self._cause(work) if work is not None else self._cause_of_client(row.client_id)
        events = Versions(
            self._decided.events, row.tenant_id, EntityKind.INTENT, state.intent_id, row.version
        )
        events.add(BookingEventType.CHANGED, cause, state)
        self._decided.intents.append(IntentWrite(events.version, row.tenant_id, row.opening_key, state))

    def _write_intent(self, row: IntentRow | None, wish: Wish, state: IntentState, cause: Cause) -> None:
        before = row.state if row is not None else None
        if state == before:
            return
        tenant_id = row.tenant_id if row is not None else self._tenant_of(wish, state)
        version = row.version if row is not None else 0
        events = Versions(self._decided.events, tenant_id, EntityKind.INTENT, state.intent_id, version)
        closes = state.closed_at is not None and (before is None or before.closed_at is None)
        if before is None:
            opened = _unclosed(state) if closes else state
            events.add(BookingEventType.INTENT_RECEIVED, replace(cause, at=state.opened_at), opened)
        if closes and state.closed_at is not None:
            events.add(BookingEventType.INTENT_CLOSED, replace(cause, at=state.closed_at), state)
        elif before is not None:
            events.add(_intent_event(before, state, cause), cause, state)
        self._decided.intents.append(IntentWrite(events.version, tenant_id, wish.opening_key, state))

    def _tenant_of(self, wish: Wish, state: IntentState) -> str:
        if wish.chain is not None:
            return self._works[wish.chain.booking_id].row.tenant_id
        assert state.client_id is not None, "an intent without a chain is a client's"
        return self._loaded.tenants[state.client_id]

    # Chains

    def _write_chain(self, work: _Work) -> None:
        row = work.row
        events = Versions(self._decided.events, row.tenant_id, EntityKind.CHAIN, row.booking_id, row.version)
        state = row.state
        for step in work.steps:
            joins = replace(work.joins, reachable=self._is_reachable(step.folded))
            after = chain_state(row.booking_id, step.folded, joins)
            if after != state:
                self._write_step(events, step, state, after)
                state = after
        final = chain_state(
            row.booking_id,
            work.folded,
            replace(work.joins, reachable=self._is_reachable(work.folded)),
        )
        if final != state:
            events.add(BookingEventType.CHANGED, self._cause(work), final)
        work.state = final
        rules = self._rules[row.tenant_id]
        is_same = events.version == row.version and row.pinned_intent_id == work.folded.pinned_intent_id
        if is_same and row.fold_basis == rules.fold_basis:
            return
        slots = self._plan(work, events.version, final)
        self._decided.chains.append(
            ChainWrite(
                row=row,
                version=events.version,
                state=final,
                pinned_intent_id=work.folded.pinned_intent_id,
                fold_basis=rules.fold_basis,
                slots=slots,
            )
        )

    def _write_step(self, events: Versions, step: Step, before: ChainState | None, after: ChainState) -> None:
        cause = cause_of(step.item)
        for event in step.events:
            is_last = event is step.events[-1]
            first_time = before is None or before.confirmed_at is None
            events.add(event, cause, after if is_last or not first_time else _unconfirmed(after))
        if after.overlaps > (before.overlaps if before is not None else 0):
            events.add(BookingEventType.OVERLAP, cause, after)

    def _write_absorbed(self, row: ChainRow, survivor: UUID) -> None:
        """The end of a chain: its items, its intent and its facts belong to the one that stays."""
        assert row.state is not None
        state = merged_state(row.state, survivor)
        cause = self._cause(self._works[survivor])
        events = Versions(self._decided.events, row.tenant_id, EntityKind.CHAIN, row.booking_id, row.version)
        events.add(BookingEventType.MERGED, cause, state)
        slots = self._tell(row, state, events.version, cause.at)
        self._decided.chains.append(
            ChainWrite(
                row=row,
                version=events.version,
                state=state,
                pinned_intent_id=None,
                fold_basis=row.fold_basis,
                slots=slots,
            )
        )

    def _is_reachable(self, folded: Folded) -> bool:
        if folded.client_id is None:
            return False
        known = self._loaded.chats.get(folded.client_id)
        return known is not None and reachable(known.chats, folded.start_at)

    def _cause(self, work: _Work) -> Cause:
        """The newest item of the chain, else what its client last did."""
        if work.fresh:
            newest = max(work.fresh, key=lambda item: (item.at, item.key))
            return cause_of(newest)
        return self._cause_of_client(work.folded.client_id)

    def _cause_of_client(self, client_id: UUID | None) -> Cause:
        found = self._arrivals.client_causes.get(client_id) if client_id is not None else None
        found = found or self._arrivals.fallback
        assert found is not None, "nothing changes without a cause"
        return found

    # Messages

    def _plan(self, work: _Work, version: int, after: ChainState) -> Mapping[str, str]:
        planning = [item.at for item in work.fresh if RULES_BY_NAME[item.trigger].plans]
        before = work.row.state
        if after.reachable and before is not None and not before.reachable:
            planning.append(self._cause(work).at)
        caused_at = max(planning, default=None)
        return self._tell(work.row, after, version, caused_at)

    def _tell(
        self, row: ChainRow, after: ChainState, version: int, caused_at: datetime | None
    ) -> Mapping[str, str]:
        """Plans and withdraws; what the sender holds afterwards."""
        change = Change(row.tenant_id, row.state, after, caused_at)
        decisions = plan(change, row.slots, self._rules[row.tenant_id].planner, self._now)
        for decision in decisions:
            message = (
                self._planned(row, after, version, decision)
                if isinstance(decision, Planned)
                else _withdrawn(row, after, version, decision.slot_key)
            )
            record_id = derived_id("outbound", message.type, message.slot_key, str(version))
            self._decided.outbound.append(OutboundRow(record_id, message, self._now))
        return slots_after(row.slots, decisions)

    def _planned(self, row: ChainRow, after: ChainState, version: int, planned: Planned) -> MessagePlanned:
        chats = self._loaded.chats.get(planned.client_id)
        return MessagePlanned(
            message_id=derived_id("message", planned.sent_key),
            tenant_id=row.tenant_id,
            slot_key=planned.slot_key,
            sent_key=planned.sent_key,
            queue=Queue.TX,
            template=planned.template,
            client_id=planned.client_id,
            booking_id=row.booking_id,
            booking_version=version,
            start_at=planned.start_at,
            not_before=planned.not_before,
            expires_at=planned.start_at,
            service_id=after.service_id,
            staff_id=after.staff_id,
            locale=chats.locale if chats is not None else None,
        )

    # Facts

    def _write_facts(self) -> None:
        newest: dict[UUID, NewFact] = {}
        for fact in sorted(self._arrivals.facts, key=lambda f: (f.state.at, f.item_key)):
            newest[fact.state.fact_id] = fact
        for fact_id, row in self._arrivals.fact_rows.items():
            came = newest.get(fact_id)
            if came is not None and (came.state.at, came.item_key) > (row.base.at, row.item_key):
                row = replace(row, item_key=came.item_key, base=came.state)
            booking_id = self._arrivals.chain_of_fact.get(fact_id)
            work = self._works.get(booking_id) if booking_id is not None else None
            state = fact_state(row.base, work.state if work is not None else None)
            if state != row.state:
                self._write_fact(row, state, work, came)

    def _write_fact(self, row: FactRow, state: FactState, work: _Work | None, came: NewFact | None) -> None:
        if came is not None or work is None:
            cause = Cause(row.item_key, row.base.at, str(row.base.channel))
        else:
            cause = self._cause(work)
        events = Versions(self._decided.events, row.tenant_id, EntityKind.FACT, state.fact_id, row.version)
        events.add(FACT_EVENTS[state.fact], cause, state)
        self._decided.facts.append(FactWrite(events.version, row.tenant_id, row.item_key, row.base, state))


def _unconfirmed(state: ChainState) -> ChainState:
    """The chain between being created and being confirmed by the same item."""
    status = ChainStatus.PENDING if state.status is ChainStatus.CONFIRMED else state.status
    return state.model_copy(update={"status": status, "confirmed_at": None})


def _unclosed(state: IntentState) -> IntentState:
    """The intent when it was opened, where it is closed by the time that it is first written."""
    return state.model_copy(update={"confirmed_at": None, "closed_at": None, "outcome": None})


def _intent_event(before: IntentState, after: IntentState, cause: Cause) -> BookingEventType:
    if after.admin_actions > before.admin_actions and cause.event.startswith("admin."):
        return cause.event
    return BookingEventType.CHANGED


def _withdrawn(row: ChainRow, after: ChainState, version: int, slot_key: str) -> MessageWithdrawn:
    client_id = after.client_id or (row.state.client_id if row.state is not None else None)
    assert client_id is not None, "only what was planned for a client is withdrawn"
    return MessageWithdrawn(
        tenant_id=row.tenant_id,
        slot_key=slot_key,
        client_id=client_id,
        booking_id=row.booking_id,
        booking_version=version,
    )
