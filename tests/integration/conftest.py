"""Fixtures of tests that give commands as a person would."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database


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
