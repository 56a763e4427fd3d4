"""Random histories of entities, and what delivery may make of them: any order, copies, any batches."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import pairwise
from typing import Any

from tests.integration.rollup_world import HOUR, START, Event, chain, fact, intent, message
from turnout_common.ids import new_id

KINDS = ("chain", "intent", "message", "other")


def random_state(dice: random.Random, kind: str) -> dict[str, Any]:
    """A state that falls on one of few days and staff, so that entities share cells and leave them."""
    at = START + timedelta(minutes=dice.choice((0, 5, 15, 60)), hours=dice.randrange(-60, 60))
    staff = {"staff_id": dice.choice((None, "ann", "bob"))}
    money = {
        "gross_minor": dice.randrange(10_000),
        "discount_minor": dice.randrange(100),
        "currency": dice.choice((None, "EUR", "USD")),
    }
    end = dice.choice((None, at + dice.randrange(30) * HOUR))
    match kind:
        case "chain":
            status = dice.choice(("pending", "confirmed", "cancelled", "completed", "no_show", "merged"))
            cancelled_at = at + dice.randrange(-48, 4) * HOUR if status == "cancelled" else None
            return (
                staff
                | money
                | {
                    "status": status,
                    "start_at": at,
                    "end_at": at + timedelta(minutes=dice.randrange(5, 200)),
                    "confirmed_at": dice.choice((None, at - dice.randrange(-2, 200) * HOUR)),
                    "cancelled_at": cancelled_at,
                    "cancel_reason": dice.choice((None, "cancelled", "reschedule_requested")),
                    "no_show": status == "no_show",
                    "completed_at": at if status == "completed" else None,
                    "moves": dice.randrange(3),
                    "refund_minor": dice.randrange(100),
                    "other_currency_payments": dice.randrange(2),
                    "rating": dice.choice((None, 1, 5)),
                    "reachable": dice.random() < 0.5,
                    "reminder_accepted_at": dice.choice((None, at - HOUR, at + HOUR)),
                }
            )
        case "intent":
            flags = ("admin_before_confirmation", "off_peak_suggested", "off_peak_taken", "withdrawn")
            return (
                staff
                | {flag: dice.random() < 0.3 for flag in flags}
                | {
                    "opened_at": at,
                    "confirmed_at": end,
                    "closed_at": dice.choice((None, at + HOUR)),
                    "booking_id": dice.choice((None, new_id())),
                    "admin_actions": dice.randrange(3),
                }
            )
        case "message":
            return {
                "first_attempt_at": dice.choice((None, at)),
                "status": dice.choice(
                    ("planned", "accepted", "delivered", "read", "failed", "dead", "unknown")
                ),
                "template": dice.choice(("confirmation", "reminder_24h")),
                "gives_receipts": dice.random() < 0.5,
                "accepted_at": dice.choice((None, at)),
                "delivered_at": dice.choice((None, at)),
                "read_at": dice.choice((None, at)),
            }
        case _:
            return (
                staff
                | money
                | {
                    "at": at,
                    "start_at": dice.choice((None, at + 24 * HOUR)),
                    "end_at": at + 30 * HOUR,
                    "break_minutes": dice.choice((None, 30, 1000)),
                    "rating": dice.choice((None, 1, 5)),
                    "expected": dice.choice((None, 5)),
                    "counted": dice.choice((None, 3, 9)),
                    "booking_id": dice.choice((None, new_id())),
                }
            )


def random_history(dice: random.Random, tenants: list[str], entities: int) -> list[Event]:
    """Every version of every entity, in order."""
    events: list[Event] = []
    for _ in range(entities):
        tenant_id, kind, entity = dice.choice(tenants), dice.choice(KINDS), new_id()
        what = dice.choice(("feedback", "inventory_count", "goods_sale", "shift", "payment", "admin"))
        for version in range(1, dice.randrange(2, 7)):
            state = random_state(dice, kind)
            events.append(
                chain(tenant_id, version, entity, **state)
                if kind == "chain"
                else intent(tenant_id, version, entity, **state)
                if kind == "intent"
                else message(tenant_id, version, entity, **state)
                if kind == "message"
                else fact(tenant_id, what, version, entity, **state)
            )
    return events


def shuffled(dice: random.Random, events: list[Event]) -> list[list[Event]]:
    """Batches of random sizes, out of order, with records delivered twice and versions published twice."""
    copies = [
        event.model_copy(update={"event_id": new_id()}) for event in dice.sample(events, len(events) // 5)
    ]
    sent = [*events, *copies, *dice.sample(events, len(events) // 5)]
    dice.shuffle(sent)
    cuts = sorted({0, len(sent), *(dice.randrange(len(sent)) for _ in range(8))})
    return [sent[start:end] for start, end in pairwise(cuts)]
