"""Apache Kafka in KRaft mode, one node (or one of a cluster's), on the bundled Java.

In: a folder and a port. Out: a broker on 127.0.0.1. Promise: data survives stop, crash and restart;
`start` returns when the broker answers metadata requests.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from turnout_cli.embedded import kafka_aot
from turnout_cli.embedded.java import Java, find_java, java_environment
from turnout_cli.embedded.kafka_config import write_config
from turnout_cli.embedded.kafka_jars import Progress, class_path
from turnout_cli.embedded.process import (
    EmbeddedError,
    end_leftover,
    free_port,
    require_free_port,
    run_to_end,
    spawn,
    stop_process,
    tail,
)

_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_JVM = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
# Kafka's own jars cause these notes on Java 24 and later; nothing that an operator could act on.
_JVM_QUIET = ["--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"]


class EmbeddedKafka:
    """One broker; `start` and `stop` may be called again and again on the same data.

    A throwaway one runs at the lowest priority, and nobody waits for its orderly end when its start is given up.
    A node of a cluster knows the cluster's id, its own controller port and what else differs in its settings.
    """

    name = "kafka"

    def __init__(
        self,
        data_dir: Path,
        port: int,
        *,
        cache: Path | None = None,
        log_path: Path | None = None,
        progress: Progress | None = None,
        jvm_options: Sequence[str] = (),
        throwaway: bool = False,
        cluster: str | None = None,
        controller_port: int | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        self.folder = data_dir.absolute()
        self.port = port
        self.log_path = log_path or self.folder / "kafka.log"
        self._cache = cache
        self._progress = progress
        self._jvm_options = list(jvm_options)
        self._throwaway = throwaway
        self._cluster = cluster
        self._controller_port = controller_port
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Fetch the jars if need be, bring the broker up, wait until it answers."""
        java = await asyncio.to_thread(find_java)
        jars = await asyncio.to_thread(class_path, self._cache, progress=self._progress)
        self.folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self._clear_leftover)
        require_free_port(self.port, "Kafka")
        if not self._data.exists():
            await self._format(java, jars)
        properties, log4j = self._configure(self._data)
        command = self._java_command(java, jars, log4j, self._jvm_options)
        self._process = await spawn(
            [*command, "kafka.Kafka", str(properties)],
            log=self.log_path,
            cwd=self.folder,
            env=java_environment(),
        )
        self._pid_file.write_text(str(self._process.pid))
        if self._throwaway and os.name == "posix":
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 19)
        try:
            await self._wait_until_ready()
        except BaseException:
            await self.stop(timeout_seconds=0 if self._throwaway else _STOP_SECONDS)
            raise

    async def stop(self, *, timeout_seconds: float = _STOP_SECONDS) -> None:
        """Let the broker close its logs and end."""
        if self._process is not None:
            await stop_process(self._process, signal.SIGTERM, timeout_seconds=timeout_seconds)
            self._pid_file.unlink(missing_ok=True)

    async def wait(self) -> int:
        """Wait for the broker to end; its exit status."""
        if self._process is None:
            raise EmbeddedError("Kafka has not been started")
        return await self._process.wait()

    def destroy(self) -> None:
        """Delete the data of a stopped broker."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _pid_file(self) -> Path:
        return self.folder / "kafka.pid"

    def _java_command(
        self, java: Java, jars: list[Path], log4j: Path, options: Sequence[str] = ()
    ) -> list[str]:
        quiet = _JVM_QUIET if java.major >= 24 else []
        cached = kafka_aot.use(java, jars, self._cache)
        paths = os.pathsep.join(str(jar) for jar in jars)
        settings = [f"-Dlog4j2.configurationFile={log4j.as_uri()}", "-cp", paths]
        return [str(java.path), *_JVM, *quiet, *cached, *options, *settings]

    def _configure(self, data: Path) -> tuple[Path, Path]:
        # Without a cluster the controller's port is known to this node alone: each start may take another.
        port = self._controller_port or free_port()
        return write_config(self.folder, data, port=self.port, controller_port=port, changes=self._settings)

    async def _format(self, java: Java, jars: list[Path]) -> None:
        # Into place only when complete: a killed format must not look like a finished one.
        draft = self.folder / "data.new"
        await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
        properties, log4j = self._configure(draft)
        tool = [
            "kafka.tools.StorageTool",
            "format",
            "-t",
            self._cluster or cluster_id(),
            "-c",
            str(properties),
        ]
        command = [*self._java_command(java, jars, log4j), *tool]
        await run_to_end(command, log=self.log_path, cwd=self.folder, env=java_environment())
        draft.rename(self._data)

    def _clear_leftover(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            pid, marker = int(self._pid_file.read_text()), str(self.folder / "server.properties")
            end_leftover(pid, marker, signal.SIGTERM, timeout_seconds=_STOP_SECONDS)
            self._pid_file.unlink(missing_ok=True)

    async def _wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while not await _answers(self.port):
            if self._process is None or self._process.returncode is not None:
                raise EmbeddedError(f"Kafka ended while it started:\n{tail(self.log_path)}")
            if asyncio.get_running_loop().time() > deadline:
                raise EmbeddedError(
                    f"Kafka did not answer within {_START_SECONDS:.0f} s:\n{tail(self.log_path)}"
                )
            await asyncio.sleep(0.05)


def cluster_id(new: Callable[[], uuid.UUID] = uuid.uuid4) -> str:
    """A new name for a cluster, as Kafka writes it; a leading dash would read as an option of Kafka's tools."""
    while True:
        text = base64.urlsafe_b64encode(new().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


async def _answers(port: int) -> bool:
    """Whether the broker lists its topics; a closed port is found out first, since aiokafka logs errors."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
    except OSError:
        return False
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=5_000)
    log = logging.getLogger("aiokafka")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        await admin.start()
        await admin.list_topics()
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        log.setLevel(level)
        await admin.close()
    return True
