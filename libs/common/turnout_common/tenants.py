"""Tenants: the one module that writes schema `platform`, and what a tenant is (design §1, §6).

In: the connection of a role that may, the master key. Out: rows of platform.*, each act in the audit log, in the
transaction of its effect. What services hold in memory of it: tenant_directory.py.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from turnout_common.channel_secrets import BadChannelValue, require_routing_id, require_secret
from turnout_common.events.values import Key
from turnout_common.postgres import Connection, load_queries
from turnout_common.security import (
    MasterKey,
    SecretError,
    TenantKeys,
    as_keys,
    master_key_id,
    new_data_key,
    new_token,
    token_hash,
    unwrap_key,
    wrap_key,
)

SQL = load_queries("turnout_common", "tenants.sql")
#: They count in a smallint, and begin anew after it: of the numbers in use two at most are left.
MOST_SECRET_NO = 32_000


class TenantSettings(BaseModel):
    """What a tenant may set; stored as overrides in platform.tenants.settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notice_hours: int = Field(
        24, ge=0, le=8760, description="A cancellation fewer hours than this before the start is late."
    )
    off_peak_before: int = Field(11, ge=0, le=24, description="Starts before this local hour are off-peak.")
    off_peak_after: int = Field(
        19, ge=0, le=24, description="Starts at or after this local hour are off-peak."
    )
    grid_minutes: int = Field(15, ge=1, le=240, description="The slot grid.")
    quiet_from: int = Field(22, ge=0, le=24, description="No reminder from this local hour …")
    quiet_until: int = Field(
        9, ge=0, le=24, description="… until this one; none are quiet where both are the same."
    )
    raw_days: int = Field(30, ge=1, le=365, description="Days for which the bytes of webhooks are kept.")
    # As in the events that carry them: what could not be published is not set.
    staff_map: dict[Key, Key] = Field(default_factory=dict, description="Source organizer ref -> staff id.")
    service_map: dict[Key, Key] = Field(default_factory=dict, description="Source event type -> service id.")


@dataclass(frozen=True)
class ChannelConfig:
    """One channel of a tenant. `secrets` are those that are valid now; `api_token` is what the sender uses;
    `handshake` is Meta's verify token or VK's confirmation code."""

    channel: str
    enabled: bool
    routing_id: str | None
    secrets: tuple[str, ...] = field(repr=False)
    api_token: str | None = field(repr=False)
    handshake: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Tenant:
    """A tenant's configuration. `keys` is None for a role that may not read data keys."""

    tenant_id: str
    status: str
    timezone: str
    currency: str
    locale: str
    demo: bool
    settings: TenantSettings
    channels: dict[str, ChannelConfig]
    keys: TenantKeys | None = field(repr=False)

    @property
    def active(self) -> bool:
        return self.status == "active"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def sealing_keys(self) -> TenantKeys:
        """The tenant's keys. Raises SecretError where this role has none or they were destroyed."""
        if self.keys is None:
            raise SecretError(f"tenant {self.tenant_id!r} has no usable data key here")
        return self.keys


class TenantExists(ValueError):
    """The tenant is there already."""


class UnknownTenant(ValueError):
    """There is no such tenant."""


class UnknownChannel(ValueError):
    """The tenant has no such channel."""


class UnknownEntry(ValueError):
    """The map has no such entry."""


class UnknownToken(ValueError):
    """There is no such token, or it is revoked already."""


