"""`turnout bench picture`: draws docs/images/up.svg from a Turnout that runs (`up --detach`): its steps and its table."""

from __future__ import annotations

import argparse
import asyncio
import io
import re
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from turnout_cli.state import Home, State
from turnout_cli.status import fetch_figures, service_urls, table

PICTURE = Path(__file__).resolve().parents[1] / "docs/images/up.svg"
WIDTH = 102
# A picture in a README may load nothing: without Rich's web fonts the reader's own monospace font is taken.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="turnout bench picture", description=__doc__)
    arguments.add_argument("--output", type=Path, default=PICTURE)
    output: Path = arguments.parse_args().output
    home = Home()
    state = home.load()
    if not state.alive or state.phase != "ready":
        print("✗ Turnout is not running: start it with `./turnout up --detach`", file=sys.stderr)
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(draw(steps(home.log("up")), state))
    print(f"✓ {output}", file=sys.stderr)
    return 0


def steps(log: Path) -> list[str]:
    """What `up` said when it started."""
    return [line for line in log.read_text().splitlines() if line.startswith("✓")]


def draw(lines: list[str], state: State) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print("[dim]$[/] [bold]./turnout up[/]")
    for line in lines:
        console.print(re.sub(r"\(([\d.]+ s)\)$", r"[dim](\1)[/]", line))
    console.print()
    figures = asyncio.run(fetch_figures(service_urls(state)))
    console.print(table(state, figures, width=WIDTH))
    return console.export_svg(title="Turnout", code_format=FORMAT, unique_id="turnout")


if __name__ == "__main__":
    sys.exit(main())
