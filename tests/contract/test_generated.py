"""What is generated from the code is what the code says."""

from __future__ import annotations

from turnout_cli.contracts_commands import cli_reference, stale_files
from turnout_cli.env_example import env_example


def test_no_generated_file_is_stale() -> None:
    assert stale_files() == []


def test_the_example_of_settings_names_every_variable_once_and_gives_no_secret() -> None:
    lines = [line for line in env_example().splitlines() if "=" in line and not line.startswith("# ")]
    values = dict(line.removeprefix("#").split("=", 1) for line in lines)

    assert {"TURNOUT_POSTGRES_DSN", "TURNOUT_MASTER_KEY", "TURNOUT_KAFKA_BOOTSTRAP"} <= values.keys()
    assert len(values) == len(lines)
    assert values["TURNOUT_POSTGRES_DSN"] == values["TURNOUT_MASTER_KEY"] == ""


def test_the_reference_shows_every_command_with_its_options() -> None:
    text = cli_reference()

    for command in ("turnout up", "turnout smoke", "turnout tenant channel set", "turnout dlq replay"):
        assert f"# {command}\n" in text
    assert "--secret" in text
