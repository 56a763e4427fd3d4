"""Promise: a closed terminal ends a run in order, and nohup keeps it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from turnout_cli.supervisor import stop_signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_stops_the_run() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    assert set(stop_signals()) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def test_nohup_keeps_the_run() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    assert signal.SIGHUP not in stop_signals()
