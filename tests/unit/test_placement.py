"""Promise: under root, the data of Postgres follows its home: deleted with it, moved with it, never another home's."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnout_cli.embedded import placement
from turnout_cli.embedded.placement import NOBODY, data_folder, delete_data_folder, make_data_folder
from turnout_cli.embedded.process import EmbeddedError


@pytest.fixture
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that `nobody` cannot enter, and a shared folder of this test's own."""
    monkeypatch.setattr(placement, "SHARED", tmp_path / "shared")
    home = tmp_path / "private" / "home"
    home.mkdir(parents=True)
    home.parent.chmod(0o700)
    return home


def test_a_normal_user_keeps_the_data_in_the_home(tmp_path: Path) -> None:
    assert data_folder(tmp_path / "postgres", None) == tmp_path / "postgres"


def test_a_private_home_gets_a_link_that_leads_to_the_same_data_each_time(private_home: Path) -> None:
    wanted = private_home / "postgres"
    folder = data_folder(wanted, NOBODY)
    make_data_folder(folder, wanted)

    assert folder.parent == placement.SHARED
    assert data_folder(wanted, NOBODY) == folder


def test_a_deleted_home_never_meets_its_old_data_again(private_home: Path) -> None:
    wanted = private_home / "postgres"
    old = data_folder(wanted, NOBODY)
    make_data_folder(old, wanted)
    wanted.unlink()

    assert data_folder(wanted, NOBODY) != old


def test_a_moved_home_goes_on_with_its_data(private_home: Path) -> None:
    folder = data_folder(private_home / "postgres", NOBODY)
    make_data_folder(folder, private_home / "postgres")
    moved = private_home.rename(private_home.with_name("moved"))

    assert data_folder(moved / "postgres", NOBODY) == folder


def test_an_empty_folder_gives_way_to_the_link(private_home: Path) -> None:
    wanted = private_home / "postgres"
    wanted.mkdir()
    folder = data_folder(wanted, NOBODY)
    make_data_folder(folder, wanted)

    assert wanted.resolve() == folder


def test_data_in_a_home_that_was_closed_later_is_not_silently_left_behind(private_home: Path) -> None:
    (private_home / "postgres/data").mkdir(parents=True)

    with pytest.raises(EmbeddedError, match="cannot enter"):
        data_folder(private_home / "postgres", NOBODY)


def test_deleting_takes_data_and_link(private_home: Path) -> None:
    wanted = private_home / "postgres"
    folder = data_folder(wanted, NOBODY)
    make_data_folder(folder, wanted)

    delete_data_folder(folder, wanted)

    assert not folder.exists()
    assert not wanted.is_symlink()
