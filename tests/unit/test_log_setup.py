"""A library that says the same ten thousand times is heard, and does not fill the disk."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from turnout_common.log_setup import REMEMBERED_LINES, REPEAT_SECONDS, RepeatedLines


class HandClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def lines(clock: HandClock) -> RepeatedLines:
    return RepeatedLines(clock)


def line(message: str, *args: object, name: str = "aiokafka") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "file", 1, message, args, None)


def test_repeated_line_passes_once_in_a_while_with_the_count_of_those_left_out(
    lines: RepeatedLines, clock: HandClock
) -> None:
    assert lines.filter(line("Unable connect to node %s", 1))
    assert not any(lines.filter(line("Unable connect to node %s", 1)) for _ in range(9_999))

    clock.now = REPEAT_SECONDS
    again = line("Unable connect to node %s", 1)
    assert lines.filter(again)
    assert again.__dict__["left_out"] == 9_999


def test_line_with_other_words_or_of_another_logger_passes(lines: RepeatedLines) -> None:
    assert lines.filter(line("Unable connect to node %s", 1))
    assert lines.filter(line("Unable connect to node %s", 2))
    assert lines.filter(line("Unable connect to node %s", 1, name="other"))


def test_line_whose_arguments_do_not_fit_is_left_to_the_handler(lines: RepeatedLines) -> None:
    assert lines.filter(line("%d", "no number"))
    assert lines.filter(line("%d", "no number"))


def test_memory_of_lines_is_bounded(lines: RepeatedLines) -> None:
    assert all(lines.filter(line("offset %s", number)) for number in range(3 * REMEMBERED_LINES))
    assert len(lines._seen) <= REMEMBERED_LINES


#: In a process of its own, since it takes the log over.
SERVICE = """
import logging
from turnout_common import log_setup

log_setup.configure_logging("test", "INFO", "json")
for _ in range(100):
    logging.getLogger("aiokafka").error("Unable connect")
log_setup.REPEAT_SECONDS = 0.0
logging.getLogger("aiokafka").error("Unable connect")
"""


def test_service_leaves_repetitions_out_of_its_log_and_says_how_many() -> None:
    ran = subprocess.run([sys.executable, "-c", SERVICE], capture_output=True, text=True, check=True)

    written = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [(line["event"], line.get("left_out")) for line in written] == [
        ("Unable connect", None),
        ("Unable connect", 99),
    ]
