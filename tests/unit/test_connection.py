"""Where a command finds the system: the environment first, then the embedded state or compose's `.env`."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from turnout_cli import compose
from turnout_cli.connection import resolve
from turnout_cli.errors import CommandError
from turnout_cli.secrets_command import ADMIN_PASSWORD, MASTER_KEY, password_variable
from turnout_cli.smoke import smoke
from turnout_cli.state import DATABASE_ROLES

KEY = base64.b64encode(b"k" * 32).decode()


def test_a_system_that_does_not_run_says_how_to_start_it(tmp_path: Path) -> None:
    target = resolve("embedded", {"TURNOUT_HOME": str(tmp_path)})

    with pytest.raises(CommandError, match=r"turnout up --detach.*TURNOUT_INGEST_URL"):
        _ = target.ingest_url
    with pytest.raises(CommandError, match="TURNOUT_MASTER_KEY_FILE"):
        _ = target.master_key


def test_smoke_without_a_system_says_so_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))

    with pytest.raises(CommandError, match=r"Turnout is not running: start it with `\./turnout up"):
        smoke()
    assert "".join(capsys.readouterr()) == ""


def test_the_environment_alone_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    env = {
        "TURNOUT_HOME": str(tmp_path),
        "TURNOUT_PLATFORM_DSN": "postgresql://p@db/turnout",
        "TURNOUT_KPI_API_URL": "https://kpi.example",
        "TURNOUT_MASTER_KEY_FILE": str(file),
        "TURNOUT_TOKEN": "tt_x",
    }

    target = resolve("embedded", env)

    assert (target.platform_dsn, target.kpi_url) == ("postgresql://p@db/turnout", "https://kpi.example")
    assert (target.master_key.keys, target.token) == ((b"k" * 32,), "tt_x")
    assert target.service_urls == {"kpi-api": "https://kpi.example"}


def test_compose_is_found_by_its_secrets_and_published_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "read_env", lambda path: {})
    secrets = {password_variable(role): f"pw-{role}" for role in DATABASE_ROLES}
    env = secrets | {ADMIN_PASSWORD: "admin", MASTER_KEY: KEY, "TURNOUT_COMPOSE_INGEST_PORT": "9999"}

    target = resolve("compose", env)

    assert target.ingest_url == "http://127.0.0.1:9999"
    assert target.mock_url == "http://127.0.0.1:8605"
    assert target.maintenance_dsn.startswith(
        "postgresql://turnout_maintenance:pw-turnout_maintenance@127.0.0.1:"
    )
    assert target.master_key.keys == (b"k" * 32,)
    assert target.token is None


def test_secrets_do_not_show_in_a_target(tmp_path: Path) -> None:
    env = {"TURNOUT_HOME": str(tmp_path), "TURNOUT_MASTER_KEY": KEY, "TURNOUT_TOKEN": "tt_secret"}

    shown = repr(resolve("embedded", env))

    assert KEY not in shown
    assert "tt_secret" not in shown


@pytest.mark.parametrize("text", ["!", base64.b64encode(b"short").decode()])
def test_a_master_key_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(CommandError, match="openssl rand"):
        _ = resolve("embedded", {"TURNOUT_HOME": str(tmp_path), "TURNOUT_MASTER_KEY": text}).master_key
