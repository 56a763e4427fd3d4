"""`turnout secrets`: the passwords and the master key of the compose stack, in a private file that is not committed.

`docker compose` reads `.env` by itself; docker-compose.yml names each value as `${NAME:?run ./turnout secrets first}`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from secrets import token_bytes, token_hex

from rich.console import Console

from turnout_cli.errors import CommandError
from turnout_cli.state import DATABASE_ROLES, project_root, write_private
from turnout_common.security import SecretError, read_master_key

ENV_FILE = ".env"
MASTER_KEY = "TURNOUT_MASTER_KEY"
ADMIN_PASSWORD = "TURNOUT_ADMIN_PASSWORD"

_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")
_HEAD = """\
# Secrets of this installation, made by `./turnout secrets`; docker compose reads this file.
# Keep a copy of TURNOUT_MASTER_KEY apart from the database's backups: without it no contact data opens.
"""
_words = Console(stderr=True, highlight=False, soft_wrap=True)


def password_variable(role: str) -> str:
    """TURNOUT_PASSWORD_INGEST for `turnout_ingest`."""
    return f"TURNOUT_PASSWORD_{role.removeprefix('turnout_').upper()}"


def secrets() -> int:
    """Write what is missing of the compose stack's passwords and master key to `.env`; known values stay."""
    path = project_root() / ENV_FILE
    added = add_missing(path)
    if added:
        _words.print(f"✓ {len(added)} values written to {path}: {', '.join(added)}")
    else:
        _words.print(f"✓ {path} has all values")
    try:
        read_master_key(read_env(path)[MASTER_KEY], None)
    except SecretError as error:
        raise CommandError(f"{MASTER_KEY} in {path} is of no use: {error}") from error
    return 0


def add_missing(path: Path) -> list[str]:
    """Adds the secrets that `path` lacks or leaves empty, makes it private, and gives their names."""
    text = _read(path)
    known = parse(text)
    fresh = {name: make() for name, make in _wanted().items() if not known.get(name)}
    if fresh:
        # An empty assignment (a copied .env.example) goes: the value stands once.
        kept = [line for line in text.splitlines() if not _assigns(line, fresh)] or _HEAD.splitlines()
        lines = [*kept, *(f"{name}={value}" for name, value in fresh.items())]
        write_private(path, "\n".join(lines) + "\n")
    else:
        path.chmod(0o600)
    return list(fresh)


def read_env(path: Path) -> dict[str, str]:
    """The assignments of an env file; empty when there is none."""
    return parse(_read(path))


def parse(text: str) -> dict[str, str]:
    """NAME=VALUE lines as compose reads them, without its interpolation; the last one of a name wins."""
    found = (_ASSIGNMENT.match(line) for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {match[1]: _unquoted(match[2]) for match in found if match}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{path} is damaged: it is no text any more; put a copy of it back. Without its {MASTER_KEY} the data "
            "of compose does not open; where there is none yet, delete it and run ./turnout secrets"
        ) from error
    except OSError as error:
        raise CommandError(
            f"{path} cannot be read ({error.strerror}); run as the user that owns it"
        ) from error


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.sub(r"\s+#.*$", "", value)


def _assigns(line: str, names: dict[str, str]) -> bool:
    match = _ASSIGNMENT.match(line)
    return match is not None and match[1] in names


def _wanted() -> dict[str, Callable[[], str]]:
    roles = (password_variable(role) for role in DATABASE_ROLES)
    return dict.fromkeys((ADMIN_PASSWORD, *roles), _password) | {MASTER_KEY: _master_key}


def _password() -> str:
    return token_hex(24)  # hex needs no quoting in an env file and no escaping in a DSN


def _master_key() -> str:
    return base64.b64encode(token_bytes(32)).decode()
