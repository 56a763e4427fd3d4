"""The whole system as a user starts it: `./turnout …` in a home of its own, by its exit status and its output alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Turnout:
    """The command line with one home."""

    home: Path
    document: dict[str, Any] = field(default_factory=dict)
    token: str = ""
    """Whose tenant `check-kpi` may look at; empty: the demo tenant's."""
    settings: dict[str, str] = field(default_factory=dict)
    """Settings of all services, in place of those that they have of themselves."""

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TURNOUT_")}
        own = {"TURNOUT_HOME": str(self.home)} | ({"TURNOUT_TOKEN": self.token} if self.token else {})
        return inherited | own | self.settings

    def run(self, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["./turnout", *arguments],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def must(self, *arguments: str, seconds: float = 300) -> str:
        """The standard output of a command that must succeed."""
        done = self.run(*arguments, seconds=seconds)
        assert done.returncode == 0, (
            f"turnout {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout

    def must_json(self, *arguments: str, seconds: float = 300) -> Any:
        return json.loads(self.must(*arguments, "--json", seconds=seconds))

    def up(self) -> dict[str, Any]:
        self.document = self.must_json("up", "--detach", seconds=400)
        return self.document

    def url(self, service: str) -> str:
        return str(self.document["urls"][service])


@contextmanager
def running_turnout(home: Path, **settings: str) -> Iterator[Turnout]:
    """Started by `up`, stopped at the end whatever happens."""
    turnout = Turnout(home, settings=settings)
    try:
        turnout.up()
        yield turnout
    finally:
        turnout.run("down")
        shutil.rmtree((home / "postgres").resolve(), ignore_errors=True)  # under root it may lie elsewhere
