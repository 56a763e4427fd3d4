"""The base of errors that a command explains in words instead of a traceback."""

from __future__ import annotations


class CommandError(RuntimeError):
    """Ends the command with status 1; the text says what is wrong and what to do."""
