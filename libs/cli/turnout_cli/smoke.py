"""`turnout smoke`: drives a running system through a salon's day with a tenant of its own, and checks each step.

Promise: exit status 0 only when every step held; the tenant is suspended at the end, whatever happened.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import datetime

import aiohttp

from turnout_cli.connection import Target, TargetOption, resolve, run
from turnout_cli.demo_seed import KNOWN_SECONDS
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, print_json, say
from turnout_cli.smoke_checks import TELEGRAM_TOKEN, Checks, SmokeFailed
from turnout_cli.smoke_story import SERVICE_MAP, STAFF_MAP, Expected, Story, expected_kpis, new_story
from turnout_cli.webhooks import PostFailed, Webhook, WebhookClient, signed_headers
from turnout_common import tenants
from turnout_common.clock import SystemClock


@dataclass
class Step:
    """What became of one step."""

    name: str
    ok: bool
    seconds: float
    detail: str = ""


def smoke(*, target: TargetOption = "embedded", seconds: float = 60.0, as_json: Json = False) -> int:
    """Send a salon's day as webhooks, and check inbox, events, messages and KPIs to the last digit.

    Parameters
    ----------
    seconds
        How long a step may wait for its condition.
    """
    tenant_id = f"smoke-{secrets.token_hex(4)}"
    place = resolve(target)
    place.require("ingest_url", "kpi_url", "platform_dsn", "maintenance_dsn", "master_key_text")
    steps = run(_smoke(place, tenant_id, SystemClock().now(), seconds))
    ok = all(step.ok for step in steps)
    if as_json:
        print_json({"ok": ok, "tenant": tenant_id, "steps": [asdict(step) for step in steps]})
    say(f"{'✓ all' if ok else '✗ not all'} of {len(steps)} steps held (tenant {tenant_id})")
    return 0 if ok else 1


async def _smoke(target: Target, tenant_id: str, now: datetime, seconds: float) -> list[Step]:
    run = Run(target, tenant_id, new_story(tenant_id, now), seconds)
    try:
        await run.all_steps()
    finally:
        await run.end()
    return run.steps


class Run:
    """One run: its tenant, its connections, its steps."""

    def __init__(self, target: Target, tenant_id: str, story: Story, seconds: float) -> None:
        self._target = target
        self._tenant = tenant_id
        self._story = story
        self._seconds = seconds
        self._open = AsyncExitStack()
        self._token = ""
        self._created = False
        self._secrets = {
            "calcom": secrets.token_hex(16),
            "telegram": secrets.token_hex(16),
            "events": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
            "whatsapp": secrets.token_hex(16),
            "instagram": secrets.token_hex(16),
            "vk": secrets.token_hex(16),
            "max": secrets.token_hex(16),
        }
        self._handshakes = {name: secrets.token_hex(4) for name in ("whatsapp", "instagram", "vk")}
        self.steps: list[Step] = []

    async def all_steps(self) -> None:
        """What is sent must be accepted before anything is checked; the checks are made all."""
        sending: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = (
            ("a tenant of its own", self._create_tenant),
            ("ingest knows the tenant", self._ingest_knows),
            ("two bookings of yesterday and their facts are accepted", self._send_past),
            ("a copy of each is accepted", self._send_past),
            ("a forged signature is refused with 401", self._send_forged),
            ("a malformed body is answered 400", self._send_malformed),
            ("a Telegram message is accepted, twice", self._send_question),
            ("messages of WhatsApp, Instagram, VK and MAX are accepted, twice", self._send_messengers),
            ("Meta's and VK's check of a new callback is answered", self._answer_handshakes),
            ("a client shares their phone, and books for the day after tomorrow", self._book_by_phone),
        )
        for name, work in sending:
            if not await self._step(name, work):
                return
        checks = await self._checks()
        for name, check in self._checking(checks):
            await self._step(name, check)

    def _checking(self, checks: Checks) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        def figures(expected: Expected) -> Callable[[], Awaitable[None]]:
            return lambda: checks.kpis(expected)

        return [
            ("every item has the fate it should", checks.inbox),
            ("each booking has its events", checks.chains),
            ("the confirmation was accepted, the reminder waits", checks.deliveries),
            ("the client has one message in their chat", checks.client_was_told),
            ("versions have no gaps", checks.versions),
            *((f"KPIs of {each.name} are exact", figures(each)) for each in expected_kpis(self._story)),
            ("no dead letters", checks.no_dead_letters),
        ]

    async def end(self) -> None:
        """Suspends the tenant, also when a step failed, and closes what is open."""
        if self._created:
            await self._step("the tenant is suspended", self._suspend)
        await self._open.aclose()

    async def _step(self, name: str, work: Callable[[], Awaitable[None]]) -> bool:
        started, detail = time.monotonic(), ""
        try:
            await work()
        except (SmokeFailed, PostFailed, CommandError, aiohttp.ClientError, TimeoutError) as error:
            detail = str(error) or repr(error)
        step = Step(name, not detail, round(time.monotonic() - started, 2), detail)
        self.steps.append(step)
        say(
            f"{'✓' if step.ok else '✗'} {name} ({step.seconds:.1f} s)" + (f"\n    {detail}" if detail else "")
        )
        return step.ok

    async def _create_tenant(self) -> None:
        settings = tenants.TenantSettings(staff_map=STAFF_MAP, service_map=SERVICE_MAP)
        key = self._target.master_key
        async with self._target.platform() as connection:
            await tenants.create_tenant(
                connection, key, self._tenant, self._story.timezone, settings=settings, actor="smoke"
            )
            self._created = True
            for channel, secret in self._secrets.items():
                api_token = TELEGRAM_TOKEN if channel == "telegram" else None
                await tenants.set_channel(
                    connection, key, self._tenant, channel, secret=secret, api_token=api_token, actor="smoke",
                    routing_id=self._story.routing_ids.get(channel), handshake=self._handshakes.get(channel),
                )  # fmt: skip
            self._token = await tenants.create_api_token(
                connection, self._tenant, "owner", label="smoke", actor="smoke"
            )
        self._client = await self._open.enter_async_context(
            WebhookClient(
                self._target.ingest_url,
                self._tenant,
                self._secrets,
                patience_seconds=self._seconds,
                known_within_seconds=KNOWN_SECONDS,
            )
        )

    async def _ingest_knows(self) -> None:
        """A tenant that is not read yet is answered 401, as a stranger is."""
        await self._accepted(self._story.hello())

    async def _send_past(self) -> None:
        for webhook in self._story.past():
            await self._accepted(webhook)

    async def _accepted(self, webhook: Webhook) -> None:
        answer = await self._client.send(webhook)
        _must(answer.status, f"a {webhook.channel} webhook", 200, 299, answer.body)

    async def _send_forged(self) -> None:
        webhook = self._story.upcoming_booking(self._story.now)
        headers = signed_headers(webhook, "not-the-secret", 0)
        answer = await self._client.send(webhook, headers=headers)
        _must(answer.status, "a forged signature", 401, 401, answer.body)

    async def _send_malformed(self) -> None:
        answer = await self._client.send(self._story.malformed())
        _must(answer.status, "a body that is not JSON", 400, 400, answer.body)

    async def _send_question(self) -> None:
        await self._accepted(self._story.question())
        await self._accepted(self._story.question())

    async def _send_messengers(self) -> None:
        """VK wants exactly `ok` and MAX exactly 200, or they send again and give up."""
        for webhook in self._story.messengers() * 2:
            answer = await self._client.send(webhook)
            _must(answer.status, f"a {webhook.channel} webhook", 200, 200, answer.body)
            expected = "ok" if webhook.channel == "vk" else ""
            _must_say(answer.body, f"a {webhook.channel} webhook", expected)

    async def _answer_handshakes(self) -> None:
        answer = await self._client.send(self._story.vk_confirmation())
        _must_say(answer.body, "VK's confirmation", self._handshakes["vk"])
        for channel in ("whatsapp", "instagram"):
            challenge = secrets.token_hex(8)
            query = {
                "hub.mode": "subscribe", "hub.challenge": challenge, "hub.verify_token": self._handshakes[channel],
            }  # fmt: skip
            url = f"{self._target.ingest_url}/webhooks/{channel}/{self._tenant}"
            async with aiohttp.ClientSession() as http, http.get(url, params=query) as got:
                _must_say(await got.text(), f"the handshake of {channel}", challenge)

    async def _book_by_phone(self) -> None:
        await self._accepted(self._story.shared_phone())
        await (await self._checks()).client_is_known()
        await self._accepted(self._story.upcoming_booking(SystemClock().now()))

    async def _checks(self) -> Checks:
        connection = await self._open.enter_async_context(self._target.maintenance())
        timeout = aiohttp.ClientTimeout(total=30)
        http = await self._open.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        return Checks(self._target, self._story, self._tenant, self._token, connection, http, self._seconds)

    async def _suspend(self) -> None:
        async with self._target.platform() as connection:
            await tenants.set_tenant_status(connection, self._tenant, "suspended", actor="smoke")


def _must(status: int, what: str, least: int, most: int, body: str) -> None:
    if not least <= status <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise SmokeFailed(
            f"{what}: expected {wanted}, came {status} {body[:200]!r}. Look at: the log of ingest"
        )


def _must_say(said: str, what: str, expected: str) -> None:
    if said != expected:
        raise SmokeFailed(
            f"{what}: expected the answer {expected!r}, came {said[:200]!r}. Look at: the log of ingest"
        )
