"""Events of the first version, kept as they were written, and what the first readers know of them.

Readers and writers are never deployed at once, so both directions must hold for as long as there is a v1.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from deploy.local.settings import PROJECT
from tools.contracts.files import GOLDEN, SCHEMAS
from tools.contracts.samples import samples
from weelo_common.events import decode, encode, event_classes, seal
from weelo_common.events.topics import ALL_TOPICS

TYPES = [event_class.TYPE for event_class in event_classes()]
BY_NAME = {topic.name: topic for topic in ALL_TOPICS}


def first_version(event_type: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PROJECT / GOLDEN / f"{event_type}.json").read_text())
    return found


def published(event_type: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PROJECT / SCHEMAS / "events" / f"{event_type}.json").read_text())
    return found


def check(body: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(body)


def body_of_today(event_type: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode(samples()[event_type])[1])
    return body


def test_every_event_ever_published_is_still_there() -> None:
    kept = {path.stem for path in (PROJECT / GOLDEN).glob("*.json")}
    assert kept == set(TYPES)


@pytest.mark.parametrize("event_type", TYPES)
def test_todays_readers_read_events_of_the_first_version(event_type: str) -> None:
    record = first_version(event_type)
    headers = [(name, text.encode()) for name, text in record["headers"].items()]
    envelope = decode(BY_NAME[record["topic"]], record["key"].encode(), headers, record["value"].encode())
    assert envelope.event is not None
    assert envelope.type == event_type
    assert envelope.event.TOPIC.name == record["topic"]
    assert envelope.event.key() == record["key"]
    again = seal(envelope.event, source="test", time=envelope.time)
    written, first = json.loads(encode(again)[1]), json.loads(record["value"])
    assert {name: written[name] for name in first} == first  # nothing of it is lost on the way


@pytest.mark.parametrize("event_type", TYPES)
def test_readers_of_the_first_version_read_todays_events(event_type: str) -> None:
    check(body_of_today(event_type), first_version(event_type)["readerKnows"])


@pytest.mark.parametrize("event_type", TYPES)
def test_readers_of_the_first_version_survive_fields_and_values_that_they_do_not_know(
    event_type: str,
) -> None:
    body = body_of_today(event_type) | {"newField": {"deep": [1]}}
    for name in ("status", "reason", "truckRequestStatus"):
        if name in body:
            body[name] = "teleported"
    check(body, first_version(event_type)["readerKnows"])
    headers, _ = encode(samples()[event_type])
    envelope = decode(BY_NAME[first_version(event_type)["topic"]], b"k", headers, json.dumps(body).encode())
    assert envelope.event is not None


@pytest.mark.parametrize("event_type", TYPES)
def test_the_published_schema_takes_both_versions_and_refuses_what_lacks_a_field(event_type: str) -> None:
    schema = published(event_type)
    Draft202012Validator.check_schema(schema)
    check(json.loads(first_version(event_type)["value"]), schema)
    check(body_of_today(event_type), schema)
    check(schema["examples"][0], schema)
    for name in schema["required"]:
        lacking = {field: value for field, value in schema["examples"][0].items() if field != name}
        with pytest.raises(ValidationError, match=name):
            check(lacking, schema)


@pytest.mark.parametrize("event_type", TYPES)
def test_the_header_dataschema_is_the_id_of_the_published_schema(event_type: str) -> None:
    headers, _ = encode(samples()[event_type])
    assert dict(headers)["ce_dataschema"].decode() == published(event_type)["$id"]
