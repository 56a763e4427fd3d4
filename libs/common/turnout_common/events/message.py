"""`message_events`: what became of a message; each event carries the message's whole state."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from turnout_common.events.outbound import MessageTemplate, Queue
from turnout_common.events.values import Channel, Instant, Label, TenantId, WireModel


class MessageStatus(StrEnum):
    """`unknown`: the provider's answer was lost; `failed`: it refused for good; `dead`: a fault of ours."""

    PLANNED = "planned"
    ATTEMPTED = "attempted"
    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    READ = "read"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    LIMITED = "limited"
    UNKNOWN = "unknown"


class MessageEvent(WireModel):
    """The state of one message at `version`. All of a message counts in the bucket of `first_attempt_at`."""

    type: Literal["message.changed"] = "message.changed"
    event_id: UUID
    tenant_id: TenantId
    message_id: UUID
    version: Annotated[int, Field(ge=1, lt=2**31)]
    occurred_at: Instant
    status: MessageStatus
    queue: Queue
    template: MessageTemplate
    channel: Channel | None = None
    gives_receipts: bool = False
    booking_id: UUID | None = None
    client_id: UUID | None = None
    start_at: Instant | None = None
    first_attempt_at: Instant | None = None
    accepted_at: Instant | None = None
    delivered_at: Instant | None = None
    read_at: Instant | None = None
    failed_at: Instant | None = None
    attempts: Annotated[int, Field(ge=0, lt=2**31)] = 0
    reason: Label | None = None
