"""Tenants: the one module that reads and writes schema `platform` (design §1, §6).

In: rows of platform.*, the master key. Out: `TenantDirectory`, configuration in memory that is read again on a timer,
and the writers that the CLI and the admin routes call.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from turnout_common.postgres import Connection, load_queries
from turnout_common.security import (
    SecretError,
    TenantKeys,
    new_data_key,
    new_token,
    token_hash,
    unwrap_key,
    wrap_key,
)

log = structlog.get_logger()
SQL = load_queries("turnout_common", "tenants.sql")


class TenantSettings(BaseModel):
    """What a tenant may set; stored as overrides in platform.tenants.settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notice_hours: int = Field(
        24, ge=0, description="A cancellation later than this before the start is late."
    )
    off_peak_before: int = Field(11, ge=0, le=24, description="Starts before this local hour are off-peak.")
    off_peak_after: int = Field(
        19, ge=0, le=24, description="Starts at or after this local hour are off-peak."
    )
    grid_minutes: int = Field(15, ge=1, le=240, description="The slot grid.")
    quiet_from: int = Field(22, ge=0, le=24, description="No message from this local hour …")
    quiet_until: int = Field(9, ge=0, le=24, description="… until this one.")
    raw_days: int = Field(30, ge=1, le=365, description="Days for which the bytes of webhooks are kept.")
    staff_map: dict[str, str] = Field(default_factory=dict, description="Source organizer ref -> staff id.")
    service_map: dict[str, str] = Field(default_factory=dict, description="Source event type -> service id.")


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


class TenantDirectory:
    """All tenants in memory, read again every `reload_seconds`. A lookup never touches the database."""

    def __init__(self, pool: asyncpg.Pool, master_key: bytes | None, reload_seconds: float = 30.0) -> None:
        self._pool = pool
        self._master_key = master_key
        self._reload_seconds = reload_seconds
        self._tenants: dict[str, Tenant] = {}
        self._by_routing_id: dict[tuple[str, str], Tenant] = {}

    def get(self, tenant_id: str) -> Tenant | None:
        """The tenant, or None when it is unknown."""
        return self._tenants.get(tenant_id)

    def by_routing_id(self, channel: str, routing_id: str) -> Tenant | None:
        """The one tenant to whom the provider's account belongs, whatever its status, or None."""
        return self._by_routing_id.get((channel, routing_id))

    def all(self) -> list[Tenant]:
        return list(self._tenants.values())

    async def reload(self) -> None:
        """Reads everything that this role may read. Raises asyncpg errors; SecretError for a wrong master key."""
        async with self._pool.acquire() as connection:
            tenants = await _read_tenants(connection, self._master_key)
        self._tenants = tenants
        self._by_routing_id = {
            (channel.channel, channel.routing_id): tenant
            for tenant in tenants.values()
            for channel in tenant.channels.values()
            if channel.routing_id is not None
        }

    async def run(self) -> None:
        """Reloads for ever; a failed reload keeps the last good configuration and is logged."""
        while True:
            await asyncio.sleep(self._reload_seconds * random.uniform(0.9, 1.1))
            try:
                await self.reload()
            except Exception as error:
                log.warning(
                    "tenant configuration could not be read again, the last one stays", error=repr(error)
                )


async def _read_tenants(connection: Connection, master_key: bytes | None) -> dict[str, Tenant]:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        grants = await connection.fetchrow(SQL["readable_tables"])
        assert grants is not None
        tenants = await connection.fetch(SQL["read_tenants"])
        keys = await connection.fetch(SQL["read_data_keys"]) if grants["data_keys"] and master_key else []
        channels = await connection.fetch(SQL["read_channels"]) if grants["channels"] else []
        secrets = await connection.fetch(SQL["read_channel_secrets"]) if grants["channel_secrets"] else []
    key_rings = _open_keys(keys, master_key)
    secrets_of: dict[tuple[str, str], list[bytes]] = {}
    for row in secrets:
        secrets_of.setdefault((row["tenant_id"], row["channel"]), []).append(row["sealed_secret"])
    channels_of: dict[str, dict[str, ChannelConfig]] = {}
    for row in channels:
        ring = key_rings.get(row["tenant_id"])
        sealed = secrets_of.get((row["tenant_id"], row["channel"]), [])
        try:
            channels_of.setdefault(row["tenant_id"], {})[row["channel"]] = _channel(row, sealed, ring)
        except SecretError as error:
            log.error(
                "a channel has no usable secret or token", tenant_id=row["tenant_id"], channel=row["channel"],
                error=str(error),
            )  # fmt: skip
    return {
        row["tenant_id"]: Tenant(
            tenant_id=row["tenant_id"],
            status=row["status"],
            timezone=row["timezone"],
            currency=row["currency"],
            locale=row["locale"],
            demo=row["demo"],
            settings=_settings(row["tenant_id"], row["settings"]),
            channels=channels_of.get(row["tenant_id"], {}),
            keys=key_rings.get(row["tenant_id"]),
        )
        for row in tenants
    }


