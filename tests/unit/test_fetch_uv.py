"""The right uv for each platform, and never a damaged one."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

FILES = [
    {"filename": f"uv-0.13.9-py3-none-{tag}.whl"}
    for tag in (
        "macosx_10_12_x86_64",
        "macosx_11_0_arm64",
        "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
        "manylinux_2_17_i686.manylinux2014_i686",
        "manylinux_2_17_x86_64.manylinux2014_x86_64",
        "musllinux_1_1_x86_64",
        "win_amd64",
    )
]


@pytest.fixture(scope="module")
def fetch_uv() -> ModuleType:
    path = Path(__file__).parents[2] / "libs/cli/fetch_uv.py"
    spec = importlib.util.spec_from_file_location("fetch_uv", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("system", "machine", "libc", "tag"),
    [
        ("Linux", "x86_64", "glibc", "manylinux_2_17_x86_64"),
        ("Linux", "aarch64", "glibc", "manylinux_2_17_aarch64"),
        ("Linux", "x86_64", "", "musllinux_1_1_x86_64"),
        ("Darwin", "arm64", "", "macosx_11_0_arm64"),
        ("Darwin", "x86_64", "", "macosx_10_12_x86_64"),
    ],
)
def test_the_wheel_fits_the_platform(
    fetch_uv: ModuleType, system: str, machine: str, libc: str, tag: str
) -> None:
    assert tag in fetch_uv.choose(FILES, system, machine, libc)["filename"]


def test_an_unknown_platform_is_explained(fetch_uv: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no way to fetch uv for Linux on riscv64"):
        fetch_uv.choose(FILES, "Linux", "riscv64", "glibc")


def publish(folder: Path, digest: str | None = None) -> str:
    """An index of our own with one wheel for every platform; returns its address."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        wheel.writestr("uv-1.data/scripts/uv", "#!/bin/sh\necho uv 1.0\n")
    urls = []
    for entry in FILES:
        (folder / entry["filename"]).write_bytes(content.getvalue())
        sha256 = digest or hashlib.sha256(content.getvalue()).hexdigest()
        urls.append(entry | {"url": (folder / entry["filename"]).as_uri(), "digests": {"sha256": sha256}})
    (folder / "index.json").write_text(json.dumps({"urls": urls}))
    return (folder / "index.json").as_uri()


def test_uv_is_fetched_and_runnable(
    fetch_uv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_uv, "INDEX", publish(tmp_path))

    fetch_uv.main(tmp_path / "own")

    assert os.access(tmp_path / "own/bin/uv", os.X_OK)


def test_a_damaged_download_is_refused(
    fetch_uv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_uv, "INDEX", publish(tmp_path, digest="0" * 64))

    with pytest.raises(SystemExit, match="arrived damaged"):
        fetch_uv.main(tmp_path / "own")

    assert not (tmp_path / "own").exists()
