"""What is running: for scripts (JSON on stdout) and for people (a table)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.table import Table

from turnout_cli.embedded.postgres import EmbeddedPostgres
from turnout_cli.services import DATABASE, SERVICES, Addresses
from turnout_cli.state import Home, State

_DASH = "–"
WIDE = 100
"""Columns from which on the URLs fit into the table."""
_CAPTION = "accepted and events count from the start of each process"
_COLOURS = {"ready": "green", "starting": "yellow", "restarting": "red", "stopping": "yellow"}


def service_urls(state: State) -> dict[str, str]:
    """URL of each service that runs now."""
    running = [service.name for service in SERVICES if service.name in state.processes]
    return {name: f"http://127.0.0.1:{state.ports[name]}" for name in running}


def status_document(home: Home) -> dict[str, Any]:
    """What `status --json` prints; scripts rely on its keys."""
    state = home.load()
    running = state.alive and state.phase == "ready"
    document: dict[str, Any] = {"running": running, "phase": state.phase if state.alive else "stopped"}
    if not running:
        return document | {"home": str(home.folder)}
    postgres = EmbeddedPostgres(home.data("postgres"), state.ports["postgres"])
    kafka = f"127.0.0.1:{state.ports['kafka']}"
    addresses = Addresses(postgres.port, kafka, state.passwords, state.ports, home.master_key_file)
    records = state.processes.items()
    return document | {
        "urls": service_urls(state),
        "postgres": postgres.dsn_for(DATABASE),
        "postgres_roles": {role: addresses.role_dsn(role) for role in state.passwords},
        "kafka": kafka,
        "token": state.token,
        "tenant": "default" if state.token else None,
        "master_key_file": str(home.master_key_file),
        "supervisor": state.supervisor.pid if state.supervisor else None,
        "pids": {name: record.mark.pid for name, record in records if record.mark},
        "restarts": {name: record.restarts for name, record in records},
        "home": str(home.folder),
        "logs": {name: str(home.log(name)) for name in state.processes},
    }


@dataclass(frozen=True)
class Figures:
    """What a service says of itself under /status; None where it does not say."""

    lag: int | None = None
    accepted: int | None = None
    events: int | None = None
    freshness_seconds: float | None = None
    silent_channels: int | None = None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Figures:
        def whole(key: str) -> int | None:
            value = answer.get(key)
            return int(value) if isinstance(value, int | float) else None

        fresh = answer.get("freshness_seconds")
        return cls(
            whole("lag"),
            whole("accepted"),
            whole("events"),
            float(fresh) if isinstance(fresh, int | float) else None,
            whole("silent_channels"),
        )


async def fetch_figures(urls: Mapping[str, str]) -> dict[str, Figures]:
    """Ask all services at once; one that does not answer has no figures."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        answers = await asyncio.gather(*(_fetch(session, url) for url in urls.values()))
    return dict(zip(urls, answers, strict=True))


async def _fetch(session: aiohttp.ClientSession, url: str) -> Figures:
    try:
        async with session.get(f"{url}/status") as answer:
            body = await answer.json(content_type=None) if answer.status == 200 else {}
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return Figures()
    return Figures.of(body) if isinstance(body, dict) else Figures()


def table(state: State, figures: Mapping[str, Figures], *, width: int) -> Table:
    """One line a process; a narrow terminal gets no URLs."""
    caption = "\n".join([_CAPTION, *_silence(figures)])
    result = Table(box=None, pad_edge=False, header_style="bold", caption=caption, caption_justify="left")
    with_urls = width >= WIDE
    for heading in ("process", "state", "restarts", *(["url"] if with_urls else [])):
        result.add_column(heading, no_wrap=True)
    for heading in ("lag", "accepted", "events", "freshness"):
        result.add_column(heading, justify="right", no_wrap=True)
    urls = service_urls(state)
    for name, record in state.processes.items():
        address = [urls.get(name) or f"127.0.0.1:{state.ports[name]}"] if with_urls else []
        colour = _COLOURS.get(record.state, "dim")
        cells = _cells(figures.get(name, Figures()))
        result.add_row(name, f"[{colour}]{record.state}[/]", str(record.restarts), *address, *cells)
    return result


def _silence(figures: Mapping[str, Figures]) -> list[str]:
    """A line where channels that used to speak do not."""
    silent = max((each.silent_channels or 0 for each in figures.values()), default=0)
    said = "1 channel is silent" if silent == 1 else f"{silent} channels are silent"
    return [f"! {said} that used to speak: ./turnout inbox channels --silent"] if silent else []


def _cells(figures: Figures) -> list[str]:
    counts = [figures.lag, figures.accepted, figures.events]
    fresh = figures.freshness_seconds
    return [
        *(_DASH if count is None else f"{count:,}" for count in counts),
        _DASH if fresh is None else f"{fresh:.1f} s",
    ]
