"""What a Kafka client does while Kafka is away: it looks for it at a measured pace and tells the operator once.

aiokafka looks again at once when a look for the cluster fails and it knows no leader, which is what a broker that stops
tells last: thousands of lines and a whole core a second. Here two looks of a client are at least `LOOK_SECONDS` apart.

On uvloop a write to a connection that the broker has just closed is a RuntimeError, where asyncio drops it. aiokafka
knows none (aio-libs/aiokafka#1038): its task that joins the group ends by it, or the one that looks for the cluster, and
the consumer stands still for good. Here such a connection is broken, as any other that the broker closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason

log = structlog.get_logger()
#: As long as aiokafka waits elsewhere: a client that waits longer would be back later than it was.
LOOK_SECONDS = 0.1


class Outage:
    """One line when the first of a process's clients finds no Kafka, one when all that found none have found it."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._without: set[AIOKafkaClient] = set()
        self._since = 0.0

    def looked(self, client: AIOKafkaClient, found: bool) -> None:
        if found and client in self._without:
            self._without.discard(client)
            if not self._without:
                log.info("Kafka answers again, consuming goes on", away_seconds=self._seconds())
        elif not found:
            if not self._without:
                self._since = monotonic()
                log.warning(
                    "Kafka does not answer: consumers wait and lose nothing, they go on by themselves when it is back",
                    kafka=self._bootstrap,
                    look_at="whether Kafka runs and this host reaches it; its own log says why it stopped",
                )
            self._without.add(client)

    def _seconds(self) -> float:
        return round(monotonic() - self._since, 1)


def pace(client: AIOKafkaClient, outage: Outage | None = None) -> None:
    """Makes `client` wait between two looks for the cluster, and tell `outage` what they found."""
    look: Callable[[Any, Any], Awaitable[bool]] = client._metadata_update
    next_at = 0.0

    async def paced(cluster: Any, topics: Any) -> bool:
        nonlocal next_at
        await asyncio.sleep(max(0.0, next_at - monotonic()))
        found = await look(cluster, topics)
        next_at = monotonic() + LOOK_SECONDS
        if outage is not None:
            outage.looked(client, found)
        return found

    client._metadata_update = paced  # type: ignore[method-assign]


def _send(connection: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Any:
    writer = connection._writer
    if writer is not None and writer.is_closing():
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
    return _send_as_aiokafka_does(connection, request, expect_response)


_send_as_aiokafka_does: Callable[[AIOKafkaConnection, Any, bool], Any] = AIOKafkaConnection.send
AIOKafkaConnection.send = _send  # type: ignore[method-assign]
