"""Postgres: pools, connections and SQL kept in files.

A `queries.sql` holds blocks that start with `-- name: block_name`; `load_queries` reads it once and a test PREPAREs
every block on the migrated database.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

import asyncpg
from asyncpg.pool import PoolConnectionProxy

#: What a handler is given: a connection of its own or one of a pool.
Connection = asyncpg.Connection | PoolConnectionProxy

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)
_KEEPALIVE = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}

#: What the driver raises by itself; the second as on a connection that was terminated while it was handed out.
DRIVER_FAULTS = (asyncpg.InterfaceError, asyncpg.InternalClientError)

_TRANSIENT: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ObjectInUseError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.PostgresSystemError,
    *DRIVER_FAULTS,
    # A migration that ran beside us: the driver forgets its plans and the next try makes new ones.
    asyncpg.InvalidCachedStatementError,
)

#: A table, column or grant that is not there, or a fault of the server: no record is to blame for it.
_OURS: tuple[type[BaseException], ...] = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InternalServerError,
)


def is_transient(error: BaseException) -> bool:
    """Whether `error` goes away by itself: back off and try again, never dead-letter for it."""
    # DataError is an InterfaceError too, but it means that a value does not fit: that stays.
    return isinstance(error, _TRANSIENT) and not isinstance(error, asyncpg.DataError)


def is_ours(error: BaseException) -> bool:
    """Whether `error` would meet every record alike, so that none may be dead-lettered for it."""
    return isinstance(error, _OURS)


def load_queries(package: str, file: str = "queries.sql") -> dict[str, str]:
    """The named blocks of `package`'s `file`. Raises ValueError on a name that stands twice or an empty file."""
    parts = _NAME.split(files(package).joinpath(file).read_text(encoding="utf-8"))
    names, bodies = parts[1::2], parts[2::2]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{package}/{file}: no named query, or a name that stands twice")
    return {name: body.strip() for name, body in zip(names, bodies, strict=True)}


async def connect(dsn: str, application_name: str) -> asyncpg.Connection:
    """One direct connection, for what must hold a session lock (the relay) or order its own commits (the inbox)."""
    return await asyncpg.connect(
        dsn,
        timeout=5,
        command_timeout=60,
        server_settings={"application_name": application_name, **_KEEPALIVE},
    )


async def create_pool(dsn: str, application_name: str, size: int = 2) -> asyncpg.Pool:
    """A pool of at most `size` connections; the budget is 40 for one replica of everything (design §7)."""
    return await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        timeout=5,
        command_timeout=60,
        max_inactive_connection_lifetime=60,
        server_settings={"application_name": application_name, **_KEEPALIVE},
    )


@asynccontextmanager
async def tenant_transaction(
    pool: asyncpg.Pool, tenant_id: str, staff_id: str | None = None, *, readonly: bool = True
) -> AsyncIterator[Connection]:
    """A transaction that row-level security confines to one tenant (and one member of staff)."""
    async with (
        pool.acquire() as connection,
        connection.transaction(
            isolation="repeatable_read" if readonly else "read_committed", readonly=readonly
        ),
    ):
        await connection.execute(
            "SELECT set_config('turnout.tenant_id', $1, true), set_config('turnout.staff_id', $2, true)",
            tenant_id,
            staff_id or "",
        )
        yield connection
