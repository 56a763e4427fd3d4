"""Does the master key open the data beside it? Asked once at each start, before any service could fail on it."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from turnout_cli.errors import CommandError
from turnout_common.security import MasterKeys, SecretError, read_master_key, unwrap_key

# One tenant's broken key is that tenant's trouble; when not one of these opens, the master key is the wrong one.
_ASKED = 100


async def require_master_key(dsn_platform: str, key_file: Path) -> None:
    """Raises CommandError when the key in `key_file` is none, or not the one that the tenants' keys are wrapped with."""
    try:
        master_key = read_master_key(None, key_file)
    except (SecretError, ValueError, OSError) as error:
        raise CommandError(
            f"{key_file} holds no master key (32 bytes in base64); {_advice(key_file)}"
        ) from error
    connection = await asyncpg.connect(dsn_platform)
    try:
        rows = await connection.fetch(
            "SELECT tenant_id, version, wrapped FROM platform.data_keys ORDER BY tenant_id LIMIT $1", _ASKED
        )
    finally:
        await connection.close()
    if rows and not any(_opens(master_key, row) for row in rows):
        raise CommandError(
            f"{key_file} is not the key that the data beside it was made with; {_advice(key_file)}"
        )


def _opens(master_key: MasterKeys, row: asyncpg.Record) -> bool:
    try:
        unwrap_key(master_key, row["tenant_id"], row["version"], row["wrapped"])
    except SecretError:
        return False
    return True


def _advice(key_file: Path) -> str:
    return f"put the right one back, or, to begin anew without the data, delete {key_file.parent}"
