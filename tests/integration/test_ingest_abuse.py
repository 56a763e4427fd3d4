"""Whatever a stranger or a broken provider sends over HTTP: an answer of the contract, never a 5xx (schemathesis)."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import status_code_conformance

from tests.fuzz.authenticity import SECRET, signed
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import Service, add_channels, counted, ingest, now, rows
from tests.webhook_fixtures import body_of, names
from turnout_ingest.providers import PROVIDERS

CONTRACT = Path(__file__).parents[2] / "contracts" / "openapi" / "ingest.json"
#: Of each operation and mode; `just nightly` raises it.
EXAMPLES = int(os.environ.get("TURNOUT_ABUSE_EXAMPLES", "10"))
SAMPLES = {channel: [body_of(channel, name) for name in names(channel)] for channel in PROVIDERS}
#: The attack comes from one address, and must get past the limits.
UNLIMITED: dict[str, Any] = {"refusals_per_minute": 0, "tenant_requests_per_second": 0}
#: Names of channels by which two providers come.
ALIASED = {"vkmax": ("vk", "max")}
MANY = settings(
    max_examples=EXAMPLES, deadline=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


def operations() -> Iterator[Any]:
    """The operations of the contract under `/webhooks/`."""
    contract = schemathesis.openapi.from_dict(json.loads(CONTRACT.read_text()))
    for found in contract.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path.startswith("/webhooks/"):
            yield operation


OPERATIONS = list(operations())


@pytest.mark.slow
async def test_every_answer_is_one_of_the_contract_and_never_a_server_error(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, tenant_id: str
) -> None:
    await add_channels(database, tenant_id, dict.fromkeys(PROVIDERS, SECRET))
    async with ingest(database, infrastructure, topic_prefix, relay=False, **UNLIMITED) as service:
        statuses = await asyncio.to_thread(_attack, service, tenant_id)

    assert {200, 202, 400, 401} <= statuses, "the attack did not get past the door"
    stored = await rows(database, tenant_id)
    assert sum((await counted(database, tenant_id)).values()) == len(stored) > 0
    assert {row["fate"] for row in stored} >= {"published", "quarantined", "duplicate"}
    assert not [row["reason"] for row in stored if row["reason"] and "fault of this version" in row["reason"]]


def _attack(service: Service, tenant_id: str) -> set[int]:
    """Sends what the contract allows and what it does not, signed and unsigned; the statuses that came."""
    statuses: set[int] = set()
    with requests.Session() as http:
        for operation in OPERATIONS:
            for mode in GenerationMode:

                @MANY
                @given(case=operation.as_strategy(mode), data=st.data())
                def call(case: Any, data: st.DataObject) -> None:
                    request = case.as_transport_kwargs(base_url=service.url)
                    if case.method == "POST":
                        _aim(request, case, tenant_id, data)
                    answer = http.request(**request, timeout=10)
                    statuses.add(answer.status_code)
                    case.validate_response(answer, checks=[not_a_server_error, status_code_conformance])

                call()
    return statuses


def _aim(request: dict[str, Any], case: Any, tenant_id: str, data: st.DataObject) -> None:
    """Mostly at a tenant that exists, with a body that is signed: what comes before the signature is soon tried."""
    how = data.draw(st.sampled_from(("as it is", "known tenant", "signed", "sample", "sample")))
    if how == "as it is":
        return
    named = case.operation.path.split("/")[2]
    channel = named if named in PROVIDERS else data.draw(st.sampled_from(ALIASED[named]))
    body = json.dumps(request.pop("json", None)).encode()
    for name in ("data", "files"):
        request.pop(name, None)
    if how == "sample":
        body = _spoilt(data.draw(st.sampled_from(SAMPLES[channel])), data)
    tail = f"/{tenant_id}" if "{tenant_id}" in case.operation.path else ""
    request["url"] = request["url"].split("/webhooks/")[0] + f"/webhooks/{named}{tail}"
    request["data"] = re.sub(rb'"secret":\s*"[^"]*"', b'"secret":"' + SECRET.encode() + b'"', body)
    if how != "known tenant":
        proofs = signed(channel, request["data"], int(now().timestamp()))
        request["headers"].update({name.decode(): value.decode() for name, value in proofs.items()})


def _spoilt(body: bytes, data: st.DataObject) -> bytes:
    """`body` with some bytes replaced, or none."""
    places = data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.binary(max_size=6)), max_size=2))
    for at, change in places:
        body = body[:at] + change + body[at + len(change) :]
    return body
