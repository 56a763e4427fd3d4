"""What smoke looks at in the system, each with where a person would look when it is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import asyncpg

from turnout_cli.connection import Target
from turnout_cli.dlq import SERVICES
from turnout_cli.smoke_story import Expected, Story
from turnout_common.postgres import load_queries

SQL = load_queries("turnout_cli", "smoke.sql")
T = TypeVar("T")
#: Any well-formed one: the mock provider takes it.
TELEGRAM_TOKEN = "100000077:smoke-bot-token"
POLL_SECONDS = 0.25


class SmokeFailed(Exception):
    """A step found something else than it expected; the text says what was expected, what came, and where to look."""


async def until(
    read: Callable[[], Awaitable[T]], expected: T, what: str, look_at: str, seconds: float
) -> None:
    """Reads until it gives `expected`. Raises SmokeFailed with the last difference."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (came := await read()) != expected:
        if asyncio.get_running_loop().time() > deadline:
            raise SmokeFailed(
                f"{what}: {difference(expected, came)} after {seconds:.0f} s. Look at: {look_at}"
            )
        await asyncio.sleep(POLL_SECONDS)


def difference(expected: Any, came: Any) -> str:
    """Both in words; of two dicts only what differs."""
    if isinstance(expected, dict) and isinstance(came, dict):
        names = [name for name in expected | came if expected.get(name) != came.get(name)]
        return "; ".join(f"{n}: expected {_word(expected.get(n))}, came {_word(came.get(n))}" for n in names)
    return f"expected {_word(expected)}, came {_word(came)}"


def _word(value: Any) -> str:
    if isinstance(value, set | frozenset):
        return ", ".join(sorted(map(str, value))) or "nothing"
    return "nothing" if value is None else str(value)


class Checks:
    """Reads the state of one smoke tenant."""

    def __init__(
        self,
        target: Target,
        story: Story,
        tenant_id: str,
        token: str,
        connection: asyncpg.Connection,
        http: aiohttp.ClientSession,
        seconds: float,
    ) -> None:
        self._target = target
        self._story = story
        self._tenant = tenant_id
        self._headers = {"Authorization": f"Bearer {token}"}
        self._connection = connection
        self._http = http
        self._seconds = seconds

    async def _until(self, read: Callable[[], Awaitable[T]], expected: T, what: str, look_at: str) -> None:
        await until(read, expected, what, look_at, self._seconds)

    async def inbox(self) -> None:
        look = f"./turnout inbox list --tenant {self._tenant}"
        await self._until(self._fates, self._story.fates(), "items by fate", look)

    async def _fates(self) -> dict[str, int]:
        rows = await self._connection.fetch(SQL["fates"], self._tenant)
        return {row["fate"]: row["items"] for row in rows}

    async def client_is_known(self) -> None:
        """Whoever wrote is known, so the client who shared their phone can be written to."""
        look = "the log of booking, and ./turnout dlq list booking"
        await self._until(self._chats, self._story.chats, "chats that booking knows", look)

    async def _chats(self) -> int:
        return int(await self._connection.fetchval(SQL["chats"], self._tenant))

    async def chains(self) -> None:
        look = "the log of booking, ./turnout dlq list booking, booking.booking_events"
        await self._until(self._event_types, self._story.chains(), "events of the three bookings", look)

    async def _event_types(self) -> dict[str, set[str]]:
        rows = await self._connection.fetch(SQL["event_types"], self._tenant)
        return {row["uid"]: set(row["event_types"]) for row in rows}

    async def versions(self) -> None:
        gaps = await self._connection.fetch(SQL["version_gaps"], self._tenant)
        if gaps:
            ids = ", ".join(f"{row['entity_kind']} {row['entity_id']}" for row in gaps)
            raise SmokeFailed(f"versions have gaps: {ids}. Look at: booking.booking_events")

    async def deliveries(self) -> None:
        look = "the logs of sender and mock-providers, ./turnout dlq list sender, sender.deliveries"
        expected = {"confirmation": "accepted", "reminder_24h": "planned"}
        await self._until(self._deliveries, expected, "messages to the client", look)

    async def _deliveries(self) -> dict[str, str]:
        rows = await self._connection.fetch(SQL["deliveries"], self._tenant)
        return {row["template"]: row["status"] for row in rows}

    async def client_was_told(self) -> None:
        """The mock provider holds what the client got: one message, in the chat that shared the phone."""
        look = "the logs of sender and mock-providers"
        await self._until(self._told, 1, "messages in the client's chat", look)

    async def _told(self) -> int:
        url = f"{self._target.mock_url}/_admin/telegram/sent"
        query = {"token": TELEGRAM_TOKEN, "chat_id": str(self._story.sharing.chat_id)}
        async with self._http.get(url, params=query) as answer:
            body = await answer.json(content_type=None)
        return len(body["messages"])

    async def kpis(self, expected: Expected) -> None:
        look = f"./turnout check-kpi --tenant {self._tenant}, ./turnout rollup verify, the log of rollup"
        wanted = expected.figures
        await self._until(lambda: self._figures(expected), wanted, f"KPIs of {expected.name}", look)

    async def _figures(self, expected: Expected) -> dict[str, Any]:
        path = f"staff/{expected.staff_id}" if expected.staff_id else "summary"
        days = {"from": str(expected.first), "to": str(expected.last), "tenantId": self._tenant}
        url = f"{self._target.kpi_url}/kpi/{path}"
        async with self._http.get(url, params=days, headers=self._headers) as answer:
            body = await answer.json(content_type=None)
            if answer.status != 200:
                raise SmokeFailed(
                    f"GET /kpi/{path} was answered {answer.status}: {body}. Look at: the log of kpi-api"
                )
        known = body["metrics"] | body["counts"]
        return {name: known.get(name) for name in expected.figures}

    async def no_dead_letters(self) -> None:
        for service in SERVICES:
            found = await self._connection.fetchval(
                SQL["dead_letters"].replace("{schema}", service), self._tenant
            )
            if found:
                raise SmokeFailed(
                    f"{service} has {found} dead letters. Look at: ./turnout dlq list {service}"
                )
