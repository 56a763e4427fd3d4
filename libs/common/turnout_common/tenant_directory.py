"""All tenants in memory: what a request asks never touches the database (design §3).

In: rows of platform.*, as much of them as the role may read, and the master key. Out: `TenantDirectory`. Promises: a
change is in force within a second of its commit; a secret dies when it expires, also while Postgres is away; a tenant
that did not change stays the same object; whatever fails, the last good configuration stays.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import structlog
from pydantic import ValidationError

from turnout_common.clock import Clock, SystemClock
from turnout_common.postgres import Connection
from turnout_common.security import MasterKey, SecretError, TenantKeys
from turnout_common.tenant_changes import Connect, PlatformChanges
from turnout_common.tenants import SQL, ChannelConfig, Tenant, TenantSettings, open_keys

log = structlog.get_logger()
#: Between so many tenants the loop answers requests.
TENANTS_AT_A_TIME = 20
LONGEST_TIMER = 3600.0


@dataclass(frozen=True)
class _Rows:
    """What the database holds of one tenant."""

    tenant: Any
    keys: list[Any]
    channels: list[Any]
    secrets: list[Any]
    api_tokens: list[Any]
    handshakes: list[Any]


@dataclass(frozen=True)
class _Known:
    """A tenant and what it was made from. `whole`: all of it could be used. `until`: when one of its secrets dies."""

    rows: _Rows
    tenant: Tenant
    whole: bool
    until: datetime | None


class TenantDirectory:
    """`reload()` before the first lookup; `run()` for ever keeps it up to date.

    `read_again` gives the master key anew: since a rotation its file may hold another one.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        master_key: MasterKey | None,
        reload_seconds: float = 30.0,
        *,
        read_again: Callable[[], MasterKey] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self._master_key = master_key
        self._reload_seconds = reload_seconds
        self._read_again = read_again
        self._clock = clock or SystemClock()
        self._known: dict[str, _Known] = {}
        self._tenants: dict[str, Tenant] = {}
        self._by_routing_id: dict[tuple[str, str], Tenant] = {}
        self._reading = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

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
            await self.read(connection, None)

    async def run(self, connect: Connect) -> None:
        """Follows what changes, for ever, over one connection of its own."""
        await PlatformChanges(connect, self.read, self._reload_seconds).run()

    async def read(self, connection: Connection, tenant_ids: list[str] | None) -> None:
        """Reads these tenants, or all. Raises as `reload`."""
        async with self._reading:
            rows = await _read_rows(connection, tenant_ids, with_keys=self._master_key is not None)
            made = await self._made(rows)
            gone = self._known.keys() if tenant_ids is None else set(tenant_ids)
            self._adopt({name: known for name, known in self._known.items() if name not in gone} | made)

    async def _made(self, rows: list[_Rows]) -> dict[str, _Known]:
        made: dict[str, _Known] = {}
        for number, one in enumerate(rows, 1):
            made[one.tenant["tenant_id"]] = self._make(one)
            if number % TENANTS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        sealed = [one for one in rows if one.keys]
        if sealed and not self._known and not any(known.tenant.keys for known in made.values()):
            # Not one tenant's trouble: the master key is the wrong one. What does not open says so.
            open_keys(sealed[0].tenant["tenant_id"], sealed[0].keys, self._master_key or b"")
        return made

    def _make(self, rows: _Rows) -> _Known:
        now, known = self._clock.now(), self._known.get(rows.tenant["tenant_id"])
        if known and known.whole and known.rows == rows and (known.until is None or known.until > now):
            return known
        keys, opened = self._open(rows, known)
        made, whole = _tenant(rows, keys, now)
        tenant = known.tenant if known and known.tenant == made else made
        dying = [row["expires_at"] for row in rows.secrets if row["expires_at"] and row["expires_at"] > now]
        return _Known(rows, tenant, opened and whole, min(dying, default=None))

    def _open(self, rows: _Rows, known: _Known | None) -> tuple[TenantKeys | None, bool]:
        """The tenant's keys, and whether its rows opened. One tenant's broken key costs the others nothing."""
        if not rows.keys or self._master_key is None:
            return None, True
        present = known.tenant.keys if known else None
        if known and present and known.whole and known.rows.keys == rows.keys:
            return present, True
        tenant_id = rows.tenant["tenant_id"]
        try:
            return open_keys(tenant_id, rows.keys, self._master_key), True
        except SecretError as error:
            if self._has_other_master_key():
                return self._open(rows, known)
            # A data key stays what it is, whichever master key wraps it: who has it open goes on. A tenant that was
            # deleted and made again has another one, of the same version.
            goes_on = known is not None and present is not None and _made_at(known.rows) == _made_at(rows)
            log.error(
                "a tenant's data key does not open", tenant_id=tenant_id, error=str(error), goes_on=goes_on
            )
            return (present if goes_on else None), False

    def _has_other_master_key(self) -> bool:
        """Reads the master key again; whether that gave another one than before."""
        try:
            found = self._read_again() if self._read_again else self._master_key
        except (SecretError, OSError, ValueError) as error:
            log.error("the master key cannot be read again", error=str(error)[:300])
            return False
        changed, self._master_key = found != self._master_key, found
        return changed

    def _adopt(self, known: dict[str, _Known]) -> None:
        self._known = known
        self._tenants = {name: one.tenant for name, one in known.items()}
        self._by_routing_id = {
            (channel.channel, channel.routing_id): tenant
            for tenant in self._tenants.values()
            for channel in tenant.channels.values()
            if channel.routing_id is not None
        }
        if self._timer is not None:
            self._timer.cancel()
        if (until := min((one.until for one in known.values() if one.until), default=None)) is not None:
            wait = min(max((until - self._clock.now()).total_seconds(), 0.0), LONGEST_TIMER)
            self._timer = asyncio.get_running_loop().call_later(wait, self._let_secrets_die)

    def _let_secrets_die(self) -> None:
        """From memory: a secret that was leaked must not live on because Postgres is away."""
        now = self._clock.now()
        dead = {name: one for name, one in self._known.items() if one.until is not None and one.until <= now}
        self._adopt(self._known | {name: self._make(one.rows) for name, one in dead.items()})


