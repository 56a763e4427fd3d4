"""Every example of contracts/examples is an event that consumers read and that its schema describes."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from tests.contract.salon import KEYS, TENANT
from turnout_cli import contract_files
from turnout_cli.contract_files import Example
from turnout_common.events.envelope import EVENT_MODELS, InvalidEvent, from_headers, parse_event
from turnout_common.topics import contracts_folder

EXAMPLES = list(contract_files.examples())
by_name = pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])


@by_name
def test_an_example_is_read_by_consumers_and_agrees_with_its_schema(example: Example) -> None:
    event = parse_event(example.event_type, example.wire_value)

    schema = json.loads((contracts_folder() / "schemas" / f"{example.event_type}.json").read_text())
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(example.value)
    again = parse_event(example.event_type, event.model_dump_json().encode())
    assert again == event


@by_name
def test_consumers_ignore_a_new_field_that_producers_cannot_add(example: Example) -> None:
    widened = example.value | {"added_by_a_newer_version": 1}
    model = EVENT_MODELS[example.event_type]

    assert parse_event(example.event_type, json.dumps(widened).encode()) == parse_event(
        example.event_type, example.wire_value
    )
    Draft202012Validator(contract_files.schema_of(example.event_type)).validate(widened)
    with pytest.raises(ValidationError, match="added_by_a_newer_version"):
        model.model_validate_json(json.dumps(widened))


@by_name
def test_an_example_without_a_required_field_is_refused_by_reader_and_schema(example: Example) -> None:
    schema = contract_files.schema_of(example.event_type)
    broken = {name: value for name, value in example.value.items() if name != schema["required"][0]}

    assert list(Draft202012Validator(schema).iter_errors(broken))
    with pytest.raises(InvalidEvent, match=schema["required"][0]):
        parse_event(example.event_type, json.dumps(broken).encode())


@by_name
def test_the_headers_are_the_envelope_that_a_relay_would_write(example: Example) -> None:
    envelope = from_headers(example.wire_headers)

    assert from_headers(envelope.headers()) == envelope
    assert envelope.tenant_id == TENANT
    assert example.key.split(":")[0] == TENANT
    own_id = example.value.get("event_id") or example.value.get("item_id")
    assert own_id is None or str(envelope.id) == own_id


@by_name
def test_sealed_values_open_with_the_key_that_the_readme_gives(example: Example) -> None:
    contact = example.value.get("contact") or {}
    sealed = {
        "contact": contact.get("sealed"),
        "chat": example.value.get("chat_sealed"),
        "text": example.value.get("text_sealed"),
        "notes": example.value.get("notes_sealed"),
    }

    for purpose, value in sealed.items():
        if value is not None:
            assert KEYS.open_text(purpose, value)


def test_a_type_has_a_minimal_and_a_full_example_where_its_model_has_optional_fields() -> None:
    cases: dict[type, set[str]] = {}
    for example in EXAMPLES:
        cases.setdefault(EVENT_MODELS[example.event_type], set()).add(example.case.split("_")[0])

    for model in ("BookingItem", "MessageItem", "BookingEvent", "MessagePlanned", "MessageEvent"):
        found = next(names for known, names in cases.items() if known.__name__ == model)
        assert {"minimal", "full"} <= found | ({"full"} if "implicit" in found else set()), model
