"""Facts and cells against the logs, by means of their own (design §2.5).

In: one repeatable-read snapshot per tenant of booking.truth, sender.truth and rollup's tables. Out: a report. `drift`:
what is stored at the applied version is not what the log says. `missing`: the log is ahead of what was applied, which
under load is lag, and otherwise a loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

from turnout_common.postgres import Connection, load_queries
from turnout_common.tenants import UnknownTenant
from turnout_rollup.facts import Rules
from turnout_rollup.tenant_rules import BadSettings, rules_in_force, wanted_rules

SQL = load_queries("turnout_rollup", "verify.sql")
_BOOKING_LOG = {"log": "booking.truth", "id": "entity_id", "at": "created_at"}
_KINDS: dict[str, dict[str, str]] = {
    "chain": _BOOKING_LOG | {"key": "booking_id", "of_kind": "AND t.entity_kind = 'chain'"},
    "intent": _BOOKING_LOG | {"key": "intent_id", "of_kind": "AND t.entity_kind = 'intent'"},
    "other": _BOOKING_LOG | {"key": "fact_id", "of_kind": "AND t.entity_kind = 'fact'"},
    "message": {"log": "sender.truth", "id": "message_id", "at": "written_at", "key": "message_id", "of_kind": ""},
}  # fmt: skip
#: How many of the parameters that verify.sql lists a kind's statement takes.
_PARAMETERS = {"chain": 8, "intent": 3, "other": 4, "message": 3}
DRIFT = {
    kind: "\n".join(
        (SQL["stored"].format(kind=kind, **names), SQL[f"{kind}_truth"], SQL["compare"].format(kind=kind, **names))
    )
    for kind, names in _KINDS.items()
}  # fmt: skip
COUNT = {kind: SQL["count"].format(kind=kind) for kind in _KINDS}
MISSING = {kind: SQL["missing"].format(kind=kind, **names) for kind, names in _KINDS.items()}

#: Called with how many tenants are done and how many there are.
Progress = Callable[[int, int], None]


def silent(_done: int, _total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Drift:
    """A fact (`id` and `version`) or a cell (`day` and `staff_id`) that is not what the log says.

    `fields`: by name what the log says and what is stored; None for a version that the log does not have.
    """

    tenant_id: str
    kind: str
    id: UUID | None
    version: int | None
    day: date | None
    staff_id: str | None
    fields: dict[str, tuple[Any, Any]] | None

    def __str__(self) -> str:
        what = (
            f"{self.kind} {self.id} v{self.version}"
            if self.id
            else f"{self.kind} cell {self.day} {self.staff_id!r}"
        )
        if self.fields is None:
            return f"{self.tenant_id}: {what}: the log has no such version"
        said = ", ".join(
            f"{name} is {b!r}, the log says {a!r}" for name, (a, b) in sorted(self.fields.items())
        )
        return f"{self.tenant_id}: {what}: {said}"


@dataclass(frozen=True)
class Missing:
    """An entity at `version` in the log, of which `applied_version` was applied (None: nothing)."""

    tenant_id: str
    kind: str
    id: UUID
    version: int
    applied_version: int | None
    written_at: datetime

    def __str__(self) -> str:
        applied = f"version {self.applied_version}" if self.applied_version else "nothing"
        return f"{self.tenant_id}: {self.kind} {self.id}: the log has version {self.version}, {applied} was applied"


@dataclass
class Report:
    """What a verification found. `outdated`: tenants whose facts are not made by their present settings."""

    tenants: int = 0
    facts: int = 0
    drift: list[Drift] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.drift or self.missing or self.outdated)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


async def verify(
    connection: Connection,
    tenant_id: str | None = None,
    since: date | None = None,
    progress: Progress = silent,
) -> Report:
    """Compares everything of one tenant or of all, or what lies on `since` and later or was written since then.

    `connection` is of role turnout_maintenance, which may take its time. Raises UnknownTenant.
    """
    report = Report()
    found = await tenant_ids(connection, tenant_id)
    for done, each in enumerate(found, 1):
        await verify_tenant(connection, each, since, report)
        progress(done, len(found))
    return report


async def tenant_ids(connection: Connection, tenant_id: str | None = None) -> list[str]:
    """All tenants, or the one. Raises UnknownTenant."""
    rows = await connection.fetch(SQL["tenants"], tenant_id)
    if tenant_id is not None and not rows:
        raise UnknownTenant(f"there is no tenant {tenant_id!r}")
    return [row["tenant_id"] for row in rows]


async def verify_tenant(connection: Connection, tenant_id: str, since: date | None, report: Report) -> None:
    """Adds what one tenant's snapshot shows to `report`."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        tenant = await connection.fetchrow(SQL["tenants"], tenant_id)
        if tenant is None:
            return
        try:
            rules = wanted_rules(tenant)
        except BadSettings:
            report.outdated.append(tenant_id)
            return
        if tenant["rules_revision"] is not None and rules_in_force(tenant) != rules:
            report.outdated.append(tenant_id)
        parameters = [tenant_id, since, *_settings(rules)]
        report.tenants += 1
        for kind in _KINDS:
            report.facts += await connection.fetchval(COUNT[kind], tenant_id)
            for row in await connection.fetch(DRIFT[kind], *parameters[: _PARAMETERS[kind]]):
                report.drift.append(_drift(tenant_id, kind, row))
            for row in await connection.fetch(MISSING[kind], tenant_id, since):
                report.missing.append(Missing(tenant_id, kind, **row))


def _settings(rules: Rules) -> list[Any]:
    return [
        rules.timezone,
        rules.currency,
        rules.notice_hours,
        rules.off_peak_before,
        rules.off_peak_after,
        rules.grid_minutes,
    ]


def _drift(tenant_id: str, kind: str, row: Any) -> Drift:
    fields = json.loads(row["fields"]) if row["fields"] else None
    pairs = {name: (pair[0], pair[1]) for name, pair in fields.items()} if fields else None
    return Drift(tenant_id, kind, row["id"], row["version"], row["day"], row["staff_id"], pairs)
