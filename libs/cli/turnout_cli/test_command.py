"""`turnout test`: the test suite with its own packages (the dev group), against the real parts."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Annotated

from cyclopts import Parameter

from turnout_cli.errors import CommandError
from turnout_cli.state import project_root

FAST = ("tests/unit", "tests/contract")


def run_tests(
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    fast: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Run the tests: unit, contract, integration, resilience, e2e. Arguments go to pytest: `-k`, a path, `-x` …

    Parameters
    ----------
    arguments
        Passed on to pytest.
    fast
        Only what needs no server: unit and contract tests.
    """
    root = project_root()
    uv = os.environ.get("UV") or shutil.which("uv")  # uv names itself to what it runs
    if uv is None or not (root / "uv.lock").exists():
        raise CommandError("the tests need a checkout of the repository; run ./turnout test there")
    command = [uv, "run", "--project", str(root), "--frozen", "--quiet", "pytest"]
    process = subprocess.Popen([*command, *(FAST if fast else ()), *arguments], cwd=root)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # pytest got it too, and takes its time to stop the servers
            continue
