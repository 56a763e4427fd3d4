"""The consumers of all topics, each with its handler put together as its service's main does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from turnout_common.clock import SystemClock
from turnout_common.consumer import Handler
from turnout_common.topics import BOOKING_EVENTS, INBOUND, MESSAGE_EVENTS, OUTBOUND
from turnout_rollup.handlers import TOPICS as ROLLUP_TOPICS
from turnout_rollup.handlers import FactHandler
from turnout_sender.handlers import INBOUND_TYPES, OUTBOUND_TYPES, InboundHandler, OutboundHandler

HandlerFactory = Callable[[asyncpg.Pool, bytes], Awaitable[Handler]]


@dataclass(frozen=True)
class ConsumerCase:
    """One consumer of one topic."""

    topic: str
    service: str
    wanted: frozenset[str]
    handler: HandlerFactory

    @property
    def name(self) -> str:
        return f"{self.service}-{self.topic}"


async def sender_outbound(pool: asyncpg.Pool, master_key: bytes) -> Handler:
    return OutboundHandler(SystemClock())


async def sender_inbound(pool: asyncpg.Pool, master_key: bytes) -> Handler:
    return InboundHandler(SystemClock())


async def rollup(pool: asyncpg.Pool, master_key: bytes) -> Handler:
    return FactHandler(SystemClock())


CONSUMERS = (
    ConsumerCase(OUTBOUND, "sender", OUTBOUND_TYPES, sender_outbound),
    ConsumerCase(INBOUND, "sender", INBOUND_TYPES, sender_inbound),
    ConsumerCase(BOOKING_EVENTS, "rollup", ROLLUP_TOPICS[BOOKING_EVENTS], rollup),
    ConsumerCase(MESSAGE_EVENTS, "rollup", ROLLUP_TOPICS[MESSAGE_EVENTS], rollup),
)
