"""Reads the figures of a window: the one place that asks the database for them.

In: a scope, a window's request, filters. Out: `Report`s of sums, read in one repeatable-read snapshot under row-level
security. Whole days in the tenant's own zone, without a filter by service or channel, come from the settled day cells
and, for the rest, from the facts cut at asOf; everything else comes from the facts. Both ways give the same sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import asyncpg

from turnout_common.clock import Clock
from turnout_common.postgres import Connection, load_queries, tenant_transaction
from turnout_kpi_api.as_of import read_as_of
from turnout_kpi_api.auth import Scope, missing_token, no_such_tenant
from turnout_kpi_api.kpis import COUNTS, Figures, Source
from turnout_kpi_api.period import Period, Window, day_start, resolve

SQL = load_queries("turnout_kpi_api")
PARTS = (Source.CHAINS, Source.INTENTS, Source.MESSAGES, Source.OTHER)
#: A day in one zone touches at most this many days of another on each side.
_DAY = timedelta(days=1)
_AROUND = timedelta(days=2)
_QUARTER = timedelta(minutes=15)
COLUMNS = {source: [c.column for c in COUNTS if c.source is source] for source in Source}


def sums_query(name: str, source: Source) -> str:
    """The block `name` for one kind of facts, with its sums of the catalogue."""
    columns = COLUMNS[source]
    return SQL[name].format(
        kind=source.value,
        columns=", ".join(f"c.{column}" for column in columns),
        sums=", ".join(f"sum(p.{column})::bigint AS {column}" for column in columns),
    )


FROM_FACTS = {source: sums_query("sums_from_facts", source) for source in PARTS}
FROM_CELLS = {source: sums_query("sums_from_cells", source) for source in PARTS}


@dataclass(frozen=True)
class Request:
    """What is asked for: a window (its zone is the tenant's unless `zone` is set), filters, and what to compare with."""

    period: Period | None = None
    first: date | None = None
    last: date | None = None
    zone: ZoneInfo | None = None
    service_id: str | None = None
    channel: str | None = None
    compare: bool = False
    by_staff: bool = False


@dataclass(frozen=True)
class Report:
    """The answer's numbers. `figures` has one entry with the key None, or one for each member of staff."""

    currency: str
    as_of: datetime
    window: Window
    figures: dict[str | None, Figures]
    previous: tuple[Window, dict[str | None, Figures]] | None


@dataclass(frozen=True)
class _Query:
    """One window's reading inside the snapshot."""

    scope: Scope
    request: Request
    window: Window
    as_of: datetime
    use_cells: bool

    @property
    def arguments(self) -> tuple[object, ...]:
        window, request = self.window, self.request
        days = (window.first - _AROUND, window.last + _AROUND)
        filters = (self.scope.staff_id, request.service_id, request.channel)
        return (self.scope.tenant_id, self.as_of, window.start, window.end, *days, *filters, request.by_staff)


class Reads:
    """The figures of any window."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock, *, use_cells: bool = True) -> None:
        self._pool = pool
        self._clock = clock
        self._use_cells = use_cells

    async def as_of(self) -> datetime:
        """asOf now, of no tenant in particular."""
        async with self._pool.acquire() as connection:
            return await read_as_of(connection, self._clock.now())

    async def report(self, scope: Scope, request: Request) -> Report:
        """The figures that `request` asks for. Raises ProblemError for a tenant out of scope, PeriodError."""
        now = self._clock.now()
        async with tenant_transaction(self._pool, scope.tenant_id, scope.own_staff_id) as connection:
            tenant = await _tenant(connection, scope)
            zone = request.zone or ZoneInfo(tenant["timezone"])
            window = resolve(request.period, request.first, request.last, zone, now)
            as_of = await read_as_of(connection, now)
            use_cells = (
                self._use_cells
                and zone.key == tenant["timezone"] == tenant["facts_timezone"]
                and not tenant["rebuilding"]
                and request.service_id is None
                and request.channel is None
            )
            query = _Query(scope, request, window, as_of, use_cells)
            figures = await _figures(connection, query)
            previous = None
            if request.compare:
                before = window.previous()
                query = _Query(scope, request, before, as_of, use_cells)
                previous = (before, await _figures(connection, query))
        return Report(tenant["currency"], as_of, window, figures, previous)


async def _tenant(connection: Connection, scope: Scope) -> asyncpg.Record:
    row = await connection.fetchrow(SQL["tenant"], scope.tenant_id)
    if scope.demo_only and (row is None or not row["demo"]):
        raise missing_token()
    if row is None or row["status"] == "deleted":
        raise no_such_tenant()
    return row


async def _figures(connection: Connection, query: _Query) -> dict[str | None, Figures]:
    counts: dict[str | None, dict[str, int]] = {}
    settled: dict[str | None, datetime] = {}
    for source in Source:
        for row in await _rows(connection, query, source):
            key = row["staff_id"]
            known = counts.setdefault(key, dict.fromkeys((c.name for c in COUNTS), 0))
            known |= {c.name: row[c.column] for c in COUNTS if c.source is source}
            if row["settled_at"] is not None:
                settled[key] = max(row["settled_at"], settled.get(key, row["settled_at"]))
    if not query.request.by_staff:
        counts.setdefault(None, dict.fromkeys((c.name for c in COUNTS), 0))
    whole = query.scope.own_staff_id is None
    return {key: Figures(sums, settled.get(key), whole) for key, sums in counts.items()}


async def _rows(connection: Connection, query: _Query, source: Source) -> Iterable[asyncpg.Record]:
    window = query.window
    match source:
        case Source.UTILISATION:
            tenant_id, _, *rest = query.arguments
            return await connection.fetch(SQL["utilisation"], tenant_id, quarter_before(query.as_of), *rest)
        case Source.CLIENTS if query.scope.own_staff_id is not None:
            return []
        case Source.CLIENTS:
            midnights = [day_start(window.first + n * _DAY, window.zone) for n in range(window.days + 1)]
            return await connection.fetch(SQL["clients"], *query.arguments, midnights)
    if query.use_cells:
        return await connection.fetch(
            FROM_CELLS[source],
            query.scope.tenant_id,
            query.as_of,
            window.first,
            window.last,
            query.scope.staff_id,
            query.request.by_staff,
        )
    return await connection.fetch(FROM_FACTS[source], *query.arguments)


def quarter_before(at: datetime) -> datetime:
    """The end of the last whole quarter hour before `at`; quarters are the same in every zone of today."""
    past = timedelta(minutes=at.minute % 15, seconds=at.second, microseconds=at.microsecond)
    return at - past
