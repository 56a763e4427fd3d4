"""The providers' bodies told as of now and of our own accounts, and posted: signed, wrongly signed, and as they came."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.e2e.conftest import PAYLOADS
from tests.webhook_fixtures import NOON
from turnout_cli.webhooks import Webhook, signed_body, signed_headers
from turnout_common.clock import SystemClock

#: The folder of each channel's samples.
CHANNELS = {
    "calcom": "calcom",
    "telegram": "telegram",
    "standard_webhooks": "events",
    "vk": "vk",
    "max": "max",
    "whatsapp": "whatsapp",
    "instagram": "instagram",
}
#: Nothing else that is ever logged looks like them.
SECRETS = {name: f"e2e-secret-of-{name}-7Qm2vX9k" for name in CHANNELS.values()} | {
    "events": "whsec_" + base64.b64encode(b"e2e secret of events at 32 bytes").decode()
}
ANOTHER_SECRET = "whsec_" + base64.b64encode(b"a secret of somebody else's own!").decode()
ACCOUNTS = {"vk": "191949777", "whatsapp": "1122334455667", "instagram": "17841400739999"}
HANDSHAKES = {"vk": "c0de-7Qm2vX9k", "whatsapp": "e2e-verify-7Qm2vX9k", "instagram": "e2e-verify-8Rn3wY0l"}
#: The channels whose signature is over the body.
SIGNING = ("calcom", "events", "whatsapp", "instagram")
#: One for all samples: what is sent again must be the same.
STARTED = int(SystemClock().now().timestamp())
_A_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)")
#: When most of tests/fixtures happens.
MORNING = NOON - timedelta(hours=4)
_NEAR = timedelta(days=60)


@dataclass(frozen=True)
class Told:
    """An answer, as far as a provider looks at it."""

    status: int
    text: str


@dataclass(frozen=True)
class Sample:
    """A file of the shared payloads: as it came, with the headers that came with it, and as one of ours."""

    name: str
    webhook: Webhook
    verbatim: bytes
    headers: dict[str, str]


def files() -> list[str]:
    """All samples that there are, whatever their kind."""
    found = (path for path in PAYLOADS.rglob("*") if path.is_file() and path.name != "SOURCES.md")
    return sorted(str(path.relative_to(PAYLOADS)) for path in found)


def samples() -> Iterator[Sample]:
    for folder, channel in CHANNELS.items():
        for number, file in enumerate(sorted((PAYLOADS / folder).glob("*.json")), start=1):
            yield _sample(file, f"{folder}/{file.name}", channel, number)


def _sample(file: Path, name: str, channel: str, number: int) -> Sample:
    """A test vector holds the exact bytes and headers; the body of any other file is the file."""
    content = json.loads(file.read_text())
    vector = "raw_body" in content
    raw = content["raw_body"].encode() if vector else file.read_bytes()
    body = (
        json.dumps(CURRENT[channel](content, number)).encode() if channel in CURRENT and not vector else raw
    )
    return Sample(
        name, Webhook(channel, body, f"payload-{number}"), raw, content.get("headers", {}) if vector else {}
    )


def dated_now(update: dict[str, Any], number: int) -> dict[str, Any]:
    """The samples are years old; a message of then would be stale, and rightly."""
    for part in update.values():
        if isinstance(part, dict):
            part.update({name: STARTED for name in ("date", "edit_date") if name in part})
    return update | {"update_id": 500_000_000 + number}


def of_our_group(event: dict[str, Any], number: int) -> dict[str, Any]:
    """The samples are of several groups; a message of theirs is told now."""
    told = event.get("object", {})
    if "message" in told:
        told = told | {"message": told["message"] | {"date": STARTED}}
    return event | {"group_id": int(ACCOUNTS["vk"])} | ({"object": told} if told else {})


def in_millis_of_now(update: dict[str, Any], number: int) -> dict[str, Any]:
    """All of MAX's times."""
    told = {name: in_millis_of_now(part, number) for name, part in update.items() if isinstance(part, dict)}
    return update | told | ({"timestamp": STARTED * 1000} if "timestamp" in update else {})


def of_our_account(part: Any, number: int) -> Any:
    """Meta's samples are of several accounts and years: all of ours, told when this began."""
    if isinstance(part, list):
        return [of_our_account(each, number) for each in part]
    if not isinstance(part, dict):
        return part
    ours: dict[str, Any] = {"phone_number_id": ACCOUNTS["whatsapp"]}
    if "messaging" in part:
        ours |= {"id": ACCOUNTS["instagram"]}
    if isinstance(at := part.get("timestamp"), str | int):
        now = STARTED * 1000 if int(at) > 10**12 else STARTED
        ours |= {"timestamp": str(now) if isinstance(at, str) else now}
    return {name: ours.get(name, of_our_account(value, number)) for name, value in part.items()}


CURRENT = {
    "telegram": dated_now,
    "vk": of_our_group,
    "max": in_millis_of_now,
    "whatsapp": of_our_account,
    "instagram": of_our_account,
}


def moved_from_then(value: Any) -> Any:
    """A body of tests/fixtures that happens now, with every time in it as far from now as it was from that morning."""
    by = timedelta(seconds=STARTED - int(MORNING.timestamp()))
    match value:
        case dict():
            return {name: moved_from_then(part) for name, part in value.items()}
        case list():
            return [moved_from_then(part) for part in value]
        case str() if _A_TIME.fullmatch(value):
            return (datetime.fromisoformat(value) + by).isoformat()
        case str() if value.isascii() and value.isdigit():
            return str(moved_from_then(int(value)))
        case int() if not isinstance(value, bool):
            for unit in (1, 1000):
                if abs(value - MORNING.timestamp() * unit) < _NEAR.total_seconds() * unit:
                    return value + int(by.total_seconds()) * unit
    return value


def ask(method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Told:
    request = Request(url, data=body, headers=dict(headers or {}), method=method)
    try:
        with urlopen(request, timeout=30) as answer:
            return Told(answer.status, answer.read().decode())
    except HTTPError as error:
        return Told(error.code, error.read().decode())


def post(url: str, body: bytes, headers: Mapping[str, str]) -> Told:
    return ask("POST", url, body, headers)


def post_signed(url: str, webhook: Webhook, secret: str | None = None) -> Told:
    key = secret or SECRETS[webhook.channel]
    headers = signed_headers(webhook, key, int(SystemClock().now().timestamp()))
    return post(url, signed_body(webhook, key), headers)


def wrongly_signed(url: str, sample: Sample) -> dict[str, Told]:
    """What is answered to the sample, by what is wrong with its signature or secret. No more than four ways: after 30
    refusals a minute a channel's next one would be told to wait."""
    webhook, now = sample.webhook, int(SystemClock().now().timestamp())
    event = json.loads(webhook.body)
    bare = json.dumps({name: value for name, value in event.items() if name != "secret"}).encode()
    unsigned = {"Content-Type": "application/json"}
    if webhook.channel == "events":
        unsigned |= {"webhook-id": webhook.webhook_id, "webhook-timestamp": str(now)}
    found = {
        "another secret": post_signed(url, webhook, ANOTHER_SECRET),
        "nothing": post(url, bare, unsigned),
        "as it came": post(url, sample.verbatim, {"Content-Type": "application/json"} | sample.headers),
    }
    if webhook.channel in SIGNING:
        headers = signed_headers(webhook, SECRETS[webhook.channel], now)
        found["changed after signing"] = post(url, webhook.body + b" ", headers)
    return found
