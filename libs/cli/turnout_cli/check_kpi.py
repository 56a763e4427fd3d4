"""`turnout check-kpi`: are a tenant's KPIs, as the API answers them, what its two logs of record say?

In: answers of GET /kpi/summary, and booking_events and message_log by the plain SQL of check_kpi.sql. Out: one line a
metric with both values. Each answer is checked at its own asOf. What the pipeline is still busy with is asked again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import asyncpg

from turnout_cli.connection import Target, TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, print_json, print_table, say
from turnout_common.clock import SystemClock
from turnout_common.postgres import load_queries

SQL = load_queries("turnout_cli", "check_kpi.sql")
#: The API's longest window; a longer history is looked at in such pieces.
LONGEST = 400
RECENT_DAYS = 35
TRIES = 6
PAUSE_SECONDS = 2.0
AT_ONCE = 4
SHOWN = 5
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Days:
    """Local days, both included."""

    first: date
    last: date

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


@dataclass(frozen=True)
class Value:
    """A metric's number and the two sums that it is made of."""

    value: Decimal | None
    numerator: int
    denominator: int | None

    def __str__(self) -> str:
        shown = "null" if self.value is None else f"{self.value.normalize():,f}"
        return shown if self.denominator is None else f"{shown} ({self.numerator:,} / {self.denominator:,})"

    def as_json(self) -> dict[str, Any]:
        value = None if self.value is None else float(self.value)
        return {"value": value, "numerator": self.numerator, "denominator": self.denominator}


@dataclass(frozen=True)
class Answer:
    """What the API said of some days."""

    days: Days
    as_of: datetime
    values: dict[str, Value]


@dataclass(frozen=True)
class Compared:
    """An answer, and the same figures from the logs."""

    answer: Answer
    logs: dict[str, Value]

    @property
    def names(self) -> list[str]:
        return list(self.answer.values | self.logs)

    def differs(self, name: str) -> bool:
        return self.answer.values.get(name) != self.logs.get(name)


def check_kpi(*, tenant: str = "default", target: TargetOption = "embedded", as_json: Json = False) -> int:
    """Check a tenant's KPIs against its booking events and message log; exit status 1 when any differs.

    Looks at the whole history, at each of its ISO weeks and at each of its last 35 days.

    Parameters
    ----------
    tenant
        The tenant. For another one than the demo's, TURNOUT_TOKEN must hold a token that may see it.
    """
    compared = run(_check(resolve(target), tenant))
    names = compared[0].names
    wrong = [name for name in names if any(each.differs(name) for each in compared)]
    if as_json:
        print_json(_report(tenant, compared))
    else:
        _show(compared)
    counts = f"{len(names) - len(wrong)} of {len(names)} figures of {tenant}"
    say(f"{'✗' if wrong else '✓'} {counts} are what the logs say, in each of {len(compared)} windows")
    return 1 if wrong else 0


def _report(tenant: str, compared: Sequence[Compared]) -> dict[str, Any]:
    figures = [
        {
            "name": name,
            "ok": not any(each.differs(name) for each in compared),
            **_both(compared[0], name),
            "differences": [_both(each, name) for each in compared if each.differs(name)],
        }
        for name in compared[0].names
    ]
    ok = all(figure["ok"] for figure in figures)
    return {"tenant": tenant, "ok": ok, "windows": len(compared), "figures": figures}


def _both(each: Compared, name: str) -> dict[str, Any]:
    days, values = each.answer.days, (each.answer.values.get(name), each.logs.get(name))
    api, logs = (value.as_json() if value else None for value in values)
    return {"from": days.first, "to": days.last, "as_of": each.answer.as_of, "api": api, "logs": logs}


def _show(compared: Sequence[Compared]) -> None:
    """Both values over the whole history; below, the windows with a difference."""
    whole, rows = compared[0], []
    for name in whole.names:
        mark = "✗" if any(each.differs(name) for each in compared) else "✓"
        rows.append((mark, name, str(whole.answer.values.get(name)), str(whole.logs.get(name))))
    print_table(("", "figure", f"API, {whole.answer.days}", "logs"), rows)
    for name in whole.names:
        different = [each for each in compared if each.differs(name)]
        for each in different[:SHOWN]:
            api, logs = each.answer.values.get(name), each.logs.get(name)
            say(
                f"✗ {name}, {each.answer.days}, as of {each.answer.as_of}: the API says {api}, the logs say {logs}"
            )
        if len(different) > SHOWN:
            say(f"✗ {name}: and in {len(different) - SHOWN} more windows")


