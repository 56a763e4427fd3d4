"""Logging: one line per request or batch, JSON for machines and colours for people, never a body.

Our own lines always pass; a library that says the same again and again is heard once in a while.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from time import monotonic

import structlog

REPEAT_SECONDS = 10.0
#: Lines remembered, far more than libraries repeat at once; over it the memory starts anew.
REMEMBERED_LINES = 500


class RepeatedLines(logging.Filter):
    """Lets a library's line pass once in REPEAT_SECONDS, and then with `left_out`, how often it came in between.

    Only the same words from the same logger are a repetition: a line that says anything else passes.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            line = (record.name, record.levelno, record.getMessage())
        except (TypeError, ValueError):
            return True  # the handler says what is wrong with it
        now = self._clock()
        passed_at, left_out = self._seen.get(line, (float("-inf"), 0))
        if now - passed_at < REPEAT_SECONDS:
            self._seen[line] = (passed_at, left_out + 1)
            return False
        if line not in self._seen and len(self._seen) >= REMEMBERED_LINES:
            self._seen.clear()
        self._seen[line] = (now, 0)
        if left_out:
            record.left_out = left_out
        return True


def configure_logging(service: str, level: str, log_format: str) -> None:
    """Routes structlog and the standard library's logging to stderr in one format."""
    structlog.contextvars.bind_contextvars(service=service)
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatedLines())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=["left_out"]), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