def _settings(tenant_id: str, stored: str) -> TenantSettings:
    """Without what only a newer version knows; the defaults where a value cannot be used."""
    try:
        return TenantSettings.model_validate_json(stored, extra="ignore")
    except ValidationError as error:
        faults = [".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)]
        log.error("a tenant's settings cannot be used", tenant_id=tenant_id, fields=faults)
        return TenantSettings()


def _open_keys(rows: list[Any], master_key: bytes | None) -> dict[str, TenantKeys]:
    """Each tenant's keys. One tenant's broken key costs the others nothing; when none opens the master key is wrong."""
    wrapped: dict[str, dict[int, bytes]] = {}
    for row in rows:
        wrapped.setdefault(row["tenant_id"], {})[row["version"]] = row["wrapped"]
    opened: dict[str, TenantKeys] = {}
    broken: SecretError | None = None
    for tenant_id, versions in wrapped.items():
        assert master_key is not None
        try:
            keys = {
                version: unwrap_key(master_key, tenant_id, version, key) for version, key in versions.items()
            }
            opened[tenant_id] = TenantKeys(tenant_id, keys)
        except SecretError as error:
            broken = error
            log.error("a tenant has no usable data key", tenant_id=tenant_id, error=str(error))
    if broken is not None and not opened:
        raise broken
    return opened


def _channel(row: Any, sealed_secrets: list[bytes], keys: TenantKeys | None) -> ChannelConfig:
    token, handshake = row["sealed_api_token"], row["sealed_handshake"]
    return ChannelConfig(
        channel=row["channel"],
        enabled=row["enabled"],
        routing_id=row["routing_id"],
        secrets=tuple(keys.open("channel_secret", sealed).decode() for sealed in sealed_secrets)
        if keys
        else (),
        api_token=keys.open("api_token", token).decode() if keys and token else None,
        handshake=keys.open("handshake", handshake).decode() if keys and handshake else None,
    )


class TenantExists(ValueError):
    """The tenant is there already."""


class UnknownTenant(ValueError):
    """There is no such tenant."""


async def create_tenant(
    connection: Connection,
    master_key: bytes,
    tenant_id: str,
    timezone: str,
    *,
    currency: str = "EUR",
    locale: str = "en",
    settings: TenantSettings | None = None,
    demo: bool = False,
    actor: str = "cli",
) -> None:
    """A new active tenant with its first data key. Raises TenantExists; ZoneInfoNotFoundError for a bad zone."""
    ZoneInfo(timezone)
    overrides = (settings or TenantSettings()).model_dump_json(exclude_defaults=True)
    async with connection.transaction():
        try:
            await connection.execute(
                SQL["insert_tenant"], tenant_id, timezone, currency, locale, overrides, demo
            )
        except asyncpg.UniqueViolationError as error:
            raise TenantExists(f"tenant {tenant_id!r} exists already") from error
        await connection.execute(
            SQL["insert_data_key"], tenant_id, 1, wrap_key(master_key, tenant_id, 1, new_data_key())
        )
        await _audit(connection, tenant_id, actor, "tenant.created", {"timezone": timezone})


async def set_channel(
    connection: Connection,
    master_key: bytes,
    tenant_id: str,
    channel: str,
    *,
    secret: str | None = None,
    api_token: str | None = None,
    routing_id: str | None = None,
    handshake: str | None = None,
    actor: str = "cli",
) -> None:
    """Enables a channel; what is given replaces what was stored, what is None stays. Raises UnknownTenant."""
    async with connection.transaction():
        keys = await tenant_keys(connection, master_key, tenant_id)
        token = keys.seal("api_token", api_token.encode()) if api_token is not None else None
        greeting = keys.seal("handshake", handshake.encode()) if handshake is not None else None
        await connection.execute(SQL["upsert_channel"], tenant_id, channel, routing_id, token, greeting)
        if secret is not None:
            sealed = keys.seal("channel_secret", secret.encode())
            await connection.execute(SQL["delete_channel_secrets"], tenant_id, channel)
            await connection.execute(SQL["insert_channel_secret"], tenant_id, channel, 1, sealed, None)
        await _audit(connection, tenant_id, actor, "channel.set", {"channel": channel})


async def set_tenant_status(
    connection: Connection, tenant_id: str, status: str, *, actor: str = "cli"
) -> None:
    """`active` or `suspended`; a suspended tenant's webhooks are answered 401. Raises UnknownTenant."""
    async with connection.transaction():
        if await connection.execute(SQL["update_tenant_status"], tenant_id, status) != "UPDATE 1":
            raise UnknownTenant(f"there is no tenant {tenant_id!r}")
        await _audit(connection, tenant_id, actor, "tenant.status", {"status": status})


async def update_settings(
    connection: Connection, tenant_id: str, overrides: dict[str, Any], *, actor: str = "cli"
) -> None:
    """Sets fields of TenantSettings, the others stay. Raises UnknownTenant; pydantic's ValidationError for a bad value."""
    checked = TenantSettings(**overrides).model_dump_json(include=set(overrides))
    async with connection.transaction():
        if await connection.execute(SQL["update_settings"], tenant_id, checked) != "UPDATE 1":
            raise UnknownTenant(f"there is no tenant {tenant_id!r}")
        await _audit(connection, tenant_id, actor, "tenant.settings", {"fields": sorted(overrides)})


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
        await connection.execute(
            SQL["insert_api_token"], token_hash(token), tenant_id, scope, staff_id, label
        )
        await _audit(connection, tenant_id, actor, "token.created", {"scope": scope, "label": label})
    return token


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
    """Each tenant with its channels, for `tenant list`."""
    return [dict(row) for row in await connection.fetch(SQL["list_tenants"])]


async def tenant_keys(connection: Connection, master_key: bytes, tenant_id: str) -> TenantKeys:
    """The tenant's keys, for roles that may read them. Raises UnknownTenant; SecretError for a wrong master key."""
    rows = await connection.fetch(SQL["read_data_keys_of"], tenant_id)
    if not rows:
        raise UnknownTenant(f"there is no tenant {tenant_id!r}, or its data keys were destroyed")
    return _open_keys(rows, master_key)[tenant_id]


async def _audit(
    connection: Connection, tenant_id: str | None, actor: str, action: str, details: dict[str, Any]
) -> None:
    await connection.execute(SQL["insert_audit"], tenant_id, actor, action, json.dumps(details))
