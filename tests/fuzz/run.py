"""One fuzzer, guided by the coverage of turnout_ingest: `python -m tests.fuzz.run TARGET CHANNEL FOLDER SECONDS`.

FOLDER holds the working corpus. Ends with status 0 when nothing failed; else libFuzzer names the file with the input.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["turnout_ingest", "turnout_common.events"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.corpus import unpack

SLOWEST_SECONDS = 10
LONGEST_INPUT = 20_000


def main(target: str, channel: str, folder: str, seconds: str) -> None:
    unpack(target, channel, Path(folder))
    run = TARGETS[target]
    options = [
        "fuzz", folder, f"-max_total_time={seconds}", f"-timeout={SLOWEST_SECONDS}", f"-max_len={LONGEST_INPUT}",
        f"-artifact_prefix={folder}.failed-", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup(options, lambda data: run(channel, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
