"""What `turnout status` and the live table of `up` tell a person."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from turnout_cli.state import ProcessRecord, State
from turnout_cli.status import WIDE, Figures, table

STATE = State(ports={"ingest": 8600}, phase="ready", processes={"ingest": ProcessRecord("ready")})


def shown(figures: Figures) -> str:
    console = Console(file=io.StringIO(), width=WIDE)
    console.print(table(STATE, {"ingest": figures}, width=WIDE))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("silent", "said"), [(1, "1 channel is silent"), (12, "12 channels are silent")])
def test_silent_channels_are_told_of_with_the_command_that_names_them(silent: int, said: str) -> None:
    text = shown(Figures.of({"accepted": 7, "silent_channels": silent}))

    assert f"! {said} that used to speak: ./turnout inbox channels --silent" in text


@pytest.mark.parametrize("answer", [{"silent_channels": 0}, {}])
def test_nothing_is_said_of_silence_where_there_is_none(answer: dict[str, int]) -> None:
    assert "silent" not in shown(Figures.of(answer))
