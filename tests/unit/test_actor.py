"""The audit log names a person."""

from __future__ import annotations

import getpass
import os

import pytest

from turnout_cli.actor import who


def test_actor_is_the_user_who_called_sudo_else_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "olga")
    assert who() == "cli:olga"

    monkeypatch.setenv("SUDO_USER", "ivan")
    assert who() == "cli:ivan"


def test_actor_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", nameless)
    assert who() == f"cli:{os.getuid()}"
