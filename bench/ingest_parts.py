"""`turnout bench ingest_parts`: CPU time of the steps that a Cal.com webhook takes between HTTP and the inbox, by themselves.

The least of several passes over different webhooks, in one process without anything else; beside `bench ingest`, which
tells what a whole webhook takes, it tells where to look.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.ingest_bodies import requests
from bench.machine import machine
from bench.system import SECRET
from turnout_common.clock import SystemClock
from turnout_common.events.values import Channel
from turnout_common.security import TenantKeys, new_data_key
from turnout_ingest.acceptance import rows_of
from turnout_ingest.contacts import sealed_contact
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.calcom_body import BODY
from turnout_ingest.providers.provider import ChannelContext, Delivery

WEBHOOKS, PASSES = 2000, 10


def deliveries() -> list[Delivery]:
    keys = TenantKeys("bench", {1: new_data_key()})
    context = ChannelContext("bench", Channel.CALCOM, (SECRET.encode(),), keys)
    return [_delivery(context, request) for request in requests(["bench"], 0, WEBHOOKS)]


def _delivery(context: ChannelContext, request: bytes) -> Delivery:
    head, _, body = request.partition(b"\r\n\r\n")
    pairs = (line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return Delivery(context, {name.lower(): value for name, value in pairs}, body, SystemClock().now())


def steps(keys: TenantKeys) -> dict[str, Callable[[Delivery], Any]]:
    """Each step by itself, indented under what it is a part of."""
    provider = PROVIDERS["calcom"]

    def contact(delivery: Delivery) -> Any:
        return sealed_contact(keys, name="A guest", email="a.guest@example.org", phone="+4915123456789")

    def event(delivery: Delivery) -> Any:
        return provider.items(delivery)[0].event

    return {
        "signature": lambda d: provider.verify(d.headers, d.body, d.context.secrets, d.received_at),
        "from the body to rows, together": lambda d: rows_of(provider, d),
        "  JSON and schema": lambda d: BODY.validate_json(d.body),
        "  contact: normalised, hashed, sealed": contact,
        "  body to item, with the two above": event,
        "  raw bytes sealed": lambda d: keys.seal("raw", d.body),
    }


def measure() -> dict[str, float]:
    given = deliveries()
    found: dict[str, float] = {}
    for _ in range(PASSES):
        for name, step in steps(given[0].context.keys).items():
            started = time.process_time()
            for delivery in given:
                step(delivery)
            spent = (time.process_time() - started) / len(given) * 1e6
            found[name] = min(spent, found.get(name, spent))
    return {name: round(value, 1) for name, value in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="turnout bench ingest_parts", description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable figures on stdout")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "bench": "ingest_parts",
        "machine": machine(SystemClock().now().date()),
        "figures": {"cpu_us": measure()},
        "ratios": {},
    }
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return 0
    table = Table(title="CPU us per webhook", box=None, show_header=False)
    for name, value in result["figures"]["cpu_us"].items():
        table.add_row(name, str(value))
    console = Console(highlight=False)
    console.print(table)
    console.print(", ".join(f"{name}: {value}" for name, value in result["machine"].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
