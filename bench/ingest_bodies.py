"""Signed Cal.com webhooks of about 2 kB, every one another booking, made faster than they are sent.

In: tenants and a range of numbers. Out: whole HTTP requests. The same number gives the same request.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bench.system import LOOPBACK, SECRET
from turnout_cli.webhooks import calcom

#: Numbers have nine digits, so that all bodies are equally long.
FIRST = 100_000_000
_MARK = 987_654_321
_NOTES = (
    "Please use the side entrance, the front door is closed on Mondays. Last time we said that the colour may be a "
    "little warmer; I bring a picture. If it takes longer than planned, call me. Иван Петров, заранее спасибо!"
)


def body_parts(now: datetime) -> list[bytes]:
    """A body cut at each place where its number stands."""
    host = calcom.Host(7, "Maria Lindemann", "maria")
    kind = calcom.EventType(12, "colour-and-cut", "Colour and cut", 90, 12_900)
    guest = calcom.Guest(f"Guest {_MARK}", f"guest.{_MARK}@example.org", f"+4915{_MARK}")
    start = (now + timedelta(days=3)).replace(minute=0, second=0, microsecond=0)
    booking = calcom.Booking(f"bench{_MARK}", _MARK, start, host, kind, guest, now)
    body = json.loads(calcom.created(booking, now).body)
    body["payload"]["additionalNotes"] = _NOTES
    body["payload"]["responses"]["notes"]["value"] = _NOTES
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode().split(str(_MARK).encode())


def requests(tenants: Sequence[str], first: int, count: int) -> list[bytes]:
    """The requests `first` to `first + count`, tenants in turn."""
    parts = body_parts(datetime(2026, 1, 15, 9, tzinfo=UTC))
    length = sum(map(len, parts)) + 9 * (len(parts) - 1)
    heads = [_head(tenant, length) for tenant in tenants]
    secret = SECRET.encode()
    made = []
    for number in range(FIRST + first, FIRST + first + count):
        body = b"%d" % number
        body = body.join(parts)
        signature = hmac.digest(secret, body, "sha256").hex().encode()
        made.append(b"%s%s\r\n\r\n%s" % (heads[number % len(heads)], signature, body))
    return made


def _head(tenant: str, length: int) -> bytes:
    return (
        f"POST /webhooks/calcom/{tenant} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: {length}\r\n"
        "Content-Type: application/json\r\nX-Cal-Webhook-Version: 2021-10-20\r\nX-Cal-Signature-256: "
    ).encode()
