"""`turnout inbox replay` and `release` tell how far they are, batch by batch, of a total that is never passed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from turnout_cli import inbox_release, inbox_replay
from turnout_cli.output import Told
from turnout_ingest.release import Outcome

Steps = list[tuple[int, int]]
MEANT = 5
OUTCOME = Outcome(UUID(int=1), "salon", "max", "message", "quarantined", ("published",), None)


class Connection:
    """Of a database with `MEANT` items, one of which came after they were counted, and room in the outbox."""

    def __init__(self) -> None:
        self._batches = iter([3, 3])

    async def fetchval(self, _query: str, *_arguments: Any) -> int:
        return MEANT

    async def fetchrow(self, _query: str, *_arguments: Any) -> dict[str, int | None]:
        items = next(self._batches, 0)
        return {"items": items, "last_seq": items or None}


class Place:
    master_key = None

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[Connection]:
        yield Connection()

    platform = maintenance


class Release:
    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        self._batches = iter([3, 3])

    async def count(self) -> int:
        return MEANT

    async def batch(self) -> list[Outcome]:
        return [OUTCOME] * next(self._batches, 0)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What the bar of either command is told."""
    told: Steps = []

    @contextmanager
    def bar(_of_what: str) -> Iterator[Told]:
        yield lambda done, total: told.append((done, total))

    async def audited(*_arguments: Any) -> None:
        pass

    for command in (inbox_replay, inbox_release):
        monkeypatch.setattr(command, "progress_bar", bar)
        monkeypatch.setattr(command, "resolve", lambda _target: Place())
        monkeypatch.setattr(command, "audit_act", audited)
    monkeypatch.setattr(inbox_release, "Release", Release)
    return told


@pytest.mark.parametrize("command", [inbox_replay, inbox_release])
def test_each_batch_is_told(command: ModuleType, steps: Steps) -> None:
    act = command.replay if command is inbox_replay else command.release

    assert act(every=True) == 0
    assert steps == [(3, 5), (6, 6)]


def test_each_batch_of_a_dry_run_is_told(steps: Steps) -> None:
    assert inbox_release.release(every=True, dry_run=True) == 0
    assert steps == [(3, 5), (6, 6)]
