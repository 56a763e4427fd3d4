"""A small filesystem without a mark on the machine: a tmpfs in the mount namespace of a process of its own.

It is reached through that process's root, so it needs no root (an unprivileged user namespace does) and is gone with the
process, however the test ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnout_cli.embedded.postgres import EmbeddedPostgres

_MOUNT = 'mount -t tmpfs -o size=%d,mode=0700 none "$0" && echo ready && exec sleep infinity'
_POINT = "/mnt"


@dataclass(frozen=True)
class SmallDisk:
    """A filesystem at `path` that belongs to `account` (None: to us); others, even root, may not make files there."""

    path: Path
    account: int | None

    async def fill(self) -> None:
        """Leaves no page free."""
        process = await _spawn(
            self.account, "sh", "-c", 'exec cat /dev/zero >"$0"', str(self.path / "ballast")
        )
        said = await process.communicate()
        assert process.returncode != 0 and b"No space left" in said[0], said

    async def free(self) -> None:
        await self._run("rm", "-f", str(self.path / "ballast"))

    async def take(self, source: Path, name: str) -> Path:
        """Moves a folder here, leaves a link to it at its old place, and gives its new one."""
        target = self.path / name
        await self._run("cp", "-a", str(source), str(target))
        await self._run("mv", str(source), str(source.with_name(f"{source.name}.away")))
        await self._run("ln", "-s", str(target), str(source))
        return target

    async def give_back(self, source: Path, name: str) -> None:
        await self._run("rm", "-rf", str(source), str(source.with_name(f"{source.name}.away")))
        await self._run("cp", "-a", str(self.path / name), str(source))

    async def _run(self, *argv: str) -> None:
        process = await _spawn(self.account, *argv)
        said, _ = await process.communicate()
        assert process.returncode == 0, f"{argv}: {said.decode()}"


@contextlib.asynccontextmanager
async def small_disk(size: int, account: int | None) -> AsyncIterator[SmallDisk]:
    """A filesystem of `size` bytes."""
    holder = await _spawn(
        account, "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT % size, _POINT
    )
    assert holder.stdout is not None
    try:
        said = await holder.stdout.readline()
        assert said == b"ready\n", f"no small filesystem (user namespaces are needed): {said.decode()}"
        yield SmallDisk(Path(f"/proc/{holder.pid}/root{_POINT}"), account)
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.kill()
        await holder.communicate()


@contextlib.asynccontextmanager
async def on_small_disk(postgres: EmbeddedPostgres, spare: int) -> AsyncIterator[SmallDisk]:
    """A running server's data on a filesystem with `spare` bytes to spare; put back at the end."""
    data = postgres._data
    await postgres.stop()
    async with small_disk(_bytes(data) + spare, postgres._account) as disk:
        await disk.take(data, "data")
        try:
            await postgres.start()
            yield disk
        finally:
            await disk.free()
            await postgres.stop()
            await disk.give_back(data, "data")
    await postgres.start()


async def _spawn(account: int | None, *argv: str) -> asyncio.subprocess.Process:
    options: dict[str, Any] = (
        {} if account is None else {"user": account, "group": account, "extra_groups": []}
    )
    return await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd="/", **options
    )


def _bytes(folder: Path) -> int:
    files = (os.lstat(Path(parent) / name) for parent, _, names in os.walk(folder) for name in names)
    return sum(each.st_blocks * 512 for each in files)
