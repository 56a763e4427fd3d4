"""The schemas are what the models say, and every event type has both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from re import _parser
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from turnout_cli import contract_files
from turnout_common.events.booking import BookingEvent, ChainState, FactState, IntentState
from turnout_common.events.envelope import EVENT_MODELS
from turnout_common.topics import load_topics

LONGEST = 255


def test_nothing_in_contracts_is_stale_or_missing() -> None:
    assert contract_files.faults() == []


def test_every_type_of_a_topic_has_a_model_and_every_model_a_topic() -> None:
    listed = [name for topic in load_topics().values() for name in topic.event_types]

    assert sorted(listed) == sorted(EVENT_MODELS)


@pytest.mark.parametrize("event_type", sorted(EVENT_MODELS))
def test_a_schema_is_valid_and_open_to_new_fields(event_type: str) -> None:
    schema = contract_files.schema_of(event_type)

    Draft202012Validator.check_schema(schema)
    assert "additionalProperties" not in str(schema)


def test_generating_repairs_what_is_stale_and_removes_what_is_gone(tmp_path: Path) -> None:
    schemas = tmp_path / "schemas"
    contract_files.write_schemas(tmp_path)
    (schemas / "booking.created.json").write_text("{}")
    (schemas / "booking.forgotten.json").write_text("{}")
    before = contract_files.faults(tmp_path)

    changed = contract_files.write_schemas(tmp_path)

    assert "schemas/booking.created.json is not what the model says" in before
    assert "schemas/booking.forgotten.json belongs to no event type" in before
    assert "examples/booking_events/booking.created has no example" in before
    assert {file.name for file in changed} == {"booking.created.json", "booking.forgotten.json"}
    assert not any(fault.startswith("schemas/") for fault in contract_files.faults(tmp_path))


@pytest.mark.parametrize("model", [BookingEvent, ChainState, IntentState, FactState])
def test_booking_events_hold_no_unbounded_string(model: type[BookingEvent]) -> None:
    """Ids, enums, numbers and times only (design §4): free text would be contact data that cannot be erased."""
    assert list(unbounded_strings(model.model_json_schema())) == []


def test_an_unbounded_string_would_be_found() -> None:
    schema = {"properties": {"note": {"type": "string"}, "tag": {"type": "string", "pattern": "^[a-z]+$"}}}

    assert list(unbounded_strings(schema)) == ["properties.note", "properties.tag"]


def unbounded_strings(node: Any, path: str = "") -> Iterator[str]:
    """Where a schema admits a string of any length."""
    if isinstance(node, dict):
        if node.get("type") == "string" and not _bounded(node):
            yield path
        for name, child in node.items():
            yield from unbounded_strings(child, f"{path}.{name}".lstrip("."))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from unbounded_strings(child, f"{path}.{index}")


def _bounded(node: dict[str, Any]) -> bool:
    if "enum" in node or "const" in node or node.get("format") in ("uuid", "date-time"):
        return True
    if node.get("maxLength", LONGEST + 1) <= LONGEST:
        return True
    pattern = node.get("pattern")
    return pattern is not None and _longest_match(pattern) <= LONGEST


def _longest_match(pattern: str) -> int:
    re.compile(pattern)
    anchored = pattern.startswith("^") and pattern.endswith("$")
    return int(_parser.parse(pattern).getwidth()[1]) if anchored else LONGEST + 1
