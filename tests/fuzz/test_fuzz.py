"""Never an error, never a wrong accept: the corpus is replayed, then each fuzzer runs for a moment.

`just nightly` runs each for ten minutes; what it finds goes into the corpus.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.corpus import kept, seeds
from tests.fuzz.targets import TARGETS
from turnout_ingest.providers import PROVIDERS

ROOT = Path(__file__).parents[2]
SECONDS = 1
CASES = [(target, channel) for target in TARGETS for channel in sorted(PROVIDERS)]
GUIDED = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.mark.parametrize(("target", "channel"), CASES)
def test_corpus_of_earlier_findings_still_holds(target: str, channel: str) -> None:
    inputs = kept(target, channel) + seeds(target, channel)

    assert len(inputs) > len(seeds(target, channel)), "no corpus: run the fuzzer, then tests.fuzz.corpus"
    for data in inputs:
        TARGETS[target](channel, data)


@pytest.mark.slow
@pytest.mark.skipif(not GUIDED, reason="atheris has wheels for Linux on x86_64 only")
@pytest.mark.parametrize(("target", "channel"), CASES)
def test_fuzzer_finds_nothing(target: str, channel: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        target,
        channel,
        str(tmp_path / "corpus"),
        str(SECONDS),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "stat::number_of_executed_units" in done.stderr + done.stdout, "the fuzzer did not run"
