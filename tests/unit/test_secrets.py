"""`turnout secrets`: complete, private, and what is known stays; `--target compose` finds what was written."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from turnout_cli import compose, secrets_command
from turnout_cli.compose import compose_stack
from turnout_cli.errors import CommandError
from turnout_cli.secrets_command import ADMIN_PASSWORD, MASTER_KEY, add_missing, parse, read_env
from turnout_cli.state import DATABASE_ROLES


def test_all_secrets_are_written_to_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"

    added = add_missing(file)

    values = read_env(file)
    assert set(added) == set(values)
    assert len(values) == len(DATABASE_ROLES) + 2
    assert len(set(values.values())) == len(values)
    assert len(base64.b64decode(values[MASTER_KEY])) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_second_call_changes_no_value(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    add_missing(file)
    before = file.read_text()

    assert add_missing(file) == []
    assert file.read_text() == before


def test_own_lines_stay_and_only_empty_values_are_filled(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"# mine\nTURNOUT_LOG_LEVEL=DEBUG\n{ADMIN_PASSWORD}=chosen\n{MASTER_KEY}=\n")
    file.chmod(0o644)

    added = add_missing(file)

    values = read_env(file)
    assert ADMIN_PASSWORD not in added
    assert values[ADMIN_PASSWORD] == "chosen"
    assert values["TURNOUT_LOG_LEVEL"] == "DEBUG"
    assert values[MASTER_KEY]
    assert file.read_text().startswith("# mine\n")
    assert file.read_text().count(MASTER_KEY) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A=b", {"A": "b"}),
        ("export A = b # why", {"A": "b"}),
        ("A='b # c'", {"A": "b # c"}),
        ('A="b"', {"A": "b"}),
        ("A=b=c==", {"A": "b=c=="}),
        ("# A=b", {}),
        ("A=", {"A": ""}),
        ("words", {}),
    ],
)
def test_env_lines_are_read_as_compose_reads_them(line: str, expected: dict[str, str]) -> None:
    assert parse(line) == expected


def test_compose_stack_is_found_by_the_written_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "project_root", lambda: tmp_path)
    add_missing(tmp_path / ".env")

    stack = compose_stack({"TURNOUT_COMPOSE_INGEST_PORT": "18600"})

    password = read_env(tmp_path / ".env")["TURNOUT_PASSWORD_PLATFORM"]
    assert stack.urls["ingest"] == "http://127.0.0.1:18600"
    assert stack.urls["kpi-api"] == "http://127.0.0.1:8604"
    assert stack.postgres_roles["turnout_platform"] == (
        f"postgresql://turnout_platform:{password}@127.0.0.1:8610/turnout"
    )
    assert password not in stack.postgres


def test_compose_stack_without_secrets_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "project_root", lambda: tmp_path)

    with pytest.raises(CommandError, match=r"run \./turnout secrets first"):
        compose_stack({})


def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(CommandError, match="is damaged"):
        add_missing(file)
    assert file.read_bytes() == b"\xff\xfe\x00"


def test_a_master_key_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_command, "project_root", lambda: tmp_path)
    (tmp_path / ".env").write_text(f"{MASTER_KEY}=oops\n")

    with pytest.raises(CommandError, match=f"{MASTER_KEY} in .* is of no use"):
        secrets_command.secrets()


def test_a_port_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "project_root", lambda: tmp_path)
    add_missing(tmp_path / ".env")

    with pytest.raises(CommandError, match="TURNOUT_COMPOSE_INGEST_PORT is 'abc'"):
        compose_stack({"TURNOUT_COMPOSE_INGEST_PORT": "abc"})
