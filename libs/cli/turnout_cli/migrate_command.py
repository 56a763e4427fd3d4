"""`turnout migrate`: brings an external Postgres and Kafka up to date; the one-shot job of compose and Kubernetes.

`turnout up` does the same for the embedded servers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import asyncpg
from aiokafka.errors import KafkaError
from cyclopts import Parameter
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from turnout_cli.errors import CommandError
from turnout_cli.migrate import MigrationFailed, migrate, migration_status
from turnout_cli.topics import create_topics, missing_topics
from turnout_common.postgres import is_transient

_words = Console(stderr=True, highlight=False, soft_wrap=True)
_PAUSE_SECONDS = 1.0


class MigrateSettings(BaseSettings):
    """Where to, and the passwords that the roles get."""

    model_config = SettingsConfigDict(env_prefix="TURNOUT_", extra="ignore", frozen=True)

    admin_dsn: SecretStr = Field(description="DSN of an administrator of the target database.")
    kafka_bootstrap: str = Field(description="Bootstrap servers, host:port, comma-separated.")
    kafka_replication: int = Field(
        3, ge=1, description="Replicas of each topic; from 3 on, 2 of them must be in sync for a write."
    )
    topic_prefix: str = Field("", description="Put before topic names, to share one Kafka.")
    password_ingest: SecretStr | None = Field(None, description="Password of role turnout_ingest.")
    password_booking: SecretStr | None = Field(None, description="Password of role turnout_booking.")
    password_sender: SecretStr | None = Field(None, description="Password of role turnout_sender.")
    password_rollup: SecretStr | None = Field(None, description="Password of role turnout_rollup.")
    password_kpi: SecretStr | None = Field(None, description="Password of role turnout_kpi.")
    password_platform: SecretStr | None = Field(None, description="Password of role turnout_platform.")
    password_maintenance: SecretStr | None = Field(None, description="Password of role turnout_maintenance.")

    def passwords(self) -> dict[str, str]:
        """By role, those that are set; the others keep the one that they have."""
        values: dict[str, Any] = {
            name.removeprefix("password_"): getattr(self, name)
            for name in type(self).model_fields
            if name.startswith("password_")
        }
        return {f"turnout_{role}": value.get_secret_value() for role, value in values.items() if value}


def migrate_command(
    *,
    wait: float = 0,
    status: Annotated[bool, Parameter(negative=())] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Bring an external database and Kafka up to date. `--help` shows the words of main.py, which name the variables.

    Parameters
    ----------
    wait
        Seconds to wait for servers that do not answer yet.
    status
        Change nothing; show what is missing, exit status 1 when something is.
    as_json
        Print what was done, or what is missing, as JSON.
    """
    settings = read_settings()
    deadline = time.monotonic() + wait
    report = asyncio.run(_missing(settings, deadline) if status else _bring_up_to_date(settings, deadline))
    if as_json:
        print(json.dumps(report))
    else:
        _tell(report, done=not status)
    return 1 if status and any(report.values()) else 0


def read_settings() -> MigrateSettings:
    """The settings of the environment; raises CommandError that names what is missing or wrong."""
    try:
        return MigrateSettings()
    except ValidationError as error:
        faults = [f"TURNOUT_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        raise CommandError("; ".join(faults)) from error


async def _bring_up_to_date(settings: MigrateSettings, deadline: float) -> dict[str, list[str]]:
    dsn, kafka = settings.admin_dsn.get_secret_value(), settings.kafka_bootstrap
    versions = await _until(deadline, "Postgres", lambda: migrate(dsn, settings.passwords()))
    topics = await _until(
        deadline, f"Kafka at {kafka}",
        lambda: create_topics(kafka, settings.topic_prefix, settings.kafka_replication),
    )  # fmt: skip
    return {"migrations": versions, "topics": topics}


async def _missing(settings: MigrateSettings, deadline: float) -> dict[str, list[str]]:
    dsn, kafka = settings.admin_dsn.get_secret_value(), settings.kafka_bootstrap
    return {
        "migrations": await _until(deadline, "Postgres", lambda: migration_status(dsn)),
        "topics": await _until(
            deadline, f"Kafka at {kafka}", lambda: missing_topics(kafka, settings.topic_prefix)
        ),
    }


async def _until(deadline: float, server: str, work: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """The result of `work`, tried again until `deadline` while the server does not answer yet."""
    while True:
        try:
            return await work()
        except MigrationFailed as error:
            raise CommandError(f"a migration failed: {error}") from error
        except (KafkaError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            passing = is_transient(error) or isinstance(error, KafkaError)
            if not passing or time.monotonic() + _PAUSE_SECONDS > deadline:
                raise CommandError(f"{server}: {error or type(error).__name__}") from error
        await asyncio.sleep(_PAUSE_SECONDS)


def _tell(report: dict[str, list[str]], *, done: bool) -> None:
    for kind, names in report.items():
        sign, word = ("✓", "applied") if done else ("✗" if names else "✓", "missing")
        _words.print(f"{sign} {kind}: {len(names)} {word}{''.join(f'{chr(10)}    {name}' for name in names)}")
