"""`turnout tenant`: creates tenants, lists, suspends and resumes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any
from zoneinfo import available_timezones

import asyncpg
from cyclopts import App

from turnout_cli import tenant_channels, tenant_settings, tenant_tokens
from turnout_cli.actor import who
from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, cell_text, print_json, print_table, say
from turnout_cli.tenant_channels import IN_FORCE
from turnout_common import tenants

app = App(name="tenant", help="Tenants: create, configure, list, suspend, resume.")
app.command(tenant_channels.app)
app.command(tenant_channels.rotate_secret)
app.command(tenant_settings.app)
app.command(tenant_tokens.app)


@app.command
def create(
    tenant_id: str,
    *,
    timezone: str,
    currency: str = "EUR",
    locale: str = "en",
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Create an active tenant with a data key of its own.

    Parameters
    ----------
    tenant_id
        1 to 63 characters out of a-z, 0-9, _ and -.
    timezone
        The salon's zone, as in Europe/Berlin: days and hours of all KPIs are local to it.
    currency
        ISO 4217, as in EUR. Amounts in another currency are listed, never added.
    locale
        Language of messages where a client's own is not known.
    """
    _require_zone(timezone)
    run(_create(tenant_id, timezone, currency, locale, target))
    if as_json:
        print_json({"tenant_id": tenant_id, "timezone": timezone, "currency": currency, "locale": locale})
    say(f"✓ tenant {tenant_id} created; {IN_FORCE}")
    say(f"  next: ./turnout tenant channel set {tenant_id} calcom --secret …")
    return 0


def _require_zone(name: str) -> None:
    known = available_timezones()
    if name not in known:
        by_lower_case = {zone.lower(): zone for zone in sorted(known)}
        cities = [zone for zone in by_lower_case if zone.rpartition("/")[2] == name.lower()]
        near = cities or get_close_matches(name.lower(), by_lower_case, 1, cutoff=0.8)
        advice = f"did you mean {by_lower_case[near[0]]}?" if near else "they are named as in Europe/Berlin"
        raise CommandError(f"there is no time zone {name!r}; {advice}")


async def _create(tenant_id: str, timezone: str, currency: str, locale: str, target: TargetOption) -> None:
    place = resolve(target)
    async with place.platform() as connection:
        try:
            await tenants.create_tenant(
                connection,
                place.master_key,
                tenant_id,
                timezone,
                currency=currency,
                locale=locale,
                actor=who(),
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        except asyncpg.CheckViolationError as error:
            raise CommandError(_refused(tenant_id, currency, error)) from error


def _refused(tenant_id: str, currency: str, error: asyncpg.CheckViolationError) -> str:
    if error.constraint_name == "tenants_currency_check":
        return f"currency {currency!r} must be three capital letters, as in EUR"
    return f"tenant id {tenant_id!r} must be 1 to 63 characters out of a-z, 0-9, _ and -, a letter or digit first"


@app.command(name="list")
def list_all(*, target: TargetOption = "embedded", as_json: Json = False) -> int:
    """List all tenants with their channels: how many secrets are valid and when an old one dies, never a secret."""
    rows = run(_list(target))
    if as_json:
        print_json(rows)
    else:
        headings = ("tenant_id", "status", "timezone", "currency", "locale", "demo")
        told = ([*(row[name] for name in headings), [*map(_told, row["channels"])]] for row in rows)
        print_table((*headings, "channels"), told)
    return 0


def _told(channel: Mapping[str, Any]) -> str:
    """A channel in a word, and what one should know of it."""
    notes = [] if channel["enabled"] else ["disabled"]
    if channel["secrets"] != 1:
        notes.append("no secret" if not channel["secrets"] else f"{channel['secrets']} secrets")
    if channel["old_secret_until"]:
        notes.append(f"the old one until {cell_text(datetime.fromisoformat(channel['old_secret_until']))}")
    return f"{channel['channel']} ({', '.join(notes)})" if notes else str(channel["channel"])


async def _list(target: TargetOption) -> list[dict[str, Any]]:
    async with resolve(target).platform() as connection:
        return await tenants.list_tenants(connection)


@app.command
def suspend(tenant_id: str, *, target: TargetOption = "embedded") -> int:
    """Answer the tenant's webhooks 401 and send nothing for it, until it is resumed."""
    run(_set_status(tenant_id, "suspended", target))
    say(f"✓ tenant {tenant_id} suspended; {IN_FORCE}")
    return 0


@app.command
def resume(tenant_id: str, *, target: TargetOption = "embedded") -> int:
    """Make a suspended tenant active again."""
    run(_set_status(tenant_id, "active", target))
    say(f"✓ tenant {tenant_id} active; {IN_FORCE}")
    return 0


async def _set_status(tenant_id: str, status: str, target: TargetOption) -> None:
    async with resolve(target).platform() as connection:
        try:
            await tenants.set_tenant_status(connection, tenant_id, status, actor=who())
        except tenants.UnknownTenant as error:
            raise CommandError(str(error)) from error
