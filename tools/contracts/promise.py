"""What v1 promises to readers, without words: the document that the gate compares.

It holds topics, keys, headers and the shapes of all bodies. A description or an example is no promise.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from tools.contracts.headers import DEAD_LETTER_HEADERS, EVENT_HEADERS
from tools.contracts.schema import payload_schema, shape
from weelo_common.events import Event, event_classes
from weelo_common.events.positions import FIELDS, FORMAT_VERSION, POSITION_BYTES
from weelo_common.events.topics import CAPTAINS_LOCATIONS, declared_topics

Promise: TypeAlias = dict[str, Any]


def current() -> Promise:
    """The promise that the event classes and the topics file make now."""
    return {
        "topics": {
            topic.name: {
                "key": topic.key,
                "partitions": topic.partitions,
                "retentionMs": topic.retention_ms,
            }
            for topic in declared_topics()
        },
        "headers": {"event": shape(EVENT_HEADERS), "dead letter": shape(DEAD_LETTER_HEADERS)},
        "events": {
            event_class.TYPE: {
                "topic": event_class.TOPIC.name,
                "key": key_fields(event_class),
                "body": shape(payload_schema(event_class)),
            }
            for event_class in event_classes()
        },
        "packed": {
            CAPTAINS_LOCATIONS.name: {
                "formatVersion": FORMAT_VERSION,
                "byteOrder": "little-endian",
                "bytes": POSITION_BYTES,
                "fields": [{"name": one.name, "code": one.code, "meaning": one.meaning} for one in FIELDS],
            }
        },
    }


def key_fields(event_class: type[Event]) -> list[str]:
    """What the Kafka key is made of: a field's name, then what takes its place where that field is absent.

    Found by asking an event whose fields hold nothing but their own names.
    """
    names: dict[str, Any] = {
        name: f"{{{field.alias or name}}}" for name, field in event_class.model_fields.items()
    }
    found: list[str] = []
    while True:
        key = event_class.model_construct(None, **names).key()
        used = [name for name, mark in names.items() if mark is not None and mark == key]
        found.append(key.strip("{}") if used else key)
        if not used or event_class.model_fields[used[0]].is_required():
            return found
        names[used[0]] = None
