"""A salon's facts at random, put into rollup's tables, and its KPIs counted from them by plain Python loops."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

HOME = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 24, 13, 7, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
STAFF = ("anna", "boris", "")
SERVICES = ("cut", "colour", "")
Row = dict[str, Any]
Sums = dict[str, int]


@dataclass
class Salon:
    """One tenant's facts, by kind; `day` is the local date in HOME."""

    tenant_id: str
    chains: list[Row] = field(default_factory=list)
    intents: list[Row] = field(default_factory=list)
    messages: list[Row] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)

    async def store(self, connection: asyncpg.Connection) -> None:
        """Writes the facts, then every day cell as the sum of its facts' parts."""
        tables = {
            "chain": self.chains,
            "intent": self.intents,
            "message": self.messages,
            "other": self.others,
        }
        for kind, rows in tables.items():
            if rows:
                names = list(rows[0])
                await connection.copy_records_to_table(
                    f"{kind}_facts",
                    schema_name="rollup",
                    columns=names,
                    records=[tuple(r[n] for n in names) for r in rows],
                )
            await self._sum_up(connection, kind)
        await connection.execute(
            "INSERT INTO rollup.tenant_settings (tenant_id, timezone, currency, notice_hours, off_peak_before,"
            " off_peak_after, grid_minutes, rules_revision) VALUES ($1, $2, 'EUR', 24, 11, 19, 15, 1)",
            self.tenant_id,
            HOME.key,
        )

    async def _sum_up(self, connection: asyncpg.Connection, kind: str) -> None:
        rows = await connection.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'rollup' AND table_name = $1"
            " ORDER BY ordinal_position OFFSET 5",
            f"{kind}_days",
        )
        names = [row["column_name"] for row in rows]
        await connection.execute(
            f"INSERT INTO rollup.{kind}_days (tenant_id, day, staff_id, settled_at, facts, {', '.join(names)})"
            f" SELECT tenant_id, day, staff_id, max(settled_at), count(*), {', '.join(f'sum({n})' for n in names)}"
            f" FROM rollup.{kind}_parts('infinity') WHERE tenant_id = $1 GROUP BY 1, 2, 3",
            self.tenant_id,
        )


