"""Cal.com's API as far as reconciliation reads it: the bookings that changed since a time.

In: a tenant's API key. Out: all of them, page by page. Promise: limits of rate are kept to, what fails for a while is asked
again, and a list that could not be read to its end is no list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

API = "https://api.cal.com"
VERSION = "2024-08-13"
STATUSES = "upcoming,past,cancelled,unconfirmed,recurring"
PAGE = 100
#: More pages than any tenant's list has: an API that never ends must not keep a scheduler's job for ever.
MOST_PAGES = 5_000
TIMEOUT = aiohttp.ClientTimeout(total=60)
TRIES = 6
LONGEST_PAUSE = 90.0
_AGAIN = frozenset({429, 500, 502, 503, 504})


class CalcomRefused(Exception):
    """Cal.com did not answer as asked; the message says how, without the key or what it wrote."""


async def changed_bookings(
    session: aiohttp.ClientSession, api: str, token: str, since: datetime
) -> list[dict[str, Any]]:
    """The bookings of the key's owner that changed since `since`, as they are listed. Raises CalcomRefused.

    Sorted by when they were made: that never changes, so that a change between two pages moves nothing over a page's end.
    """
    found: dict[str, dict[str, Any]] = {}
    query = {
        "afterUpdatedAt": since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": STATUSES,
        "sortCreated": "asc",
        "take": str(PAGE),
    }
    for page in range(MOST_PAGES):
        answer = await _get(session, f"{api}/v2/bookings", token, query | {"skip": str(page * PAGE)})
        rows = answer.get("data")
        if not isinstance(rows, list):
            raise CalcomRefused("Cal.com did not list the bookings; try again later")
        for row in rows:
            uid = row.get("uid") if isinstance(row, dict) else None
            found[uid if isinstance(uid, str) else f"unreadable {len(found)}"] = row
        paging = answer.get("pagination")
        more = paging.get("hasNextPage") if isinstance(paging, dict) else len(rows) == PAGE
        if not more or not rows:
            return list(found.values())
    raise CalcomRefused("Cal.com's list has no end: narrow it by --since")


async def _get(
    session: aiohttp.ClientSession, url: str, token: str, query: Mapping[str, str]
) -> dict[str, Any]:
    """One answer. Redirects are not followed: they would carry the key on."""
    headers = {"Authorization": f"Bearer {token}", "cal-api-version": VERSION}
    why = ""
    for attempt in range(TRIES):
        pause = 2.0**attempt
        try:
            async with session.get(url, params=query, headers=headers, allow_redirects=False) as answer:
                if answer.status == 200:
                    return _object(await answer.json(content_type=None))
                why = f"Cal.com answered {answer.status}"
                if answer.status in (401, 403):
                    raise CalcomRefused(f"{why}: set the account's present API key")
                if answer.status not in _AGAIN:
                    raise CalcomRefused(f"{why}; try again later")
                pause = _told_to_wait(answer.headers) or pause
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = f"Cal.com did not answer as it should ({type(error).__name__})"
        if attempt + 1 < TRIES:
            await asyncio.sleep(min(pause, LONGEST_PAUSE))
    raise CalcomRefused(f"{why}, {TRIES} times; try again later")


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or content.get("status") not in ("success", None):
        raise CalcomRefused("Cal.com did not answer as it should; try again later")
    return content


def _told_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds; Cal.com names its limits' end in X-RateLimit-Reset too, in seconds from now."""
    for name in ("Retry-After", "X-RateLimit-Reset", "X-RateLimit-Reset-default"):
        text = headers.get(name, "")
        if text.isdigit() and len(text) < 6:
            return float(text) + 0.05
    return None
