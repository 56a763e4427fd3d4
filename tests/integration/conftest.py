"""Fixtures that several modules share: how commands find the system, and an ingest with a tenant of its own."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import Service, add_channels, ingest
from turnout_cli import tenant


@pytest.fixture
def command_environment(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands find the module's database and the key by the environment, and no other system."""
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
    monkeypatch.setenv("TURNOUT_PLATFORM_DSN", database.dsn("platform"))
    monkeypatch.setenv("TURNOUT_MAINTENANCE_DSN", database.dsn("maintenance"))
    monkeypatch.setenv("TURNOUT_MASTER_KEY", base64.b64encode(MASTER_KEY).decode())


@pytest.fixture
def name() -> str:
    """A tenant id that nobody has."""
    return "c" + os.urandom(5).hex()


@pytest.fixture
def created(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """A tenant without channels, made by the command."""
    tenant.create(name, timezone="Europe/Berlin")
    capsys.readouterr()
    return name


@pytest.fixture(scope="module")
async def service(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[Service]:
    """Ingest that publishes nothing by itself."""
    async with ingest(database, infrastructure, topic_prefix, relay=False) as started:
        yield started


@pytest.fixture
async def salon(service: Service, database: Database, tenant_id: str) -> str:
    """A tenant with all channels, known to the service."""
    await add_channels(database, tenant_id)
    await service.directory.reload()
    return tenant_id
