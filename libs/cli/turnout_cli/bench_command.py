"""`turnout bench X`: runs a benchmark of the folder bench/, from a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from turnout_cli.errors import CommandError

ROOT = Path(__file__).resolve().parents[3]


def bench(name: str, /, *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Run a benchmark: `turnout bench pipeline`. What follows the name goes to it; `-- --help` says what it takes."""
    known = sorted(file.stem for file in (ROOT / "bench").glob("*.py") if "def main(" in file.read_text())
    if name not in known:
        raise CommandError(f"there is no benchmark {name!r}; there are: {', '.join(known) or 'none here'}")
    ended = subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments], cwd=ROOT, check=False)
    sys.exit(ended.returncode)
