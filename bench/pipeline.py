"""`turnout bench pipeline`: the whole way from webhook to KPI, on a system of its own.

Prints the highest rate at which the backlog stays bounded, the freshness (webhook sent to KPI changed) at half of that
rate, and the CPU time per webhook by process. Open loop throughout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from bench.load import Load, Plan, percentile, request_bytes, run_load
from bench.machine import cpu_seconds, machine
from bench.system import LOOPBACK, SECRET, BenchSystem, bench_system
from turnout_cli.webhooks import calcom, signed_headers
from turnout_common.clock import SystemClock

TENANTS = 20
#: A rate is sustained when the records on their way at its end are at most this many seconds of it; a webhook makes
#: about three records (itself and booking's events).
BOUNDED_SECONDS, RECORDS_A_WEBHOOK = 1.0, 3
PROBE_PAUSE = 0.1
words = Console(stderr=True)


@dataclass(frozen=True)
class Step:
    """One tried rate."""

    rate: int
    load: Load
    backlog: int
    drained_seconds: float
    cpu_us: dict[str, float]

    @property
    def sustained(self) -> bool:
        all_accepted = self.load.accepted == sum(self.load.statuses.values())
        kept_pace = self.load.accepted / self.load.seconds >= 0.97 * self.rate
        return all_accepted and kept_pace and self.backlog <= BOUNDED_SECONDS * RECORDS_A_WEBHOOK * self.rate


def requests(tenants: list[str], count: int, seed: str, now: datetime) -> list[bytes]:
    """Signed Cal.com webhooks: of ten bookings all are created, three are moved, two cancelled, one is a no-show."""
    chance = random.Random(seed)
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        tenant = tenants[number % len(tenants)]
        for webhook in _life(f"{seed}{number}", number, chance, now):
            headers = signed_headers(webhook, SECRET, int(now.timestamp()))
            found.append(request_bytes(LOOPBACK, f"/webhooks/calcom/{tenant}", headers, webhook.body))
        number += 1
    return found[:count]


def _life(uid: str, number: int, chance: random.Random, now: datetime) -> list[Any]:
    host = calcom.Host(1 + number % 5, f"Host {number % 5}", f"host{number % 5}")
    kind = calcom.EventType(1 + number % 4, f"service{number % 4}", f"Service {number % 4}", 45, 4500)
    guest = calcom.Guest(f"Guest {number}", f"guest{number}@example.org", f"+4915{number % 10**9:09d}")
    start = (now - timedelta(days=chance.randrange(1, 30))).replace(minute=0, second=0, microsecond=0)
    booked = start - timedelta(days=2)
    first = calcom.Booking(uid, number, start, host, kind, guest, booked)
    webhooks = [calcom.created(first, booked)]
    kind_of_life = number % 10
    if kind_of_life < 3:
        moved = calcom.Booking(f"{uid}m", number, start + timedelta(hours=1), host, kind, guest, booked, 1)
        webhooks.append(calcom.rescheduled(first, moved, booked + timedelta(hours=1)))
    elif kind_of_life < 5:
        webhooks.append(calcom.cancelled(first, booked + timedelta(hours=2)))
    elif kind_of_life == 5:
        webhooks.append(calcom.no_show(first, start + timedelta(hours=1)))
    return webhooks


async def measure_rate(system: BenchSystem, tenants: list[str], rate: int, seconds: float, seed: str) -> Step:
    """Sends `rate` a second for `seconds`; the backlog is read at the moment when the last one was answered."""
    prepared = requests(tenants, int(rate * seconds), seed, SystemClock().now())
    before = cpu_seconds(system.pids)
    load = await run_load(Plan(LOOPBACK, system.ingest_port, prepared, rate))
    backlog = await system.backlog()
    drained = await _drain(system)
    spent = {name: value - before[name] for name, value in cpu_seconds(system.pids).items()}
    per_webhook = {name: value / max(load.accepted, 1) * 1e6 for name, value in spent.items()}
    return Step(rate, load, backlog, drained, per_webhook)


async def _drain(system: BenchSystem, most: float = 120.0) -> float:
    started = time.monotonic()
    while await system.backlog():
        if time.monotonic() - started > most:
            raise RuntimeError(f"the backlog did not drain within {most:.0f} s: is a service stuck?")
        await asyncio.sleep(0.05)
    return time.monotonic() - started


async def find_sustained(system: BenchSystem, tenants: list[str], first: int, seconds: float) -> list[Step]:
    """Rates from `first` upwards, half as much again each time, then the middle between the last two."""
    steps: list[Step] = []
    rate = first
    while not steps or steps[-1].sustained:
        steps.append(await _show(system, tenants, rate, seconds, len(steps)))
        rate = int(rate * 1.5)
    if len(steps) > 1:
        middle = (steps[-1].rate + steps[-2].rate) // 2
        steps.append(await _show(system, tenants, middle, seconds, len(steps)))
    return steps


async def _show(system: BenchSystem, tenants: list[str], rate: int, seconds: float, number: int) -> Step:
    step = await measure_rate(system, tenants, rate, seconds, f"s{number}-")
    verdict = "sustained" if step.sustained else "not sustained"
    words.print(
        f"{rate}/s for {seconds:.0f} s: {step.load.accepted} accepted, backlog {step.backlog}, "
        f"p99 answer {percentile(step.load.latencies, 0.99) * 1000:.0f} ms: {verdict}"
    )
    spent = ", ".join(
        f"{name} {value:.0f}" for name, value in sorted(step.cpu_us.items(), key=lambda p: -p[1])
    )
    words.print(f"  CPU us per webhook: {spent}; together {sum(step.cpu_us.values()):.0f}")
    return step


async def measure_freshness(
    system: BenchSystem, tenants: list[str], rate: float, seconds: float
) -> list[float]:
    """Seconds from sending a booking of a tenant of its own to its fact being visible, under a load of `rate`."""
    prepared = requests(tenants, int(rate * seconds), "f-", SystemClock().now())
    (tenant,) = await system.create_tenants(1, "fresh")
    await _known(system, tenant)
    load = asyncio.create_task(run_load(Plan(LOOPBACK, system.ingest_port, prepared, rate)))
    await asyncio.sleep(2)
    connection = await asyncpg.connect(system.dsn)
    found: list[float] = []
    try:
        while not load.done():
            found.append(await _probe(system, connection, tenant, len(found)))
            await asyncio.sleep(PROBE_PAUSE)
    finally:
        await connection.close()
        await load
    return found


async def _probe(system: BenchSystem, connection: asyncpg.Connection, tenant: str, number: int) -> float:
    now = SystemClock().now()
    (webhook, *_) = _life(f"fresh{number}", 9 + 10 * number, random.Random(number), now)
    url = f"{system.document['urls']['ingest']}/webhooks/calcom/{tenant}"
    started = time.monotonic()
    headers = signed_headers(webhook, SECRET, int(now.timestamp()))
    async with system.session.post(url, data=webhook.body, headers=headers) as answer:
        answer.raise_for_status()
    while (
        await connection.fetchval("SELECT count(*) FROM rollup.chain_facts WHERE tenant_id = $1", tenant)
        <= number
    ):
        if time.monotonic() - started > 60:
            raise RuntimeError("a webhook did not reach the KPIs within 60 s")
        await asyncio.sleep(0.002)
    return time.monotonic() - started


async def _known(system: BenchSystem, tenant: str) -> None:
    """Waits until ingest has the new tenant's configuration: an unknown one is answered 401."""
    now = SystemClock().now()
    webhook = calcom.ping(now)
    url = f"{system.document['urls']['ingest']}/webhooks/calcom/{tenant}"
    headers = signed_headers(webhook, SECRET, int(now.timestamp()))
    for _ in range(600):
        async with system.session.post(url, data=webhook.body, headers=headers) as answer:
            if answer.status < 300:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"ingest does not know tenant {tenant} after 60 s")


