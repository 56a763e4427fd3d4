"""Kafka stopped, frozen, killed, without its topic: accepting goes on all the time, and all of it arrives in order."""

from __future__ import annotations

import os
import signal

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.integration.probe import until
from tests.resilience.scenario import Scenario, new_scenario
from tests.resilience.world import World
from turnout_cli.topics import create_topics
from turnout_common.relay import ACK_SECONDS
from turnout_common.topics import INBOUND

pytestmark = pytest.mark.slow

WAITING_SECONDS = "SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM ingest.outbox"


async def test_kafka_stopped_and_started_costs_no_webhook(world: World) -> None:
    scenario = await new_scenario(world, seed=71)

    async with scenario.sending(upto=0.4):
        await scenario.progress(0.2)
        await world.stack.kafka.stop()
        await _accepting_goes_on(scenario, until_share=0.6)
        await world.stack.kafka.start()

    assert scenario.attempts.keys() == {"ok"}
    await scenario.check()


async def test_kafka_frozen_for_longer_than_the_relay_waits(world: World) -> None:
    scenario = await new_scenario(world, seed=72)
    kafka = world.stack.kafka
    assert kafka.pid is not None
    before = await _rolled_back(world)

    async with scenario.sending(upto=0.4):
        await scenario.progress(0.2)
        os.kill(kafka.pid, signal.SIGSTOP)
        try:
            await _accepting_goes_on(scenario, until_share=0.6)
            await until(lambda: _gave_up(world, before), "the relay to give up a batch", 3 * ACK_SECONDS)
            assert await _waiting_seconds(world) >= ACK_SECONDS
        finally:
            os.kill(kafka.pid, signal.SIGCONT)

    assert scenario.attempts.keys() == {"ok"}
    await scenario.check()


async def test_kafka_killed_and_started_again(world: World) -> None:
    scenario = await new_scenario(world, seed=73)
    kafka, before = world.stack.kafka, await _rolled_back(world)

    async with scenario.sending(upto=0.4):
        await scenario.progress(0.2)
        assert kafka.pid is not None
        os.kill(kafka.pid, signal.SIGKILL)
        assert await kafka.wait() == -signal.SIGKILL
        await _accepting_goes_on(scenario, until_share=0.6)
        await until(lambda: _gave_up(world, before), "the relay to fail", 3 * ACK_SECONDS)
        await kafka.start()

    assert scenario.attempts.keys() == {"ok"}
    await scenario.check()


async def test_topic_missing_and_created_again(world: World) -> None:
    scenario = await new_scenario(world, seed=74)
    bootstrap, topic = world.kafka_bootstrap, world.prefix + INBOUND
    await world.settled()
    before = await _rolled_back(world)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.delete_topics([topic])

    async with scenario.sending():
        await _accepting_goes_on(scenario, until_share=0.6)
        await until(lambda: _gave_up(world, before), "the relay to fail", 3 * ACK_SECONDS)
        assert topic not in await admin.list_topics()
        assert await create_topics(bootstrap, world.prefix, partitions=4) == [topic]
    await admin.close()

    assert scenario.attempts.keys() == {"ok"}
    await scenario.check()


async def _accepting_goes_on(scenario: Scenario, until_share: float) -> None:
    """Webhooks are accepted, more than were let pass before the fault, and wait in the outbox."""
    scenario.let(until_share)
    await scenario.progress(until_share)
    assert await scenario.world.count("SELECT count(*) FROM ingest.outbox") > 0


async def _rolled_back(world: World) -> float:
    return await world.metric("ingest", "turnout_relay_failures_total", relay="ingest")


async def _gave_up(world: World, before: float) -> bool:
    return await _rolled_back(world) > before


async def _waiting_seconds(world: World) -> float:
    return float(str(await world.value(WAITING_SECONDS)))
