"""`outbound_messages`: what booking wants a client to be told, and what it wants no more."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from turnout_common.events.values import Instant, Key, Label, TenantId, WireModel


class Queue(StrEnum):
    """`tx` for messages about a client's own booking, `mk` for promotions."""

    TX = "tx"
    MK = "mk"


class MessageTemplate(StrEnum):
    CONFIRMATION = "confirmation"
    REMINDER_24H = "reminder_24h"


class MessagePlanned(WireModel):
    """Send `template` to the client, not before `not_before` and not after `expires_at`.

    `slot_key` is what a newer plan replaces and a withdrawal removes (tenant:booking:template); `sent_key` is sent at
    most once (slot key and start). `message_id` is derived from `sent_key`.
    """

    type: Literal["message.planned"] = "message.planned"
    message_id: UUID
    tenant_id: TenantId
    slot_key: Key
    sent_key: Key
    queue: Queue
    template: MessageTemplate
    client_id: UUID
    booking_id: UUID
    booking_version: Annotated[int, Field(ge=1, lt=2**31)]
    start_at: Instant
    not_before: Instant
    expires_at: Instant
    service_id: Key | None = None
    staff_id: Key | None = None
    locale: Label | None = None


class MessageWithdrawn(WireModel):
    """Do not send what is planned under `slot_key`, unless it was planned by a higher booking version."""

    type: Literal["message.withdrawn"] = "message.withdrawn"
    tenant_id: TenantId
    slot_key: Key
    client_id: UUID
    booking_id: UUID
    booking_version: Annotated[int, Field(ge=1, lt=2**31)]
