"""Shows `up` to a person: plain lines for logs and pipes, a live table on a terminal. All on stderr."""

from __future__ import annotations

import asyncio
import sys

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from turnout_cli.embedded import kafka_jars
from turnout_cli.state import State
from turnout_cli.status import fetch_figures, service_urls, table


class PlainReporter:
    """One line for each thing that happened."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._restarts: dict[str, int] = {}
        self._stopping = False

    def step(self, text: str, seconds: float | None = None) -> None:
        self.console.print(f"✓ {text}" if seconds is None else f"✓ {text} [dim]({seconds:.1f} s)[/]")

    def note(self, text: str) -> None:
        self.console.print(f"– {text}")

    def changed(self, state: State) -> None:
        """Tells restarts; everything else is a step."""
        if state.phase == "stopping" and not self._stopping:
            self._stopping = True
            self.console.print("stopping …")
        for name, record in state.processes.items():
            if record.restarts > self._restarts.get(name, 0):
                self._restarts[name] = record.restarts
                self.console.print(f"✗ {name} ended and is started again (restart {record.restarts})")

    def jars(self) -> kafka_jars.Progress:
        return lambda done, total: self._jar_line(done, total)

    def _jar_line(self, done: int, total: int) -> None:
        if done == total or done % 10 == 0:
            self.console.print(f"Kafka's jars: {done} of {total} fetched")

    async def running(self, state: State) -> None:
        self.summary(state)

    def summary(self, state: State) -> None:
        """Where everything is."""
        for name, url in service_urls(state).items():
            self.console.print(f"  {name:<15} {url}")
        if state.token:
            self.console.print(f"  demo tenant     default, token {state.token}")
        self.console.print("Turnout is up. `./turnout status` shows it, `./turnout down` stops it.")


class LiveReporter(PlainReporter):
    """The same, with a progress bar and a table that is kept up to date."""

    def jars(self) -> kafka_jars.Progress:
        bar = Progress(
            TextColumn("Kafka's jars from Maven Central"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self.console,
            transient=True,
        )
        task = bar.add_task("jars", total=None)

        def advance(done: int, total: int) -> None:
            bar.start()
            bar.update(task, completed=done, total=total)
            if done == total:
                bar.stop()

        return advance

    async def running(self, state: State) -> None:
        self.summary(state)
        with Live(console=self.console, auto_refresh=False) as live:
            while True:
                figures = await fetch_figures(service_urls(state))
                live.update(table(state, figures, width=self.console.width), refresh=True)
                await asyncio.sleep(1)


def reporter_for_this_terminal() -> PlainReporter:
    """The live table needs a person at a terminal."""
    return LiveReporter() if sys.stdout.isatty() and sys.stderr.isatty() else PlainReporter()
