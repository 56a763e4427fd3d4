"""One running Turnout: the start sequence, what goes on while it runs, the end.

Promise: `run` returns only when every process that it started has ended, whatever happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import asyncpg
import psutil

from turnout_cli.embedded import kafka_aot
from turnout_cli.embedded.kafka import EmbeddedKafka
from turnout_cli.embedded.kafka_jars import Progress
from turnout_cli.embedded.postgres import EmbeddedPostgres
from turnout_cli.errors import CommandError
from turnout_cli.master_key import require_master_key
from turnout_cli.services import DATABASE, Addresses, choose_ports, moved_ports, process_spec, services
from turnout_cli.state import Home, Phase, ProcessMark, ProcessRecord, State, new_passwords
from turnout_cli.supervisor import ServiceProcess, Supervisor, Watched, stop_signals

T = TypeVar("T")
DEMO_DAYS = 7


class Reporter(Protocol):
    """Shows the user what happens."""

    def step(self, text: str, seconds: float | None = None) -> None:
        """Something was done."""

    def note(self, text: str) -> None:
        """Something is other than usual, and that is all right."""

    def changed(self, state: State) -> None:
        """A process changed."""

    def jars(self) -> Progress:
        """Progress of the first fetch of Kafka's jars."""

    async def running(self, state: State) -> None:
        """Everything is ready; may go on showing until cancelled."""


