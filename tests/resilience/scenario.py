"""A salon's story with its own truth, sent as a provider would, and compared with what the system shows afterwards."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import asyncpg

from tests.integration.probe import until
from tests.resilience.chats import Chats
from tests.resilience.ledger import ANSWER_SECONDS, WHILE_AWAY, Ledger, Provider
from tests.resilience.topic import read_to_end, times_by_subject
from tests.resilience.world import SECRETS, World
from turnout_cli.demo_history import History
from turnout_cli.demo_salon import demo_salon
from turnout_cli.demo_seed import history_until
from turnout_cli.demo_truth import true_counts
from turnout_cli.webhooks import Webhook, calcom
from turnout_common.clock import SystemClock
from turnout_common.tenants import TenantSettings
from turnout_common.topics import INBOUND
from turnout_rollup.verify import verify

TIMEZONE, CURRENCY, DAYS = "Europe/Berlin", "EUR", 4
#: The share of the story that is sent while the fault happens.
BEFORE_THE_END = 0.7


@dataclass
class Scenario:
    """One tenant's story, and chats of another tenant beside it; `sending` sends both in the background."""

    world: World
    tenant_id: str
    token: str
    story: History
    provider: Provider
    chats: Chats
    webhooks: list[Webhook] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.provider.ledger

    @property
    def tenants(self) -> list[str]:
        """Who was written to: the story's tenant and the chats'."""
        return [self.tenant_id, self.chats.provider.tenant_id]

    @property
    def attempts(self) -> Counter[str]:
        """All attempts by their answer, the chats' too."""
        return self.ledger.attempts + self.chats.provider.ledger.attempts

    @asynccontextmanager
    async def sending(self, upto: float = BEFORE_THE_END) -> AsyncIterator[None]:
        """Sends `upto` that share of the story until `let` lets more pass; the last part waits for the end of the block,
        and that until all is answered."""
        told = asyncio.Event()
        self.let(upto)
        story = asyncio.create_task(self.provider.send(self.webhooks))
        chats = asyncio.create_task(self.chats.talk(told))
        try:
            yield
            self.provider.share = 1.0
            await story
            told.set()
            await chats
        finally:
            story.cancel()
            chats.cancel()

    def let(self, upto: float) -> None:
        """Lets the story be sent up to that share of it."""
        assert upto <= BEFORE_THE_END
        self.provider.share = upto

    async def fate(self, fate: str) -> int:
        """Items of that fate, as ingest counted them."""
        sql = (
            "SELECT coalesce(sum(items), 0) FROM ingest.fate_counts WHERE tenant_id = ANY ($1) AND fate = $2"
        )
        return await self.world.count(sql, self.tenants, fate)

    def check_answers(self) -> None:
        """Of a service that ran all the time: each attempt got an answer, in time, and was asked to come again."""
        assert self.attempts.keys() <= WHILE_AWAY, self.attempts
        for ledger in (self.ledger, self.chats.provider.ledger):
            assert ledger.slowest < ANSWER_SECONDS
            assert ledger.silent == 0

    async def progress(self, share: float) -> None:
        """Waits until at least `share` of the webhooks is accepted."""
        assert share <= BEFORE_THE_END

        async def reached() -> bool:
            assert self.ledger.refused == {}, "refused, and so never accepted"
            return len(self.ledger.accepted) >= share * len(self.webhooks)

        await until(reached, f"{share:.0%} of the webhooks accepted")

    async def check(self, *, copies: int = 1, in_order: bool = True) -> None:
        """Nothing lost, nothing doubled, no drift: ledger, inbox, topic, scenario's truth and verify agree.

        Not `in_order` where the topic lost records: those that are published again come after younger ones.
        """
        await self.world.settled()
        assert self.ledger.refused == {}
        assert self.ledger.accepted == set(range(len(self.webhooks)))
        await self._check_chats(in_order)
        distinct = len(self.webhooks) // copies
        sql = (
            "SELECT count(*) FROM ingest.inbox WHERE tenant_id = $1 AND fate IN ('published', 'ignored') "
            "AND event_type <> 'PING'"
        )
        assert await self.world.count(sql, self.tenant_id) == distinct
        await self._compare_with_truth()
        connection = await asyncpg.connect(self.world.database.dsn("maintenance"))
        try:
            report = await verify(connection, self.tenant_id)
        finally:
            await connection.close()
        assert report.ok, report.as_dict()

    async def _check_chats(self, in_order: bool) -> None:
        """What the clients said is in the inbox, and on the topic in their order."""
        said, tenant_id = self.chats.in_order(), self.chats.provider.tenant_id
        assert self.chats.provider.ledger.refused == {}
        sql = "SELECT count(*) FROM ingest.inbox WHERE tenant_id = $1 AND fate = 'published'"
        assert await self.world.count(sql, tenant_id) == sum(map(len, said))
        if in_order:
            topic = self.world.prefix + INBOUND
            envelopes = await read_to_end(self.world.kafka_bootstrap, topic)
            assert times_by_subject([each for each in envelopes if each.tenant_id == tenant_id]) == said

    async def _compare_with_truth(self) -> None:
        first, last = self.story.first, self.story.last + timedelta(days=3)
        shown: dict[str, int] = {}
        expected: dict[str, int] = {"not": -1}

        async def agree() -> bool:
            nonlocal shown, expected
            answer = await self._summary(first.isoformat(), last.isoformat())
            truth = true_counts(self.story, first, last, datetime.fromisoformat(answer["asOf"]))
            shown = {name: answer["counts"][name] for name in truth}
            expected = truth
            return shown == expected

        try:
            await until(agree, "the API to show the scenario's truth", 20)
        except AssertionError:
            differing = {n: (expected[n], shown.get(n)) for n in expected if expected[n] != shown.get(n)}
            raise AssertionError(f"count: (truth, shown): {differing}") from None

    async def _summary(self, first: str, last: str) -> dict[str, Any]:
        url = f"{self.world.url('kpi-api')}/kpi/summary?tenantId={self.tenant_id}&from={first}&to={last}"
        headers = {"Authorization": f"Bearer {self.token}"}
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return dict(await answer.json())


async def new_scenario(world: World, *, bookings_a_day: int = 40, copies: int = 1, seed: int = 1) -> Scenario:
    """A tenant and the story of its last days; with `copies` > 1 each webhook is sent that often, in random order."""
    salon = demo_salon(TIMEZONE, CURRENCY, bookings_a_day)
    settings = TenantSettings(staff_map=salon.staff_map, service_map=salon.service_map)
    tenant_id, token = await world.new_tenant(settings, TIMEZONE)
    story = history_until(salon, DAYS, SystemClock().now(), seed)
    webhooks = [timed.webhook for timed in story.webhooks] * copies
    if copies > 1:
        random.Random(seed).shuffle(webhooks)
    provider = Provider(world.url("ingest"), tenant_id, SECRETS)
    talked_to = Provider(world.url("ingest"), (await world.new_tenant())[0], SECRETS)
    chats = Chats.begun(talked_to, SystemClock().now())
    await asyncio.gather(*(known_to_ingest(each) for each in (provider, talked_to)))
    return Scenario(world, tenant_id, token, story, provider, chats, webhooks)


async def known_to_ingest(provider: Provider) -> None:
    """Waits for the reload of the configuration: the first webhook of an unknown tenant would be refused."""
    now = SystemClock().now()

    async def known() -> bool:
        asking = Provider(provider.ingest_url, provider.tenant_id, SECRETS, concurrency=1)
        return bool((await asking.send([calcom.ping(now)])).accepted)

    await until(known, "ingest to know the tenant")
