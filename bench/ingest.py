"""`turnout bench ingest`: how much one ingest takes, beside what one would write instead.

In each round one after the other, on one Postgres (fsync on) and one Kafka:
  ours          two workers: signature, strict schema, sealing, durable commit, publishing
  no_storage    the same with an inbox that answers at once: what all but storing costs
  naive         FastAPI and asyncpg, two workers, the same checks and rows, a transaction a request, publishing
  naive_tuned   the same with all rows in one statement
  pgbench       the same rows made inside Postgres, in transactions as large as ours were: what storing costs
Then the latency at half of the rate reached, open loop. `--memory` watches resident memory over many webhooks instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from statistics import median
from typing import Any

import asyncpg
import psutil
from rich.console import Console
from rich.table import Table

from bench.ingest_bodies import requests
from bench.ingest_figures import LEAST_RATIO, LONGEST_P99_MS, Measured, figures, is_flat, ratio
from bench.ingest_load import Burst, Outcome, run_burst
from bench.ingest_stack import (
    TENANTS,
    Bed,
    Server,
    bare_rows_per_second,
    require_same_answers,
    test_bed,
)
from bench.load import Load, Plan, percentile, run_load
from bench.machine import machine
from turnout_common.clock import SystemClock

CASES = ("ours", "no_storage", "naive", "naive_tuned")
#: More than any case answers in a second.
MOST_PER_SECOND = 15_000
DRAIN_SECONDS = 120.0
MEMORY_WEBHOOKS, MEMORY_STEP = 500_000, 50_000
words = Console(stderr=True, highlight=False)


class Numbers:
    """Hands out numbers of webhooks, so that none is sent twice."""

    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int) -> int:
        first, self._next = self._next, self._next + count
        return first


class Session:
    """A bed and a connection that looks at it."""

    def __init__(self, bed: Bed, look: asyncpg.Connection) -> None:
        self.bed = bed
        self._look = look
        self.numbers = Numbers()

    async def burst(self, server: Server, seconds: float, count: int | None = None) -> Outcome:
        count = count or int(MOST_PER_SECOND * seconds)
        outcome = await run_burst(Burst(server.port, TENANTS, self.numbers.take(count), count, seconds))
        if not outcome.all_accepted:
            raise RuntimeError(f"{server.name} did not accept all: {dict(outcome.statuses)}")
        return outcome

    async def measure(self, server: Server, seconds: float) -> Measured:
        """One window. CPU and WAL are read once everything is published, so that no work is left out."""
        await self.bed.empty_tables()
        wal, cpu, machine_busy, started = await self._wal(), self.bed.cpu(server), _busy(), time.monotonic()
        outcome = await self.burst(server, seconds)
        unpublished = await self._outbox(server)
        await self._drained(server)
        spent = {name: value - cpu[name] for name, value in self.bed.cpu(server).items()}
        spent["generator"] = outcome.cpu_seconds
        others = (_busy() - machine_busy - sum(spent.values())) / (time.monotonic() - started)
        per_webhook = {name: value / outcome.accepted * 1e6 for name, value in spent.items()}
        per_second = outcome.accepted / outcome.seconds
        if server.schema is None:
            return Measured(per_second, per_webhook, other_cores=others)
        rows, commits = await self._stored(server)
        if rows != outcome.accepted:
            raise RuntimeError(f"{server.name} answered {outcome.accepted} and stored {rows}")
        syncs, size = await self._wal_since(wal, server)
        return Measured(per_second, per_webhook, rows / commits, syncs, size, unpublished, others)

    async def latency(self, server: Server, rate: float, seconds: float) -> Load:
        await self.bed.empty_tables()
        count = int(rate * seconds)
        prepared = requests(TENANTS, self.numbers.take(count), count)
        load = await run_load(Plan("127.0.0.1", server.port, prepared, rate, connections=256))
        if load.accepted != count:
            raise RuntimeError(f"{server.name} did not accept all: {dict(load.statuses)}")
        await self._drained(server)
        return load

    async def _outbox(self, server: Server) -> int:
        if server.schema is None:
            return 0
        return int(await self._look.fetchval(f"SELECT count(*) FROM {server.schema}.outbox"))

    async def _drained(self, server: Server) -> None:
        ends = time.monotonic() + DRAIN_SECONDS
        while await self._outbox(server):
            if time.monotonic() > ends:
                raise RuntimeError(f"the outbox of {server.name} did not drain in {DRAIN_SECONDS:.0f} s")
            await asyncio.sleep(0.05)

    async def _stored(self, server: Server) -> tuple[int, int]:
        """Rows, and transactions that wrote them: the server's own word on the size of a commit."""
        row = await self._look.fetchrow(
            f"SELECT count(*), count(DISTINCT xmin::text) FROM {server.schema}.inbox"
        )
        assert row is not None
        return row[0], row[1]

    async def _wal(self) -> tuple[int, int]:
        """Syncs of the log so far, and its bytes."""
        row = await self._look.fetchrow(
            "SELECT (SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal')::bigint, "
            "(pg_current_wal_insert_lsn() - '0/0')::bigint"
        )
        assert row is not None
        return row[0], row[1]

    async def _wal_since(self, before: tuple[int, int], server: Server) -> tuple[float, float]:
        """Syncs and bytes per webhook. A backend reports its syncs with the first transaction a second later, so each
        is given some more, which count too."""
        rows, _ = await self._stored(server)
        _, size = await self._wal()
        await asyncio.sleep(1.1)
        await self.burst(server, 5.0, 600)
        syncs, _ = await self._wal()
        return (syncs - before[0]) / (rows + 600), (size - before[1]) / rows


