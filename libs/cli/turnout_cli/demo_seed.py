"""Sends a demo history through the front door: signed webhooks over HTTP, never inserts.

Promise: the same seed sends the same ids and bytes, so seeding again changes nothing; whoever calls gets the history,
and so the truth that the KPIs must show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from turnout_cli.actor import who
from turnout_cli.connection import Target
from turnout_cli.demo_history import History, Timed, history
from turnout_cli.demo_salon import Salon, demo_salon
from turnout_cli.demo_tenant import DEMO_TENANT
from turnout_cli.errors import CommandError
from turnout_cli.webhooks import PostFailed, WebhookClient
from turnout_common.clock import Clock, SystemClock
from turnout_common.postgres import create_pool
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import Tenant, update_settings

CHANNELS = ("calcom", "telegram", "events")
CONCURRENCY = 32
#: A change of a tenant's configuration is in force within a second; a connection that broke just then, later.
KNOWN_SECONDS = 10.0
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Seeded:
    """What was sent. `refused` are answers other than success, as sentences."""

    history: History
    sent: int
    retries: int
    refused: Sequence[str]


async def seed_demo(
    target: Target,
    days: int,
    *,
    tenant_id: str = DEMO_TENANT,
    seed: int = 1,
    bookings_a_day: int = 14,
    progress: Progress = lambda done, total: None,
    clock: Clock | None = None,
) -> Seeded:
    """Sends the last `days` days of a salon, today included, and what is booked ahead.

    Raises CommandError for a tenant that is not there, is suspended or lacks a channel.
    """
    tenant = await read_tenant(target, tenant_id)
    secrets = channel_secrets(tenant)
    salon = demo_salon(tenant.timezone, tenant.currency, bookings_a_day)
    await _map_names(target, tenant, salon)
    story = history_until(salon, days, (clock or SystemClock()).now(), seed)
    async with WebhookClient(
        target.ingest_url, tenant_id, secrets, connections=CONCURRENCY, known_within_seconds=KNOWN_SECONDS
    ) as client:
        refused = await send_all(client, story.webhooks, progress)
    return Seeded(story, len(story.webhooks), client.retries, refused)


def history_until(salon: Salon, days: int, now: datetime, seed: int = 1) -> History:
    """The history of the last `days` local days up to `now`."""
    today = now.astimezone(ZoneInfo(salon.timezone)).date()
    return history(salon, today - timedelta(days=days - 1), today, now, seed)


async def read_tenant(target: Target, tenant_id: str) -> Tenant:
    """The tenant with its channels' secrets, which the platform role and the master key open."""
    pool = await create_pool(target.platform_dsn, "turnout-cli", 1)
    try:
        directory = TenantDirectory(pool, target.master_key)
        await directory.reload()
    finally:
        await pool.close()
    tenant = directory.get(tenant_id)
    if tenant is None:
        raise CommandError(f"there is no tenant {tenant_id!r}; `./turnout tenant list` shows those that are")
    if not tenant.active:
        raise CommandError(f"tenant {tenant_id!r} is {tenant.status}; `./turnout tenant resume {tenant_id}`")
    return tenant


def channel_secrets(tenant: Tenant) -> dict[str, str]:
    """The newest secret of each channel that the demo speaks. Raises CommandError where one is missing."""
    secrets = {name: channel.secrets[0] for name, channel in tenant.channels.items() if channel.secrets}
    if missing := [name for name in CHANNELS if name not in secrets]:
        raise CommandError(
            f"tenant {tenant.tenant_id!r} has no secret for {', '.join(missing)}; "
            f"`./turnout tenant channel set {tenant.tenant_id} {missing[0]} --secret …`"
        )
    return secrets


async def _map_names(target: Target, tenant: Tenant, salon: Salon) -> None:
    """Tells the tenant who Cal.com's organizers and event types are; booking reads it with each batch."""
    wanted = {"staff_map": salon.staff_map, "service_map": salon.service_map}
    if all(entries.items() <= getattr(tenant.settings, name).items() for name, entries in wanted.items()):
        return
    async with target.platform() as connection:
        await update_settings(connection, tenant.tenant_id, {}, entries=wanted, actor=who())


async def send_all(
    client: WebhookClient,
    webhooks: Sequence[Timed],
    progress: Progress = lambda done, total: None,
    concurrency: int = CONCURRENCY,
) -> list[str]:
    """Sends all, at most `concurrency` at a time, oldest first; gives the refusals as sentences.

    Raises PostFailed when ingest stays away.
    """
    waiting, refused, done = iter(webhooks), [], 0

    async def work(queue: Iterator[Timed]) -> None:
        nonlocal done
        for timed in queue:
            answer = await client.send(timed.webhook)
            done += 1
            progress(done, len(webhooks))
            if not answer.ok:
                refused.append(f"{timed.webhook.channel}: answered {answer.status} {answer.body[:200]}")

    failed: PostFailed | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work(waiting))
    except* PostFailed as several:
        failed = next(error for error in several.exceptions if isinstance(error, PostFailed))
    if failed is not None:
        raise failed
    return refused
