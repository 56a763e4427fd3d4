"""The service processes that `up` starts: their names, ports, database roles and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from turnout_cli.embedded.process import free_port, port_is_free
from turnout_cli.state import Home
from turnout_cli.supervisor import ProcessSpec

DATABASE = "turnout"
MOCK_PROVIDERS = "mock-providers"
DEVELOPMENT = {"TURNOUT_ENV": "development"}


@dataclass(frozen=True)
class Service:
    """One service of the system; `role` is its database role."""

    name: str
    module: str
    port: int
    role: str | None


SERVICES = (
    Service("ingest", "turnout_ingest.main", 8600, "turnout_ingest"),
    Service("booking", "turnout_booking.main", 8601, "turnout_booking"),
    Service("sender", "turnout_sender.main", 8602, "turnout_sender"),
    Service("rollup", "turnout_rollup.main", 8603, "turnout_rollup"),
    Service("kpi-api", "turnout_kpi_api.main", 8604, "turnout_kpi"),
    Service(MOCK_PROVIDERS, "turnout_mock_providers.main", 8605, None),
)

#: Who seals or opens contact data. Nobody else gets the master key.
KEYED = ("ingest", "sender")


@dataclass(frozen=True)
class Addresses:
    """Where everything of one running system is."""

    postgres_port: int
    kafka: str
    passwords: Mapping[str, str]
    ports: Mapping[str, int]
    master_key_file: Path

    def role_dsn(self, role: str) -> str:
        return f"postgresql://{role}:{self.passwords[role]}@127.0.0.1:{self.postgres_port}/{DATABASE}"

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"


def choose_ports(known: Mapping[str, int], *, demo: bool) -> dict[str, int]:
    """Ports for everything: the one of the last run, else the usual one, else any that is free.

    Postgres and Kafka keep theirs whatever happens: scripts hold their addresses.
    """
    ports = {server: known.get(server) or free_port() for server in ("postgres", "kafka")}
    for service in services(demo=demo):
        wanted = [known.get(service.name), service.port]
        free = [port for port in wanted if port and port not in ports.values() and port_is_free(port)]
        ports[service.name] = free[0] if free else free_port()
    return ports


def moved_ports(known: Mapping[str, int], chosen: Mapping[str, int]) -> list[str]:
    """A sentence for each service that is not where one would look for it."""
    expected = {service.name: known.get(service.name, service.port) for service in SERVICES}
    return [
        f"port {expected[name]} is taken by another program: {name} has {port}, and keeps it"
        for name, port in chosen.items()
        if port != expected.get(name, port)
    ]


def services(*, demo: bool) -> tuple[Service, ...]:
    """All services; without the demo no mock providers, so that the sender talks to the real ones."""
    return tuple(service for service in SERVICES if demo or service.name != MOCK_PROVIDERS)


def process_spec(service: Service, addresses: Addresses, home: Home) -> ProcessSpec:
    return ProcessSpec(
        name=service.name,
        argv=[sys.executable, "-m", service.module],
        env=_environment(service, addresses),
        health_url=f"{addresses.url(service.name)}/ready",
        log_path=home.log(service.name),
    )


def _environment(service: Service, addresses: Addresses) -> dict[str, str]:
    values = {
        "PYTHONUNBUFFERED": "1",
        "TURNOUT_KAFKA_BOOTSTRAP": addresses.kafka,
        "TURNOUT_HTTP_HOST": "127.0.0.1",
        "TURNOUT_REPLICA": "up",
        "TURNOUT_HTTP_PORT": str(addresses.ports[service.name]),
    }
    values |= {
        f"TURNOUT_{name.replace('-', '_').upper()}_URL": addresses.url(name)
        for name in addresses.ports
        if name not in ("postgres", "kafka")
    }
    if service.role is not None:
        values["TURNOUT_POSTGRES_DSN"] = addresses.role_dsn(service.role)
    if service.name in KEYED:
        values["TURNOUT_MASTER_KEY_FILE"] = str(addresses.master_key_file)
    if service.name == "sender" and MOCK_PROVIDERS in addresses.ports:
        values["TURNOUT_PROVIDER_BASE_URL"] = addresses.url(MOCK_PROVIDERS)
    return DEVELOPMENT | os.environ | values
