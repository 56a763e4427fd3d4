"""`turnout dlq`: the records that a service could not apply, why, and applying them again after the fix."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import asyncpg
from cyclopts import App, Parameter
from rich.progress import Progress

from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, cell_text, print_json, print_table, say, words
from turnout_common.postgres import load_queries

app = App(name="dlq", help="Dead letters: list, show, replay.")
SQL = load_queries("turnout_cli", "dlq.sql")

ServiceName = Literal["booking", "sender", "rollup"]
SERVICES: tuple[ServiceName, ...] = ("booking", "sender", "rollup")
_HEADINGS = (
    "service",
    "dead_letter_id",
    "dead_at",
    "tenant_id",
    "topic",
    "attempts",
    "reason",
    "replayed_at",
)
_POLL = 0.5


@app.command(name="list")
def list_letters(
    service: ServiceName | None = None,
    *,
    tenant: str | None = None,
    replayed: Annotated[bool, Parameter(negative=())] = False,
    limit: int = 50,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """The newest dead letters of one service, or of all.

    Parameters
    ----------
    replayed
        Also those that were replayed.
    """
    rows = run(_list(service, tenant, replayed, limit, target))
    if as_json:
        print_json(rows)
        return 0
    print_table(_HEADINGS, ([row[name] for name in _HEADINGS] for row in rows))
    say(f"{len(rows)} dead letters")
    return 0


async def _list(
    service: ServiceName | None, tenant: str | None, replayed: bool, limit: int, target: TargetOption
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with resolve(target).maintenance() as connection:
        for schema in [service] if service else SERVICES:
            query = SQL["list"].replace("{schema}", schema)
            rows = await connection.fetch(query, tenant, replayed, limit)
            found += [{"service": schema} | dict(row) for row in rows]
    return found


@app.command
def show(
    service: ServiceName,
    dead_letter_id: int,
    *,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """One dead letter with its headers and value; contact data in it is sealed."""
    row = run(_show(service, dead_letter_id, target))
    if as_json:
        print_json(row)
    else:
        print_table(("field", "value"), ((name, cell_text(value)) for name, value in row.items()))
    return 0


async def _show(service: ServiceName, dead_letter_id: int, target: TargetOption) -> dict[str, Any]:
    async with resolve(target).maintenance() as connection:
        row = await connection.fetchrow(SQL["show"].replace("{schema}", service), dead_letter_id)
    if row is None:
        raise CommandError(f"{service} has no dead letter {dead_letter_id}")
    found = dict(row)
    names, values = found.pop("header_names"), found.pop("header_values")
    return found | {
        "key": _text(found["key"]),
        "headers": {name: _text(value) for name, value in zip(names, values, strict=True)},
        "value": _text(found["value"]),
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


@app.command
def replay(
    service: ServiceName,
    dead_letter_ids: Annotated[list[int] | None, Parameter(name="ID", negative=())] = None,
    *,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    tenant: str | None = None,
    wait: float = 60.0,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Have the service apply dead letters again, wait for it, and tell which are dead still.

    Parameters
    ----------
    dead_letter_ids
        Which ones; or --all.
    every
        All that were not replayed yet.
    tenant
        With --all: only those of one tenant.
    wait
        Seconds to wait for the service.
    """
    if bool(dead_letter_ids) == every:
        raise CommandError("name the dead letters by their ids, or say --all")
    rows = run(_replay(service, dead_letter_ids, tenant, wait, target))
    states = [
        {"dead_letter_id": row["dead_letter_id"], "outcome": _outcome(row), "reason": row["reason"]}
        for row in rows
    ]
    if as_json:
        print_json(states)
    for state in states:
        if state["outcome"] != "applied":
            say(f"✗ {state['dead_letter_id']}: {state['outcome']} ({state['reason']})")
    applied = sum(state["outcome"] == "applied" for state in states)
    say(f"{applied} of {len(states)} applied")
    return 0 if applied == len(states) else 1


async def _replay(
    service: ServiceName, ids: list[int] | None, tenant: str | None, wait: float, target: TargetOption
) -> list[asyncpg.Record]:
    async with resolve(target).maintenance() as connection:
        asked = await connection.fetch(SQL["request_replay"].replace("{schema}", service), ids, tenant)
        wanted = [row["dead_letter_id"] for row in asked]
        if ids and (unknown := sorted(set(ids) - set(wanted))):
            raise CommandError(
                f"{service} has no dead letter to replay with id {', '.join(map(str, unknown))}"
            )
        return await _await_replay(connection, service, wanted, wait)


async def _await_replay(
    connection: asyncpg.Connection, service: ServiceName, wanted: list[int], wait: float
) -> list[asyncpg.Record]:
    deadline = asyncio.get_running_loop().time() + wait
    with Progress(console=words, transient=True, disable=not words.is_terminal) as progress:
        task = progress.add_task(f"{service} applies them", total=len(wanted))
        while True:
            rows = await connection.fetch(SQL["replay_state"].replace("{schema}", service), wanted)
            progress.update(task, completed=sum(row["replay_requested_at"] is None for row in rows))
            done = all(row["replay_requested_at"] is None for row in rows)
            if done or asyncio.get_running_loop().time() > deadline:
                return rows
            await asyncio.sleep(_POLL)


def _outcome(row: asyncpg.Record) -> str:
    """A letter that died again has its request taken back and no replay time (consumer.sql, insert_dead_letter)."""
    if row["replay_requested_at"] is not None:
        return "waits: is the service running?"
    return "applied" if row["replayed_at"] is not None else "dead again"