def _busy() -> float:
    """CPU seconds of the whole machine so far."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


async def compare(seconds: float, count: int) -> dict[str, Any]:
    """All figures, as `--json` prints them."""
    async with test_bed(CASES) as bed:
        await require_same_answers(bed)
        look = await asyncpg.connect(bed.dsn)
        try:
            session = Session(bed, look)
            for server in bed.servers.values():
                await session.burst(server, 1.0)
            found = await _rounds(session, seconds, count)
            latencies = {
                name: await _latency(session, bed.servers[name], found[name], seconds * 3)
                for name in ("ours", "naive")
            }
        finally:
            await look.close()
    ours = found["ours"]
    return {
        "bench": "ingest",
        "machine": machine(SystemClock().now().date()),
        "figures": figures(found) | {"latency_at_half_rate": latencies},
        "ratios": {name: ratio(ours, found[name]) for name in found if name != "ours"}
        | {"naive_p99": round(latencies["naive"]["p99_ms"] / latencies["ours"]["p99_ms"], 1)},
    }


async def _rounds(session: Session, seconds: float, count: int) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {name: [] for name in (*CASES, "pgbench")}
    for number in range(count):
        for name in CASES:
            found[name].append(await session.measure(session.bed.servers[name], seconds))
        await session.bed.empty_tables()
        batch = round(found["ours"][-1].rows_per_commit or 1)
        per_second = await bare_rows_per_second(session.bed, batch, seconds)
        found["pgbench"].append(Measured(per_second))
        rates = ", ".join(f"{name} {measured[-1].per_second:.0f}" for name, measured in found.items())
        words.print(f"round {number + 1} of {count}, webhooks/s: {rates}")
    return found


async def _latency(
    session: Session, server: Server, reached: list[Measured], seconds: float
) -> dict[str, float]:
    rate = median(measured.per_second for measured in reached) / 2
    load = await session.latency(server, rate, seconds)
    return {
        "per_second": round(rate),
        "p50_ms": round(percentile(load.latencies, 0.5) * 1000, 1),
        "p99_ms": round(percentile(load.latencies, 0.99) * 1000, 1),
        "max_ms": round(max(load.latencies) * 1000, 1),
    }


async def watch_memory(webhooks: int) -> dict[str, Any]:
    """Resident memory of ingest's processes after each MEMORY_STEP webhooks, at the highest rate that it takes."""
    samples: list[int] = []
    async with test_bed(("ours",)) as bed:
        look = await asyncpg.connect(bed.dsn)
        try:
            session = Session(bed, look)
            server = bed.servers["ours"]
            for sent in range(MEMORY_STEP, webhooks + 1, MEMORY_STEP):
                await session.burst(server, 3600.0, MEMORY_STEP)
                samples.append(sum(_resident(pid) for pid in server.processes.values()))
                words.print(f"{sent} webhooks: {samples[-1] / 2**20:.1f} MiB")
        finally:
            await look.close()
    return {
        "bench": "ingest memory",
        "machine": machine(SystemClock().now().date()),
        "figures": {
            "webhooks": MEMORY_STEP * len(samples),
            "resident_mib": [round(sample / 2**20, 1) for sample in samples],
            "flat": is_flat(samples),
        },
        "ratios": {},
    }


