"""What `turnout rollup run` does on a schedule: verify the recent window, mend what drifted, raise the alarm.

In: a granularity. Out: a Run, also noted in rollup.runs, where the service's metrics find it. Drift is a fault even
when it could be mended: the run then fails.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import structlog

from turnout_common.clock import Clock, SystemClock
from turnout_common.postgres import Connection, load_queries
from turnout_rollup.rebuild import PAGE, rebuild, remake
from turnout_rollup.store import count_changes, sum_days
from turnout_rollup.tenant_rules import BadSettings, share_rules
from turnout_rollup.verify import Progress, Report, silent, verify

log = structlog.get_logger()
SQL = load_queries("turnout_rollup", "rebuild.sql")
Granularity = Literal["hourly", "daily"]
#: How many days back each granularity looks; days to come are always in.
WINDOW_DAYS: dict[Granularity, int] = {"hourly": 2, "daily": 35}
#: What the log is ahead by less than this is on its way, not missing.
ON_ITS_WAY = timedelta(minutes=5)


@dataclass(frozen=True)
class Run:
    """What was found on `since` and later, and what was left after the repair."""

    granularity: Granularity
    since: date
    found: Report
    left: Report

    @property
    def ok(self) -> bool:
        return self.found.ok and self.left.ok

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found, left = self.found.as_dict(), self.left.as_dict()
        since = self.since.isoformat()
        return {"ok": self.ok, "granularity": self.granularity, "since": since, "found": found, "left": left}


async def run(
    connection: Connection,
    granularity: Granularity,
    tenant_id: str | None = None,
    progress: Progress = silent,
    clock: Clock | None = None,
) -> Run:
    """Verifies and mends the recent window. `connection` is of role turnout_maintenance."""
    now = (clock or SystemClock()).now()
    since = now.date() - timedelta(days=WINDOW_DAYS[granularity])
    found = _without_the_late(await verify(connection, tenant_id, since, progress), now)
    left = found
    if not found.ok:
        log.error(
            "the rollup drifted", drift=len(found.drift), missing=len(found.missing), outdated=found.outdated
        )
        await repair(connection, found)
        left = _without_the_late(await verify(connection, tenant_id, since), now)
    result = Run(granularity, since, found, left)
    await _note(connection, result)
    return result


async def repair(connection: Connection, report: Report) -> None:
    """Makes what `report` names what the log says, while the consumers go on."""
    for tenant_id in report.outdated:
        try:
            await rebuild(connection, tenant_id)
        except BadSettings as error:
            log.error("a tenant's facts stay as they are", reason=str(error))
    entities: dict[tuple[str, str], set[UUID]] = defaultdict(set)
    days: dict[tuple[str, str], set[date]] = defaultdict(set)
    for drift in report.drift:
        if drift.id is not None:
            entities[drift.tenant_id, drift.kind].add(drift.id)
        elif drift.day is not None:
            days[drift.tenant_id, drift.kind].add(drift.day)
    for missing in report.missing:
        entities[missing.tenant_id, missing.kind].add(missing.id)
    for (tenant_id, kind), ids in entities.items():
        await _remake(connection, tenant_id, kind, sorted(ids))
    for (tenant_id, kind), drifted in days.items():
        async with connection.transaction():
            await sum_days(connection, kind, [(tenant_id, day) for day in drifted])
            await count_changes(connection, [tenant_id])


async def _remake(connection: Connection, tenant_id: str, kind: str, ids: list[UUID]) -> None:
    for start in range(0, len(ids), PAGE):
        async with connection.transaction():
            rules = (await share_rules(connection, [tenant_id]))[tenant_id]
            await remake(connection, tenant_id, kind, ids[start : start + PAGE], rules)


def _without_the_late(report: Report, now: datetime) -> Report:
    """The report without what was written a moment ago and is on its way."""
    lost = [missing for missing in report.missing if missing.written_at < now - ON_ITS_WAY]
    return Report(report.tenants, report.facts, report.drift, lost, report.outdated)


async def _note(connection: Connection, result: Run) -> None:
    found, left = result.found, result.left
    await connection.execute(
        SQL["note_run"],
        result.granularity,
        found.tenants,
        len(found.drift) + len(found.outdated),
        len(found.missing),
        len(left.drift) + len(left.missing) + len(left.outdated),
    )
