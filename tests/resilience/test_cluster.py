"""`just nightly` only: leaders move in a cluster of three brokers under load; nothing is lost, doubled or out of order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.integration.probe import until
from tests.resilience.cluster import NODES, KafkaCluster, running_cluster
from tests.resilience.scenario import new_scenario
from tests.resilience.world import World, world_on
from turnout_cli.embedded.postgres import EmbeddedPostgres
from turnout_cli.embedded.process import free_port
from turnout_cli.embedded.stack import Stack
from turnout_common.topics import INBOUND

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
async def clustered(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, KafkaCluster]]:
    folder = tmp_path_factory.mktemp("cluster")
    postgres = EmbeddedPostgres(folder / "postgres", free_port())
    try:
        await postgres.start()
        async with running_cluster(folder) as cluster:
            stack = Stack(postgres, cluster.nodes[1])
            async with world_on(stack, cluster.bootstrap_servers, folder, replication=NODES) as world:
                yield world, cluster
    finally:
        await postgres.stop()
        postgres.destroy()


async def test_leader_killed_and_leading_again(clustered: tuple[World, KafkaCluster]) -> None:
    world, cluster = clustered
    topic = world.prefix + INBOUND
    scenario = await new_scenario(world, seed=91)
    preferred = await cluster.leaders(topic)

    async def moved() -> bool:
        return preferred[0] not in await cluster.leaders(topic)

    async with scenario.sending():
        await scenario.progress(0.3)
        await cluster.kill(preferred[0])
        await until(moved, "another broker to lead")
        await scenario.progress(0.5)
        await cluster.nodes[preferred[0]].start()
        await until(lambda: cluster.in_sync(topic), "all brokers to be in sync")
        await until(lambda: cluster.balanced(topic), "the leaders to move back")
        await scenario.progress(0.6)

    assert await cluster.leaders(topic) == preferred
    assert scenario.attempts.keys() == {"ok"}
    await scenario.check()


async def test_rolling_restart_moves_every_leader(clustered: tuple[World, KafkaCluster]) -> None:
    world, cluster = clustered
    topic = world.prefix + INBOUND
    scenario = await new_scenario(world, seed=92)

    async def without(number: int) -> bool:
        return number not in await cluster.leaders(topic)

    async with scenario.sending():
        for number, share in zip(cluster.nodes, (0.2, 0.4, 0.6), strict=True):
            await scenario.progress(share)
            await cluster.nodes[number].stop()
            await until(partial(without, number), "the others to lead")
            await cluster.nodes[number].start()
            await until(lambda: cluster.in_sync(topic), "the restarted broker to be in sync")

    assert scenario.attempts.keys() == {"ok"}
    await scenario.check()
