"""The generated and checked parts of contracts/: a JSON Schema per event type, examples per topic and type.

In: EVENT_MODELS and topics.yaml. Out: contracts/schemas/<type>.json, and what is wrong with the folder as sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnout_common.events.booking import BookingEvent
from turnout_common.events.envelope import EVENT_MODELS, Envelope, InvalidEvent, from_headers, parse_event
from turnout_common.topics import contracts_folder, load_topics

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Example:
    """One record of a topic as it stands on the wire, with its value as JSON for people to read."""

    topic: str
    event_type: str
    case: str
    key: str
    headers: dict[str, str]
    value: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.event_type}/{self.case}"

    @property
    def wire_headers(self) -> list[tuple[str, bytes]]:
        return [(name, value.encode("ascii")) for name, value in self.headers.items()]

    @property
    def wire_value(self) -> bytes:
        return json.dumps(self.value, ensure_ascii=False).encode()

    @property
    def envelope(self) -> Envelope:
        return from_headers(self.wire_headers)


def schema_of(event_type: str) -> dict[str, Any]:
    """The JSON Schema of one event type. Objects stay open: a consumer ignores what a newer producer adds."""
    model = EVENT_MODELS[event_type]
    schema: dict[str, Any] = _opened(model.model_json_schema())
    if model is BookingEvent:
        schema["properties"]["event_type"] = {"const": event_type, "type": "string"}
        schema["$defs"].pop("BookingEventType", None)
    return {"$schema": DIALECT, "$id": f"{event_type}.json"} | schema | {"title": event_type}


def _opened(node: Any) -> Any:
    if isinstance(node, dict):
        closed = node.get("additionalProperties") is False
        return {
            name: _opened(value)
            for name, value in node.items()
            if not (closed and name == "additionalProperties")
        }
    return [_opened(item) for item in node] if isinstance(node, list) else node


def schema_text(event_type: str) -> str:
    return json.dumps(schema_of(event_type), indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path | None = None) -> list[Path]:
    """Writes the schema of every event type and removes those of types that are gone; gives what changed."""
    schemas = (folder or contracts_folder()) / "schemas"
    schemas.mkdir(parents=True, exist_ok=True)
    changed = []
    for event_type in EVENT_MODELS:
        file, text = schemas / f"{event_type}.json", schema_text(event_type)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    for orphan in _orphans(schemas):
        orphan.unlink()
        changed.append(orphan)
    return changed


def _orphans(schemas: Path) -> list[Path]:
    return [file for file in sorted(schemas.glob("*.json")) if file.stem not in EVENT_MODELS]


def examples(folder: Path | None = None) -> Iterator[Example]:
    """All examples, in the order of their paths. Raises KeyError or ValueError for a file of another shape."""
    base = (folder or contracts_folder()) / "examples"
    for file in sorted(base.glob("*/*/*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        yield Example(
            topic=file.parent.parent.name,
            event_type=file.parent.name,
            case=file.stem,
            key=content["key"],
            headers=content["headers"],
            value=content["value"],
        )


def faults(folder: Path | None = None) -> list[str]:
    """What is stale, missing or wrong in contracts/, one sentence each; empty when all is well."""
    return [*_type_faults(), *_schema_faults(folder or contracts_folder()), *_example_faults(folder)]


def _type_faults() -> Iterator[str]:
    listed = {name for topic in load_topics().values() for name in topic.event_types}
    for name in sorted(listed - EVENT_MODELS.keys()):
        yield f"topics.yaml lists {name}, which has no model in EVENT_MODELS"
    for name in sorted(EVENT_MODELS.keys() - listed):
        yield f"{name} has a model but stands on no topic of topics.yaml"


def _schema_faults(folder: Path) -> Iterator[str]:
    for event_type in EVENT_MODELS:
        file = folder / "schemas" / f"{event_type}.json"
        if not file.exists():
            yield f"schemas/{file.name} is missing"
        elif file.read_text(encoding="utf-8") != schema_text(event_type):
            yield f"schemas/{file.name} is not what the model says"
    for orphan in _orphans(folder / "schemas"):
        yield f"schemas/{orphan.name} belongs to no event type"


def _example_faults(folder: Path | None) -> Iterator[str]:
    found = list(examples(folder))
    present = {(example.topic, example.event_type) for example in found}
    wanted = {(topic.name, name) for topic in load_topics().values() for name in topic.event_types}
    for topic, event_type in sorted(wanted - present):
        yield f"examples/{topic}/{event_type} has no example"
    for topic, event_type in sorted(present - wanted):
        yield f"examples/{topic}/{event_type} is of a type that topics.yaml does not list there"
    for example in found:
        yield from (f"examples/{example.name}.json: {fault}" for fault in _faults_of(example))


def _faults_of(example: Example) -> Iterator[str]:
    try:
        envelope = example.envelope
        event = parse_event(example.event_type, example.wire_value)
    except InvalidEvent as error:
        yield str(error)
        return
    if envelope.type != example.event_type:
        yield f"ce_type is {envelope.type}"
    if envelope.tenant_id != getattr(event, "tenant_id", None):
        yield "ce_tenantid is not the event's tenant_id"
    own_id = getattr(event, "event_id", None) or getattr(event, "item_id", None)
    if own_id is not None and own_id != envelope.id:
        yield "ce_id is not the event's own id"
