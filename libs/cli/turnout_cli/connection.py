"""Where the system is that a command talks to: one resolution for all commands.

In: the state of `turnout up`, or `.env` beside docker-compose.yml, and before both the environment. Out: a Target,
which says in words what is missing when a command needs it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import asyncpg
from cyclopts import Parameter

from turnout_cli.compose import compose_stack
from turnout_cli.errors import CommandError
from turnout_cli.master_key_store import EnvFile, KeyFile
from turnout_cli.secrets_command import ENV_FILE
from turnout_cli.services import MOCK_PROVIDERS
from turnout_cli.state import Home, project_root
from turnout_cli.status import status_document
from turnout_common.security import MasterKeys, SecretError, master_key_text, read_master_key

T = TypeVar("T")
TargetName = Literal["embedded", "compose"]
TargetOption = Annotated[
    TargetName,
    Parameter(
        name="--target", help="`embedded`: what `turnout up` runs; `compose`: what docker compose runs."
    ),
]

VARIABLES = {
    "ingest_url": "TURNOUT_INGEST_URL",
    "booking_url": "TURNOUT_BOOKING_URL",
    "sender_url": "TURNOUT_SENDER_URL",
    "rollup_url": "TURNOUT_ROLLUP_URL",
    "kpi_url": "TURNOUT_KPI_API_URL",
    "mock_url": "TURNOUT_MOCK_PROVIDERS_URL",
    "platform_dsn": "TURNOUT_PLATFORM_DSN",
    "maintenance_dsn": "TURNOUT_MAINTENANCE_DSN",
    "admin_dsn": "TURNOUT_ADMIN_DSN",
    "kafka": "TURNOUT_KAFKA_BOOTSTRAP",
    "master_key_text": "TURNOUT_MASTER_KEY",
    "token": "TURNOUT_TOKEN",
}
_SERVICES = {
    "ingest_url": "ingest",
    "booking_url": "booking",
    "sender_url": "sender",
    "rollup_url": "rollup",
    "kpi_url": "kpi-api",
    "mock_url": MOCK_PROVIDERS,
}


@dataclass(frozen=True)
class Target:
    """A running system. Reading what is not known raises CommandError with the variable that would set it."""

    name: TargetName
    values: Mapping[str, str] = field(repr=False)
    hint: str = ""

    @property
    def ingest_url(self) -> str:
        return self._need("ingest_url")

    @property
    def kpi_url(self) -> str:
        return self._need("kpi_url")

    @property
    def mock_url(self) -> str:
        return self._need("mock_url")

    @property
    def service_urls(self) -> dict[str, str]:
        """The URLs that are known, by service."""
        return {service: self.values[key] for key, service in _SERVICES.items() if key in self.values}

    @property
    def platform_dsn(self) -> str:
        return self._need("platform_dsn")

    @property
    def maintenance_dsn(self) -> str:
        return self._need("maintenance_dsn")

    @property
    def admin_dsn(self) -> str | None:
        return self.values.get("admin_dsn")

    @property
    def kafka(self) -> str:
        return self._need("kafka")

    @property
    def token(self) -> str | None:
        """The demo tenant's owner token, where there is one."""
        return self.values.get("token")

    @property
    def master_key(self) -> MasterKeys:
        try:
            return read_master_key(self._need("master_key_text"), None)
        except SecretError as error:
            raise CommandError(str(error)) from error

    @property
    def master_key_store(self) -> KeyFile | EnvFile | None:
        """Where the master key can be replaced; None when it stands in the environment."""
        self._need("master_key_text")
        if file := self.values.get("master_key_file"):
            return KeyFile(Path(file))
        return EnvFile(project_root() / ENV_FILE) if self.values.get("master_key_in_env_file") else None

    def require(self, *keys: str) -> None:
        """Raises CommandError for the first that is not known, before a command has begun."""
        for key in keys:
            self._need(key)

    def _need(self, key: str) -> str:
        value = self.values.get(key)
        if not value:
            known = (
                "TURNOUT_MASTER_KEY or TURNOUT_MASTER_KEY_FILE"
                if key == "master_key_text"
                else VARIABLES[key]
            )
            missing = self.hint or f"the {self.name} system has no {key}"
            raise CommandError(f"{missing} (for one that runs elsewhere, set {known})")
        return value

    @asynccontextmanager
    async def platform(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that may write tenants (role turnout_platform)."""
        async with connected(self.platform_dsn) as connection:
            yield connection

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that sees every tenant (role turnout_maintenance)."""
        async with connected(self.maintenance_dsn) as connection:
            yield connection


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """One connection, closed at the end. Raises CommandError when the server does not answer."""
    try:
        connection = await asyncpg.connect(
            dsn, timeout=10, server_settings={"application_name": "turnout-cli"}
        )
    except (OSError, TimeoutError) as error:
        where = urlsplit(dsn)
        raise CommandError(
            f"Postgres does not answer at {where.hostname}:{where.port} ({error or type(error).__name__}); does it run?"
        ) from error
    except asyncpg.PostgresError as error:
        raise CommandError(f"Postgres does not let us in: {error}") from error
    try:
        yield connection
    finally:
        await connection.close()


def resolve(name: TargetName = "embedded", environment: Mapping[str, str] | None = None) -> Target:
    """The system called `name`; what the environment sets comes first."""
    env = os.environ if environment is None else environment
    found, hint = _compose(env) if name == "compose" else _embedded(env)
    set_apart = {key: env[variable] for key, variable in VARIABLES.items() if env.get(variable)}
    if "master_key_text" in set_apart:
        found = {key: value for key, value in found.items() if not key.startswith("master_key")}
    elif file := env.get("TURNOUT_MASTER_KEY_FILE"):
        set_apart |= {"master_key_text": _read(Path(file)), "master_key_file": file}
    return Target(name, found | set_apart, hint)


def _embedded(env: Mapping[str, str]) -> tuple[dict[str, str], str]:
    home = Home(Path(env["TURNOUT_HOME"]) if env.get("TURNOUT_HOME") else None)
    status = status_document(home)
    if not status["running"]:
        return {}, "Turnout is not running: start it with `./turnout up --detach`"
    roles = status["postgres_roles"]
    found = {
        "platform_dsn": roles["turnout_platform"],
        "maintenance_dsn": roles["turnout_maintenance"],
        "admin_dsn": status["postgres"],
        "kafka": status["kafka"],
        "master_key_text": _read(Path(status["master_key_file"])),
        "master_key_file": status["master_key_file"],
    }
    if status["token"]:
        found["token"] = status["token"]
    return found | _urls(status["urls"]), ""


def _compose(env: Mapping[str, str]) -> tuple[dict[str, str], str]:
    stack = compose_stack(env)
    return {
        "platform_dsn": stack.postgres_roles["turnout_platform"],
        "maintenance_dsn": stack.postgres_roles["turnout_maintenance"],
        "admin_dsn": stack.postgres,
        "kafka": stack.kafka,
        "master_key_text": stack.master_key,
        "master_key_in_env_file": "yes",
    } | _urls(stack.urls), ""


def _urls(urls: Mapping[str, str]) -> dict[str, str]:
    return {key: urls[service] for key, service in _SERVICES.items() if service in urls}


def _read(file: Path) -> str:
    try:
        return master_key_text(read_master_key(None, file))
    except (OSError, SecretError) as error:
        raise CommandError(f"the master key {file} cannot be read: {error}") from error


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work; what goes wrong at the database or with a key is told in one line."""
    try:
        return asyncio.run(work)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, SecretError) as error:
        raise CommandError(f"{type(error).__name__}: {error}") from error
