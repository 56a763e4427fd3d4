"""Identifiers: random time-ordered ids, and ids derived from what they name."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime

import uuid_utils

NAMESPACE = uuid.UUID("6f0f5a0e-7d51-5f0c-9d5a-7475726e6f75")


def new_id(at: datetime | None = None) -> uuid.UUID:
    """A new UUIDv7: unique, and sorted by creation time in an index. `at` makes it one of another time than now."""
    if at is None:
        return uuid.UUID(bytes=uuid_utils.uuid7().bytes)
    milliseconds = int(at.timestamp() * 1000)
    return uuid.UUID(bytes=milliseconds.to_bytes(6, "big") + uuid_utils.uuid7().bytes[6:])


def least_id(at: datetime) -> uuid.UUID:
    """The bound of ids by time: no UUIDv7 of `at` or later sorts before it, and every earlier one does."""
    return uuid.UUID(int=int(at.timestamp() * 1000) << 80)


def derived_id(*parts: str) -> uuid.UUID:
    """The UUIDv5 of `parts`: the same parts give the same id on every machine and at every replay."""
    return uuid.uuid5(NAMESPACE, "\x1f".join(parts))


def idempotency_key(*parts: str) -> bytes:
    """16 bytes that stand for `parts` in the inbox (design §2.2: keys are tenant, channel, 16-byte hash)."""
    return hashlib.sha256("\x1f".join(parts).encode()).digest()[:16]