class System:
    """Everything that one `turnout up` owns; the caller holds the home's lock."""

    def __init__(
        self, home: Home, reporter: Reporter, *, demo: bool, when_ready: Callable[[], None] | None = None
    ) -> None:
        self.home = home
        self._when_ready = when_ready or (lambda: None)
        self.reporter = reporter
        self.demo = demo
        self.state = home.load()
        self._demo_is_new = False
        self._supervisor = Supervisor(on_change=self._on_change)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Start all, stay until SIGINT or SIGTERM, stop all."""
        self._listen_to_signals()
        await asyncio.to_thread(end_leftovers, self.state)
        self._begin()
        try:
            if await self._unless_stopped(self._start()):
                self._set_phase("ready")
                self._when_ready()
                await self._stay()
        finally:
            self._set_phase("stopping")
            await self._supervisor.stop()
            self.state.supervisor = None
            self._set_phase("stopped")

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            try:
                loop.add_signal_handler(number, self._stop.set)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop.set))

    def _begin(self) -> None:
        state = self.state
        ports = choose_ports(state.ports, demo=self.demo)
        for sentence in moved_ports(state.ports, ports):
            self.reporter.note(sentence)
        state.ports |= ports
        state.passwords = new_passwords(state.passwords)
        state.processes = {}
        state.supervisor = ProcessMark.of(psutil.Process().pid)
        self.home.master_key()
        self._set_phase("starting")

    async def _start(self) -> None:
        postgres, kafka = await self._start_servers()
        await self._prepare_database(postgres)
        await self._timed("topics", self._create_topics(kafka.bootstrap_servers))
        addresses = self._addresses(kafka)
        await require_master_key(addresses.role_dsn("turnout_platform"), self.home.master_key_file)
        if self.demo and self.state.token is None:
            await self._timed("demo tenant", self._demo_tenant(addresses))
        started = time.monotonic()
        children = [
            ServiceProcess(process_spec(service, addresses, self.home))
            for service in services(demo=self.demo)
        ]
        await self._supervisor.start(*children)
        self.reporter.step("services", time.monotonic() - started)

    async def _start_servers(self) -> tuple[EmbeddedPostgres, EmbeddedKafka]:
        started, ports, home = time.monotonic(), self.state.ports, self.home
        postgres = EmbeddedPostgres(home.data("postgres"), ports["postgres"], log_path=home.log("postgres"))
        kafka = EmbeddedKafka(
            home.data("kafka"), ports["kafka"], log_path=home.log("kafka"), progress=self.reporter.jars()
        )
        await self._supervisor.start(postgres, kafka)
        self.reporter.step("Postgres and Kafka", time.monotonic() - started)
        if postgres.created:
            self.state.token = None  # it was in the data that is gone
            self.home.save(self.state)
        return postgres, kafka

    async def _prepare_database(self, postgres: EmbeddedPostgres) -> None:
        from turnout_cli.migrate import migrate

        await create_database(postgres.dsn)
        await self._timed("migrations", migrate(postgres.dsn_for(DATABASE), self.state.passwords))

    async def _create_topics(self, bootstrap: str) -> list[str]:
        from turnout_cli.topics import create_topics

        return await create_topics(bootstrap)

    async def _demo_tenant(self, addresses: Addresses) -> None:
        from turnout_cli.demo_tenant import ensure_demo_tenant

        dsn = addresses.role_dsn("turnout_platform")
        self.state.token = await ensure_demo_tenant(dsn, self.home.master_key())
        self._demo_is_new = True
        self.home.save(self.state)

    def _addresses(self, kafka: EmbeddedKafka) -> Addresses:
        used = {"postgres", "kafka", *(service.name for service in services(demo=self.demo))}
        return Addresses(
            postgres_port=self.state.ports["postgres"],
            kafka=kafka.bootstrap_servers,
            passwords=self.state.passwords,
            ports={name: port for name, port in self.state.ports.items() if name in used},
            master_key_file=self.home.master_key_file,
        )

    async def _timed(self, text: str, work: Awaitable[T]) -> T:
        started = time.monotonic()
        result = await work
        self.reporter.step(text, time.monotonic() - started)
        return result

    async def _unless_stopped(self, work: Awaitable[None]) -> bool:
        """Whether the work ended before the user asked us to stop."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        task.result()
        return True

    async def _stay(self) -> None:
        background: list[Callable[[], Awaitable[None]]] = [
            lambda: self.reporter.running(self.state),
            self._seed_demo,
            self._train_kafka,
        ]
        tasks = [asyncio.ensure_future(work()) for work in background]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _seed_demo(self) -> None:
        """Gives a new demo tenant a short history to look at; without it the system is as good."""
        if not self._demo_is_new:
            return
        from turnout_cli.connection import resolve
        from turnout_cli.demo_seed import seed_demo

        try:
            here = resolve("embedded", os.environ | {"TURNOUT_HOME": str(self.home.folder)})
            seeded = await seed_demo(here, DEMO_DAYS)
        except (CommandError, OSError, asyncpg.PostgresError) as error:
            self.reporter.step(f"no demo history ({error}); `./turnout demo seed` sends one")
        else:
            self.reporter.step(f"demo history of {DEMO_DAYS} days: {seeded.sent} webhooks")

    async def _train_kafka(self) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # a speed-up for the next start, nothing more
            if await asyncio.to_thread(kafka_aot.needs_training):
                await kafka_aot.train()
                self.reporter.step("Kafka's start cache written: the next start is quicker")

    def _set_phase(self, phase: Phase) -> None:
        self.state.phase = phase
        self.home.save(self.state)
        self.reporter.changed(self.state)

    def _on_change(self, watched: Watched) -> None:
        pid = watched.child.pid
        mark = ProcessMark.of(pid) if pid else None
        record = ProcessRecord(watched.state, watched.restarts, mark)
        self.state.processes[watched.child.name] = record
        self.home.save(self.state)
        self.reporter.changed(self.state)


async def create_database(dsn: str) -> None:
    """Create the database of the system where it does not exist yet."""
    connection = await asyncpg.connect(dsn)
    try:
        known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE)
        if not known:
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()


def end_leftovers(state: State) -> None:
    """End services that a killed supervisor left running; the two servers see to their own leftovers."""
    records = [record for name, record in state.processes.items() if name not in ("postgres", "kafka")]
    found = [record.mark.find() for record in records if record.mark]
    alive = [process for process in found if process is not None]
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(alive, timeout=15)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
