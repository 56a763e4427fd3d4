"""Fetches the uv program from PyPI where Python came without pip and venv (Debian). Standard library only.

Run by the script `turnout`: python3 fetch_uv.py FOLDER → FOLDER/bin/uv, checked against PyPI's sha256.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import urllib.request
import zipfile
from pathlib import Path

INDEX = "https://pypi.org/pypi/uv/json"


def wheel_suffix(system: str, machine: str, libc: str) -> str:
    """How the file name of this platform's wheel ends."""
    arm = machine.lower() in ("aarch64", "arm64")
    if system == "Darwin":
        return "arm64.whl" if arm else "x86_64.whl"
    if system == "Linux" and (arm or machine == "x86_64"):
        return "aarch64.whl" if arm else "x86_64.whl"
    raise SystemExit(f"no way to fetch uv for {system} on {machine} ({libc or 'unknown libc'})")


def choose(urls: list[dict[str, object]], system: str, machine: str, libc: str) -> dict[str, object]:
    """The entry of PyPI's file list that fits this platform."""
    family = "macosx" if system == "Darwin" else "manylinux" if libc == "glibc" else "musllinux"
    suffix = wheel_suffix(system, machine, libc)
    for entry in urls:
        name = str(entry["filename"])
        if family in name and name.endswith(suffix):
            return entry
    raise SystemExit(f"PyPI has no uv for {system} on {machine}")


def main(folder: Path) -> None:
    with urllib.request.urlopen(INDEX, timeout=60) as answer:
        urls = json.load(answer)["urls"]
    entry = choose(urls, platform.system(), platform.machine(), platform.libc_ver()[0])
    with urllib.request.urlopen(str(entry["url"]), timeout=300) as answer:
        content = answer.read()
    digests = entry["digests"]
    if not isinstance(digests, dict) or hashlib.sha256(content).hexdigest() != digests["sha256"]:
        raise SystemExit(f"{entry['filename']} arrived damaged; try again")
    program = folder / "bin" / "uv"
    program.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        inside = next(name for name in wheel.namelist() if name.endswith("/scripts/uv"))
        program.write_bytes(wheel.read(inside))
    program.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
