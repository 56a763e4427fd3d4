"""contracts/asyncapi.json says of the topics what topics.yaml and the records themselves say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from turnout_cli.asyncapi import asyncapi_text
from turnout_cli.contract_files import Example, examples
from turnout_common.topics import contracts_folder, load_topics

DOCUMENT: dict[str, Any] = json.loads(asyncapi_text())
TOPICS = load_topics()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == "$ref")
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from references(each)


def test_every_reference_leads_to_something() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > len(TOPICS)

    for reference in found:
        file, _, path = reference.partition("#/")
        if file:
            assert (contracts_folder() / file).is_file(), reference
        node = DOCUMENT
        for step in path.split("/") if path else ():
            node = node[step]
        assert node


def test_every_topic_has_its_events_and_its_services() -> None:
    assert {name: set(channel["messages"]) for name, channel in DOCUMENT["channels"].items()} == {
        name: set(topic.event_types) for name, topic in TOPICS.items()
    }
    assert set(DOCUMENT["operations"]) == {
        f"{service}.{action}.{name}"
        for name, topic in TOPICS.items()
        for action, services in (("send", topic.producers), ("receive", topic.consumers))
        for service in services
    }


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_envelope_names_the_headers_of_every_example(example: Example) -> None:
    envelope = DOCUMENT["components"]["schemas"]["envelope"]

    assert set(envelope["required"]) <= example.headers.keys() <= envelope["properties"].keys()
