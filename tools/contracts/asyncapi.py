"""The AsyncAPI 3 document: all topics, what is in them, who writes and reads them, and what is promised.

Made from the event classes, the topics file and the samples; nothing in it is written down twice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from tools.contracts.headers import DEAD_LETTER_HEADERS, EVENT_HEADERS
from tools.contracts.promise import key_fields
from tools.contracts.samples import dead_letter, packed_positions, samples
from tools.contracts.schema import marks, payload_schema, prose, with_refs_to
from weelo_common.events import Envelope, Event, encode, event_classes
from weelo_common.events.envelope import CONTENT_TYPE, MAX_EVENT_BYTES, SCHEMA_ROOT
from weelo_common.events.fields import PERSONAL, SECRET
from weelo_common.events.positions import FIELDS, FORMAT_VERSION, POSITION_BYTES
from weelo_common.events.topics import ALL_TOPICS, CAPTAINS_LOCATIONS, Topic

Json = dict[str, Any]

ASYNCAPI_VERSION = "3.0.0"
CONTRACT_VERSION = "1"  # within it only additions; what cannot be one is a v2, beside v1
KAFKA_BINDING = "0.5.0"
_SCHEMAS = "#/components/schemas/"
_BINARY = "application/octet-stream"
_DAY_MS = 24 * 60 * 60 * 1000
_MINUTE_MS = 60 * 1000

ABOUT = """\
Every Kafka topic of Weelo dispatch. `orders.events.v1` is public: other teams build on it. The other topics are how
the services talk to one another; they keep the same promises, but ask their owner before you build on them.

**Envelope.** Each event is a CloudEvent 1.0 in the Kafka binding's binary mode: attributes are headers, the body is
JSON in UTF-8. Times are RFC 3339, UTC, with milliseconds. Money is whole rupees.

**Delivery is at least once.** An event may come again, and a repeat has the same `ce_id`: drop what you have seen.
Nothing is lost: an event and the state that it tells of commit together.

**Order holds per key.** All events of one key stand in one partition, in the order in which they happened. Keys go to
partitions as Kafka's Java client does it (murmur2); librdkafka calls that `murmur2_random`. The number of partitions
never changes.

**Within v1 only additions pass:** new optional fields, new headers that may be absent, new events, new topics. Ignore
fields, headers and event types that you do not know, and survive values of statuses and reasons that you do not know.
What cannot be an addition becomes a v2 beside v1.

**Batches are compressed with lz4.** librdkafka and the Java client read that as they are; kafkajs needs a codec.

**Personal data.** Fields with `x-personal-data` tell something of a person. Names and phone numbers never reach Kafka.
What has `x-secret` gives its bearer a right: never log it.

