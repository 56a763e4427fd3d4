"""`turnout tenant`: creates tenants, sets their channels and tokens, lists, suspends and resumes them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Literal
from zoneinfo import available_timezones

import asyncpg
from cyclopts import App, Parameter

from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, print_json, print_table, say
from turnout_common import tenants
from turnout_common.postgres import load_queries

app = App(name="tenant", help="Tenants: create, configure, list, suspend, resume.")
channels = App(name="channel", help="Channels of a tenant.")
tokens = App(name="token", help="API tokens.")
app.command(channels)
app.command(tokens)

ChannelName = Literal["calcom", "telegram", "whatsapp", "instagram", "vk", "max", "events"]
Scope = Literal["owner", "staff", "operator"]
SQL = load_queries("turnout_cli", "tenant.sql")
RELOAD = "services read it within 30 s"


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
    say(f"✓ tenant {tenant_id} created; {RELOAD}")
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
                connection, place.master_key, tenant_id, timezone, currency=currency, locale=locale
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        except asyncpg.CheckViolationError as error:
            raise CommandError(_refused(tenant_id, currency, error)) from error


def _refused(tenant_id: str, currency: str, error: asyncpg.CheckViolationError) -> str:
    if error.constraint_name == "tenants_currency_check":
        return f"currency {currency!r} must be three capital letters, as in EUR"
    return f"tenant id {tenant_id!r} must be 1 to 63 characters out of a-z, 0-9, _ and -, a letter or digit first"


@channels.command(name="set")
def set_channel(
    tenant_id: str,
    channel: ChannelName,
    *,
    secret: str | None = None,
    api_token: str | None = None,
    routing_id: str | None = None,
    handshake: str | None = None,
    target: TargetOption = "embedded",
) -> int:
    """Enable a channel; what is given replaces what was stored, the rest stays.

    Parameters
    ----------
    secret
        What the provider signs or authenticates with, kept exactly as given; `events` wants whsec_… (base64).
    api_token
        What messages to clients are sent with.
    routing_id
        The provider's id of this account: whatsapp phone_number_id, instagram entry.id, vk group_id.
    handshake
        What proves us when the callback is set up: Meta's verify token, VK's confirmation code.
    """
    has_secret = run(_set_channel(tenant_id, channel, secret, api_token, routing_id, handshake, target))
    say(f"✓ channel {channel} of {tenant_id} set; {RELOAD}")
    if not has_secret:
        say("– it has no secret yet: all its webhooks are answered 401 until one is set by --secret")
    return 0


async def _set_channel(
    tenant_id: str,
    channel: ChannelName,
    secret: str | None,
    api_token: str | None,
    routing_id: str | None,
    handshake: str | None,
    target: TargetOption,
) -> bool:
    """Whether the channel has a secret now."""
    place = resolve(target)
    if "" in (secret, api_token, routing_id, handshake):
        raise CommandError("an empty value cannot be set: it would let anyone in")
    async with place.platform() as connection:
        try:
            await tenants.set_channel(
                connection,
                place.master_key,
                tenant_id,
                channel,
                secret=secret,
                api_token=api_token,
                routing_id=routing_id,
                handshake=handshake,
            )
        except tenants.UnknownTenant as error:
            raise CommandError(str(error)) from error
        except asyncpg.UniqueViolationError as error:
            raise CommandError(f"routing id {routing_id!r} of {channel} belongs to another tenant") from error
        return bool(await connection.fetchval(SQL["has_secret"], tenant_id, channel))


@app.command(name="list")
def list_all(*, target: TargetOption = "embedded", as_json: Json = False) -> int:
    """List all tenants with their channels."""
    rows = run(_list(target))
    if as_json:
        print_json(rows)
    else:
        headings = ("tenant_id", "status", "timezone", "currency", "locale", "demo", "channels")
        print_table(headings, ([row[name] for name in headings] for row in rows))
    return 0


async def _list(target: TargetOption) -> list[dict[str, object]]:
    async with resolve(target).platform() as connection:
        return await tenants.list_tenants(connection)


@app.command
def suspend(tenant_id: str, *, target: TargetOption = "embedded") -> int:
    """Answer the tenant's webhooks 401 and send nothing for it, until it is resumed."""
    run(_set_status(tenant_id, "suspended", target))
    say(f"✓ tenant {tenant_id} suspended; {RELOAD}")
    return 0


@app.command
def resume(tenant_id: str, *, target: TargetOption = "embedded") -> int:
    """Make a suspended tenant active again."""
    run(_set_status(tenant_id, "active", target))
    say(f"✓ tenant {tenant_id} active; {RELOAD}")
    return 0


async def _set_status(tenant_id: str, status: str, target: TargetOption) -> None:
    async with resolve(target).platform() as connection:
        try:
            await tenants.set_tenant_status(connection, tenant_id, status)
        except tenants.UnknownTenant as error:
            raise CommandError(str(error)) from error


@tokens.command(name="create")
def create_token(
    tenant_id: Annotated[str | None, Parameter(help="The tenant; none for an operator.")] = None,
    *,
    scope: Scope = "owner",
    staff_id: str | None = None,
    label: str = "",
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Make an API token and print it, this once: only its hash is stored.

    Parameters
    ----------
    scope
        `owner` sees one tenant, `staff` the figures of --staff-id in it, `operator` all tenants.
    staff_id
        Whose figures a `staff` token shows.
    label
        What you will know it by.
    """
    if (scope == "operator") != (tenant_id is None):
        raise CommandError("an operator's token has no tenant; any other needs one")
    if (scope == "staff") != (staff_id is not None):
        raise CommandError("--staff-id goes with --scope staff")
    token = run(_create_token(tenant_id, scope, staff_id, label, target))
    if as_json:
        print_json({"token": token, "tenant_id": tenant_id, "scope": scope, "staff_id": staff_id})
    else:
        print(token)
    say("✓ token made; it is not shown again")
    return 0


async def _create_token(
    tenant_id: str | None, scope: Scope, staff_id: str | None, label: str, target: TargetOption
) -> str:
    async with resolve(target).platform() as connection:
        try:
            return await tenants.create_api_token(
                connection, tenant_id, scope, staff_id=staff_id, label=label
            )
        except asyncpg.ForeignKeyViolationError as error:
            raise CommandError(f"there is no tenant {tenant_id!r}") from error
