"""contracts/asyncapi.json: all topics, who sends and who receives what, in AsyncAPI 3.0, for the tools that read it.

In: topics.yaml and the envelope. Out: the document's text; the events' own schemas stay in contracts/schemas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from turnout_common.topics import TopicSpec, load_topics

VERSION = "3.0.0"
SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
KAFKA_BINDING = {"bindingVersion": "0.5.0"}
#: AsyncAPI takes these as numbers and lists; it has no place for the rest, which stays in topics.yaml.
NUMBERS = ("retention.ms", "retention.bytes")
DESCRIPTION = (
    "What the services of Turnout tell each other over Kafka. Topics and their settings are defined in topics.yaml, "
    "events in schemas/; README.md says how to consume them."
)
#: Each as it stands in a Kafka header, ASCII.
ENVELOPE = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": {"type": "string", "format": "uuid", "description": "The event's own id: what to recognise a copy by."},
    "ce_type": {"type": "string", "description": "The event type: which schema the value has."},
    "ce_source": {"type": "string", "description": "turnout/SERVICE, or turnout/ingest/CHANNEL."},
    "ce_time": {"type": "string", "format": "date-time", "description": "When it happened, not when it was sent."},
    "ce_subject": {"type": "string", "description": "What it is about."},
    "ce_tenantid": {"type": "string", "description": "The tenant."},
    "content-type": {"type": "string", "const": "application/json"},
    "traceparent": {"type": "string", "description": "W3C Trace Context, where there is one."},
}  # fmt: skip


def asyncapi_text() -> str:
    """The document. Raises KeyError naming what a topic lacks."""
    topics = load_topics()
    document = {
        "asyncapi": VERSION,
        "info": {"title": "Turnout", "version": "1", "description": DESCRIPTION},
        "defaultContentType": "application/json",
        "channels": {name: _channel(topic) for name, topic in topics.items()},
        "operations": {name: said for topic in topics.values() for name, said in _operations(topic)},
        "components": {
            "messages": {
                name: _message(name, topic) for topic in topics.values() for name in topic.event_types
            },
            "schemas": {"envelope": _envelope()},
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _channel(topic: TopicSpec) -> dict[str, Any]:
    settings: dict[str, Any] = {name: int(topic.config[name]) for name in NUMBERS if name in topic.config}
    settings["cleanup.policy"] = topic.config["cleanup.policy"].split(",")
    return {
        "address": topic.name,
        "description": topic.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in topic.event_types},
        "bindings": {
            "kafka": {"topic": topic.name, "partitions": topic.partitions, "topicConfiguration": settings}
            | KAFKA_BINDING
        },
    }


def _operations(topic: TopicSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    for action, services in (("send", topic.producers), ("receive", topic.consumers)):
        for service in services:
            said = {"action": action, "channel": {"$ref": f"#/channels/{topic.name}"}}
            yield f"{service}.{action}.{topic.name}", said


def _message(event_type: str, topic: TopicSpec) -> dict[str, Any]:
    return {
        "name": event_type,
        "headers": {"$ref": "#/components/schemas/envelope"},
        "payload": {"schemaFormat": SCHEMA_FORMAT, "schema": {"$ref": f"./schemas/{event_type}.json"}},
        "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}} | KAFKA_BINDING},
    }


def _envelope() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "CloudEvents 1.0 in Kafka's binary mode.",
        "properties": ENVELOPE,
        "required": [name for name in ENVELOPE if name != "traceparent"],
    }
