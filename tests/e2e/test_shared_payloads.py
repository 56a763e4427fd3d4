"""The providers' own bodies, signed and posted to a running system: all are answered with success and end with a fate.

The bodies lie beside the repository (their licences are mixed); where they are not, conftest.py leaves this out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.e2e.conftest import PAYLOADS
from tests.e2e.stack import Turnout, running_turnout
from tests.e2e.test_embedded import SECRETS as EMBEDDED_SECRETS
from turnout_cli.webhooks import Webhook, signed_body, signed_headers
from turnout_common.clock import SystemClock

CHANNELS = {
    "calcom": "calcom",
    "telegram": "telegram",
    "standard_webhooks": "events",
    "vk": "vk",
    "max": "max",
    "whatsapp": "whatsapp",
    "instagram": "instagram",
}
SECRETS = EMBEDDED_SECRETS | {name: f"e2e-{name}" for name in ("vk", "max", "whatsapp", "instagram")}
#: What a channel is set up with beside its secret.
OPTIONS = {
    "vk": ("--routing-id", "191949777", "--handshake", "c0de1234"),
    "whatsapp": ("--routing-id", "1122334455667", "--handshake", "e2e-verify-token"),
    "instagram": ("--routing-id", "17841400730001"),
}
#: What is answered where it is not empty.
TEXTS = {"vk/confirmation.json": "c0de1234"} | dict.fromkeys(
    ("vk/message_deny.json", "vk/message_event.json", "vk/message_new_v5199_with_secret.json"), "ok"
)
#: What becomes of a sample, by its event type: a button in a group chat is nobody's word to the salon.
FATES = {
    ("vk", "confirmation"): "ignored",
    ("vk", "message_deny"): "published",
    ("vk", "message_event"): "ignored",
    ("vk", "message_new"): "published",
    ("max", "bot_stopped"): "published",
    ("max", "message_callback"): "published",
    ("max", "message_created"): "ignored",
    ("max", "message_edited"): "published",
    ("whatsapp", "message.button"): "published",
    ("whatsapp", "message.text"): "published",
    ("whatsapp", "status.delivered"): "published",
    ("whatsapp", "status.failed"): "published",
    ("whatsapp", "user_preferences"): "published",
    ("whatsapp", "messages"): "quarantined",  # the signed vector names no number
    ("instagram", "message"): "published",
    ("instagram", "message.unsend"): "ignored",
    ("instagram", "read"): "published",
}
TENANT = "payloads"
NO_REASON = ("published to inbound_webhooks", "accepted, waits for publishing")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def turnout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turnout]:
    home: Path = tmp_path_factory.mktemp("home")
    with running_turnout(home) as started:
        started.must("tenant", "create", TENANT, "--timezone", "Europe/Berlin")
        for channel, secret in SECRETS.items():
            options = ("--secret", secret, *OPTIONS.get(channel, ()))
            started.must("tenant", "channel", "set", TENANT, channel, *options)
        yield started


def webhooks() -> Iterator[tuple[str, Webhook]]:
    for folder, channel in CHANNELS.items():
        for number, file in enumerate(sorted((PAYLOADS / folder).glob("*.json")), start=1):
            content = json.loads(file.read_text())
            body = content["raw_body"].encode() if "raw_body" in content else file.read_bytes()
            if channel in CURRENT and "raw_body" not in content:
                body = json.dumps(CURRENT[channel](content, number)).encode()
            yield f"{folder}/{file.name}", Webhook(channel, body, f"payload-{number}")


def dated_now(update: dict[str, Any], number: int) -> dict[str, Any]:
    """The samples are years old; a message of then would be stale, and rightly."""
    now = int(SystemClock().now().timestamp())
    for part in update.values():
        if isinstance(part, dict):
            part.update({name: now for name in ("date", "edit_date") if name in part})
    return update | {"update_id": 500_000_000 + number}


def of_our_group(event: dict[str, Any], number: int) -> dict[str, Any]:
    """The samples are of several groups; a message of theirs is told now."""
    told = event.get("object", {})
    if "message" in told:
        now = int(SystemClock().now().timestamp())
        told = told | {"message": told["message"] | {"date": now}}
    return event | {"group_id": int(OPTIONS["vk"][1])} | ({"object": told} if told else {})


def moved_to_now(update: dict[str, Any], number: int) -> dict[str, Any]:
    """All of MAX's times, in milliseconds."""
    now = int(SystemClock().now().timestamp() * 1000)
    moved = {name: moved_to_now(part, number) for name, part in update.items() if isinstance(part, dict)}
    return update | moved | ({"timestamp": now} if "timestamp" in update else {})