An installation may put a prefix before every topic and consumer group."""


def document() -> Json:
    """The whole document, as JSON can hold it."""
    stock = samples()
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Weelo dispatch events",
            "version": CONTRACT_VERSION,
            "description": ABOUT,
            "tags": [{"name": "public"}, {"name": "internal"}, {"name": "dead letters"}],
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            channel: made
            for topic in ALL_TOPICS
            for channel, made in (
                (topic.name, _channel(topic)),
                *((topic.dlq(group).name, _dead_letters(topic.dlq(group))) for group in topic.groups),
            )
        },
        "operations": _operations(),
        "components": {
            "messages": {
                event_class.__name__: _message(stock[event_class.TYPE]) for event_class in event_classes()
            }
            | {"PackedPositions": _packed_message(), "DeadLetter": _dead_message()},
            "schemas": _schemas(),
        },
    }


def _channel(topic: Topic) -> Json:
    return {
        "address": topic.name,
        "summary": topic.summary,
        "description": _channel_text(topic),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(topic)},
        "tags": [{"name": "public" if topic.public else "internal"}],
        "bindings": {"kafka": _topic_binding(topic)},
        "x-owner": topic.owner,
        "x-producers": list(topic.producers),
        "x-consumers": [*topic.groups, *topic.readers],
        "x-key": topic.key,
        "x-delivery": "best-effort" if topic is CAPTAINS_LOCATIONS else "at-least-once",
        "x-order": "none" if topic is CAPTAINS_LOCATIONS else "per key",
        "x-dead-letters": [topic.dlq(group).name for group in topic.groups],
    }


def _channel_text(topic: Topic) -> str:
    if topic is CAPTAINS_LOCATIONS:
        return (
            "Not CloudEvents: packed positions, many a record, whose Kafka timestamp is the time of receipt. A "
            "position may be lost or come twice; the next one comes within seconds. Internal; a format of another "
            f"version may come, and its first byte says so. Kept {_kept(topic)}. The key means nothing. A record that "
            "cannot be read is logged, counted and passed over."
        )
    read = (
        "Each consumer group writes what it can never handle to a dead-letter topic of its own and goes on."
        if topic.groups
        else "Every replica reads all of it, without a consumer group; what it cannot read is logged, counted and "
        "passed over."
    )
    return f"Key: {topic.key}; order holds per key. Kept {_kept(topic)}. {read}"


def _dead_letters(topic: Topic) -> Json:
    return {
        "address": topic.name,
        "summary": topic.summary,
        "description": f"Key, headers and value as they were, and headers that say where, why and how often. Kept "
        f"{_kept(topic)}, in one partition.",
        "messages": {"DeadLetter": {"$ref": "#/components/messages/DeadLetter"}},
        "tags": [{"name": "dead letters"}],
        "bindings": {"kafka": _topic_binding(topic)},
        "x-owner": topic.owner,
        "x-producers": list(topic.producers),
        "x-delivery": "at-least-once",
    }


def _topic_binding(topic: Topic) -> Json:
    return {
        "topic": topic.name,
        "partitions": topic.partitions,
        "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": topic.retention_ms},
        "bindingVersion": KAFKA_BINDING,
    }


def _operations() -> Json:
    made: Json = {}
    for topic in ALL_TOPICS:
        names = _message_names(topic)
        for service in topic.producers:
            made[f"{service}.sends.{topic.name}"] = _operation("send", topic.name, names, service, None)
        for group in topic.groups:
            made[f"{group}.receives.{topic.name}"] = _operation("receive", topic.name, names, group, group)
            dead = topic.dlq(group).name
            made[f"{group}.sends.{dead}"] = _operation("send", dead, ["DeadLetter"], group, None)
        for service in topic.readers:
            made[f"{service}.receives.{topic.name}"] = _operation("receive", topic.name, names, service, None)
    return made


def _operation(action: str, channel: str, messages: list[str], service: str, group: str | None) -> Json:
    made: Json = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": f"{service} {'writes to' if action == 'send' else 'reads'} {channel}.",
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
        "x-service": service,
    }
    if group is not None:
        made["bindings"] = {
            "kafka": {"groupId": {"type": "string", "enum": [group]}, "bindingVersion": KAFKA_BINDING}
        }
    return made


def _message(envelope: Envelope) -> Json:
    event = _event_of(envelope)
    headers, value = encode(envelope, None)
    name = type(event).__name__
    schema = payload_schema(type(event))
    made: Json = {
        "name": event.TYPE,
        "title": name,
        "summary": prose(type(event).__doc__ or ""),
        "contentType": CONTENT_TYPE,
        "headers": {
            "allOf": [
                {"$ref": f"{_SCHEMAS}CloudEventsHeaders"},
                {
                    "type": "object",
                    "properties": {
                        "ce_type": {"type": "string", "const": event.TYPE},
                        "ce_dataschema": {"type": "string", "const": f"{SCHEMA_ROOT}{event.TYPE}"},
                    },
                },
            ]
        },
        "payload": {"$ref": f"{_SCHEMAS}{name}"},
        "bindings": {
            "kafka": {
                "key": {
                    "type": "string",
                    "description": f"{', else '.join(key_fields(type(event)))}, in UTF-8.",
                },
                "bindingVersion": KAFKA_BINDING,
            }
        },
        "examples": [
            {
                "name": name,
                "summary": f"Key {envelope.key}.",
                "headers": {header: raw.decode() for header, raw in headers},
                "payload": json.loads(value),
            }
        ],
        "x-max-bytes": MAX_EVENT_BYTES,
    }
    for extension in (PERSONAL, SECRET):
        if found := dict(marks(schema, extension)):
            made[extension] = found
    return made


def _packed_message() -> Json:
    packed = packed_positions()
    offset, fields = 0, []
    for one in FIELDS:
        size = _size(one.code)
        fields.append(
            {"name": one.name, "offset": offset, "bytes": size, "type": one.type, "meaning": one.meaning}
        )
        offset += size
    return {
        "name": "weelo.captain.positions.packed",
        "title": "PackedPositions",
        "summary": f"One byte of format version ({FORMAT_VERSION}), then {POSITION_BYTES} bytes a position.",
        "contentType": _BINARY,
        "payload": {
            "type": "string",
            "format": "binary",
            "description": "Little-endian; see x-packed-format. The example is in hexadecimal.",
        },
        "bindings": {"kafka": {"key": {"description": "Means nothing."}, "bindingVersion": KAFKA_BINDING}},
        "examples": [
            {"name": "TwoPositions", "summary": "Two positions, in hexadecimal.", "payload": packed.hex()}
        ],
        "x-packed-format": {
            "version": FORMAT_VERSION,
            "versionByte": {"offset": 0, "bytes": 1, "type": "uint8"},
            "byteOrder": "little-endian",
            "bytesPerPosition": POSITION_BYTES,
            "fields": fields,
        },
        PERSONAL: {
            "captain": "pseudonym: the same captain always has the same 16 bytes",
            "latitude": "whereabouts of a captain",
            "longitude": "whereabouts of a captain",
        },
    }


def _dead_message() -> Json:
    headers, value = dead_letter()
    return {
        "name": "DeadLetter",
        "title": "DeadLetter",
        "summary": "A record that could never be handled: its own key, headers and value, and what was wrong.",
        "contentType": _BINARY,
        "headers": {"$ref": f"{_SCHEMAS}DeadLetterHeaders"},
        "payload": {
            "description": "The record's value, byte for byte; it may be no JSON. Empty where the record had none."
        },
        "bindings": {
            "kafka": {
                "key": {"description": "The record's key, byte for byte."},
                "bindingVersion": KAFKA_BINDING,
            }
        },
        "examples": [
            {
                "name": "MissingHeader",
                "summary": "A record that lacked ce_type and ended in the middle of its body.",
                "headers": {name: raw.decode() for name, raw in headers},
                "payload": value.decode(),
            }
        ],
        PERSONAL: {"value": "what the record held", "key": "what the record held"},
    }


def _schemas() -> Json:
    """Every schema once, by its name; parts of events beside the events. Raises ValueError for two of one name."""
    made: Json = {"CloudEventsHeaders": EVENT_HEADERS, "DeadLetterHeaders": DEAD_LETTER_HEADERS}
    for event_class in event_classes():
        schema = payload_schema(event_class)
        parts: Mapping[str, Json] = {event_class.__name__: schema} | schema.get("$defs", {})
        for name, part in parts.items():
            ready = with_refs_to(_SCHEMAS, part)
            if made.setdefault(name, ready) != ready:
                raise ValueError(f"two schemas are named {name}")
    return made


def _message_names(topic: Topic) -> list[str]:
    if topic is CAPTAINS_LOCATIONS:
        return ["PackedPositions"]
    return [event_class.__name__ for event_class in event_classes() if event_class.TOPIC is topic]


def _event_of(envelope: Envelope) -> Event:
    if envelope.event is None:
        raise ValueError(f"the sample of {envelope.type} holds no event")
    return envelope.event


def _size(code: str) -> int:
    return struct.calcsize(f"<{code}")


def _kept(topic: Topic) -> str:
    if topic.retention_ms % _DAY_MS == 0:
        days = topic.retention_ms // _DAY_MS
        return f"{days} day{'' if days == 1 else 's'}"
    return f"{topic.retention_ms // _MINUTE_MS} minutes"