def random_salon(tenant_id: str, seed: int, chains: int = 400) -> Salon:
    """A salon with everything that can happen in it, around NOW."""
    made = Salon(tenant_id)
    rnd = random.Random(seed)
    clients = [_uuid(rnd) for _ in range(max(chains // 8, 1))]
    for _ in range(chains):
        made.chains.append(_chain(tenant_id, rnd, clients))
        made.intents.append(_intent(tenant_id, rnd))
        made.messages.append(_message(tenant_id, rnd))
        made.others.append(_other(tenant_id, rnd))
    return made


def _uuid(rnd: random.Random) -> UUID:
    return UUID(int=rnd.getrandbits(128), version=4)


def _at(rnd: random.Random, until: int = 20) -> datetime:
    """Within 70 days before NOW and `until` days after it, often close to it, often on a quarter hour."""
    days = rnd.choice(
        [rnd.uniform(-70, until), rnd.uniform(-3, min(until, 3)), rnd.uniform(-0.3, 0.3 if until else 0)]
    )
    at = NOW.replace(second=0, microsecond=0) + timedelta(days=days)
    minute = at.minute // 15 * 15 if rnd.random() < 0.6 else at.minute
    return at.replace(minute=minute, second=0, microsecond=0)


def _common(tenant_id: str, rnd: random.Random, at: datetime) -> Row:
    return {
        "tenant_id": tenant_id,
        "version": rnd.randint(1, 5),
        "day": at.astimezone(HOME).date(),
        "staff_id": rnd.choice(STAFF),
        "service_id": rnd.choice(SERVICES),
    }


def _chain(tenant_id: str, rnd: random.Random, clients: list[UUID]) -> Row:
    start = _at(rnd)
    end = start + timedelta(minutes=rnd.choice([15, 30, 45, 90, 600]))
    status = rnd.choice(
        [
            "pending",
            "confirmed",
            "confirmed",
            "confirmed",
            "cancelled",
            "cancelled",
            "completed",
            "no_show",
            "merged",
        ]
    )
    confirmed = start - timedelta(minutes=rnd.randint(1, 40 * 24 * 60))
    cancelled = start + timedelta(hours=rnd.uniform(-60, 2)) if status == "cancelled" else None
    reminder = start + timedelta(hours=rnd.choice([-24, 1])) if rnd.random() < 0.5 else None
    return _common(tenant_id, rnd, start) | {
        "booking_id": _uuid(rnd),
        "channel": rnd.choice(["calcom", "telegram"]),
        "source": "calcom",
        "uid": str(_uuid(rnd)),
        "status": status,
        "merged_into": _uuid(rnd) if status == "merged" else None,
        "client_id": rnd.choice([*clients, None]),
        "intent_id": None,
        "created_at": confirmed - timedelta(minutes=rnd.randint(0, 100)),
        "confirmed_at": None if status == "pending" or rnd.random() < 0.1 else confirmed,
        "start_at": start,
        "end_at": end,
        "cancelled_at": cancelled,
        "cancelled_by": None,
        "cancel_reason": rnd.choice(["cancelled", "reschedule_requested"]) if cancelled else None,
        "no_show": status == "no_show",
        "completed_at": end - timedelta(minutes=10) if status == "completed" else None,
        "moves": rnd.choice([0, 0, 1, 2]),
        "admin_actions": 0,
        "admin_before_confirmation": False,
        "off_peak_suggested": False,
        "off_peak_taken": False,
        "gross_minor": rnd.choice([0, 4500, 12_345]),
        "discount_minor": rnd.choice([0, 500]),
        "refund_minor": rnd.choice([0, 0, 1000]),
        "currency": "EUR",
        "other_currency_payments": rnd.choice([0, 0, 1]),
        "rating": rnd.choice([None, None, 3, 5]),
        "reachable": rnd.random() < 0.7,
        "reminder_accepted_at": reminder,
        "reminder_outcome": "accepted" if reminder else None,
        "off_peak": rnd.random() < 0.3,
        "on_grid": rnd.random() < 0.8,
        "late_cancel": cancelled is not None and start - cancelled < 24 * HOUR,
        "own_currency": rnd.random() < 0.95,
    }


def _intent(tenant_id: str, rnd: random.Random) -> Row:
    opened = _at(rnd, until=0)
    confirmed = opened + timedelta(minutes=rnd.randint(1, 3000)) if rnd.random() < 0.6 else None
    closed = (
        opened + timedelta(minutes=rnd.randint(1, 1400))
        if rnd.random() < 0.3 and confirmed is None
        else confirmed
    )
    suggested = rnd.random() < 0.4
    return _common(tenant_id, rnd, opened) | {
        "intent_id": _uuid(rnd),
        "channel": rnd.choice(["calcom", "telegram"]),
        "client_id": None,
        "booking_id": _uuid(rnd) if rnd.random() < 0.7 else None,
        "implicit": rnd.random() < 0.5,
        "opened_at": opened,
        "confirmed_at": confirmed,
        "closed_at": closed,
        "outcome": None,
        "admin_actions": rnd.choice([0, 0, 1, 3]),
        "admin_before_confirmation": rnd.random() < 0.3,
        "off_peak_suggested": suggested,
        "off_peak_taken": suggested and rnd.random() < 0.5,
        "withdrawn": rnd.random() < 0.1,
    }


def _message(tenant_id: str, rnd: random.Random) -> Row:
    at = _at(rnd, until=0)
    status = rnd.choice(["planned", "accepted", "delivered", "read", "failed", "dead", "unknown"])
    tried = status != "planned"
    accepted = at + timedelta(seconds=2) if status in ("accepted", "delivered", "read") else None
    return _common(tenant_id, rnd, at) | {
        "day": at.astimezone(HOME).date() if tried else None,
        "message_id": _uuid(rnd),
        "channel": rnd.choice(["telegram", "whatsapp"]),
        "status": status,
        "queue": "tx",
        "template": rnd.choice(["confirmation", "reminder_24h"]),
        "gives_receipts": rnd.random() < 0.5,
        "booking_id": None,
        "client_id": None,
        "start_at": None,
        "first_attempt_at": at if tried else None,
        "accepted_at": accepted,
        "delivered_at": accepted if status in ("delivered", "read") else None,
        "read_at": accepted if status == "read" else None,
        "failed_at": at if status == "failed" else None,
        "attempts": int(tried),
        "reason": None,
    }


def _other(tenant_id: str, rnd: random.Random) -> Row:
    kind = rnd.choice(["feedback", "inventory_count", "goods_sale", "shift", "shift"])
    at = _at(rnd)
    shift = kind == "shift"
    return _common(tenant_id, rnd, at) | {
        "service_id": "",
        "fact_id": _uuid(rnd),
        "channel": "events",
        "fact": kind,
        "at": at,
        "clock_at": at,
        "subject_id": None,
        "booking_id": None,
        "start_at": at if shift else None,
        "end_at": at + timedelta(minutes=rnd.choice([240, 480, 485])) if shift else None,
        "break_minutes": rnd.choice([None, 30, 45]) if shift else None,
        "rating": rnd.randint(1, 5) if kind == "feedback" else None,
        "expected": rnd.randint(0, 50) if kind == "inventory_count" else None,
        "counted": rnd.randint(0, 50) if kind == "inventory_count" else None,
        "quantity": 1 if kind == "goods_sale" else None,
        "gross_minor": rnd.randint(0, 9000) if kind == "goods_sale" else None,
        "discount_minor": rnd.choice([None, 100]) if kind == "goods_sale" else None,
        "currency": "EUR",
        "own_currency": rnd.random() < 0.9,
    }


@dataclass(frozen=True)
class Asked:
    """A window of local days in a zone, filters, and the cut."""

    first: date
    last: date
    zone: ZoneInfo = HOME
    as_of: datetime = NOW
    staff_id: str | None = None
    service_id: str | None = None
    channel: str | None = None

    def holds(self, at: datetime | None, row: Row) -> bool:
        return (
            at is not None
            and self.first <= at.astimezone(self.zone).date() <= self.last
            and self.picks(row, "staff_id", self.staff_id)
            and self.picks(row, "service_id", self.service_id)
            and self.picks(row, "channel", self.channel)
        )

    @staticmethod
    def picks(row: Row, name: str, wanted: str | None) -> bool:
        return wanted is None or row[name] == wanted


def expected_counts(salon: Salon, asked: Asked) -> Sums:
    """Every count of the catalogue, one row at a time, by the words of kpis.md."""
    return (
        _intent_counts(salon, asked)
        | _chain_counts(salon, asked)
        | _client_counts(salon, asked)
        | _message_counts(salon, asked)
        | _other_counts(salon, asked)
        | _minutes(salon, asked)
    )


def _count(rows: Iterable[bool]) -> int:
    return sum(1 for row in rows if row)


def _intent_counts(salon: Salon, asked: Asked) -> Sums:
    rows = [i for i in salon.intents if not i["withdrawn"] and asked.holds(i["opened_at"], i)]
    past = [
        i | {"closing": _earliest(i["closed_at"], i["confirmed_at"], i["opened_at"] + 24 * HOUR)}
        for i in rows
    ]
    closed = [i for i in past if i["closing"] <= asked.as_of]
    confirmed = [i for i in rows if i["confirmed_at"] and i["confirmed_at"] <= asked.as_of]
    ended = [(i, i["confirmed_at"] or i["closed_at"]) for i in rows]
    resolved = [(i, at) for i, at in ended if at and at <= asked.as_of]
    offered = [i for i in rows if i["off_peak_suggested"] and i["booking_id"]]
    return {
        "intents": len(rows),
        "openIntents": len(rows) - len(closed),
        "closedIntents": len(closed),
        "confirmedIntents": len(confirmed),
        "automatedIntents": _count(not i["admin_before_confirmation"] for i in confirmed),
        "intervenedIntents": _count(i["admin_actions"] > 0 for i in closed),
        "adminActions": sum(i["admin_actions"] for i in rows),
        "resolvedIntents": len(resolved),
        "resolveSeconds": sum(int((at - i["opened_at"]).total_seconds()) for i, at in resolved),
        "offPeakSuggested": len(offered),
        "offPeakTaken": _count(i["off_peak_taken"] for i in offered),
    }


def _earliest(*times: datetime | None) -> datetime:
    return min(time for time in times if time is not None)


def booked(chain: Row) -> bool:
    return chain["confirmed_at"] is not None and chain["status"] != "merged"


def is_visit(chain: Row, as_of: datetime) -> bool:
    over = chain["end_at"] + 2 * HOUR
    since = min(over, chain["completed_at"]) if chain["completed_at"] else over
    return booked(chain) and chain["status"] not in ("cancelled", "no_show") and since <= as_of


def _chain_counts(salon: Salon, asked: Asked) -> Sums:
    rows = [c for c in salon.chains if booked(c) and asked.holds(c["start_at"], c)]
    early = [c for c in rows if c["status"] == "cancelled" and c["cancelled_at"] < c["start_at"]]
    lost = [c for c in early if c["cancel_reason"] == "cancelled"]
    due = [c for c in rows if c not in early and c["start_at"] < asked.as_of]
    visits = [c for c in rows if is_visit(c, asked.as_of)]
    paid = [c for c in visits if c["own_currency"]]
    reachable = [c for c in due if c["reachable"]]
    return {
        "booked": len(rows),
        "due": len(due),
        "visits": len(visits),
        "noShows": _count(c["status"] == "no_show" for c in due),
        "cancelled": len(lost),
        "lateCancelled": _count(c["start_at"] - c["cancelled_at"] < 24 * HOUR for c in lost),
        "rescheduled": _count(c["moves"] > 0 for c in rows),
        "offPeak": _count(c["off_peak"] for c in rows),
        "onGrid": _count(c["on_grid"] for c in rows),
        "leadSeconds": sum(int((c["start_at"] - c["confirmed_at"]).total_seconds()) for c in rows),
        "dueReachable": len(reachable),
        "dueReminded": _count(bool(r := c["reminder_accepted_at"]) and r < c["start_at"] for c in reachable),
        "visitsGross": sum(c["gross_minor"] for c in paid),
        "visitsNet": sum(c["gross_minor"] - c["discount_minor"] - c["refund_minor"] for c in paid),
        "otherCurrencyPayments": sum(c["other_currency_payments"] + (not c["own_currency"]) for c in visits),
        "visitsWithFeedback": _count(c["rating"] is not None for c in visits),
    }


def _client_counts(salon: Salon, asked: Asked) -> Sums:
    ever = sorted(
        (c for c in salon.chains if is_visit(c, asked.as_of) and c["client_id"]),
        key=lambda c: (c["start_at"], c["booking_id"]),
    )
    history: dict[UUID, list[Row]] = {}
    for chain in ever:
        history.setdefault(chain["client_id"], []).append(chain)
    inside = [c for c in ever if asked.holds(c["start_at"], c)]
    visiting = {c["client_id"] for c in inside}
    first = [c for c in inside if history[c["client_id"]][0] is c]
    return {
        "clients": len(visiting),
        "returningClients": len({c["client_id"] for c in inside if history[c["client_id"]][0] is not c}),
        "newClients": len(first),
        "retainedClients": _count(
            any(v["start_at"] <= c["start_at"] + timedelta(days=90) for v in history[c["client_id"]][1:])
            for c in first
        ),
        "rebookedVisits": _count(_rebooked(salon, asked, c) for c in inside),
    }


def _rebooked(salon: Salon, asked: Asked, visit: Row) -> bool:
    day = visit["start_at"].astimezone(asked.zone).date()
    return any(
        booked(c)
        and c["status"] != "cancelled"
        and c["client_id"] == visit["client_id"]
        and c["start_at"] > visit["start_at"]
        and c["confirmed_at"].astimezone(asked.zone).date() <= day
        for c in salon.chains
    )


def _message_counts(salon: Salon, asked: Asked) -> Sums:
    rows = [m for m in salon.messages if asked.holds(m["first_attempt_at"], m)]
    accepted = [m for m in rows if m["accepted_at"]]
    receipted = [m for m in accepted if m["gives_receipts"]]
    delivered = [m for m in receipted if m["delivered_at"]]
    return {
        "messagesAttempted": len(rows),
        "messagesAccepted": len(accepted),
        "messagesReceipted": len(receipted),
        "messagesDelivered": len(delivered),
        "remindersReceipted": _count(m["template"] == "reminder_24h" for m in receipted),
        "remindersDelivered": _count(m["template"] == "reminder_24h" for m in delivered),
        "messagesFailed": _count(m["status"] == "failed" for m in rows),
        "messagesDead": _count(m["status"] == "dead" for m in rows),
        "messagesUnknown": _count(m["status"] == "unknown" for m in rows),
    }


def _other_counts(salon: Salon, asked: Asked) -> Sums:
    rows = [o for o in salon.others if asked.holds(o["at"], o)]
    stock = [o for o in rows if o["fact"] == "inventory_count"]
    sales = [o for o in rows if o["fact"] == "goods_sale"]
    own = [o for o in sales if o["own_currency"]]
    return {
        "ratings": _count(o["fact"] == "feedback" for o in rows),
        "ratingSum": sum(o["rating"] or 0 for o in rows),
        "stockExpected": sum(o["expected"] for o in stock),
        "stockDeviation": sum(abs(o["counted"] - o["expected"]) for o in stock),
        "goodsGross": sum(o["gross_minor"] for o in own),
        "goodsNet": sum(o["gross_minor"] - (o["discount_minor"] or 0) for o in own),
        "otherCurrencySales": len(sales) - len(own),
    }


def _minutes(salon: Salon, asked: Asked) -> Sums:
    served = sum(
        _minutes_inside(c, asked)
        for c in salon.chains
        if booked(c)
        and c["status"] not in ("cancelled", "no_show")
        and asked.picks(c, "staff_id", asked.staff_id)
        and asked.picks(c, "service_id", asked.service_id)
        and asked.picks(c, "channel", asked.channel)
    )
    seconds = 0
    for shift in (
        o for o in salon.others if o["fact"] == "shift" and asked.picks(o, "staff_id", asked.staff_id)
    ):
        whole = int((shift["end_at"] - shift["start_at"]).total_seconds())
        inside = _minutes_inside(shift, asked) * 60
        seconds += inside - (shift["break_minutes"] or 0) * 60 * inside // whole
    return {"serviceMinutes": served, "rosteredMinutes": seconds // 60}


def _minutes_inside(row: Row, asked: Asked) -> int:
    """Minute by minute: in the window's days, and in a quarter hour that was over at asOf."""
    cut = asked.as_of.replace(minute=asked.as_of.minute // 15 * 15, second=0, microsecond=0)
    length = int((row["end_at"] - row["start_at"]) / timedelta(minutes=1))
    minutes = (row["start_at"] + timedelta(minutes=n) for n in range(length))
    return _count(m < cut and asked.first <= m.astimezone(asked.zone).date() <= asked.last for m in minutes)
