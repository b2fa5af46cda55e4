"""The AsyncAPI document: the official parser takes it, and it says of every topic what its readers must know."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from deploy.local.settings import PROJECT
from dispatcher import consumers as dispatcher_consumers
from expiry import consumers as expiry_consumers
from notifier import consumers as notifier_consumers
from order_api import consumers as order_api_consumers
from tests.contract.others import NODE_CHECKS, needs_node
from tools.contracts.files import SCHEMAS
from weelo_common.events import event_classes
from weelo_common.events.topics import (
    ALL_TOPICS,
    CAPTAINS_LOCATIONS,
    DISPATCHER,
    EXPIRY,
    NOTIFIER,
    ORDER_API,
    declared_topics,
)

DOCUMENT = PROJECT / SCHEMAS / "asyncapi.json"
PERSONAL = "x-personal-data"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return found


def parse(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", "parse_asyncapi.mjs", str(path)],
        cwd=NODE_CHECKS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_node
def test_the_official_parser_takes_the_document_without_an_error_or_a_warning() -> None:
    done = parse(DOCUMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {"channels": 13, "messages": 18, "operations": 23, "problems": []}


@needs_node
def test_the_official_parser_refuses_a_document_that_points_nowhere(tmp_path: Path) -> None:
    broken = json.loads(DOCUMENT.read_text())
    del broken["components"]["schemas"]["Place"]
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(broken))
    done = parse(path)
    assert done.returncode == 1
    assert "#/components/schemas/Place" in done.stdout


def test_every_example_is_what_its_message_says(document: dict[str, Any]) -> None:
    for name, message in document["components"]["messages"].items():
        for part in ("headers", "payload"):
            if part in message:
                # The document itself stands around the schema, so that its references find their targets.
                schema = {"components": document["components"], "allOf": [message[part]]}
                for example in message["examples"]:
                    Draft7Validator(schema).validate(example[part])
        assert message["examples"], name


def test_every_topic_stands_in_it_with_its_partitions_and_retention(document: dict[str, Any]) -> None:
    said = {
        channel["address"]: (
            channel["bindings"]["kafka"]["partitions"],
            channel["bindings"]["kafka"]["topicConfiguration"]["retention.ms"],
        )
        for channel in document["channels"].values()
    }
    assert said == {topic.name: (topic.partitions, topic.retention_ms) for topic in declared_topics()}


def test_every_topic_has_an_owner_writers_and_promises(document: dict[str, Any]) -> None:
    for topic in ALL_TOPICS:
        channel = document["channels"][topic.name]
        assert channel["x-owner"]
        assert channel["x-producers"]
        assert channel["x-consumers"]
        promised = (channel["x-delivery"], channel["x-order"])
        packed = topic is CAPTAINS_LOCATIONS
        assert promised == (("best-effort", "none") if packed else ("at-least-once", "per key"))
        assert channel["x-dead-letters"] == [topic.dlq(group).name for group in topic.groups]


def test_every_event_stands_in_its_topic_with_a_key_headers_and_a_real_payload(
    document: dict[str, Any],
) -> None:
    for event_class in event_classes():
        name = event_class.__name__
        assert name in document["channels"][event_class.TOPIC.name]["messages"]
        message = document["components"]["messages"][name]
        assert message["name"] == event_class.TYPE
        assert message["bindings"]["kafka"]["key"]["description"]
        example = message["examples"][0]
        assert example["headers"]["ce_type"] == event_class.TYPE
        assert event_class.model_validate_json(json.dumps(example["payload"]))


def test_personal_data_is_marked_wherever_a_person_a_plate_or_a_place_stands(
    document: dict[str, Any],
) -> None:
    messages = document["components"]["messages"]
    telling = (
        "customerId",
        "captainId",
        "transporterId",
        "vehicleNumber",
        "offerToken",
        "address",
        "latitude",
    )
    for event_class in event_classes():
        message = messages[event_class.__name__]
        marked = {path.split(".")[-1] for path in message.get(PERSONAL, {})}
        held = json.dumps(message["examples"][0]["payload"])
        assert marked & set(telling) == {name for name in telling if f'"{name}"' in held}
    assert messages["OffersMade"]["x-secret"] == {
        "offers[].offerToken": "gives the captain the right to accept"
    }


class Anything:
    """Stands for a service's handlers where only the table of event classes is asked for."""

    def __getattr__(self, name: str) -> object:
        return self


@pytest.mark.parametrize(
    ("service", "consumers"),
    [
        (ORDER_API, order_api_consumers),
        (DISPATCHER, dispatcher_consumers),
        (NOTIFIER, notifier_consumers),
        (EXPIRY, expiry_consumers),
    ],
)
def test_the_consumers_it_names_are_those_that_consume(service: str, consumers: Any) -> None:
    consumed = {event_class.TOPIC.name for event_class in consumers.handlers(Anything())}
    assert consumed == {topic.name for topic in ALL_TOPICS if service in topic.groups}


def test_on_the_machine_that_decides_no_tool_of_others_is_missing() -> None:
    if os.environ.get("CI") != "true":
        return
    assert shutil.which("kcat")
    assert shutil.which("node")
    assert (NODE_CHECKS / "node_modules").is_dir()
