"""What those who send do to us: they give up and send again, they reach two replicas at once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.integration.probe import running, until
from tests.integration.wire import wire_to
from tests.resilience.ledger import Provider
from tests.resilience.scenario import known_to_ingest, new_scenario
from tests.resilience.topic import published_again, read_to_end
from tests.resilience.world import SECRETS, World
from turnout_cli.webhooks import Webhook, telegram
from turnout_common.clock import SystemClock
from turnout_common.topics import INBOUND

pytestmark = pytest.mark.slow

PAIRS = 2000
#: So many webhooks reach one replica in one order and the other in the opposite one.
TURNED = 250
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


async def test_provider_that_gives_up_and_sends_again_has_one_effect(world: World) -> None:
    scenario = await new_scenario(world, seed=81)
    scenario.provider.timeout = scenario.chats.provider.timeout = 1.0

    async with wire_to(world.url("ingest")) as wire:
        scenario.provider.ingest_url = scenario.chats.provider.ingest_url = f"http://127.0.0.1:{wire.port}"
        async with scenario.sending():
            await scenario.progress(0.3)
            wire.freeze()

            async def felt() -> bool:
                return scenario.attempts["given up"] >= 30

            await until(felt, "attempts to be given up")
            wire.thaw()

    await scenario.check()
    assert await scenario.fate("duplicate") == scenario.attempts["given up"]


async def test_two_replicas_that_receive_the_same_at_once_publish_it_once(world: World) -> None:
    """Thousands of pairs, in opposite orders: writers that took the keys as they come would wait for each other."""
    await world.start("ingest@second")
    tenant_id, _ = await world.new_tenant()
    first, second = (
        Provider(world.url(name), tenant_id, SECRETS, concurrency=TURNED, rate=5000.0)
        for name in ("ingest", "ingest@second")
    )
    await asyncio.gather(*(known_to_ingest(each) for each in (first, second)))
    deadlocks = await world.count(DEADLOCKS)
    before = [await _fates(world, name) for name in ("ingest", "ingest@second")]

    webhooks = _messages(PAIRS)
    async with running(_hold_commits(world)):
        await asyncio.gather(first.send(webhooks), second.send(_turned(webhooks)))
    after = [await _fates(world, name) for name in ("ingest", "ingest@second")]
    await world.settled()
    assert await world.stop("ingest@second") == 0

    assert first.ledger.accepted == second.ledger.accepted == set(range(PAIRS))
    won, lost = (
        [now[fate] - then[fate] for then, now in zip(before, after, strict=True)]
        for fate in ("published", "duplicate")
    )
    assert min(won) > 0 and min(lost) > 0, "one replica was always first: they did not meet"
    assert (sum(won), sum(lost)) == (PAIRS, PAIRS)
    assert await world.count(DEADLOCKS) == deadlocks
    envelopes = await read_to_end(world.kafka_bootstrap, world.prefix + INBOUND)
    ours = [each for each in envelopes if each.tenant_id == tenant_id]
    assert len(ours) == PAIRS and not published_again(ours)


async def _hold_commits(world: World) -> None:
    """Lets both writers begin at the same moment, again and again, with all that gathered meanwhile."""
    while True:
        async with world.commits_held():
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.1)


def _messages(count: int) -> list[Webhook]:
    """One message each of many clients."""
    now = SystemClock().now()
    return [
        telegram.text(number, telegram.Chat(800_000 + number, "Pair"), 1, now, "hi")
        for number in range(1, count + 1)
    ]


def _turned(webhooks: list[Webhook]) -> list[Webhook]:
    """The same, each group from its end."""
    groups = [webhooks[at : at + TURNED] for at in range(0, len(webhooks), TURNED)]
    return [webhook for group in groups for webhook in reversed(group)]


async def _fates(world: World, name: str) -> Counter[str]:
    return Counter(
        {
            fate: int(await world.metric(name, "turnout_items_total", channel="telegram", fate=fate))
            for fate in ("published", "duplicate")
        }
    )