async def _check(target: Target, tenant: str) -> list[Compared]:
    """Every window's figures, that of the whole history first."""
    async with target.maintenance() as connection, Summaries(target, tenant) as summaries:
        left: Sequence[Days] = await _windows(connection, tenant)
        found: dict[Days, Compared] = {}
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(
                    PAUSE_SECONDS
                )  # the pipeline may be busy: what differs now may agree then
            answers = await summaries.of(left)
            logs = await _from_logs(connection, tenant, answers)
            found |= {a.days: Compared(a, own) for a, own in zip(answers, logs, strict=True)}
            left = [days for days, each in found.items() if any(map(each.differs, each.names))]
            if not left:
                break
        return list(found.values())


async def _windows(connection: asyncpg.Connection, tenant: str) -> list[Days]:
    """The whole history first (its newest piece, where it is long), then weeks, then the last days."""
    zone = await connection.fetchval(SQL["tenant"], tenant)
    if zone is None:
        raise CommandError(f"there is no tenant {tenant!r}; `./turnout tenant list` shows them")
    today = SystemClock().now().astimezone(ZoneInfo(zone)).date()
    row = await connection.fetchrow(SQL["history"], tenant, zone)
    assert row is not None
    first, last = row["first_day"] or today, row["last_day"] or today
    whole = list(_pieces(first, last, LONGEST))[::-1]
    weeks = _pieces(first - timedelta(days=first.weekday()), last, 7)
    days = _pieces(max(first, min(today, last) - RECENT_DAYS * _DAY), last, 1)
    return [*whole, *weeks, *(day for day in days if day.first <= today + _DAY)]


def _pieces(first: date, last: date, length: int) -> Iterator[Days]:
    while first <= last:
        yield Days(first, min(last, first + (length - 1) * _DAY))
        first += length * _DAY


class Summaries:
    """Asks the API. Raises CommandError in words when it does not answer as it should."""

    def __init__(self, target: Target, tenant: str) -> None:
        self._url = f"{target.kpi_url}/kpi"
        self._tenant = tenant
        headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=60))
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._parts: dict[str, tuple[str, str | None]] = {}

    async def __aenter__(self) -> Summaries:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def of(self, windows: Iterable[Days]) -> list[Answer]:
        """The answers for all `windows`, in their order."""
        if not self._parts:
            for metric in (await self._get("definitions"))["metrics"]:
                self._parts[metric["name"]] = (metric["numerator"], metric["denominator"])
        return await asyncio.gather(*(self._summary(days) for days in windows))

    async def _summary(self, days: Days) -> Answer:
        query = {"tenantId": self._tenant, "from": str(days.first), "to": str(days.last)}
        async with self._at_once:
            body = await self._get("summary", query)
        return Answer(days, datetime.fromisoformat(body["asOf"]), dict(self._values(body)))

    def _values(self, body: Any) -> Iterator[tuple[str, Value]]:
        counts = body["counts"]
        for name, value in body["metrics"].items():
            numerator, denominator = self._parts[name]
            below = None if denominator is None else counts[denominator]
            yield name, Value(None if value is None else Decimal(value), counts[numerator], below)
        for name in ("openIntents", "adminActions"):
            yield name, Value(Decimal(counts[name]), counts[name], None)

    async def _get(self, path: str, query: dict[str, str] | None = None) -> Any:
        try:
            async with self._session.get(f"{self._url}/{path}", params=query) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CommandError(
                f"kpi-api does not answer at {self._url}: {error or type(error).__name__}"
            ) from error
        if answer.status in (401, 404):
            raise CommandError(
                f"kpi-api shows {self._tenant!r} to nobody with this token; set TURNOUT_TOKEN to one of "
                f"`./turnout tenant token create {self._tenant}`"
            )
        if answer.status != 200:
            raise CommandError(f"kpi-api answered {answer.status} to {path} {query or ''}: {text[:300]}")
        return json.loads(text, parse_float=Decimal)


async def _from_logs(
    connection: asyncpg.Connection, tenant: str, answers: Sequence[Answer]
) -> list[dict[str, Value]]:
    """The same figures from the logs, for each answer's days at its asOf."""
    rows = await connection.fetch(
        SQL["kpis"],
        tenant,
        list(range(len(answers))),
        [answer.days.first for answer in answers],
        [answer.days.last for answer in answers],
        [answer.as_of for answer in answers],
    )
    found: list[dict[str, Value]] = [{} for _ in answers]
    for row in rows:
        found[row["n"]][row["metric"]] = Value(row["value"], row["numerator"], row["denominator"])
    return found
