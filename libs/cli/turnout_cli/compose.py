"""Where the compose stack is, seen from this machine: `--target compose` of smoke and the other commands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from turnout_cli.errors import CommandError
from turnout_cli.secrets_command import ADMIN_PASSWORD, ENV_FILE, MASTER_KEY, password_variable, read_env
from turnout_cli.services import DATABASE, SERVICES
from turnout_cli.state import DATABASE_ROLES, project_root

POSTGRES_PORT = 8610
KAFKA_PORT = 8611


@dataclass(frozen=True)
class ComposeStack:
    """Addresses on loopback, DSNs by role, and the master key in base64."""

    urls: Mapping[str, str]
    postgres: str
    postgres_roles: Mapping[str, str]
    kafka: str
    master_key: str


def compose_stack(environment: Mapping[str, str] | None = None) -> ComposeStack:
    """Read as `docker compose` reads: `.env`, and the environment before it. Raises CommandError when secrets lack."""
    values = read_env(project_root() / ENV_FILE) | dict(os.environ if environment is None else environment)
    wanted = (MASTER_KEY, ADMIN_PASSWORD, *map(password_variable, DATABASE_ROLES))
    if missing := [name for name in wanted if not values.get(name)]:
        raise CommandError(f"{ENV_FILE} lacks {', '.join(missing)}; run ./turnout secrets first")
    server = f"127.0.0.1:{_port(values, 'postgres', POSTGRES_PORT)}/{DATABASE}"
    return ComposeStack(
        urls={s.name: f"http://127.0.0.1:{_port(values, s.name, s.port)}" for s in SERVICES},
        postgres=f"postgresql://postgres:{values[ADMIN_PASSWORD]}@{server}",
        postgres_roles={
            role: f"postgresql://{role}:{values[password_variable(role)]}@{server}" for role in DATABASE_ROLES
        },
        kafka=f"127.0.0.1:{_port(values, 'kafka', KAFKA_PORT)}",
        master_key=values[MASTER_KEY],
    )


def port_variable(name: str) -> str:
    """TURNOUT_COMPOSE_KPI_API_PORT for `kpi-api`: where compose publishes it on loopback."""
    return f"TURNOUT_COMPOSE_{name.replace('-', '_').upper()}_PORT"


def _port(values: Mapping[str, str], name: str, usual: int) -> int:
    text = values.get(port_variable(name)) or str(usual)
    if not text.isascii() or not text.isdecimal():
        raise CommandError(f"{port_variable(name)} is {text!r}, not a port number; look into {ENV_FILE}")
    return int(text)
