"""The day cells as plain Python sums them up from the highest versions: kpis.md, told a second time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from tests.integration.rollup_world import HOUR, Event
from turnout_common.events import ChainState, FactState, IntentState, MessageEvent, MessageTemplate


def heads(events: Iterable[Event]) -> list[Event]:
    """The highest version of each entity."""
    found: dict[UUID, Event] = {}
    for event in events:
        entity = event.message_id if isinstance(event, MessageEvent) else event.entity_id
        if entity not in found or found[entity].version < event.version:
            found[entity] = event
    return list(found.values())


Cells = dict[tuple[str, date, str], dict[str, int]]


def summed_up(events: Sequence[Event], zones: dict[str, str]) -> dict[str, Cells]:
    """The cells, by kind, as kpis.md has them: plain sums over the highest versions, all of it past."""
    cells: dict[str, Cells] = {
        kind: defaultdict(lambda: defaultdict(int)) for kind in ("chain", "intent", "message", "other")
    }
    for event in heads(events):
        zone = ZoneInfo(zones[event.tenant_id])
        if isinstance(event, MessageEvent):
            if event.first_attempt_at is not None:
                key = (event.tenant_id, event.first_attempt_at.astimezone(zone).date(), "")
                _add(cells["message"][key], _message_parts(event))
            continue
        state = event.payload
        match state:
            case ChainState():
                at, kind, parts = state.start_at, "chain", _chain_parts(state, zone)
            case IntentState():
                at, kind, parts = state.opened_at, "intent", _intent_parts(state)
            case FactState():
                at = state.start_at if state.fact == "shift" and state.start_at else state.at
                kind, parts = "other", _fact_parts(state)
        _add(cells[kind][event.tenant_id, at.astimezone(zone).date(), state.staff_id or ""], parts)
    return cells


def _add(cell: dict[str, int], parts: dict[str, int]) -> None:
    cell["facts"] += 1
    for name, value in parts.items():
        cell[name] += value


def _chain_parts(state: ChainState, zone: ZoneInfo) -> dict[str, int]:
    local = state.start_at.astimezone(zone)
    booked = state.confirmed_at is not None and state.status != "merged"
    called_off = (
        state.status == "cancelled" and (state.cancelled_at or state.start_at - HOUR) < state.start_at
    )
    cancelled = booked and called_off and state.cancel_reason != "reschedule_requested"
    due = booked and not called_off
    no_show = state.no_show or state.status == "no_show"
    visit = booked and state.status != "cancelled" and not no_show
    late = state.cancelled_at is not None and state.start_at - state.cancelled_at < 24 * HOUR
    own = state.currency in (None, "EUR")
    reminded = state.reminder_accepted_at is not None and state.reminder_accepted_at < state.start_at
    net = state.gross_minor - state.discount_minor - state.refund_minor
    return {
        "booked": booked,
        "cancelled": cancelled,
        "late_cancelled": cancelled and late,
        "moved": booked and state.moves > 0,
        "off_peak": booked and (local.hour < 11 or local.hour >= 19),
        "on_grid": booked and local.minute % 15 == 0 and local.second == 0,
        "lead_seconds": int((state.start_at - state.confirmed_at) // timedelta(seconds=1))
        if booked and state.confirmed_at
        else 0,
        "due": due,
        "no_show": due and no_show,
        "reachable": due and state.reachable,
        "reminder_covered": due and state.reachable and reminded,
        "visit": visit,
        "gross": state.gross_minor if visit and own else 0,
        "net": net if visit and own else 0,
        "other_currency": state.other_currency_payments + (not own) if visit else 0,
        "feedback": visit and state.rating is not None,
        "service_minutes": (state.end_at - state.start_at) // timedelta(minutes=1) if visit else 0,
    }


def _intent_parts(state: IntentState) -> dict[str, int]:
    counts = not state.withdrawn
    confirmed = counts and state.confirmed_at is not None
    ended = state.confirmed_at or state.closed_at
    suggested = counts and state.booking_id is not None and state.off_peak_suggested
    return {
        "intents": counts,
        "admin_actions": state.admin_actions if counts else 0,
        "off_peak_suggested": suggested,
        "off_peak_taken": suggested and state.off_peak_taken,
        "closed": counts,
        "intervened": counts and state.admin_actions > 0,
        "confirmed": confirmed,
        "automated": confirmed and not state.admin_before_confirmation,
        "resolved": counts and ended is not None,
        "resolve_seconds": (ended - state.opened_at) // timedelta(seconds=1) if counts and ended else 0,
    }


def _message_parts(event: MessageEvent) -> dict[str, int]:
    delivered = event.delivered_at is not None or event.read_at is not None
    accepted = event.accepted_at is not None or delivered
    reminder = event.template == MessageTemplate.REMINDER_24H
    return {
        "attempted": 1,
        "accepted": accepted,
        "receipted": accepted and event.gives_receipts,
        "delivered": delivered and event.gives_receipts,
        "reminder_receipted": accepted and event.gives_receipts and reminder,
        "reminder_delivered": delivered and event.gives_receipts and reminder,
        "failed": event.status == "failed",
        "dead": event.status == "dead",
        "unknown": event.status == "unknown",
    }


def _fact_parts(state: FactState) -> dict[str, int]:
    own = state.currency in (None, "EUR")
    counted = state.fact == "inventory_count" and state.expected is not None and state.counted is not None
    goods = state.fact == "goods_sale" and state.booking_id is None and own
    shift = state.fact == "shift" and state.start_at is not None and state.end_at is not None
    rated = state.fact == "feedback" and state.rating is not None
    minutes = (state.end_at - state.start_at) // timedelta(minutes=1) if shift else 0  # type: ignore[operator]
    return {
        "rating_sum": state.rating or 0 if rated else 0,
        "ratings": rated,
        "inventory_variance": abs((state.counted or 0) - (state.expected or 0)) if counted else 0,
        "inventory_expected": state.expected or 0 if counted else 0,
        "goods_gross": state.gross_minor or 0 if goods else 0,
        "goods_net": (state.gross_minor or 0) - (state.discount_minor or 0) if goods else 0,
        "other_currency": state.gross_minor is not None and not own,
        "rostered_minutes": max(minutes - (state.break_minutes or 0), 0),
    }
