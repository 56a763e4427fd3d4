"""Fetches the uv program from PyPI where Python came without pip and venv (Debian). Standard library only.

Run by the script `turnout`: python3 fetch_uv.py FOLDER → FOLDER/bin/uv, checked against the index's sha256.
PIP_INDEX_URL names a mirror.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

_JSON = "application/vnd.pypi.simple.v1+json"  # PEP 691
_NAME = re.compile(r"uv-(\d+)\.(\d+)\.(\d+)-py3-none-(.+)\.whl")


def platform_tag(system: str, machine: str, libc: str) -> re.Pattern[str]:
    """What the platform part of a fitting wheel's name looks like."""
    arm = machine.lower() in ("aarch64", "arm64")
    if system == "Darwin":
        return re.compile("macosx_.*_arm64" if arm else "macosx_.*_x86_64")
    if system == "Linux" and (arm or machine == "x86_64"):
        family = "manylinux" if libc == "glibc" else "musllinux"
        return re.compile(rf"(^|\.){family}[^.]*_{'aarch64' if arm else 'x86_64'}(\.|$)")
    raise SystemExit(f"no way to fetch uv for {system} on {machine}")


def choose(files: list[dict[str, Any]], system: str, machine: str, libc: str) -> dict[str, Any]:
    """The newest wheel of the index that fits this platform."""
    tag = platform_tag(system, machine, libc)
    fitting = [
        (tuple(int(part) for part in found.groups()[:3]), file)
        for file in files
        if not file.get("yanked") and (found := _NAME.fullmatch(file["filename"])) and tag.search(found[4])
    ]
    if not fitting:
        raise SystemExit(f"the index has no uv for {system} on {machine}")
    return max(fitting, key=lambda candidate: candidate[0])[1]


def main(folder: Path, index: str) -> None:
    page = f"{index.rstrip('/')}/uv/"
    with urllib.request.urlopen(
        urllib.request.Request(page, headers={"Accept": _JSON}), timeout=60
    ) as answer:
        files = json.load(answer)["files"]
    wheel = choose(files, platform.system(), platform.machine(), platform.libc_ver()[0])
    with urllib.request.urlopen(urljoin(page, wheel["url"]), timeout=300) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != wheel["hashes"].get("sha256"):
        raise SystemExit(f"{wheel['filename']} arrived damaged; try again")
    program = folder / "bin" / "uv"
    program.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inside = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        program.write_bytes(archive.read(inside))
    program.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple")
