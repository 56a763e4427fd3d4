"""In from Kafka: plans and withdrawals of messages, and the providers' receipts, each batch in one transaction.

Promises: the highest booking version wins for each slot, whatever came first; a receipt never takes a message back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from turnout_common.clock import Clock
from turnout_common.consumer import Handler, Outcome, Received
from turnout_common.events import MessagePlanned, MessageWithdrawn, ReceiptItem
from turnout_common.postgres import Connection
from turnout_common.topics import INBOUND, OUTBOUND
from turnout_sender.deliveries import ProviderMessage, apply_receipts, lock_slots, write_changes
from turnout_sender.receipts import Receipt
from turnout_sender.slots import Changes, SlotKey, settle

#: What is read of each topic; the rest is ignored.
TOPICS = {
    OUTBOUND: frozenset({"message.planned", "message.withdrawn"}),
    INBOUND: frozenset({"inbound.receipt"}),
}


class OutboundHandler:
    """outbound_messages: what booking wants clients to be told, and what no more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def __call__(self, connection: Connection, events: Sequence[Received], /) -> None:
        said: dict[SlotKey, list[MessagePlanned | MessageWithdrawn]] = {}
        for received in events:
            event = received.event
            assert isinstance(event, MessagePlanned | MessageWithdrawn)
            said.setdefault(SlotKey(event.tenant_id, event.slot_key), []).append(event)
        words, known = await lock_slots(connection, list(said))
        changes = Changes()
        for key, events_of_slot in said.items():
            settle(key, words[key], known.get(key, {}), events_of_slot, changes)
        await write_changes(connection, changes, self._clock.now())


class InboundHandler:
    """inbound_webhooks: receipts only. One that came before its message's record is parked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def __call__(self, connection: Connection, events: Sequence[Received], /) -> Mapping[UUID, Outcome]:
        receipts: dict[ProviderMessage, list[Receipt]] = {}
        names: dict[UUID, ProviderMessage] = {}
        for received in events:
            item = received.event
            assert isinstance(item, ReceiptItem)
            name = ProviderMessage(item.tenant_id, str(item.channel), item.provider_message_id)
            receipts.setdefault(name, []).append(Receipt(item.status, item.occurred_at, item.reason))
            names[received.envelope.id] = name
        early = await apply_receipts(connection, receipts, self._clock.now())
        return {record_id: Outcome.PARKED for record_id, name in names.items() if name in early}


#: One handler a topic.
HANDLERS: Mapping[str, Callable[[Clock], Handler]] = {OUTBOUND: OutboundHandler, INBOUND: InboundHandler}