async def bench(first_rate: int, seconds: float) -> dict[str, Any]:
    """All figures, as `--json` prints them."""
    async with bench_system() as system:
        tenants = await system.create_tenants(TENANTS, "bench")
        await _known(system, tenants[-1])
        await measure_rate(system, tenants, 300, 3, "warm-")
        steps = await find_sustained(system, tenants, first_rate, seconds)
        good = max((step for step in steps if step.sustained), key=lambda step: step.rate, default=None)
        if good is None:
            raise RuntimeError(f"{first_rate}/s is not sustained; try --first-rate with less")
        fresh = await measure_freshness(system, tenants, good.rate / 2, seconds * 2)
    figures = {
        "sustained_per_second": good.rate,
        "answer_p50_ms": round(percentile(good.load.latencies, 0.5) * 1000, 1),
        "answer_p99_ms": round(percentile(good.load.latencies, 0.99) * 1000, 1),
        "freshness_p50_ms": round(percentile(fresh, 0.5) * 1000, 1),
        "freshness_p99_ms": round(percentile(fresh, 0.99) * 1000, 1),
        "freshness_probes": len(fresh),
        "cpu_us_per_webhook": {name: round(value) for name, value in good.cpu_us.items()},
        "load_generator_cpu_us": round(good.load.cpu_seconds / good.load.accepted * 1e6),
        "steps": [
            {
                "rate": s.rate,
                "sustained": s.sustained,
                "backlog": s.backlog,
                "drained_seconds": round(s.drained_seconds, 1),
            }
            for s in steps
        ],
    }
    return {
        "bench": "pipeline",
        "machine": machine(SystemClock().now().date()),
        "figures": figures,
        "ratios": {},
    }


def show(result: dict[str, Any]) -> None:
    figures = result["figures"]
    table = Table(title="Webhook to KPI", box=None, show_header=False)
    table.add_row("sustained, backlog bounded", f"{figures['sustained_per_second']} webhooks/s")
    table.add_row(
        "answer p50 / p99 at that rate", f"{figures['answer_p50_ms']} / {figures['answer_p99_ms']} ms"
    )
    table.add_row(
        f"freshness p50 / p99 at half of it ({figures['freshness_probes']} probes)",
        f"{figures['freshness_p50_ms']} / {figures['freshness_p99_ms']} ms",
    )
    for name, value in sorted(figures["cpu_us_per_webhook"].items(), key=lambda pair: -pair[1]):
        table.add_row(f"CPU per webhook, {name}", f"{value} us")
    table.add_row("CPU per webhook, load generator", f"{figures['load_generator_cpu_us']} us")
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name}: {value}" for name, value in result["machine"].items()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="turnout bench pipeline", description=__doc__)
    parser.add_argument("--first-rate", type=int, default=800, help="webhooks a second to begin with")
    parser.add_argument("--seconds", type=float, default=20, help="length of each step")
    parser.add_argument("--json", action="store_true", help="machine-readable figures on stdout")
    options = parser.parse_args()
    result = asyncio.run(bench(options.first_rate, options.seconds))
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
