"""The guide to a new provider works as printed: its blocks are applied to a copy of the code, and its test runs there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from turnout_ingest.providers import PROVIDERS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs/add-a-provider.md"
COPIED = ("libs/common", "libs/cli", "services/ingest", "tests/fixtures", "tests/fuzz")
TESTS = (
    "tests/__init__.py",
    "tests/webhook_fixtures.py",
    "tests/unit/__init__.py",
    "justfile",
    "pyproject.toml",
)
BLOCK = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str, str]]:
    """Language, path and text of each block that belongs to a file."""
    return BLOCK.findall(GUIDE.read_text())


def changed(text: str, diff: str, path: str) -> str:
    """`text` with one hunk applied; what it takes away or goes by must be there once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"{path} has it {text.count(before)} times:\n{before}"
    return text.replace(before, after)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code that the guide touches, with the guide followed."""
    tmp_path = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for file in TESTS:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    for language, path, text in blocks():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(changed(target.read_text(), text, path) if language == "diff" else text)
    return tmp_path


def run(folder: Path, *arguments: str, program: str = sys.executable, **variables: str) -> str:
    sources = [str(folder), *(str(folder / each) for each in COPIED[:3])]
    environment = (
        os.environ | {"PYTHONPATH": os.pathsep.join(sources), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    )
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_example_passes_its_own_test(copy: Path) -> None:
    told = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_ingest_beacon.py")

    assert re.search(r"[1-9]\d+ passed", told)
    assert "skipped" not in told


def test_example_needs_no_corpus(copy: Path) -> None:
    told = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/fuzz", "-k", "beacon and corpus")

    assert re.search(r"\b2 passed", told)
    assert not list(copy.glob("tests/fuzz/corpus/*beacon*"))


def test_example_is_fuzzed_by_night(copy: Path, tmp_path: Path) -> None:
    """The recipe itself, with a `uv` that notes what it was to run."""
    recipes = (copy / "justfile").read_text()
    recipe = re.search(r"^fuzz seconds=.*\n((?:    .*\n)+)", recipes, re.MULTILINE)
    assert recipe is not None
    script = re.sub(r"\{\{ \w+ \}\}", "1", textwrap.dedent(recipe[1]))
    noted = tmp_path / "noted"
    _program(tmp_path / "bin/uv", f"""
        while [ "$1" != python ]; do shift; done
        shift
        if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi
        echo "$3 $4" >> {noted}
    """)  # fmt: skip
    _program(copy / "turnout", "exit 0")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    run(copy, "-c", script, program="bash", PATH=path, TURNOUT_FUZZ_CORPUS=str(tmp_path / "work"))

    expected = {f"{target} {channel}" for target in TARGETS for channel in ("beacon", *PROVIDERS)}
    assert sorted(noted.read_text().splitlines()) == sorted(expected)


def _program(file: Path, shell: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("#!/bin/sh\n" + textwrap.dedent(shell))
    file.chmod(0o755)


def test_example_is_signed_as_it_is_verified_by_all_who_know_how(copy: Path) -> None:
    program = """
from datetime import UTC, datetime
from turnout_cli.webhooks import Webhook, signed_headers
from turnout_ingest.providers import PROVIDERS
headers = signed_headers(Webhook("beacon", b"{}"), "s", 0)
raw = {name.lower().encode(): value.encode() for name, value in headers.items()}
assert PROVIDERS["beacon"].verify(raw, b"{}", (b"s",), datetime.now(UTC))
import turnout_cli.tenant_channels, typing
assert "beacon" in typing.get_args(turnout_cli.tenant_channels.ChannelName)
"""
    run(copy, "-c", program)


def test_example_is_clean_by_the_house_rules(copy: Path) -> None:
    files = [path for language, path, _ in blocks() if language == "python"]

    run(copy, "-m", "ruff", "check", "--no-cache", *files)
    run(copy, "-m", "ruff", "format", "--check", "--no-cache", *files)


def test_every_attribute_of_a_provider_is_explained() -> None:
    base = (ROOT / "services/ingest/turnout_ingest/providers/provider.py").read_text()
    body = base[base.index("class Provider(ABC)") : base.index("def hash16")]
    names = set(re.findall(r"^    (?:def )?([a-z]\w*)(?::|\()", body, re.MULTILINE))
    item = base[base.index("class Item:") : base.index("class Provider(ABC)")]
    fields = set(re.findall(r"^    ([a-z]\w*):", item, re.MULTILINE)) - {"item_id", "event"}
    explained = set(re.findall(r"`(\w+)", "".join(line for line in GUIDE.read_text().splitlines() if line.startswith("| `"))))  # fmt: skip

    assert names and fields
    assert names | fields <= explained