#: One for all samples that are posted twice: a message of another second would be another one.
STARTED = int(SystemClock().now().timestamp())


def of_our_account(part: Any, number: int) -> Any:
    """Meta's samples are of several accounts and years: all of ours, told when this began."""
    if isinstance(part, list):
        return [of_our_account(each, number) for each in part]
    if not isinstance(part, dict):
        return part
    ours: dict[str, Any] = {"phone_number_id": OPTIONS["whatsapp"][1]}
    if "messaging" in part:
        ours |= {"id": OPTIONS["instagram"][1]}
    if isinstance(at := part.get("timestamp"), str | int):
        now = STARTED * 1000 if int(at) > 10**12 else STARTED
        ours |= {"timestamp": str(now) if isinstance(at, str) else now}
    return {name: ours.get(name, of_our_account(value, number)) for name, value in part.items()}


CURRENT = {
    "telegram": dated_now,
    "vk": of_our_group,
    "max": moved_to_now,
    "whatsapp": of_our_account,
    "instagram": of_our_account,
}


def post(turnout: Turnout, webhook: Webhook, secret: str | None = None, path: str | None = None) -> int:
    return post_for_text(turnout, webhook, secret, path)[0]


def post_for_text(
    turnout: Turnout, webhook: Webhook, secret: str | None = None, path: str | None = None
) -> tuple[int, str]:
    key = secret or SECRETS[webhook.channel]
    headers = signed_headers(webhook, key, int(SystemClock().now().timestamp()))
    url = f"{turnout.url('ingest')}/webhooks/{path or webhook.channel}/{TENANT}"
    request = Request(url, data=signed_body(webhook, key), headers=headers, method="POST")
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status), answer.read().decode()
    except HTTPError as error:
        return error.code, ""


def test_every_sample_is_answered_with_success_and_ends_with_a_fate(turnout: Turnout) -> None:
    deadline = SystemClock().now() + timedelta(seconds=40)
    for channel in CHANNELS.values():
        first = next(webhook for _, webhook in webhooks() if webhook.channel == channel)
        while post(turnout, first) == 401:
            assert SystemClock().now() < deadline
            time.sleep(0.2)

    told = {name: post_for_text(turnout, webhook) for name, webhook in webhooks()}
    answers = {name: status for name, (status, _) in told.items()}
    items = turnout.must_json("inbox", "list", "--tenant", TENANT, "--limit", "100")

    assert {name: status for name, status in answers.items() if not 200 <= status < 300} == {}
    assert len(items) == len(answers) + len(CHANNELS)  # the first of each channel was sent twice
    assert all(item["reason"] for item in items)
    unpublished = [item for item in items if item["fate"] not in ("published", "duplicate")]
    assert all(item["reason"] not in NO_REASON for item in unpublished)
    assert {name: text for name, (_, text) in told.items() if name in TEXTS} == TEXTS
    assert all(text == "" for name, (_, text) in told.items() if name.startswith("max/"))
    first_fates = {
        (item["channel"], item["event_type"]): item["fate"] for item in items if item["fate"] != "duplicate"
    }
    assert {kind: fate for kind, fate in first_fates.items() if kind in FATES} == FATES


@pytest.mark.parametrize("channel", ["vk", "max", "whatsapp", "instagram"])
def test_sample_with_another_secret_is_refused(turnout: Turnout, channel: str) -> None:
    found = [webhook for _, webhook in webhooks() if webhook.channel == channel]

    assert {post(turnout, webhook, "not-the-secret") for webhook in found} == {401}


def test_samples_of_vk_and_max_are_taken_in_under_their_old_name(turnout: Turnout) -> None:
    found = [webhook for _, webhook in webhooks() if webhook.channel in ("vk", "max")]

    assert {post(turnout, webhook, path="vkmax") for webhook in found} == {200}
    assert {post(turnout, webhook, "not-the-secret", "vkmax") for webhook in found} == {401}
