"""What receipts make of a message: the highest state wins, in whatever order they come. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from turnout_common.events import RECEIPT_RANKS

RANKS = {"accepted": 0, "unknown": 0, **RECEIPT_RANKS}


@dataclass(frozen=True)
class Receipt:
    status: str
    occurred_at: datetime
    reason: str | None = None


@dataclass(frozen=True)
class Receipted:
    """The part of a message's state that receipts change. A read message was delivered at the latest when read."""

    status: str
    delivered_at: datetime | None = None
    read_at: datetime | None = None
    failed_at: datetime | None = None
    reason: str | None = None


def fold(state: Receipted, receipts: Iterable[Receipt]) -> Receipted:
    """The state after `receipts`; the same state when they say nothing new or the message cannot have any."""
    for receipt in receipts:
        state = _apply(state, receipt)
    return state


def _apply(state: Receipted, receipt: Receipt) -> Receipted:
    if state.status not in RANKS or receipt.status not in RANKS:
        return state
    at = receipt.occurred_at
    if receipt.status in ("delivered", "read"):
        state = replace(state, delivered_at=_earlier(state.delivered_at, at))
    if receipt.status == "read":
        state = replace(state, read_at=_earlier(state.read_at, at))
    if receipt.status == "failed" and state.status == "failed" and state.failed_at is not None:
        earlier = at < state.failed_at
        return replace(state, failed_at=at, reason=receipt.reason) if earlier else state
    if receipt.status == "sent" or RANKS[receipt.status] <= RANKS[state.status]:
        return state
    if receipt.status == "failed":
        return replace(state, status="failed", failed_at=at, reason=receipt.reason)
    return replace(state, status=receipt.status, failed_at=None, reason=None)


def _earlier(one: datetime | None, other: datetime) -> datetime:
    return min(one, other) if one is not None else other
