"""/ready, /status and /metrics of a service whose port strangers reach, and that may run as several workers.

In: a request to the service's port. Out: figures for who is near only, 404 for all others and for what came by a proxy;
and one answer for all workers, each asked on its private socket: one that does not answer makes the service not ready.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from turnout_common.client_address import FORWARDED, is_near
from turnout_common.workers import Worker

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]
#: Over what a worker needs to find that Postgres does not answer.
ANSWER_SECONDS = 3.0
#: What tells how much business is done here.
FIGURES = ("/status", "/metrics")
#: Figures of `/status` that each worker counts for itself.
COUNTED = ("accepted", "events")
#: Gauges that add up; of the others the largest counts.
ADDED_GAUGES = ("process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds")
_ADDED = ("counter", "histogram", "summary")


class Operations:
    """An ASGI application before a service's own."""

    def __init__(self, own: App, worker: Worker | None) -> None:
        self._own = own
        self._worker = worker

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path in FIGURES and not _may_read(scope):
            await _send(send, 404, "text/plain; charset=utf-8", b"")
        elif self._worker is None or path not in TOGETHER or scope["method"] != "GET" or _in_private(scope):
            await self._own(scope, receive, send)
        else:
            answers = await asyncio.gather(*(_ask(each, path) for each in self._worker.siblings()))
            await _send(send, *TOGETHER[path](answers))


async def _send(send: Any, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _may_read(scope: Message) -> bool:
    """Whether figures may be told: to siblings, and to who is near and asks without a proxy between."""
    if _in_private(scope):
        return True
    client = scope.get("client")
    forwarded = any(name in FORWARDED for name, _ in scope["headers"])
    return client is not None and is_near(client[0]) and not forwarded


def _in_private(scope: Message) -> bool:
    """Whether a sibling asks: its socket has a path and no port."""
    server = scope.get("server")
    return server is not None and server[1] is None


async def _ask(address: str, path: str) -> bytes | None:
    """What a worker answers, whatever its status; None when it does not."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(address)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return answer.partition(b"\r\n\r\n")[2]


def _readiness(answers: Sequence[bytes | None]) -> tuple[int, str, bytes]:
    faults: dict[str, str] = {}
    for index, answer in enumerate(answers):
        faults |= json.loads(answer)["faults"] if answer else {f"worker {index}": "does not answer"}
    body = json.dumps({"ready": not faults, "faults": faults}).encode()
    return 503 if faults else 200, "application/json", body


def _figures(answers: Sequence[bytes | None]) -> tuple[int, str, bytes]:
    """The first worker's figures, with the sum of what each counts for itself."""
    found = [json.loads(answer) for answer in answers if answer]
    figures: dict[str, Any] = {"workers": len(answers)} | (found[0] if found else {})
    for name in COUNTED:
        if name in figures:
            figures[name] = sum(each.get(name, 0) for each in found)
    if len(found) < len(answers):
        figures["fault"] = f"{len(answers) - len(found)} of {len(answers)} workers do not answer"
    return 200, "application/json", json.dumps(figures).encode()


def _metrics(answers: Sequence[bytes | None]) -> tuple[int, str, bytes]:
    texts = [answer.decode() for answer in answers if answer]
    return 200, CONTENT_TYPE_LATEST, generate_latest(_Sum(texts))


class _Sum:
    """What `generate_latest` takes for a registry."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], float]] = {}
        for text in self._texts:
            for family in text_string_to_metric_families(text):
                families.setdefault(family.name, family)
                known = values.setdefault(family.name, {})
                added = family.type in _ADDED or family.name in ADDED_GAUGES
                for sample in family.samples:
                    key = sample.name, frozenset(sample.labels.items())
                    before = known.get(key)
                    if before is None:
                        known[key] = sample.value
                    else:
                        known[key] = before + sample.value if added else max(before, sample.value)
        for name, family in families.items():
            summed = Metric(name, family.documentation, family.type)
            for (sample_name, labels), value in values[name].items():
                summed.add_sample(sample_name, dict(labels), value)
            yield summed


TOGETHER = {"/ready": _readiness, "/status": _figures, "/metrics": _metrics}
