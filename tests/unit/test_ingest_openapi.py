"""The OpenAPI of ingest says of each channel what its adapter does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from turnout_ingest.app import openapi_text
from turnout_ingest.openapi import CHANNELS
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.alias import VKMAX
from turnout_ingest.providers.provider import Provider

PATHS: dict[str, Any] = json.loads(openapi_text())["paths"]


def test_every_provider_and_the_alias_are_documented() -> None:
    assert {*PROVIDERS, VKMAX} == set(CHANNELS)


@pytest.mark.parametrize("channel", sorted(PROVIDERS))
def test_answers_are_those_of_the_adapter(channel: str) -> None:
    provider = PROVIDERS[channel]
    answers = PATHS[f"/webhooks/{channel}/{{tenant_id}}"]["post"]["responses"]

    wanted = {provider.answers.success, provider.answers.quarantined, provider.answers.conflict}
    success = {int(status) for status in answers if int(status) < 300}
    assert {str(status) for status in wanted if status >= 300} <= answers.keys()
    assert success == {provider.answers.success}
    assert {"401", "404", "408", "413", "503"} <= answers.keys()
    assert ("429" in answers) == (channel != "calcom")
    assert ("content" in answers[str(provider.answers.success)]) == bool(provider.answers.text)


@pytest.mark.parametrize("channel", sorted(PROVIDERS))
def test_shared_callbacks_and_handshakes_are_those_of_the_adapter(channel: str) -> None:
    kind = type(PROVIDERS[channel])

    assert (f"/webhooks/{channel}" in PATHS) == (kind.routing_ids is not Provider.routing_ids)
    assert ("get" in PATHS[f"/webhooks/{channel}/{{tenant_id}}"]) == (
        kind.handshake is not Provider.handshake
    )


def test_every_operation_has_a_name_of_its_own_and_an_example() -> None:
    operations = [item[method] for item in PATHS.values() for method in ("get", "post") if method in item]
    names = [operation["operationId"] for operation in operations]

    assert len(set(names)) == len(names)
    for operation in operations:
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["example"]
