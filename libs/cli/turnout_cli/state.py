"""What `turnout up` remembers between runs: folders, ports, passwords, keys, and who is running now.

One process at a time owns a home: it holds the lock and is the only writer of state.json.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import psutil

from turnout_cli.errors import CommandError

if sys.platform != "win32":
    import fcntl

Phase = Literal["starting", "ready", "stopping", "stopped"]

DATABASE_ROLES = (
    "turnout_ingest",
    "turnout_booking",
    "turnout_sender",
    "turnout_rollup",
    "turnout_kpi",
    "turnout_platform",
    "turnout_maintenance",
)


class StateError(CommandError):
    """The state folder cannot be used; the text says what to do."""


class AlreadyRunning(RuntimeError):
    """Another `turnout up` owns this state folder."""


@dataclass(frozen=True)
class ProcessMark:
    """A process that can be recognised again: a pid alone may mean another process tomorrow."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def find(self) -> psutil.Process | None:
        """The living process, or None when it ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 2  # the boot time that it rests on is rounded
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


@dataclass
class ProcessRecord:
    """One supervised process, as `status` shows it."""

    state: str
    restarts: int = 0
    mark: ProcessMark | None = None


@dataclass
class State:
    """state.json."""

    ports: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    supervisor: ProcessMark | None = None
    phase: Phase = "stopped"
    processes: dict[str, ProcessRecord] = field(default_factory=dict)
    folder: str | None = None
    """The folder that this was written in, as the file system knows it: moving it changes nothing, copying does."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> State:
        values = json.loads(text)
        records = values.pop("processes", {})
        supervisor = values.pop("supervisor", None)
        return cls(
            **values,
            supervisor=_mark(supervisor),
            processes={
                name: ProcessRecord(record["state"], record["restarts"], _mark(record["mark"]))
                for name, record in records.items()
            },
        )

    @property
    def alive(self) -> bool:
        """Whether the supervisor that wrote this is still there."""
        return self.supervisor is not None and self.supervisor.find() is not None


def _mark(value: dict[str, float] | None) -> ProcessMark | None:
    return ProcessMark(int(value["pid"]), value["started"]) if value else None


def project_root() -> Path:
    """The repository that this runs from, or the current folder for an installed package."""
    checkout = Path(__file__).resolve().parents[3]
    return checkout if (checkout / "uv.lock").exists() else Path.cwd()


class Home:
    """The state folder: TURNOUT_HOME, else `.turnout` in the project."""

    def __init__(self, folder: Path | None = None) -> None:
        chosen = folder or Path(os.environ.get("TURNOUT_HOME") or project_root() / ".turnout")
        self.folder = chosen.expanduser().absolute()

    @property
    def state_file(self) -> Path:
        return self.folder / "state.json"

    @property
    def master_key_file(self) -> Path:
        return self.folder / "master.key"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def data(self, name: str) -> Path:
        return self.folder / name

    def create(self) -> None:
        """Make the folder, or say in words why it cannot be."""
        self._require_own()
        try:
            (self.folder / "logs").mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o711)  # under root, Postgres runs as another user and passes through here
            (self.folder / "logs").chmod(0o700)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise StateError(
                f"{self.folder} cannot be written ({error.strerror}); "
                "set TURNOUT_HOME to a folder of yours, or give this one to your user"
            ) from error

    def _require_own(self) -> None:
        """Root could write another user's home, and then neither of the two could use it."""
        if sys.platform == "win32" or not self.state_file.exists():
            return
        owner = self.state_file.stat().st_uid
        if owner != os.geteuid():
            raise StateError(
                f"{self.folder} belongs to another user (id {owner}); run as that user, without sudo, "
                "or set TURNOUT_HOME to a folder of yours"
            )

    def load(self) -> State:
        try:
            return self._ours(State.from_json(self.state_file.read_text()))
        except FileNotFoundError:
            return State()
        except PermissionError as error:
            raise StateError(f"{self.state_file} belongs to another user; run as that user") from error
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"{self.state_file} is not readable ({error}); restore or delete it") from error

    def _ours(self, state: State) -> State:
        """In a copy of a home, the processes are those of the original: not ours to show, and not ours to end."""
        if state.folder in (None, self._identity):
            return state
        return replace(state, supervisor=None, phase="stopped", processes={})

    @property
    def _identity(self) -> str:
        info = self.folder.stat()
        return f"{info.st_dev}:{info.st_ino}"

    def save(self, state: State) -> None:
        """Replace state.json in one step; nobody else may read it."""
        state.folder = self._identity
        write_private(self.state_file, state.to_json())

    def master_key(self) -> str:
        """32 random bytes in base64, made on the first call."""
        if not self.master_key_file.exists():
            write_private(self.master_key_file, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        try:
            return self.master_key_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise StateError(
                f"{self.master_key_file} cannot be read ({error}); put the right one back, or, to begin anew "
                f"without the data, delete {self.folder}"
            ) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Own this home until the block ends; raises AlreadyRunning when another process does."""
        with (self.folder / "lock").open("w") as file:
            if sys.platform != "win32":
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise AlreadyRunning from error
            elif self.load().alive:
                raise AlreadyRunning
            yield


def write_private(path: Path, text: str, *, like: os.stat_result | None = None) -> None:
    """Write a file with mode 600, or of the owner and mode of `like`, so that a reader sees the old or the new text,
    never a part."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            if like is not None:
                _become(descriptor, like)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
        _sync_folder(path.parent)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _become(descriptor: int, like: os.stat_result) -> None:
    if sys.platform == "win32":
        return
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (like.st_uid, like.st_gid):
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, like.st_mode & 0o777)


def _sync_folder(folder: Path) -> None:
    """Without it the new name may be gone after a power cut, when others count on it already."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_passwords(known: dict[str, str]) -> dict[str, str]:
    """A password for every database role; known ones stay."""
    return {role: known.get(role) or secrets.token_urlsafe(24) for role in DATABASE_ROLES}