async def _read_rows(connection: Connection, tenant_ids: list[str] | None, *, with_keys: bool) -> list[_Rows]:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        grants = await connection.fetchrow(SQL["readable"])
        assert grants is not None
        tenants = await connection.fetch(SQL["read_tenants"], tenant_ids)
        found = [
            _by_tenant(await connection.fetch(SQL[query], tenant_ids)) if wanted else {}
            for query, wanted in (
                ("read_data_keys", grants["data_keys"] and with_keys),
                ("read_channels", grants["channels"]),
                ("read_channel_secrets", grants["channel_secrets"]),
                ("read_api_tokens", grants["api_tokens"]),
                ("read_handshakes", grants["handshakes"]),
            )
        ]
    return [_Rows(row, *(rows.get(row["tenant_id"], []) for rows in found)) for row in tenants]


def _made_at(rows: _Rows) -> dict[int, datetime]:
    """When each version of a data key was made."""
    return {row["version"]: row["created_at"] for row in rows.keys}


def _by_tenant(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row["tenant_id"]].append(row)
    return found


def _tenant(rows: _Rows, keys: TenantKeys | None, now: datetime) -> tuple[Tenant, bool]:
    """The tenant, and whether every channel of it could be used."""
    row, channels = rows.tenant, {}
    for channel in rows.channels:
        try:
            channels[channel["channel"]] = _channel(channel, rows, keys, now)
        except SecretError as error:
            log.error(
                "a channel has no usable secret or token", tenant_id=row["tenant_id"], channel=channel["channel"],
                error=str(error),
            )  # fmt: skip
    tenant = Tenant(
        tenant_id=row["tenant_id"],
        status=row["status"],
        timezone=row["timezone"],
        currency=row["currency"],
        locale=row["locale"],
        demo=row["demo"],
        settings=_settings(row["tenant_id"], row["settings"]),
        channels=channels,
        keys=keys,
    )
    return tenant, len(channels) == len(rows.channels)


def _channel(row: Any, rows: _Rows, keys: TenantKeys | None, now: datetime) -> ChannelConfig:
    token, handshake = (
        next((each["sealed"] for each in found if each["channel"] == row["channel"]), None)
        for found in (rows.api_tokens, rows.handshakes)
    )
    alive = [
        secret["sealed_secret"]
        for secret in rows.secrets
        if secret["channel"] == row["channel"]
        and (secret["expires_at"] is None or secret["expires_at"] > now)
    ]
    return ChannelConfig(
        channel=row["channel"],
        enabled=row["enabled"],
        routing_id=row["routing_id"],
        secrets=tuple(keys.open("channel_secret", sealed).decode() for sealed in alive) if keys else (),
        api_token=keys.open("api_token", token).decode() if keys and token else None,
        handshake=keys.open("handshake", handshake).decode() if keys and handshake else None,
    )


def _settings(tenant_id: str, stored: str) -> TenantSettings:
    """Without what only a newer version knows; the defaults where a value cannot be used."""
    try:
        return TenantSettings.model_validate_json(stored, extra="ignore")
    except ValidationError as error:
        faults = [".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)]
        log.error("a tenant's settings cannot be used", tenant_id=tenant_id, fields=faults)
        return TenantSettings()