def _resident(pid: int) -> int:
    root = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (root, *root.children(recursive=True)))


def show(result: dict[str, Any]) -> None:
    found, ratios = result["figures"], result["ratios"]
    table = Table(title="Webhooks a second", box=None)
    for head in ("", "min", "median", "max", "ours to it"):
        table.add_column(head, justify="left" if head == "" else "right")
    for name, rate in found["webhooks_per_second"].items():
        table.add_row(name, *(str(rate[k]) for k in ("min", "median", "max")), str(ratios.get(name, "")))
    console = Console(highlight=False)
    console.print(table)
    for name, spent in found["cpu_us_per_webhook"].items():
        console.print(f"CPU us per webhook, {name}: " + ", ".join(f"{k} {v}" for k, v in spent.items()))
    for name, stored in found["storage"].items():
        console.print(f"storage, {name}: " + ", ".join(f"{k} {v}" for k, v in stored.items()))
    for name, measured in found["latency_at_half_rate"].items():
        console.print(f"open loop, {name}: " + ", ".join(f"{k} {v}" for k, v in measured.items()))
    p99 = found["latency_at_half_rate"]["ours"]["p99_ms"]
    console.print(
        f"{_mark(ratios['naive'] >= LEAST_RATIO)} at least {LEAST_RATIO:.0f} times naive: {ratios['naive']}"
    )
    console.print(
        f"{_mark(p99 < LONGEST_P99_MS)} p99 at half of the rate under {LONGEST_P99_MS:.0f} ms: {p99} ms"
    )
    if (others := found["most_cores_of_other_processes"]) > 0.3:
        console.print(f"! other processes used up to {others} cores meanwhile: take no figure of this run")
    console.print(", ".join(f"{name}: {value}" for name, value in result["machine"].items()))


def show_memory(result: dict[str, Any]) -> None:
    found = result["figures"]
    console = Console(highlight=False)
    console.print("resident MiB: " + ", ".join(map(str, found["resident_mib"])))
    console.print(f"{_mark(found['flat'])} memory is flat over {found['webhooks']} webhooks")
    console.print(", ".join(f"{name}: {value}" for name, value in result["machine"].items()))


def _mark(good: bool) -> str:
    return "✓" if good else "✗"


def main() -> int:
    """Exit status 1 when memory is not flat; a missed speed goal is marked, for the machine may be at fault."""
    parser = argparse.ArgumentParser(
        prog="turnout bench ingest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5, help="length of each window")
    parser.add_argument("--rounds", type=int, default=5, help="windows of each case")
    parser.add_argument("--memory", action="store_true", help="watch resident memory instead")
    parser.add_argument("--webhooks", type=int, default=MEMORY_WEBHOOKS, help="with --memory: how many")
    parser.add_argument("--json", action="store_true", help="machine-readable figures on stdout")
    options = parser.parse_args()
    work = watch_memory(options.webhooks) if options.memory else compare(options.seconds, options.rounds)
    result = asyncio.run(work)
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        (show_memory if options.memory else show)(result)
    return 0 if result["figures"].get("flat", True) else 1


if __name__ == "__main__":
    sys.exit(main())
