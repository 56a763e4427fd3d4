"""What `turnout up` remembers: complete, private, and owned by one process at a time."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from turnout_cli.state import (
    DATABASE_ROLES,
    AlreadyRunning,
    Home,
    ProcessMark,
    ProcessRecord,
    State,
    StateError,
    new_passwords,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    created = Home(tmp_path / "home")
    created.create()
    return created


def test_what_is_saved_is_loaded_again(home: Home) -> None:
    state = State(
        ports={"kafka": 9092},
        passwords={"turnout_ingest": "secret"},
        token="tt_1",
        supervisor=ProcessMark(7, 1.5),
        phase="ready",
        processes={
            "kafka": ProcessRecord("ready", 2, ProcessMark(8, 2.5)),
            "ingest": ProcessRecord("stopped"),
        },
    )

    home.save(state)

    assert home.load() == state


def test_a_copy_of_a_running_home_does_not_own_the_processes_of_the_original(home: Home) -> None:
    home.save(
        State(
            ports={"kafka": 9092},
            supervisor=ProcessMark.of(os.getpid()),
            phase="ready",
            processes={"ingest": ProcessRecord("ready", 0, ProcessMark.of(os.getpid()))},
        )
    )
    assert home.load().alive
    copy = Home(home.folder.with_name("copy"))
    shutil.copytree(home.folder, copy.folder)

    copied = copy.load()

    assert (copied.alive, copied.phase, copied.processes) == (False, "stopped", {})
    assert copied.ports == {"kafka": 9092}


def test_a_moved_home_is_the_same_home(home: Home) -> None:
    home.save(State(supervisor=ProcessMark.of(os.getpid()), phase="ready"))

    moved = Home(home.folder.rename(home.folder.with_name("moved")))

    assert moved.load().alive


def test_a_home_without_a_state_file_is_a_new_home(home: Home) -> None:
    assert home.load() == State()


def test_secrets_are_readable_by_their_owner_only(home: Home) -> None:
    home.save(State())
    home.master_key()

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home.state_file, home.master_key_file)}

    assert modes == {"state.json": 0o600, "master.key": 0o600}
    assert stat.S_IMODE(home.log("up").parent.stat().st_mode) == 0o700


def test_the_master_key_is_made_once(home: Home) -> None:
    first = home.master_key()

    assert home.master_key() == first
    assert len(first) == 44  # 32 bytes in base64


def test_a_second_owner_is_refused_while_the_first_one_runs(home: Home) -> None:
    with home.lock(), pytest.raises(AlreadyRunning), home.lock():
        pass

    with home.lock():
        pass  # free again


def test_a_recycled_pid_is_not_taken_for_our_process() -> None:
    mark = ProcessMark.of(os.getpid())
    assert mark is not None

    assert mark.find() is not None
    assert ProcessMark(mark.pid, mark.started - 3600).find() is None


def test_a_state_whose_supervisor_died_is_not_alive() -> None:
    assert not State(supervisor=ProcessMark(os.getpid(), 0.0), phase="ready").alive
    assert State(supervisor=ProcessMark.of(os.getpid())).alive


def test_known_passwords_stay_and_every_role_has_one() -> None:
    passwords = new_passwords({"turnout_ingest": "kept"})

    assert passwords["turnout_ingest"] == "kept"
    assert set(passwords) == set(DATABASE_ROLES)
    assert len(set(passwords.values())) == len(DATABASE_ROLES)


def test_a_damaged_state_file_is_explained(home: Home) -> None:
    home.state_file.write_text("{not json")

    with pytest.raises(StateError, match="restore or delete it"):
        home.load()


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StateError, match="TURNOUT_HOME"):
        Home(tmp_path / "file" / "home").create()


def test_the_environment_chooses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path / "elsewhere"))

    assert Home().folder == tmp_path / "elsewhere"


def test_a_damaged_master_key_is_told_with_its_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.master_key_file.write_bytes(b"\xff\x00")

    with pytest.raises(StateError, match=r"master\.key cannot be read"):
        home.master_key()


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="root alone may write another user's home"
)
def test_root_leaves_another_users_home_alone(home: Home) -> None:
    home.save(State())
    os.chown(home.state_file, 4242, 4242)

    with pytest.raises(StateError, match="belongs to another user"):
        home.create()
