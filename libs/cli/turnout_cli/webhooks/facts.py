"""Business facts as Standard Webhooks of our catalogue (docs/FACTS.md). The webhook's id is the fact's key."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from turnout_cli.webhooks.post import Webhook

SOURCE = "calcom"


def fact(webhook_id: str, fact_type: str, at: datetime, data: dict[str, Any]) -> Webhook:
    """Any fact; data that is None is left out."""
    body = {
        "type": fact_type,
        "timestamp": _instant(at),
        "data": {name: value for name, value in data.items() if value is not None},
    }
    return Webhook("events", json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(), webhook_id)


def completed(webhook_id: str, at: datetime, uid: str, staff_id: str | None = None) -> Webhook:
    return fact(webhook_id, "service.completed", at, {"booking": booking(uid), "staff_id": staff_id})


def paid(webhook_id: str, at: datetime, uid: str, gross: int, currency: str, discount: int = 0) -> Webhook:
    """`gross` in minor units, before the discount."""
    data = {"booking": booking(uid), "gross_minor": gross, "discount_minor": discount, "currency": currency}
    return fact(webhook_id, "payment.received", at, data)


def refunded(webhook_id: str, at: datetime, uid: str, gross: int, currency: str) -> Webhook:
    data = {"booking": booking(uid), "gross_minor": gross, "currency": currency}
    return fact(webhook_id, "payment.refunded", at, data)


def rated(webhook_id: str, at: datetime, rating: int, uid: str) -> Webhook:
    return fact(webhook_id, "feedback.received", at, {"booking": booking(uid), "rating": rating})


def manual_cancel(webhook_id: str, at: datetime, uid: str, staff_id: str | None = None) -> Webhook:
    return fact(webhook_id, "admin.manual_cancel", at, {"booking": booking(uid), "staff_id": staff_id})


def manual_reschedule(
    webhook_id: str, at: datetime, uid: str, start: datetime, end: datetime, staff_id: str | None = None
) -> Webhook:
    data = {
        "booking": booking(uid),
        "start_at": _instant(start),
        "end_at": _instant(end),
        "staff_id": staff_id,
    }
    return fact(webhook_id, "admin.manual_reschedule", at, data)


def override(webhook_id: str, at: datetime, uid: str, status: str, staff_id: str | None = None) -> Webhook:
    """`status`: confirmed, cancelled, completed or no_show."""
    data = {"booking": booking(uid), "status": status, "staff_id": staff_id}
    return fact(webhook_id, "admin.override_booking", at, data)


def reply(webhook_id: str, at: datetime, channel: str, chat_id: int, staff_id: str | None = None) -> Webhook:
    """Somebody of the salon answered in a chat by hand."""
    chat = {"channel": channel, "id": str(chat_id)}
    return fact(webhook_id, "admin.reply", at, {"chat": chat, "staff_id": staff_id})


def counted(webhook_id: str, at: datetime, item: str, expected: int, found: int) -> Webhook:
    return fact(webhook_id, "inventory.counted", at, {"item": item, "expected": expected, "counted": found})


def sold(
    webhook_id: str,
    at: datetime,
    item: str,
    quantity: int,
    gross: int,
    currency: str,
    staff_id: str | None = None,
    uid: str | None = None,
) -> Webhook:
    """Goods; `gross` in minor units for all pieces; with `uid` during that visit."""
    data = {
        "item": item,
        "quantity": quantity,
        "gross_minor": gross,
        "currency": currency,
        "staff_id": staff_id,
        "booking": booking(uid) if uid else None,
    }
    return fact(webhook_id, "inventory.sold", at, data)


def shift_planned(
    shift_id: str, at: datetime, staff_id: str, start: datetime, end: datetime, break_minutes: int = 0
) -> Webhook:
    data = {
        "shift_id": shift_id,
        "staff_id": staff_id,
        "start_at": _instant(start),
        "end_at": _instant(end),
        "break_minutes": break_minutes,
    }
    return fact(shift_id, "staff.shift_planned", at, data)


def booking(uid: str) -> dict[str, str]:
    return {"source": SOURCE, "uid": uid}


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
