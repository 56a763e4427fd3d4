"""kill -9 at the points where a crash could lose or double something, hit exactly and not by chance."""

from __future__ import annotations

import pytest

from tests.resilience.scenario import Scenario, new_scenario
from tests.resilience.topic import published_again, read_to_end
from tests.resilience.world import World
from turnout_common.topics import INBOUND

pytestmark = pytest.mark.slow

STORED = "SELECT count(*) FROM ingest.inbox WHERE item_id = ANY ($1)"
CLAIMED = "SELECT count(*) FROM {}.applied WHERE record_id = ANY ($1)"
APPLIED = CLAIMED + " AND outcome <> 'ignored'"
WAITING = "SELECT count(*) FROM ingest.outbox WHERE item_id = ANY ($1)"


async def test_killed_before_the_commit_nothing_is_stored_and_the_provider_sends_again(world: World) -> None:
    scenario = await new_scenario(world, seed=51)
    await _start_again(world, "ingest", dies="before commit")

    async with scenario.sending():
        await scenario.progress(0.3)
        held = await world.order_death("ingest")
        assert held and await world.count(STORED, held) == 0
        await world.start("ingest")

    await scenario.check()
    assert await scenario.fate("duplicate") == 0


async def test_killed_between_commit_and_answer_the_provider_sends_again_to_no_effect(world: World) -> None:
    scenario = await new_scenario(world, seed=52)
    await _start_again(world, "ingest", dies="before answer")

    async with scenario.sending():
        await scenario.progress(0.3)
        held = await world.order_death("ingest")
        assert held and await world.count(STORED, held) == len(held)
        await world.start("ingest")

    await scenario.check()
    assert scenario.attempts["unknown"] >= len(held)
    assert await scenario.fate("duplicate") == len(held)


async def test_killed_between_publishing_and_mark_the_records_come_twice_and_apply_once(world: World) -> None:
    scenario = await new_scenario(world, seed=53)
    await _start_again(world, "ingest", dies="before delete")
    before = await _absorbed(world)

    async with scenario.sending():
        await scenario.progress(0.3)
        held = await world.order_death("ingest")
        assert held and await world.count(WAITING, held) == len(held)
        await world.start("ingest")

    await scenario.check()
    assert await _twice_on_the_topic(scenario) == set(held)
    assert await _absorbed(world) - before == len(held)


@pytest.mark.parametrize(("service", "seed"), [("booking", 54), ("rollup", 55)])
async def test_killed_before_the_commit_a_batch_has_no_effect_and_comes_again(
    world: World, service: str, seed: int
) -> None:
    scenario = await new_scenario(world, seed=seed)
    await _start_again(world, service, dies="before effect")

    async with scenario.sending():
        await scenario.progress(0.3)
        held = await world.order_death(service)
        assert held and await world.count(CLAIMED.format(service), held) == 0
        await world.start(service)

    await scenario.check()
    assert await world.count(APPLIED.format(service), held) > 0


@pytest.mark.parametrize(("service", "seed"), [("booking", 56), ("rollup", 57)])
async def test_killed_between_commit_and_offsets_the_batch_comes_again_and_applies_once(
    world: World, service: str, seed: int
) -> None:
    scenario = await new_scenario(world, seed=seed)
    await _start_again(world, service, dies="before offsets")

    async with scenario.sending():
        await scenario.progress(0.3)
        held = await world.order_death(service)
        applied = await world.count(APPLIED.format(service), held)
        assert applied > 0
        await world.start(service)

    await scenario.check()
    assert await world.metric(service, "turnout_duplicate_records_total") >= applied


async def _start_again(world: World, service: str, dies: str) -> None:
    await world.stop(service)
    await world.start(service, dies=dies)


async def _absorbed(world: World) -> float:
    return await world.metric("booking", "turnout_duplicate_records_total", topic=INBOUND)


async def _twice_on_the_topic(scenario: Scenario) -> set[object]:
    world = scenario.world
    envelopes = await read_to_end(world.kafka_bootstrap, world.prefix + INBOUND)
    return set(published_again([each for each in envelopes if each.tenant_id in scenario.tenants]))
