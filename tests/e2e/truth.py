"""Compares what GET /kpi/summary says with the truth of a demo history."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from turnout_cli.demo_history import History
from turnout_cli.demo_metrics import true_metrics
from turnout_cli.demo_truth import true_counts


def summary(kpi_url: str, token: str, tenant_id: str, first: date, last: date) -> dict[str, Any]:
    query = urlencode({"tenantId": tenant_id, "from": first, "to": last})
    request = Request(f"{kpi_url}/kpi/summary?{query}", headers={"Authorization": f"Bearer {token}"})
    with urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def differences(
    answer: dict[str, Any], history: History, first: date, last: date
) -> dict[str, tuple[Any, Any]]:
    """What the truth says and the answer says otherwise, by name."""
    as_of = datetime.fromisoformat(answer["asOf"])
    counts = true_counts(history, first, last, as_of)
    expected = counts | true_metrics(counts)
    told = answer["counts"] | answer["metrics"]
    return {name: (value, told.get(name)) for name, value in expected.items() if told.get(name) != value}


def windows(history: History) -> Iterator[tuple[date, date]]:
    """The whole history, and each of its days."""
    yield history.first, history.last
    for number in range((history.last - history.first).days + 1):
        day = history.first + timedelta(days=number)
        yield day, day


def assert_truth(kpi_url: str, token: str, tenant_id: str, history: History, seconds: float = 60) -> None:
    """Every window of the history is told exactly, at the latest after `seconds`."""
    deadline = time.monotonic() + seconds
    for first, last in windows(history):
        while wrong := differences(summary(kpi_url, token, tenant_id, first, last), history, first, last):
            assert time.monotonic() < deadline, f"{first} to {last}, (truth, answer): {wrong}"
            time.sleep(0.5)
