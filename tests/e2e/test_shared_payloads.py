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
from tests.e2e.test_embedded import SECRETS
from turnout_cli.webhooks import Webhook, signed_headers
from turnout_common.clock import SystemClock

CHANNELS = {"calcom": "calcom", "telegram": "telegram", "standard_webhooks": "events"}
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
            started.must("tenant", "channel", "set", TENANT, channel, "--secret", secret)
        yield started


def webhooks() -> Iterator[tuple[str, Webhook]]:
    for folder, channel in CHANNELS.items():
        for number, file in enumerate(sorted((PAYLOADS / folder).glob("*.json")), start=1):
            content = json.loads(file.read_text())
            body = content["raw_body"].encode() if "raw_body" in content else file.read_bytes()
            if channel == "telegram":
                body = json.dumps(dated_now(content, number)).encode()
            yield f"{folder}/{file.name}", Webhook(channel, body, f"payload-{number}")


def dated_now(update: dict[str, Any], number: int) -> dict[str, Any]:
    """The samples are years old; a message of then would be stale, and rightly."""
    now = int(SystemClock().now().timestamp())
    for part in update.values():
        if isinstance(part, dict):
            part.update({name: now for name in ("date", "edit_date") if name in part})
    return update | {"update_id": 500_000_000 + number}


def post(turnout: Turnout, webhook: Webhook) -> int:
    headers = signed_headers(webhook, SECRETS[webhook.channel], int(SystemClock().now().timestamp()))
    url = f"{turnout.url('ingest')}/webhooks/{webhook.channel}/{TENANT}"
    try:
        with urlopen(Request(url, data=webhook.body, headers=headers, method="POST"), timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_every_sample_is_answered_with_success_and_ends_with_a_fate(turnout: Turnout) -> None:
    deadline = SystemClock().now() + timedelta(seconds=40)
    for channel in CHANNELS.values():
        first = next(webhook for _, webhook in webhooks() if webhook.channel == channel)
        while post(turnout, first) == 401:
            assert SystemClock().now() < deadline
            time.sleep(0.2)

    answers = {name: post(turnout, webhook) for name, webhook in webhooks()}
    items = turnout.must_json("inbox", "list", "--tenant", TENANT, "--limit", "100")

    assert {name: status for name, status in answers.items() if not 200 <= status < 300} == {}
    assert len(items) == len(answers) + len(CHANNELS)  # the first of each channel was sent twice
    assert all(item["reason"] for item in items)
    unpublished = [item for item in items if item["fate"] not in ("published", "duplicate")]
    assert all(item["reason"] not in NO_REASON for item in unpublished)
