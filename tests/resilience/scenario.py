"""A salon's story with its own truth, sent as a provider would, and compared with what the system shows afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import asyncpg

from tests.integration.probe import until
from tests.resilience.ledger import Ledger, Provider
from tests.resilience.world import SECRETS, World
from turnout_cli.demo_history import History
from turnout_cli.demo_salon import demo_salon
from turnout_cli.demo_seed import history_until
from turnout_cli.demo_truth import true_counts
from turnout_cli.webhooks import Webhook, calcom
from turnout_common.clock import SystemClock
from turnout_common.tenants import TenantSettings
from turnout_rollup.verify import verify

TIMEZONE, CURRENCY, DAYS = "Europe/Berlin", "EUR", 4


@dataclass
class Scenario:
    """One tenant's story; `sending` sends it in the background."""

    world: World
    tenant_id: str
    token: str
    story: History
    provider: Provider
    webhooks: list[Webhook] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.provider.ledger

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Sends all; leaving the block waits until each is answered."""
        task = asyncio.create_task(self.provider.send(self.webhooks))
        try:
            yield
            await task
        finally:
            task.cancel()

    async def progress(self, share: float) -> None:
        """Waits until at least `share` of the webhooks is accepted; and not all of them, or the fault came too late."""

        async def reached() -> bool:
            return len(self.ledger.accepted) >= share * len(self.webhooks)

        await until(reached, f"{share:.0%} of the webhooks accepted")
        assert len(self.ledger.accepted) < len(self.webhooks), "all was sent before the fault: send more"

    async def check(self, *, copies: int = 1) -> None:
        """Nothing lost, nothing doubled, no drift: ledger, inbox, scenario's truth and verify agree."""
        await self.world.settled()
        assert self.ledger.refused == {}
        assert self.ledger.accepted == set(range(len(self.webhooks)))
        distinct = len(self.webhooks) // copies
        sql = "SELECT count(*) FROM ingest.inbox WHERE tenant_id = $1 AND fate IN ('published', 'ignored')"
        assert await self.world.count(sql, self.tenant_id) == distinct
        await self._compare_with_truth()
        connection = await asyncpg.connect(self.world.database.dsn("maintenance"))
        try:
            report = await verify(connection, self.tenant_id)
        finally:
            await connection.close()
        assert report.ok, report.as_dict()

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


async def new_scenario(world: World, *, bookings_a_day: int = 60, copies: int = 1, seed: int = 1) -> Scenario:
    """A tenant and the story of its last days; with `copies` > 1 each webhook is sent that often, in random order."""
    salon = demo_salon(TIMEZONE, CURRENCY, bookings_a_day)
    settings = TenantSettings(staff_map=salon.staff_map, service_map=salon.service_map)
    tenant_id, token = await world.new_tenant(settings, TIMEZONE)
    story = history_until(salon, DAYS, SystemClock().now(), seed)
    webhooks = [timed.webhook for timed in story.webhooks] * copies
    if copies > 1:
        random.Random(seed).shuffle(webhooks)
    scenario = Scenario(
        world, tenant_id, token, story, Provider(world.url("ingest"), tenant_id, SECRETS), webhooks
    )
    await _known_to_ingest(world, tenant_id)
    return scenario


async def _known_to_ingest(world: World, tenant_id: str) -> None:
    """Waits for the reload of the configuration: the first webhook of an unknown tenant would be refused."""
    now = SystemClock().now()

    async def known() -> bool:
        provider = Provider(world.url("ingest"), tenant_id, SECRETS, concurrency=1)
        ledger = await provider.send([calcom.ping(now)])
        return bool(ledger.accepted)

    await until(known, "ingest to know the tenant")
    await world.value("DELETE FROM ingest.inbox WHERE tenant_id = $1", tenant_id)
