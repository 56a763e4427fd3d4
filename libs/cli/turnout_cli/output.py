"""How commands speak: tables for people and JSON for machines on stdout, words on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON instead of a table.")]
WIDE = 160
#: Called with how much is done, and of how much.
Told = Callable[[int, int], None]

words = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for a person, shown as it is."""
    words.print(text, markup=False)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as wide as the terminal, or wide enough for a pipe."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(cell_text(cell) for cell in row))
    out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDE)
    out.print(table)


def cell_text(value: Any) -> str:
    """A value as a person reads it; a dash for what is not there."""
    match value:
        case None | "":
            return "–"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(str, value)) or "–"
    return str(value)


@contextmanager
def progress_bar(of_what: str) -> Iterator[Told]:
    """A bar on stderr that is gone at the end."""
    columns = (TextColumn(of_what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=words, transient=True, disable=not words.is_terminal) as bar:
        task = bar.add_task(of_what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
