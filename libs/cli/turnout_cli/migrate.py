"""`turnout migrate`: roles, schemas and tables, safe to run again and from several places at once.

dbmate itself takes no lock (libraries.md §1), so the whole run holds an advisory lock.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from turnout_cli.errors import CommandError

MIGRATED_PACKAGES = (
    "turnout_common",
    "turnout_ingest",
    "turnout_booking",
    "turnout_sender",
    "turnout_rollup",
    "turnout_kpi_api",
)
LOCK = 0x7475726E6F7574


class MigrationFailed(CommandError):
    """dbmate's own words on what went wrong."""


def migration_folders() -> list[Path]:
    """The folders `migrations` of all packages that have one."""
    folders = [Path(str(files(package))) / "migrations" for package in MIGRATED_PACKAGES]
    return [folder for folder in folders if folder.is_dir()]


async def migrate(dsn: str, passwords: dict[str, str]) -> list[str]:
    """Brings the database of `dsn` (an administrator's) to the newest schema and sets the roles' `passwords`.

    Gives the versions that were applied. Raises MigrationFailed, or asyncpg's errors when the server is not there.
    """
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        before = await _versions(connection)
        await connection.execute(
            Path(str(files("turnout_common"))).joinpath("migrations/roles.sql").read_text()
        )
        for role, password in passwords.items():
            await connection.execute(await _alter_password(connection, role, password))
        await _dbmate(dsn)
        return sorted(await _versions(connection) - before)
    finally:
        await connection.close()


async def migration_status(dsn: str) -> list[str]:
    """The versions that the database of `dsn` lacks, oldest first."""
    files = [file for folder in migration_folders() for file in folder.glob("[0-9]*_*.sql")]
    connection = await asyncpg.connect(dsn)
    try:
        return sorted({file.name.split("_")[0] for file in files} - await _versions(connection))
    finally:
        await connection.close()


async def _alter_password(connection: asyncpg.Connection, role: str, password: str) -> str:
    # Utility statements take no parameters; the server quotes.
    return str(
        await connection.fetchval(
            "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)", role, password
        )
    )


async def _versions(connection: asyncpg.Connection) -> set[str]:
    if await connection.fetchval("SELECT to_regclass('platform.schema_migrations')") is None:
        return set()
    return {
        row["version"] for row in await connection.fetch("SELECT version FROM platform.schema_migrations")
    }


async def _dbmate(dsn: str) -> None:
    binary = shutil.which("dbmate", path=str(Path(sys.executable).parent)) or shutil.which("dbmate")
    if binary is None:
        raise MigrationFailed("dbmate is not installed; run `uv sync`")
    folders = [part for folder in migration_folders() for part in ("--migrations-dir", str(folder))]
    process = await asyncio.create_subprocess_exec(
        binary, "--url", dbmate_url(dsn), "--migrations-table", "platform.schema_migrations", "--no-dump-schema",
        *folders, "migrate",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise MigrationFailed(re.sub(r"://[^@\s]*@", "://…@", output.decode(errors="replace"))[-2000:])


def dbmate_url(dsn: str) -> str:
    """The DSN as dbmate's driver wants it: every object is made by, and belongs to, `turnout_owner`.

    Without TLS unless the DSN has an `sslmode`.
    """
    parts = urlsplit(dsn)
    sslmode = dict(parse_qsl(parts.query)).get("sslmode", "disable")
    name, password = (quote(unquote(part or ""), safe="") for part in (parts.username, parts.password))
    query = urlencode({"sslmode": sslmode, "role": "turnout_owner"})
    return urlunsplit(
        ("postgres", f"{name}:{password}@{parts.hostname}:{parts.port or 5432}", parts.path, query, "")
    )
