"""The consumers of all topics, each with its handler put together as its service's main does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from turnout_booking.handlers import TOPICS as BOOKING_TOPICS
from turnout_booking.handlers import BookingHandler
from turnout_common.clock import SystemClock
from turnout_common.consumer import Handler
from turnout_common.topics import BOOKING_EVENTS, INBOUND, MESSAGE_EVENTS, OUTBOUND
from turnout_rollup.handlers import TOPICS as ROLLUP_TOPICS
from turnout_rollup.handlers import FactHandler
from turnout_sender.handlers import TOPICS as SENDER_TOPICS
from turnout_sender.handlers import InboundHandler, OutboundHandler

HandlerFactory = Callable[[], Handler]


@dataclass(frozen=True)
class ConsumerCase:
    """One consumer of one topic."""

    topic: str
    service: str
    wanted: frozenset[str]
    handler: HandlerFactory
    #: Of messages about bookings that it does not have, booking takes none.
    takes_some: bool = True

    @property
    def name(self) -> str:
        return f"{self.service}-{self.topic}"


def booking() -> Handler:
    return BookingHandler(SystemClock())


def sender_outbound() -> Handler:
    return OutboundHandler(SystemClock())


def sender_inbound() -> Handler:
    return InboundHandler(SystemClock())


def rollup() -> Handler:
    return FactHandler(SystemClock())


CONSUMERS = (
    ConsumerCase(INBOUND, "booking", BOOKING_TOPICS[INBOUND], booking),
    ConsumerCase(MESSAGE_EVENTS, "booking", BOOKING_TOPICS[MESSAGE_EVENTS], booking, takes_some=False),
    ConsumerCase(OUTBOUND, "sender", SENDER_TOPICS[OUTBOUND], sender_outbound),
    ConsumerCase(INBOUND, "sender", SENDER_TOPICS[INBOUND], sender_inbound),
    ConsumerCase(BOOKING_EVENTS, "rollup", ROLLUP_TOPICS[BOOKING_EVENTS], rollup),
    ConsumerCase(MESSAGE_EVENTS, "rollup", ROLLUP_TOPICS[MESSAGE_EVENTS], rollup),
)
