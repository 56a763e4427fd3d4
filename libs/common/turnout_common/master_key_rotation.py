"""The part of a rotation of the master key that the database sees: every data key wrapped anew, in one transaction.

What is read stays readable throughout: a data key is the same whichever master key wraps it, and who holds it in memory
needs none. The order of the steps round it: turnout_cli.master_key_commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from turnout_common.postgres import Connection
from turnout_common.security import MasterKeys, SecretError, master_key_id, unwrap_key, wrap_key
from turnout_common.tenants import SQL, audit_act


@dataclass(frozen=True)
class DataKeyState:
    """A data key and the number of the master key that opens it, 0 for the newest; None when none does."""

    tenant_id: str
    version: int
    opened_by: int | None


async def data_key_states(connection: Connection, keys: MasterKeys) -> list[DataKeyState]:
    """Which master key opens which data key."""
    return [
        DataKeyState(row["tenant_id"], row["version"], _opened_by(row, keys))
        for row in await connection.fetch(SQL["read_data_keys"], None)
    ]


async def begin_rotation(connection: Connection) -> bool:
    """Whether nobody else rotates; nobody else may until the connection is closed."""
    return bool(await connection.fetchval(SQL["begin_rotation"]))


async def is_present(connection: Connection, key: bytes) -> bool | None:
    """Whether this is the master key under which data keys are made now; None before the first."""
    found: bytes | None = await connection.fetchval(SQL["present_master_key"])
    return found == master_key_id(key) if found is not None else None


async def wrap_again(
    connection: Connection, keys: MasterKeys, *, leave_broken: bool = False, actor: str = "cli"
) -> int:
    """Wraps under the newest key whatever an older one opens, and makes it the one for new tenants; how many there were.

    Raises SecretError for a data key that no key opens, unless it is to be left; then nothing is changed.
    """
    async with connection.transaction():
        await connection.execute(SQL["change_master_key"], master_key_id(keys.newest))
        rows = await connection.fetch(SQL["read_data_keys"], None)
        older = MasterKeys(keys.keys[1:])
        changed = []
        for row in rows:
            opened_by = _opened_by(row, keys)
            if opened_by is None and not leave_broken:
                raise SecretError(
                    f"data key {row['version']} of tenant {row['tenant_id']!r} opens with none of the {len(keys.keys)} "
                    "master keys; nothing was changed"
                )
            if opened_by:
                plain = unwrap_key(older, row["tenant_id"], row["version"], row["wrapped"])
                changed.append((row, wrap_key(keys, row["tenant_id"], row["version"], plain)))
        await connection.execute(
            SQL["update_wrapped"],
            [row["tenant_id"] for row, _ in changed],
            [row["version"] for row, _ in changed],
            [wrapped for _, wrapped in changed],
        )
        await audit_act(connection, None, actor, "master_key.rotated", {"data_keys": len(changed)})
    return len(changed)


def _opened_by(row: Any, keys: MasterKeys) -> int | None:
    for number, key in enumerate(keys.keys):
        try:
            unwrap_key(key, row["tenant_id"], row["version"], row["wrapped"])
        except SecretError:
            continue
        return number
    return None
