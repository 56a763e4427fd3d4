"""Where the master key stands, and how it is replaced there: a file of its own, a line of `.env`, or the environment.

Promise: a replaced key is on the disk, name and all, before `write` returns: the database may be committed to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from turnout_cli.errors import CommandError
from turnout_cli.secrets_command import MASTER_KEY, read_env
from turnout_cli.state import write_private
from turnout_common.security import MasterKeys, SecretError, master_key_text, read_master_key


@dataclass(frozen=True)
class KeyFile:
    """A file with a key a line. Services read it again when a data key does not open."""

    path: Path
    services_read_again = True

    def read(self) -> MasterKeys:
        """Raises CommandError."""
        try:
            return read_master_key(None, self.path)
        except (SecretError, ValueError, OSError) as error:
            raise CommandError(f"{self.path} holds no master key: {error}") from error

    def write(self, keys: MasterKeys) -> None:
        """Replaces it in one step. Raises CommandError."""
        _write(self.path, master_key_text(keys, "\n") + "\n")
        if self.read() != keys:
            raise CommandError(f"{self.path} was changed by another while it was written; run this again")

    def keep(self, old: MasterKeys, now: datetime) -> Path:
        """Puts keys aside that backups made until now need; where."""
        aside = self.path.with_name(f"{self.path.name}.old-{now:%Y%m%dT%H%M%SZ}")
        _write(aside, master_key_text(old, "\n") + "\n")
        return aside


@dataclass(frozen=True)
class EnvFile:
    """A line of compose's `.env`. Services hold what it held when their containers were made."""

    path: Path
    services_read_again = False

    def read(self) -> MasterKeys:
        """Raises CommandError."""
        try:
            return read_master_key(read_env(self.path).get(MASTER_KEY), None)
        except SecretError as error:
            raise CommandError(f"{MASTER_KEY} in {self.path} is of no use: {error}") from error

    def write(self, keys: MasterKeys) -> None:
        """Replaces the line and leaves the others. Raises CommandError."""
        mine = re.compile(rf"\s*(?:export\s+)?{MASTER_KEY}\s*=")
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if not mine.match(line)]
        _write(self.path, "\n".join([*kept, f"{MASTER_KEY}={master_key_text(keys)}"]) + "\n")
        if self.read() != keys:
            raise CommandError(f"{self.path} was changed by another while it was written; run this again")

    def keep(self, old: MasterKeys, now: datetime) -> Path:
        """As of KeyFile; beside `.env`, under a name that its ignore rule covers too."""
        aside = self.path.with_name(f"{self.path.name}.master-key.old-{now:%Y%m%dT%H%M%SZ}")
        _write(aside, master_key_text(old, "\n") + "\n")
        return aside


def _write(path: Path, text: str) -> None:
    """Whoever could read the file before can after: a service runs as another user than the operator."""
    try:
        write_private(path, text, like=path.stat() if path.exists() else None)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be replaced ({error.strerror}); where it is mounted read-only, use `turnout master-key "
            "rotate --from-env` and follow its steps"
        ) from error
