"""Dockerfile and docker-compose.yml say the same as the code: members, commands, ports, images; and nothing secret."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers import KAFKA_IMAGE, POSTGRES_IMAGE
from turnout_cli.compose import KAFKA_PORT, POSTGRES_PORT, port_variable
from turnout_cli.main import MIGRATE_HELP, app
from turnout_cli.migrate_command import MigrateSettings
from turnout_cli.secrets_command import password_variable
from turnout_cli.services import KEYED, SERVICES, Service
from turnout_cli.state import DATABASE_ROLES

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = ("migrate", *(service.name for service in SERVICES))


def workspace_members() -> list[str]:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
    return [
        str(path.parent.relative_to(ROOT))
        for pattern in patterns
        for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    ]


@pytest.mark.parametrize("member", workspace_members())
def test_image_builds_every_member_of_the_workspace(member: str) -> None:
    assert f"COPY {member}/pyproject.toml {member}/\n" in DOCKERFILE


def test_image_needs_no_build_kit_and_runs_as_nobody() -> None:
    assert "syntax=" not in DOCKERFILE
    assert "--mount" not in DOCKERFILE
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_compose_runs_each_service_on_its_port_and_as_its_role(service: Service) -> None:
    container = COMPOSE["services"][service.name]
    environment = container["environment"]

    assert container["command"] == ["python", "-m", service.module]
    assert environment["TURNOUT_HTTP_PORT"] == service.port
    assert container["ports"] == [
        f"127.0.0.1:${{{port_variable(service.name)}:-{service.port}}}:{service.port}"
    ]
    # The sender alone talks to the mock providers by plain HTTP, which production refuses.
    assert environment["TURNOUT_ENV"] == (
        "${TURNOUT_SENDER_ENV:-development}" if service.name == "sender" else "production"
    )
    if service.role is not None:
        assert environment["TURNOUT_POSTGRES_DSN"].startswith(f"postgresql://{service.role}:${{")
        assert password_variable(service.role) in environment["TURNOUT_POSTGRES_DSN"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_rights_that_they_do_not_need(name: str) -> None:
    container = COMPOSE["services"][name]

    assert container["read_only"] is True
    assert container["user"] == "10001:10001"
    assert container["cap_drop"] == ["ALL"]
    assert "cap_add" not in container
    assert container["security_opt"] == ["no-new-privileges:true"]


def test_everything_is_published_on_loopback_only() -> None:
    published = [port for container in COMPOSE["services"].values() for port in container.get("ports", [])]

    assert len(published) == len(SERVICES) + 2
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    assert f"127.0.0.1:${{{port_variable('postgres')}:-{POSTGRES_PORT}}}:5432" in published
    assert f"127.0.0.1:${{{port_variable('kafka')}:-{KAFKA_PORT}}}:9094" in published


def test_no_secret_stands_in_the_compose_file() -> None:
    texts = [
        (f"{name}.{key}", str(value))
        for name, container in COMPOSE["services"].items()
        for key, value in container.get("environment", {}).items()
    ]
    secret = [(key, value) for key, value in texts if re.search(r"PASSWORD|MASTER_KEY|DSN", key)]
    literal = [
        key for key, value in secret if not re.search(r"\$\{\w+:\?run ./turnout secrets first\}", value)
    ]

    assert len(secret) >= len(DATABASE_ROLES)
    assert literal == []


def test_servers_are_those_that_the_tests_run_on() -> None:
    assert COMPOSE["services"]["postgres"]["image"] == POSTGRES_IMAGE
    assert COMPOSE["services"]["kafka"]["image"] == KAFKA_IMAGE


def test_migrate_job_sets_the_password_of_every_role() -> None:
    fields = {
        f"TURNOUT_{name.upper()}" for name in MigrateSettings.model_fields if name.startswith("password_")
    }
    wanted = {password_variable(role) for role in DATABASE_ROLES}

    assert fields == wanted
    assert wanted <= COMPOSE["services"]["migrate"]["environment"].keys()


def test_help_of_migrate_names_every_variable_that_an_installation_sets() -> None:
    fields = MigrateSettings.model_fields.keys() - {"topic_prefix"}  # that one is for tests

    assert [name for name in fields if name.removeprefix("password").upper() not in MIGRATE_HELP] == []


def test_only_who_seals_or_opens_gets_the_master_key() -> None:
    in_compose = {
        name
        for name, each in COMPOSE["services"].items()
        if "TURNOUT_MASTER_KEY" in each.get("environment", {})
    }

    assert in_compose == set(KEYED)


UNITS = ROOT / "deploy" / "systemd"


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.stem)
def test_each_scheduled_job_is_a_command_and_has_a_timer(unit: Path) -> None:
    (command,) = re.findall(
        r"^ExecStart=/opt/turnout/turnout (.+) \$TURNOUT_JOB_OPTIONS$", unit.read_text(), re.MULTILINE
    )
    app.parse_args([*command.split(), "--target", "compose"], exit_on_error=False, print_error=False)

    assert f"| `{unit.stem}` | `turnout {command}` |" in (ROOT / "docs" / "RUNBOOK.md").read_text()
    assert "OnCalendar=" in unit.with_suffix(".timer").read_text()


def test_runbook_enables_every_timer_and_knows_where_each_service_is() -> None:
    text = (ROOT / "docs" / "RUNBOOK.md").read_text()
    enabled = {
        f"turnout-{name}"
        for names in re.findall(r"^sudo systemctl enable --now turnout-(\S+)\.timer", text, re.MULTILINE)
        for name in names.strip("{}").split(",")
    }

    assert enabled == {unit.stem for unit in UNITS.glob("*.timer")}
    assert [
        each.name for each in SERVICES if f"| {each.name.replace('-p', ' p')} | {each.port} |" not in text
    ] == []


def test_only_a_job_whose_failure_means_that_it_could_not_run_is_tried_again() -> None:
    again = {unit.stem for unit in UNITS.glob("*.service") if "Restart=" in unit.read_text()}

    assert again == {"turnout-prune"}  # the others end with 1 for what they found too


def test_what_must_run_regularly_is_scheduled() -> None:
    assert {unit.stem.removeprefix("turnout-") for unit in UNITS.glob("*.timer")} == {
        "prune", "reconcile-calcom", "reconcile-max", "rollup-hourly", "rollup-daily"
    }  # fmt: skip
