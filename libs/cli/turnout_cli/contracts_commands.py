"""`turnout contracts`: writes what is generated from the code, and tells what is stale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from turnout_cli import contract_files
from turnout_cli.env_example import env_example
from turnout_cli.state import project_root
from turnout_common.events.envelope import EVENT_MODELS

app = App(name="contracts", help="Schemas and examples of the events, and .env.example.")
_words = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command
def generate() -> int:
    """Write contracts/schemas from the event models, and .env.example from the settings."""
    changed = contract_files.write_schemas()
    for file in changed:
        _words.print(f"✓ {file.name}" if file.exists() else f"✓ {file.name} removed")
    _words.print(f"{len(changed)} of {len(EVENT_MODELS)} schemas changed")
    return env()


@app.command
def check() -> int:
    """Exit with status 1 when a schema or .env.example is stale, or an example is missing or wrong."""
    faults = contract_files.faults()
    if _env_file().exists() is False or _env_file().read_text(encoding="utf-8") != env_example():
        faults.append(".env.example is not what the settings say")
    for fault in faults:
        _words.print(f"✗ {fault}", markup=False)
    if faults:
        _words.print("`turnout contracts generate` writes schemas and .env.example; examples are yours.")
        return 1
    _words.print("✓ schemas, examples and .env.example are up to date")
    return 0


@app.command
def env(*, check: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Write .env.example.

    Parameters
    ----------
    check
        Write nothing; exit with status 1 when it is stale.
    """
    file, text = _env_file(), env_example()
    fresh = file.exists() and file.read_text(encoding="utf-8") == text
    if check:
        _words.print("✓ .env.example is up to date" if fresh else "✗ .env.example is stale")
        return 0 if fresh else 1
    if not fresh:
        file.write_text(text, encoding="utf-8")
    _words.print("✓ .env.example" + (" is up to date" if fresh else " written"))
    return 0


def _env_file() -> Path:
    return project_root() / ".env.example"
