"""Faults of services and input: each is shown to have happened, and afterwards nothing is lost, nothing doubled, nothing drifts."""

from __future__ import annotations

import asyncio
import signal

import psutil
import pytest

from tests.integration.probe import delete_records, until
from tests.resilience.scenario import Scenario, new_scenario
from tests.resilience.world import RECOVERY_AGE, World
from turnout_common.workers import KILL_AFTER_SECONDS

pytestmark = pytest.mark.slow

#: So many attempts at least are under way when SIGTERM comes.
WAITING = 12


async def test_quiet_run_shows_the_truth(world: World) -> None:
    scenario = await new_scenario(world)

    async with scenario.sending():
        pass

    await scenario.check()
    assert scenario.attempts.keys() == {"ok"}


@pytest.mark.parametrize(
    ("service", "seed"), [("ingest", 31), ("booking", 32), ("sender", 33), ("rollup", 34), ("kpi-api", 35)]
)
async def test_kill_9_in_the_middle_of_load_loses_and_doubles_nothing(
    world: World, service: str, seed: int
) -> None:
    scenario = await new_scenario(world, seed=seed)

    async with scenario.sending():
        await scenario.progress(0.3)
        await world.kill(service)
        await world.start(service)

    await scenario.check()
    if service == "ingest":
        assert scenario.attempts["unknown"] + scenario.attempts["not connected"] > 0


async def test_ingest_killed_again_and_again_gives_each_webhook_one_effect(world: World) -> None:
    scenario = await new_scenario(world, seed=41)

    async with scenario.sending():
        for share in (0.1, 0.25, 0.4, 0.55, 0.7):
            await scenario.progress(share)
            await world.kill("ingest")
            await world.start("ingest")

    await scenario.check()
    assert scenario.attempts["unknown"] > 0, "no answer was lost: the kills hit nothing"


async def test_topic_emptied_after_publishing_is_published_again(world: World) -> None:
    scenario = await new_scenario(world, seed=44)
    await world.stop("booking")
    async with scenario.sending():
        pass
    await until(lambda: _published(world), "everything published")
    await delete_records(world.kafka_bootstrap, world.prefix + "inbound_webhooks")
    lost = await world.count(
        "SELECT count(*) FROM ingest.inbox i WHERE fate = 'published' AND tenant_id = $1 "
        "AND NOT EXISTS (SELECT FROM booking.applied a WHERE a.record_id = i.item_id)",
        scenario.tenant_id,
    )
    before = await world.metric("ingest", "turnout_recovered_total")
    await world.start("booking")

    await scenario.check(in_order=False)
    assert lost > 0, "nothing was lost: the topic was not emptied"
    assert await world.metric("ingest", "turnout_recovered_total") - before >= lost


async def test_consumer_stopped_for_long_under_load_causes_no_recovery(world: World) -> None:
    await world.settled()
    before = [await world.metric(service, "turnout_recovered_total") for service in ("ingest", "booking")]
    scenario = await new_scenario(world, seed=45)

    world.send_signal("booking", signal.SIGSTOP)
    async with scenario.sending():
        pass
    noticed = "SELECT count(*) FROM ingest.missing WHERE watch = 'inbound_webhooks>booking'"
    await until(
        lambda: _at_least(world, noticed, 1), "the check to notice what is not applied", 5 * RECOVERY_AGE
    )
    await asyncio.sleep(5 * RECOVERY_AGE)  # ten minutes of two-minute ages: the fault is its length
    world.send_signal("booking", signal.SIGCONT)

    await scenario.check()
    after = [await world.metric(service, "turnout_recovered_total") for service in ("ingest", "booking")]
    assert after == before


async def test_duplicated_and_shuffled_input_has_the_effect_of_the_ordered_one(world: World) -> None:
    scenario = await new_scenario(world, copies=3, seed=46)

    async with scenario.sending():
        pass

    await scenario.check(copies=3)
    duplicates = await scenario.fate("duplicate")
    assert duplicates == len(scenario.webhooks) // 3 * 2


@pytest.mark.parametrize(("workers", "seed"), [("1", 47), ("2", 48)])
async def test_sigterm_under_load_drains_and_loses_no_answer(world: World, workers: str, seed: int) -> None:
    scenario = await new_scenario(world, seed=seed)
    assert await world.stop("ingest") == 0
    await world.start("ingest", TURNOUT_WORKERS=workers)

    async with scenario.sending(upto=0.1):
        for share in (0.1, 0.4):
            await scenario.progress(share)
            async with world.commits_held():
                # Only now: what was let pass before could all be sent before the commits are held.
                scenario.let(share + 0.3)
                await until(lambda: _under_way(scenario), "webhooks to wait for their commit")
                stopping = asyncio.create_task(world.stop("ingest"))
                await until(lambda: _listens_no_more(world), "ingest to drain")
                await asyncio.sleep(
                    0.3
                )  # the fault is its length: a server that does not drain has cancelled them
            assert await stopping == 0
            await world.start("ingest", TURNOUT_WORKERS=workers)

    # A request that crosses the closing of a kept connection gets no answer; what was committed must have got one, save
    # where the client did not wait for it.
    await scenario.check()
    assert scenario.attempts["503"] == 0
    assert scenario.attempts["unknown"] < WAITING, "what waited at the stop was not answered"
    assert await scenario.fate("duplicate") <= scenario.attempts["given up"]
    assert scenario.attempts["not connected"] > 0, "nobody felt the stop"


async def test_one_of_two_workers_killed_ends_both_and_loses_nothing(world: World) -> None:
    scenario = await new_scenario(world, seed=49)
    await world.stop("ingest")
    await world.start("ingest", TURNOUT_WORKERS="2")

    async with scenario.sending():
        await scenario.progress(0.3)
        workers = psutil.Process(world.processes["ingest"].pid).children()
        assert len(workers) == 2
        workers[0].kill()
        async with asyncio.timeout(KILL_AFTER_SECONDS):  # or it goes on with one
            assert await world.processes["ingest"].wait() == 1
        assert not any(worker.is_running() for worker in workers)
        await world.start("ingest")

    await scenario.check()
    assert scenario.attempts["unknown"] + scenario.attempts["not connected"] > 0


async def _under_way(scenario: Scenario) -> bool:
    return scenario.ledger.under_way + scenario.chats.provider.ledger.under_way >= WAITING


async def _listens_no_more(world: World) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", world.ports["ingest"])
    except OSError:
        return True
    writer.close()
    return False


async def _published(world: World) -> bool:
    return not await world.count("SELECT count(*) FROM ingest.outbox")


async def _at_least(world: World, sql: str, count: int) -> bool:
    return await world.count(sql) >= count
