"""The right uv for each platform, and never a damaged one."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILES: list[dict[str, Any]] = [
    {"filename": f"uv-{version}-py3-none-{tag}.whl", "yanked": version == "0.14.0"}
    for version in ("0.9.30", "0.13.9", "0.14.0", "0.2.1")
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
        ("Linux", "aarch64", "", "manylinux_2_17_aarch64"),
        ("Darwin", "arm64", "", "macosx_11_0_arm64"),
        ("Darwin", "x86_64", "", "macosx_10_12_x86_64"),
    ],
)
def test_the_newest_wheel_that_fits_the_platform_is_chosen(
    fetch_uv: ModuleType, system: str, machine: str, libc: str, tag: str
) -> None:
    chosen = fetch_uv.choose(FILES, system, machine, libc)["filename"]

    assert chosen.startswith(f"uv-0.13.9-py3-none-{tag}")


def test_an_unknown_platform_is_explained(fetch_uv: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no way to fetch uv for Linux on riscv64"):
        fetch_uv.choose(FILES, "Linux", "riscv64", "glibc")


class Index(SimpleHTTPRequestHandler):
    """Serves the wheel, and the page `uv/` as PyPI does, with an address relative to the page."""

    wheel = b""
    digest = ""

    def do_GET(self) -> None:
        files = [entry | {"url": "../files/uv.whl", "hashes": {"sha256": self.digest}} for entry in FILES]
        body = self.wheel if self.path == "/files/uv.whl" else json.dumps({"files": files}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        wheel.writestr("uv-1.data/scripts/uv", "#!/bin/sh\necho uv 1.0\n")
    Index.wheel = content.getvalue()
    Index.digest = hashlib.sha256(Index.wheel).hexdigest()
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_uv_is_fetched_and_runnable(fetch_uv: ModuleType, index: str, tmp_path: Path) -> None:
    fetch_uv.main(tmp_path / "own", index)

    assert os.access(tmp_path / "own/bin/uv", os.X_OK)


def test_a_damaged_download_is_refused(fetch_uv: ModuleType, index: str, tmp_path: Path) -> None:
    Index.digest = "0" * 64

    with pytest.raises(SystemExit, match="arrived damaged"):
        fetch_uv.main(tmp_path / "own", index)

    assert not (tmp_path / "own").exists()