async def create_tenant(
    connection: Connection,
    master_key: MasterKey,
    tenant_id: str,
    timezone: str,
    *,
    currency: str = "EUR",
    locale: str = "en",
    settings: TenantSettings | None = None,
    demo: bool = False,
    actor: str = "cli",
) -> None:
    """A new active tenant with its first data key. Raises TenantExists; ZoneInfoNotFoundError for a bad zone;
    SecretError when the master key is not the one that wraps the other tenants' keys."""
    ZoneInfo(timezone)
    overrides = (settings or TenantSettings()).model_dump_json(exclude_defaults=True)
    async with connection.transaction():
        try:
            await connection.execute(
                SQL["insert_tenant"], tenant_id, timezone, currency, locale, overrides, demo
            )
        except asyncpg.UniqueViolationError as error:
            raise TenantExists(f"tenant {tenant_id!r} exists already") from error
        wrapping = await wrapping_key(connection, master_key)
        await connection.execute(
            SQL["insert_data_key"], tenant_id, 1, wrap_key(wrapping, tenant_id, 1, new_data_key())
        )
        await audit_act(connection, tenant_id, actor, "tenant.created", {"timezone": timezone})


async def set_channel(
    connection: Connection,
    master_key: MasterKey,
    tenant_id: str,
    channel: str,
    *,
    secret: str | None = None,
    api_token: str | None = None,
    routing_id: str | None = None,
    handshake: str | None = None,
    actor: str = "cli",
) -> None:
    """Enables a channel; what is given replaces what was stored, at once; what is None stays.

    Raises UnknownTenant; BadChannelValue for what the provider could not have.
    """
    if secret is not None:
        require_secret(channel, secret)
    if routing_id is not None:
        require_routing_id(channel, routing_id)
    async with connection.transaction():
        keys = await tenant_keys(connection, master_key, tenant_id)
        token = keys.seal("api_token", api_token.encode()) if api_token is not None else None
        greeting = keys.seal("handshake", handshake.encode()) if handshake is not None else None
        await connection.execute(SQL["upsert_channel"], tenant_id, channel, routing_id, token, greeting)
        if secret is not None:
            sealed = keys.seal("channel_secret", secret.encode())
            await connection.execute(SQL["delete_channel_secrets"], tenant_id, channel)
            await connection.execute(SQL["insert_channel_secret"], tenant_id, channel, 1, sealed, None)
        await audit_act(connection, tenant_id, actor, "channel.set", {"channel": channel})


async def set_channel_enabled(
    connection: Connection, tenant_id: str, channel: str, enabled: bool, *, actor: str = "cli"
) -> None:
    """A disabled channel's webhooks are answered 401; all that is stored of it stays. Raises UnknownChannel."""
    async with connection.transaction():
        if await connection.execute(SQL["enable_channel"], tenant_id, channel, enabled) != "UPDATE 1":
            raise UnknownChannel(f"tenant {tenant_id!r} has no channel {channel}")
        action = "channel.enabled" if enabled else "channel.disabled"
        await audit_act(connection, tenant_id, actor, action, {"channel": channel})


@dataclass(frozen=True)
class Rotation:
    """What a rotation of a secret left: until when the one before it is still valid, and how many older ones ended."""

    old_until: datetime | None
    ended: int


async def rotate_secret(
    connection: Connection,
    master_key: MasterKey,
    tenant_id: str,
    channel: str,
    secret: str,
    overlap: timedelta,
    *,
    actor: str = "cli",
) -> Rotation:
    """`secret` is valid at once; the one before it for `overlap` longer, and any older one no more.

    Raises UnknownTenant, UnknownChannel; BadChannelValue for a secret that could never verify or is in use.
    """
    require_secret(channel, secret)
    async with connection.transaction():
        keys = await tenant_keys(connection, master_key, tenant_id)
        if await connection.fetchval(SQL["lock_channel"], tenant_id, channel) is None:
            raise UnknownChannel(f"tenant {tenant_id!r} has no channel {channel}")
        active = await connection.fetch(SQL["read_active_secrets"], tenant_id, channel)
        if any(keys.open("channel_secret", row["sealed_secret"]) == secret.encode() for row in active):
            raise BadChannelValue("this secret is in use: a rotation needs another one")
        kept = active[0]["secret_no"] if active and overlap else None
        old_until = await connection.fetchval(SQL["let_secret_expire"], tenant_id, channel, kept, overlap)
        await connection.execute(SQL["delete_secrets_but"], tenant_id, channel, kept)
        sealed = keys.seal("channel_secret", secret.encode())
        number = active[0]["secret_no"] % MOST_SECRET_NO + 1 if active else 1
        await connection.execute(SQL["insert_channel_secret"], tenant_id, channel, number, sealed, None)
        ended = len(active) - (kept is not None)
        details = {
            "channel": channel,
            "old_until": old_until.isoformat() if old_until else None,
            "ended": ended,
        }
        await audit_act(connection, tenant_id, actor, "secret.rotated", details)
    return Rotation(old_until, ended)


