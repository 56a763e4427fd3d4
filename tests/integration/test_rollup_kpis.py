"""What each entity adds to the KPIs (kpis.md), case by case, in the cells and in the parts cut at asOf."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.infrastructure import Database
from tests.integration.rollup_world import (
    HOUR,
    START,
    Event,
    Rollup,
    chain,
    fact,
    intent,
    message,
    rollup_on,
)
from turnout_common.ids import new_id

MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(scope="module")
async def rollup(database: Database) -> AsyncIterator[Rollup]:
    async with rollup_on(database) as started:
        yield started


#: state of a chain -> what its cell holds besides the one booking (facts, booked, on_grid)
CHAINS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "a visit": (
        {"gross_minor": 5000, "discount_minor": 500, "refund_minor": 200, "currency": "EUR", "rating": 5},
        {"due": 1, "visit": 1, "gross": 5000, "net": 4300, "feedback": 1, "service_minutes": 60},
    ),
    "pending, never confirmed": ({"status": "pending", "confirmed_at": None}, {"booked": 0, "on_grid": 0}),
    "merged into another": ({"status": "merged", "merged_into": new_id()}, {"booked": 0, "on_grid": 0}),
    "marked completed": (
        {"status": "completed", "completed_at": START},
        {"due": 1, "visit": 1, "service_minutes": 60},
    ),
    "no-show": ({"status": "no_show", "no_show": True, "gross_minor": 900}, {"due": 1, "no_show": 1}),
    "no-show undone": (
        {"status": "confirmed", "no_show": False},
        {"due": 1, "visit": 1, "service_minutes": 60},
    ),
    "cancelled in time": ({"status": "cancelled", "cancelled_at": START - 24 * HOUR}, {"cancelled": 1}),
    "cancelled late": (
        {"status": "cancelled", "cancelled_at": START - 24 * HOUR + MICROSECOND},
        {"cancelled": 1, "late_cancelled": 1},
    ),
    "cancelled before it was confirmed": (
        {
            "status": "cancelled",
            "confirmed_at": None,
            "cancelled_at": START - HOUR,
            "cancel_reason": "rejected",
        },
        {"booked": 0, "on_grid": 0},
    ),
    "cancelled at its start stays due": ({"status": "cancelled", "cancelled_at": START}, {"due": 1}),
    "cancelled after its start stays due": (
        {"status": "cancelled", "cancelled_at": START + HOUR, "reachable": True},
        {"due": 1, "reachable": 1},
    ),
    "asked to be rescheduled is no cancellation": (
        {"status": "cancelled", "cancelled_at": START - HOUR, "cancel_reason": "reschedule_requested"},
        {},
    ),
    "moved": ({"moves": 2}, {"due": 1, "visit": 1, "moved": 1, "service_minutes": 60}),
    "off the grid": (
        {"start_at": START + timedelta(minutes=5), "end_at": START + HOUR},
        {"on_grid": 0, "due": 1, "visit": 1, "service_minutes": 55},
    ),
    "off-peak": (
        {"start_at": START - 2 * HOUR},
        {"off_peak": 1, "due": 1, "visit": 1, "service_minutes": 60},
    ),
    "paid in another currency": (
        {"gross_minor": 5000, "currency": "USD"},
        {"due": 1, "visit": 1, "other_currency": 1, "service_minutes": 60},
    ),
    "reminded in time": (
        {"reachable": True, "reminder_accepted_at": START - HOUR},
        {"due": 1, "visit": 1, "reachable": 1, "reminder_covered": 1, "service_minutes": 60},
    ),
    "reminded too late": (
        {"reachable": True, "reminder_accepted_at": START},
        {"due": 1, "visit": 1, "reachable": 1, "service_minutes": 60},
    ),
    "confirmed after the start": (
        {"confirmed_at": START + HOUR},
        {"due": 1, "visit": 1, "lead_seconds": -3600, "service_minutes": 60},
    ),
}


@pytest.mark.parametrize("case", CHAINS)
async def test_chain_adds(rollup: Rollup, tenant_id: str, case: str) -> None:
    state, wanted = CHAINS[case]

    await rollup.apply(chain(tenant_id, **state))
    cell = await rollup.cell("chain", tenant_id)

    del cell["settled_at"]
    booked = wanted.get("booked", 1)
    expected = dict.fromkeys(cell, 0) | {"facts": 1, "booked": booked, "on_grid": 1} | wanted
    expected.setdefault("lead_seconds", 24 * 3600 * booked)
    if booked and "lead_seconds" not in wanted:
        expected["lead_seconds"] = 24 * 3600
    assert cell == expected


INTENTS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "open": ({}, {}),
    "confirmed": (
        {"confirmed_at": START + HOUR, "closed_at": START + HOUR, "booking_id": new_id()},
        {"confirmed": 1, "automated": 1, "resolved": 1, "resolve_seconds": 3600},
    ),
    "confirmed with help": (
        {"confirmed_at": START + HOUR, "admin_actions": 2, "admin_before_confirmation": True},
        {
            "confirmed": 1,
            "intervened": 1,
            "admin_actions": 2,
            "resolved": 1,
            "resolve_seconds": 3600,
        },
    ),
    "refused": (
        {"closed_at": START + 2 * HOUR, "outcome": "refused"},
        {"resolved": 1, "resolve_seconds": 7200},
    ),
    "withdrawn by a merge": (
        {"withdrawn": True, "confirmed_at": START, "admin_actions": 1, "off_peak_suggested": True},
        {"intents": 0, "closed": 0},
    ),
    "an off-peak slot suggested": (
        {"booking_id": new_id(), "off_peak_suggested": True},
        {"off_peak_suggested": 1},
    ),
    "an off-peak slot taken": (
        {"booking_id": new_id(), "off_peak_suggested": True, "off_peak_taken": True},
        {"off_peak_suggested": 1, "off_peak_taken": 1},
    ),
    "suggested, and nothing booked": ({"off_peak_suggested": True}, {}),
}


@pytest.mark.parametrize("case", INTENTS)
async def test_intent_adds(rollup: Rollup, tenant_id: str, case: str) -> None:
    state, wanted = INTENTS[case]

    await rollup.apply(intent(tenant_id, **state))
    cell = await rollup.cell("intent", tenant_id)

    del cell["settled_at"]
    assert cell == dict.fromkeys(cell, 0) | {"facts": 1, "intents": 1, "closed": 1} | wanted


WHATSAPP = {"channel": "whatsapp", "gives_receipts": True}
MESSAGES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "accepted without receipts": ({}, {"accepted": 1}),
    "accepted with receipts": (WHATSAPP, {"accepted": 1, "receipted": 1}),
    "delivered": (
        WHATSAPP | {"status": "delivered", "delivered_at": START},
        {"accepted": 1, "receipted": 1, "delivered": 1},
    ),
    "read, its answer lost": (
        WHATSAPP | {"status": "read", "accepted_at": None, "read_at": START},
        {"accepted": 1, "receipted": 1, "delivered": 1},
    ),
    "a reminder delivered": (
        WHATSAPP | {"status": "delivered", "delivered_at": START, "template": "reminder_24h"},
        {"accepted": 1, "receipted": 1, "delivered": 1, "reminder_receipted": 1, "reminder_delivered": 1},
    ),
    "refused": ({"status": "failed", "accepted_at": None, "failed_at": START}, {"failed": 1}),
    "a fault of ours": ({"status": "dead", "accepted_at": None}, {"dead": 1}),
    "answer lost": ({"status": "unknown", "accepted_at": None}, {"unknown": 1}),
}


@pytest.mark.parametrize("case", MESSAGES)
async def test_message_adds(rollup: Rollup, tenant_id: str, case: str) -> None:
    state, wanted = MESSAGES[case]

    await rollup.apply(message(tenant_id, **state))
    cell = await rollup.cell("message", tenant_id)

    del cell["settled_at"]
    assert cell == dict.fromkeys(cell, 0) | {"facts": 1, "attempted": 1} | wanted


async def test_message_that_was_never_attempted_counts_nowhere(rollup: Rollup, tenant_id: str) -> None:
    waiting = message(tenant_id, status="planned", first_attempt_at=None, accepted_at=None, attempts=0)

    await rollup.apply(waiting)

    assert await rollup.cells("message", tenant_id) == {}


FACTS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "feedback": ("feedback", {"rating": 4}, {"ratings": 1, "rating_sum": 4}),
    "stock short": (
        "inventory_count",
        {"expected": 10, "counted": 7},
        {"inventory_variance": 3, "inventory_expected": 10},
    ),
    "stock over": (
        "inventory_count",
        {"expected": 10, "counted": 12},
        {"inventory_variance": 2, "inventory_expected": 10},
    ),
    "goods sold": (
        "goods_sale",
        {"gross_minor": 1500, "discount_minor": 200, "currency": "EUR"},
        {"goods_gross": 1500, "goods_net": 1300},
    ),
    "goods sold in a visit": ("goods_sale", {"gross_minor": 1500, "booking_id": new_id()}, {}),
    "goods sold in another currency": (
        "goods_sale",
        {"gross_minor": 1500, "currency": "USD"},
        {"other_currency": 1},
    ),
    "a shift": (
        "shift",
        {"start_at": START, "end_at": START + 8 * HOUR, "break_minutes": 30},
        {"rostered_minutes": 450},
    ),
    "an admin's act": ("admin", {}, {}),
}


@pytest.mark.parametrize("case", FACTS)
async def test_fact_adds(rollup: Rollup, tenant_id: str, case: str) -> None:
    what, state, wanted = FACTS[case]

    await rollup.apply(fact(tenant_id, what, **state))
    cell = await rollup.cell("other", tenant_id)

    del cell["settled_at"]
    assert cell == dict.fromkeys(cell, 0) | {"facts": 1} | wanted


END = START + HOUR
CUTS: list[tuple[str, Event, str, datetime]] = [
    ("due", chain("x"), "chain", START + MICROSECOND),
    ("no_show", chain("x", status="no_show", no_show=True), "chain", START + MICROSECOND),
    ("visit", chain("x"), "chain", END + 2 * HOUR),
    ("gross", chain("x", gross_minor=1), "chain", END + 2 * HOUR),
    ("visit", chain("x", status="completed", completed_at=END), "chain", END),
    ("service_minutes", chain("x"), "chain", END),
    ("closed", intent("x"), "intent", START + 24 * HOUR),
    ("closed", intent("x", closed_at=START + HOUR), "intent", START + HOUR),
    ("confirmed", intent("x", confirmed_at=START + HOUR), "intent", START + HOUR),
    ("resolved", intent("x", closed_at=START + HOUR), "intent", START + HOUR),
    ("rostered_minutes", fact("x", "shift", start_at=START, end_at=END), "other", END),
]


@pytest.mark.parametrize(("part", "event", "kind", "counts_from"), CUTS)
async def test_part_counts_from_its_time_on_and_not_before(
    rollup: Rollup, tenant_id: str, part: str, event: Event, kind: str, counts_from: datetime
) -> None:
    await rollup.apply(event.model_copy(update={"tenant_id": tenant_id}))

    async def at(as_of: datetime) -> int:
        value = await rollup.admin.fetchval(
            f"SELECT sum({part}) FROM rollup.{kind}_parts($1) WHERE tenant_id = $2", as_of, tenant_id
        )
        return int(value)

    assert await at(counts_from - MICROSECOND) == 0
    assert await at(counts_from) > 0


@pytest.mark.parametrize("part", ["booked", "cancelled", "moved", "off_peak", "on_grid", "lead_seconds"])
async def test_booking_for_the_future_counts_now_where_nothing_needs_the_past(
    rollup: Rollup, tenant_id: str, part: str
) -> None:
    start = datetime(2099, 3, 9, 7, tzinfo=UTC)
    state = {"status": "cancelled", "cancelled_at": start - HOUR} if part == "cancelled" else {"moves": 1}

    await rollup.apply(chain(tenant_id, start_at=start, **state))
    value = await rollup.admin.fetchval(
        f"SELECT sum({part}) FROM rollup.chain_parts(now()) WHERE tenant_id = $1", tenant_id
    )

    assert value > 0


@pytest.mark.parametrize("kind", ["chain", "intent", "message", "other"])
async def test_cells_that_are_settled_at_a_time_equal_the_parts_cut_then(
    rollup: Rollup, tenant_id: str, kind: str
) -> None:
    await rollup.apply(
        *(chain(tenant_id, **state) for state, _ in CHAINS.values()),
        *(intent(tenant_id, **state) for state, _ in INTENTS.values()),
        *(message(tenant_id, **state) for state, _ in MESSAGES.values()),
        *(fact(tenant_id, what, **state) for what, state, _ in FACTS.values()),
    )
    cell = await rollup.cell(kind, tenant_id)
    settled_at = cell.pop("settled_at")
    sums = ", ".join(f"sum({name})::bigint AS {name}" for name in cell if name != "facts")

    async def cut(as_of: datetime) -> dict[str, int]:
        row = await rollup.admin.fetchrow(
            f"SELECT count(*) AS facts, {sums} FROM rollup.{kind}_parts($1) WHERE tenant_id = $2",
            as_of,
            tenant_id,
        )
        assert row is not None
        return dict(row)

    assert await cut(settled_at) == cell
    if kind != "message":
        assert await cut(settled_at - MICROSECOND) != cell


async def test_reschedule_moves_the_contribution_and_empties_the_old_cell(
    rollup: Rollup, tenant_id: str
) -> None:
    first = chain(tenant_id, staff_id="ann")
    moved = chain(
        tenant_id, 2, first.entity_id, start_at=START + 48 * HOUR, moves=1, staff_id="bob", gross_minor=700
    )

    await rollup.apply(first)
    await rollup.apply(moved)
    cells = await rollup.cells("chain", tenant_id)

    assert list(cells) == [((START + 48 * HOUR).date(), "bob")]
    assert await rollup.admin.fetchval(
        "SELECT sum(moved) FROM rollup.chain_parts('infinity') WHERE tenant_id = $1", tenant_id
    ) == 1  # fmt: skip


async def test_day_that_keeps_other_facts_loses_only_what_moved(rollup: Rollup, tenant_id: str) -> None:
    stays, goes = chain(tenant_id, staff_id="ann"), chain(tenant_id, staff_id="ann")
    await rollup.apply(stays, goes)

    await rollup.apply(chain(tenant_id, 2, goes.entity_id, staff_id="ann", start_at=START + 24 * HOUR))
    cells = await rollup.cells("chain", tenant_id)

    assert {day.day: cell["facts"] for (day, _), cell in cells.items()} == {9: 1, 10: 1}
