"""Who gives a command, for the audit log."""

from __future__ import annotations

import getpass
import os


def who() -> str:
    """`cli:` and the name of the user of the machine, of the one who called sudo if it was called."""
    try:
        return f"cli:{os.environ.get('SUDO_USER') or getpass.getuser()}"
    except (OSError, KeyError):  # a user without an entry in passwd, as containers have
        return f"cli:{os.getuid()}"