async def set_tenant_status(
    connection: Connection, tenant_id: str, status: str, *, actor: str = "cli"
) -> None:
    """`active` or `suspended`; a suspended tenant's webhooks are answered 401. Raises UnknownTenant."""
    async with connection.transaction():
        if await connection.execute(SQL["update_tenant_status"], tenant_id, status) != "UPDATE 1":
            raise UnknownTenant(f"there is no tenant {tenant_id!r}")
        await audit_act(connection, tenant_id, actor, "tenant.status", {"status": status})


async def read_settings(connection: Connection, tenant_id: str) -> dict[str, Any]:
    """What a tenant has set, by field of TenantSettings; the defaults are not among it. Raises UnknownTenant."""
    return _overrides(tenant_id, await connection.fetchval(SQL["read_settings"], tenant_id))


async def update_settings(
    connection: Connection,
    tenant_id: str,
    overrides: Mapping[str, Any],
    *,
    entries: Mapping[str, Mapping[str, str | None]] | None = None,
    reset: Collection[str] = (),
    actor: str = "cli",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sets fields of TenantSettings and single entries of its maps (None takes one out); those of `reset` are the default
    again, the others stay. Gives what was set before and after.

    Raises UnknownTenant, UnknownEntry; pydantic's ValidationError for a bad value. Nothing is changed then.
    """
    async with connection.transaction():
        before = _overrides(tenant_id, await connection.fetchval(SQL["lock_settings"], tenant_id))
        maps = {name: _with_entries(name, before.get(name), each) for name, each in (entries or {}).items()}
        wanted = {**overrides, **maps}
        # Strict: a lax `true` would be 1, and 1 raw day deletes what 30 kept.
        checked = TenantSettings.model_validate(wanted, strict=True).model_dump(include=set(wanted))
        after = {name: value for name, value in (before | checked).items() if name not in reset}
        await connection.execute(SQL["write_settings"], tenant_id, json.dumps(after))
        # Numbers only: who is whom in a map is personal, and the audit log is never cleaned.
        values = {name: value for name, value in checked.items() if isinstance(value, int)}
        details = {"fields": sorted({*wanted, *reset}), "values": values, "reset": sorted(reset)}
        await audit_act(connection, tenant_id, actor, "tenant.settings", details)
    return before, after


def _overrides(tenant_id: str, stored: str | None) -> dict[str, Any]:
    if stored is None:
        raise UnknownTenant(f"there is no tenant {tenant_id!r}")
    return dict(json.loads(stored))


def _with_entries(name: str, present: Any, changes: Mapping[str, str | None]) -> dict[str, str]:
    made = dict(present) if isinstance(present, dict) else {}
    for key in [key for key, value in changes.items() if value is None]:
        if made.pop(key, None) is None:
            raise UnknownEntry(f"{name} has no entry {key!r}")
    return made | {key: value for key, value in changes.items() if value is not None}


async def create_api_token(
    connection: Connection,
    tenant_id: str | None,
    scope: str,
    *,
    staff_id: str | None = None,
    label: str = "",
    actor: str = "cli",
) -> str:
    """A new token, returned once and stored as its hash. `scope` is owner, staff (with `staff_id`) or operator."""
    token = new_token()
    async with connection.transaction():
        columns = (token_hash(token), tenant_id, scope, staff_id, label)
        token_id = await connection.fetchval(SQL["insert_api_token"], *columns)
        details = {"token_id": token_id, "scope": scope, "label": label}
        await audit_act(connection, tenant_id, actor, "token.created", details)
    return token


async def list_api_tokens(connection: Connection, tenant_id: str | None = None) -> list[dict[str, Any]]:
    """The tokens of a tenant or of all, the revoked ones too; never a token or its hash. Raises UnknownTenant."""
    if tenant_id is not None:
        await read_settings(connection, tenant_id)
    return [dict(row) for row in await connection.fetch(SQL["list_api_tokens"], tenant_id)]


async def revoke_api_token(connection: Connection, token_id: int, *, actor: str = "cli") -> dict[str, Any]:
    """From now on `authenticate` knows it no more; gives whose it was. Raises UnknownToken."""
    async with connection.transaction():
        row = await connection.fetchrow(SQL["lock_api_token"], token_id)
        if row is None:
            raise UnknownToken(f"there is no token {token_id}")
        if (at := row["revoked_at"]) is not None:
            raise UnknownToken(f"token {token_id} was revoked already, at {at:%Y-%m-%d %H:%M:%SZ}")
        await connection.execute(SQL["revoke_api_token"], token_id)
        details = {"token_id": token_id, "scope": row["scope"], "label": row["label"]}
        await audit_act(connection, row["tenant_id"], actor, "token.revoked", details)
    return dict(row)


@dataclass(frozen=True)
class Principal:
    """Who holds a token: `tenant_id` is None for an operator, `staff_id` is set for staff only."""

    tenant_id: str | None
    scope: str
    staff_id: str | None


async def authenticate(connection: Connection, token: str) -> Principal | None:
    """The token's holder, or None. Notes the token's use."""
    row = await connection.fetchrow(SQL["authenticate"], token_hash(token))
    return Principal(row["tenant_id"], row["scope"], row["staff_id"]) if row else None


async def list_tenants(connection: Connection) -> list[dict[str, Any]]:
    """Each tenant with its channels, for `tenant list`; never a secret."""
    rows = await connection.fetch(SQL["list_tenants"])
    return [dict(row) | {"channels": json.loads(row["channels"])} for row in rows]


async def wrapping_key(connection: Connection, master_key: MasterKey) -> bytes:
    """The master key under which data keys are made now; no rotation passes until the transaction ends.

    The first key ever used in a database is it; later only `master-key rotate` changes it. Raises SecretError when it is
    not among `master_key`: a tenant made under another would be open to nobody.
    """
    known = as_keys(master_key)
    await connection.execute(SQL["found_master_key"], master_key_id(known.newest))
    key = known.by_id(await connection.fetchval(SQL["share_master_key"]))
    if key is None:
        raise SecretError(
            "the master key given is not the one that the tenants' keys are wrapped with: was it rotated since, or is it "
            "another system's?"
        )
    return key


def open_keys(tenant_id: str, rows: Sequence[Any], master_key: MasterKey) -> TenantKeys:
    """The keys of a tenant from its rows of data_keys. Raises SecretError when one does not open."""
    opened = {
        row["version"]: unwrap_key(master_key, tenant_id, row["version"], row["wrapped"]) for row in rows
    }
    return TenantKeys(tenant_id, opened)


async def tenant_keys(connection: Connection, master_key: MasterKey, tenant_id: str) -> TenantKeys:
    """The tenant's keys, for roles that may read them. Raises UnknownTenant; SecretError for a wrong master key."""
    rows = await connection.fetch(SQL["read_data_keys_of"], tenant_id)
    if not rows:
        raise UnknownTenant(f"there is no tenant {tenant_id!r}, or its data keys were destroyed")
    return open_keys(tenant_id, rows, master_key)


async def audit_act(
    connection: Connection, tenant_id: str | None, actor: str, action: str, details: dict[str, Any]
) -> None:
    """Notes in the audit log what somebody did; a tenant of None means several."""
    await connection.execute(SQL["insert_audit"], tenant_id, actor, action, json.dumps(details))
