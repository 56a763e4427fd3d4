"""Three small brokers, each a controller too: every topic on all three, a write on at least two."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from turnout_cli.embedded.kafka import EmbeddedKafka, cluster_id
from turnout_cli.embedded.process import free_port

NODES = 3
_ANSWER_SECONDS = 30.0
_SMALL_HEAP = ["-Xmx256m", "-XX:TieredStopAtLevel=1"]
_SETTINGS: dict[str, str | int] = {
    "offsets.topic.replication.factor": NODES,
    "transaction.state.log.replication.factor": NODES,
    "transaction.state.log.min.isr": 2,
    "share.coordinator.state.topic.replication.factor": NODES,
    "share.coordinator.state.topic.min.isr": 2,
    # Leaders go back to the preferred broker seconds after it is in sync again, not minutes.
    "leader.imbalance.check.interval.seconds": 2,
    "leader.imbalance.per.broker.percentage": 0,
}


@dataclass
class KafkaCluster:
    """The brokers by their node id."""

    nodes: dict[int, EmbeddedKafka]

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(node.bootstrap_servers for node in self.nodes.values())

    async def start(self) -> None:
        """Together: the first is not ready before a second is there."""
        await asyncio.gather(*(node.start() for node in self.nodes.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))

    def destroy(self) -> None:
        for node in self.nodes.values():
            node.destroy()

    async def kill(self, node_id: int) -> None:
        """kill -9, and proof that it died of it."""
        node = self.nodes[node_id]
        assert node.pid is not None
        os.kill(node.pid, signal.SIGKILL)
        assert await node.wait() == -signal.SIGKILL

    async def partitions(self, topic: str) -> list[dict[str, Any]]:
        """What the cluster says of each partition now: `partition`, `leader`, `replicas`, `isr`."""
        async with asyncio.timeout(_ANSWER_SECONDS):
            while True:
                with contextlib.suppress(KafkaError):
                    return await self._described(topic)
                await asyncio.sleep(0.1)  # asked a broker that is dead and not yet known to be

    async def _described(self, topic: str) -> list[dict[str, Any]]:
        alive = [node.bootstrap_servers for node in self.nodes.values() if node.pid is not None]
        admin = AIOKafkaAdminClient(bootstrap_servers=alive)
        try:
            await admin.start()
            (described,) = await admin.describe_topics([topic])
        finally:
            await admin.close()
        return sorted(described["partitions"], key=lambda each: int(each["partition"]))

    async def leaders(self, topic: str) -> list[int]:
        return [each["leader"] for each in await self.partitions(topic)]

    async def in_sync(self, topic: str) -> bool:
        """Whether every broker has all of the topic."""
        return all(len(each["isr"]) == NODES for each in await self.partitions(topic))

    async def balanced(self, topic: str) -> bool:
        """Whether each partition is led by its preferred broker, the first of its replicas."""
        return all(each["leader"] == each["replicas"][0] for each in await self.partitions(topic))


def new_cluster(folder: Path) -> KafkaCluster:
    cluster, ports = cluster_id(), {number: free_port() for number in range(1, NODES + 1)}
    voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in ports.items())
    return KafkaCluster(
        {
            number: EmbeddedKafka(
                folder / f"kafka-{number}", free_port(), jvm_options=_SMALL_HEAP, cluster=cluster,
                controller_port=port,
                settings=_SETTINGS | {"node.id": number, "controller.quorum.voters": voters},
            )
            for number, port in ports.items()
        }
    )  # fmt: skip


@contextlib.asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[KafkaCluster]:
    """Three brokers on data of their own, deleted at the end."""
    cluster = new_cluster(folder)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
        cluster.destroy()
