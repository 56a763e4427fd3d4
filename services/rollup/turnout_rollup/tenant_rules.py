"""The rules that tenants' facts are made by: read with each batch, changed only with the rebuild that follows.

Promise: all who make facts at a time make them by the same rules, those in rollup.tenant_settings; a change in the
tenant's configuration takes effect there and leaves an unfinished rebuild behind, in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import astuple
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog

from turnout_common.postgres import Connection
from turnout_common.tenants import TenantSettings, UnknownTenant
from turnout_rollup.facts import RULES_REVISION, Rules
from turnout_rollup.store import SQL

log = structlog.get_logger()


class BadSettings(ValueError):
    """A tenant's configuration that no facts can be made by; nothing of ours writes such a thing."""


class NewerRulesInForce(OSError):
    """A newer build makes these facts by now; this one waits, as for a server that is away, until it is replaced."""


async def share_rules(connection: Connection, tenant_ids: Collection[str]) -> dict[str, Rules]:
    """The rules of each tenant, unchanged until this transaction ends; a deleted tenant has none.

    Raises UnknownTenant.
    """
    await connection.execute(SQL["share_rules"])
    rows = await connection.fetch(SQL["read_tenants"], sorted(tenant_ids))
    if len(rows) < len(tenant_ids):
        unknown = set(tenant_ids) - {row["tenant_id"] for row in rows}
        raise UnknownTenant(f"no tenant {min(unknown)!r}")
    found = {}
    for row in rows:
        if row["status"] == "deleted":
            continue
        if row["rules_revision"] is None:
            found[row["tenant_id"]] = await _first_rules(connection, row)
        elif row["rules_revision"] > RULES_REVISION:
            raise NewerRulesInForce(
                f"tenant {row['tenant_id']}: revision {row['rules_revision']} of the rules"
            )
        else:
            found[row["tenant_id"]] = rules_in_force(row)
    return found


async def adopt_rules(connection: Connection, tenant_id: str) -> bool:
    """Puts the tenant's configuration in force; whether it differs from what its facts were made by.

    Raises UnknownTenant.
    """
    async with connection.transaction():
        await connection.execute(SQL["lock_rules"])
        row = await connection.fetchrow(SQL["read_tenants"], [tenant_id])
        if row is None or row["status"] == "deleted":
            raise UnknownTenant(f"no tenant {tenant_id!r}")
        if row["rules_revision"] is None:
            await _first_rules(connection, row)
        elif differs(row):
            await connection.execute(SQL["update_rules"], tenant_id, *astuple(wanted_rules(row)))
            await begin_rebuild(connection, tenant_id)
            log.info("a tenant's rules changed, its facts are made anew", tenant_id=tenant_id)
            return True
    return False


async def begin_rebuild(connection: Connection, tenant_id: str) -> None:
    """Leaves a rebuild to be done, from the beginning."""
    await connection.execute(SQL["begin_rebuild"], tenant_id)


async def tenants_with_new_rules(connection: Connection) -> list[str]:
    """The tenants whose configuration is not the one that their facts were made by."""
    ids = [row["tenant_id"] for row in await connection.fetch(SQL["tenant_ids"])]
    changed = []
    for row in await connection.fetch(SQL["read_tenants"], ids):
        try:
            if row["rules_revision"] is not None and differs(row):
                changed.append(row["tenant_id"])
        except BadSettings as error:
            log.error("a tenant's facts stay as they are", reason=str(error))
    return changed


def differs(row: Any) -> bool:
    """Whether the facts must be made anew; never back by an older build's rules."""
    return row["rules_revision"] <= RULES_REVISION and wanted_rules(row) != rules_in_force(row)


def wanted_rules(row: Any) -> Rules:
    """The rules that the tenant's configuration asks for. Raises BadSettings."""
    try:
        ZoneInfo(row["wanted_timezone"])
        settings = TenantSettings.model_validate_json(row["wanted_settings"])
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise BadSettings(f"tenant {row['tenant_id']!r}: its time zone or settings are not valid") from error
    return Rules(
        timezone=row["wanted_timezone"],
        currency=row["wanted_currency"],
        notice_hours=settings.notice_hours,
        off_peak_before=settings.off_peak_before,
        off_peak_after=settings.off_peak_after,
        grid_minutes=settings.grid_minutes,
    )


def rules_in_force(row: Any) -> Rules:
    """The rules that the tenant's facts were made by."""
    return Rules(
        timezone=row["timezone"],
        currency=row["currency"],
        notice_hours=row["notice_hours"],
        off_peak_before=row["off_peak_before"],
        off_peak_after=row["off_peak_after"],
        grid_minutes=row["grid_minutes"],
        rules_revision=row["rules_revision"],
    )


async def _first_rules(connection: Connection, row: Any) -> Rules:
    in_force = await connection.fetchrow(SQL["insert_rules"], row["tenant_id"], *astuple(wanted_rules(row)))
    return rules_in_force(in_force)
