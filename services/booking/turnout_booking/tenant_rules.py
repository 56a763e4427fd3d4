"""What a tenant's own configuration means for its bookings: read with each batch, so that it is never stale."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from pydantic import ValidationError

from turnout_booking.domain.fold import FoldSettings
from turnout_booking.domain.reminders import PlannerSettings
from turnout_booking.domain.rules import REVISION
from turnout_common.postgres import Connection, load_queries
from turnout_common.tenants import TenantSettings

log = structlog.get_logger()
SQL = load_queries("turnout_booking")


@dataclass(frozen=True)
class TenantRules:
    """`fold_basis` stands on every chain that was folded with `fold` and this build's rules."""

    tenant_id: str
    fold: FoldSettings
    planner: PlannerSettings
    fold_basis: str


async def read_rules(connection: Connection, tenant_ids: Iterable[str] | None) -> dict[str, TenantRules]:
    """The rules of the given tenants, or of all. A deleted or unknown tenant has none."""
    wanted = None if tenant_ids is None else sorted(set(tenant_ids))
    rows = await connection.fetch(SQL["read_tenants"], wanted)
    return {row["tenant_id"]: _rules(row) for row in rows if row["status"] != "deleted"}


def _rules(row: Any) -> TenantRules:
    settings, zone = _settings(row), _zone(row)
    return TenantRules(
        tenant_id=row["tenant_id"],
        fold=FoldSettings(row["currency"], settings.staff_map, settings.service_map),
        planner=PlannerSettings(zone, settings.quiet_from, settings.quiet_until),
        fold_basis=fold_basis(row["currency"], settings),
    )


def _settings(row: Any) -> TenantSettings:
    """The defaults stand in for settings that cannot be read: once they are mended, bookings are folded again."""
    try:
        return TenantSettings.model_validate_json(row["settings"])
    except ValidationError as error:
        log.error("settings cannot be read", tenant_id=row["tenant_id"], faults=error.error_count())
        return TenantSettings()


def _zone(row: Any) -> ZoneInfo:
    try:
        return ZoneInfo(row["timezone"])
    except (ValueError, OSError, ZoneInfoNotFoundError):
        log.error("the time zone is not known here", tenant_id=row["tenant_id"])
        return ZoneInfo("UTC")


def fold_basis(currency: str, settings: TenantSettings) -> str:
    """The same for the same rules and settings, another one when a chain could fold to another state."""
    maps = (sorted(settings.staff_map.items()), sorted(settings.service_map.items()))
    return hashlib.sha256(repr((REVISION, currency, maps)).encode()).hexdigest()[:16]
