"""Rules of the repository itself (design §8): names, the one composition root, pure domain code, nothing unfinished."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnout_common.topics import load_topics

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingest", "booking", "sender", "rollup", "kpi-api")
SAYS_NOTHING = {
    "utils",
    "util",
    "helpers",
    "helper",
    "misc",
    "manager",
    "base",
    "service",
    "stuff",
    "common_utils",
}
CONNECTING = {"connect", "create_pool", "create_broker", "create_producer"}
DOMAIN = (
    "services/booking/turnout_booking/domain/*.py",
    "services/rollup/turnout_rollup/facts.py",
    "services/kpi-api/turnout_kpi_api/kpis.py",
    "services/kpi-api/turnout_kpi_api/period.py",
    "services/sender/turnout_sender/templates.py",
)
PURE = (
    "turnout_common.events.",
    "turnout_booking.domain.",
    "turnout_rollup.facts.",
    "turnout_kpi_api.kpis.",
    "turnout_kpi_api.period.",
    "turnout_sender.templates.",
)
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b|raise Not" r"Implemented")
TEXT = {".py", ".sql", ".md", ".toml", ".yaml", ".yml", ".sh", ".ts", ".tsx", ".css", ""}


def repository_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def package_of(service: str) -> Path:
    return ROOT / "services" / service / f"turnout_{service.replace('-', '_')}"


def called_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            yield name, node.lineno


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = [path for path in repository_files() if path.suffix == ".py" and path.stem in SAYS_NOTHING]

    assert vague == []


@pytest.mark.parametrize("service", SERVICES)
def test_main_is_short_enough_to_be_read_at_a_glance(service: str) -> None:
    lines = (package_of(service) / "main.py").read_text().splitlines()

    assert len(lines) <= 60


@pytest.mark.parametrize("service", SERVICES)
def test_only_main_connects_to_anything(service: str) -> None:
    elsewhere = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted(package_of(service).rglob("*.py"))
        if path.name != "main.py"
        for name, line in called_names(ast.parse(path.read_text()))
        if name in CONNECTING
    ]

    assert elsewhere == []


@pytest.mark.parametrize("pattern", DOMAIN)
def test_domain_code_imports_the_standard_library_and_the_events_only(pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    foreign = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files
        for module in imported_modules(ast.parse(path.read_text()))
        if module.split(".")[0] not in sys.stdlib_module_names and not f"{module}.".startswith(PURE)
    ]

    assert files
    assert foreign == []


@pytest.mark.parametrize("topic", sorted(load_topics()))
def test_every_topic_has_schemas_and_examples(topic: str) -> None:
    contracts = ROOT / "contracts"
    types = load_topics()[topic].event_types
    without_schema = [name for name in types if not (contracts / "schemas" / f"{name}.json").is_file()]
    without_example = [
        name for name in types if not list((contracts / "examples" / topic / name).glob("*.json"))
    ]

    assert types
    assert (without_schema, without_example) == ([], [])


def test_nothing_is_left_unfinished() -> None:
    marks = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in repository_files()
        if path.suffix in TEXT and "node_modules" not in path.parts
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if UNFINISHED.search(line)
    ]

    assert marks == []


def test_adrs_are_numbered_without_a_gap_and_have_every_section() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    numbers = [int(path.name[:4]) for path in files]
    sections = ("Status", "Context", "Decision", "Consequences", "Alternatives", "Enforced by")
    lacking = [
        f"{path.name}: {section}"
        for path in files
        for section in sections
        if not re.search(rf"^(## |- )?\**{section}", path.read_text(), re.MULTILINE)
    ]

    assert numbers == list(range(len(files)))
    assert lacking == []
