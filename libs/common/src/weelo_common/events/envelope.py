"""The envelope of every event: CloudEvents 1.0, Kafka protocol binding, binary content mode.

An event class knows its type, topic and key; an envelope adds id, source, time and trace context. Readers
ignore what they do not know: an unknown type decodes to an envelope without an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from weelo_common.clock import format_time, parse_time
from weelo_common.events.topics import Topic
from weelo_common.ids import new_id

CONTENT_TYPE = "application/json"
SCHEMA_ROOT = "urn:weelo:schema:"  # the schemas are found by name under schemas/
MAX_EVENT_BYTES = 900 * 1024  # under the brokers' default limit of 1 MiB for a record, headers included

MAX_EVENT_ID_LENGTH = 255  # characters of ce_id; an index row of PostgreSQL holds some 2,700 bytes
MAX_KEY_LENGTH = 512  # characters of the Kafka key

Headers = Sequence[tuple[str, bytes]]
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


class MalformedEvent(Exception):
    """A record that breaks the contract: a missing header, a body that is not the event's. It is dead-lettered."""


class EventTooLarge(Exception):
    """An event that no broker would take; raised where it is made, so that it never blocks an outbox."""


class Model(BaseModel):
    """Part of an event's body: camelCase on the wire, frozen, unknown fields ignored."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )


class Event(Model):
    """The body of one event type."""

    TYPE: ClassVar[str]
    TOPIC: ClassVar[Topic]

    def key(self) -> str:
        """The Kafka key, which is also the subject unless ``subject`` says otherwise."""
        raise NotImplementedError

    def subject(self) -> str:
        """What the event is about: an order, captain or timer id."""
        return self.key()


_REGISTRY: dict[str, type[Event]] = {}


def register(*classes: type[Event]) -> None:
    """Make event classes known to ``decode``; called once by the package for all of the contract."""
    for event_class in classes:
        _REGISTRY[event_class.TYPE] = event_class


def event_classes() -> tuple[type[Event], ...]:
    """Every event class of the contract."""
    return tuple(_REGISTRY.values())


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event as it travels. ``event`` is None where this reader does not know the type."""

    id: str
    type: str
    source: str
    subject: str
    time: datetime
    topic: Topic
    key: str
    event: Event | None
    traceparent: str | None = field(default=None, compare=False)


def seal(event: Event, *, source: str, time: datetime, event_id: str | None = None) -> Envelope:
    """Put an event in an envelope. ``source`` is the service's name; ``time`` comes from its database's clock."""
    return Envelope(
        id=event_id or new_id(),
        type=event.TYPE,
        source=f"/weelo/{source}",
        subject=event.subject(),
        time=time,
        topic=event.TOPIC,
        key=event.key(),
        event=event,
    )


def encode(envelope: Envelope, traceparent: str | None = None) -> tuple[list[tuple[str, bytes]], bytes]:
    """The Kafka headers and value of an envelope.

    Raises:
        EventTooLarge: the body is larger than ``MAX_EVENT_BYTES``.
        ValueError: the envelope holds no event.
    """
    if envelope.event is None:
        raise ValueError(f"an envelope of the unknown type {envelope.type} cannot be encoded")
    value = envelope.event.model_dump_json(by_alias=True, exclude_none=True).encode()
    if len(value) > MAX_EVENT_BYTES:
        raise EventTooLarge(f"{envelope.type} for {envelope.subject} has {len(value)} bytes")
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", envelope.id.encode()),
        ("ce_type", envelope.type.encode()),
        ("ce_source", envelope.source.encode()),
        ("ce_subject", envelope.subject.encode()),
        ("ce_time", format_time(envelope.time).encode()),
        ("ce_dataschema", f"{SCHEMA_ROOT}{envelope.type}".encode()),
        ("content-type", CONTENT_TYPE.encode()),
    ]
    traceparent = traceparent or envelope.traceparent
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return headers, value


def decode(
    topic: Topic, key: bytes | None, headers: Iterable[tuple[str, bytes | None]], value: bytes | None
) -> Envelope:
    """An envelope from a record.

    Raises:
        MalformedEvent: a header is missing or wrong, or the body is not that of its type.
    """
    try:
        text = {name: (raw or b"").decode() for name, raw in headers}  # Kafka allows a header without a value
        key_text = (key or b"").decode()
    except UnicodeDecodeError as error:
        raise MalformedEvent("a header or the key is not UTF-8") from error
    for name in ("ce_id", "ce_type", "ce_source", "ce_time"):
        if not text.get(name):
            raise MalformedEvent(f"the header {name} is missing")
    if not _storable(text["ce_id"], MAX_EVENT_ID_LENGTH) or not _storable(key_text, MAX_KEY_LENGTH):
        raise MalformedEvent("ce_id or the key is too long, or holds a NUL character")
    # No reason quotes what was sent: reasons go into logs and dead letters, and others may have sent anything.
    if text.get("ce_specversion") != "1.0":
        raise MalformedEvent("ce_specversion is not '1.0'")
    try:
        time = parse_time(text["ce_time"])
    except ValueError as error:
        raise MalformedEvent("ce_time is no RFC 3339 time with a zone") from error
    event_class = _REGISTRY.get(text["ce_type"])
    event: Event | None = None
    if event_class is not None:
        if value is None:
            raise MalformedEvent("the body is missing")
        try:
            event = event_class.model_validate_json(value)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise MalformedEvent(f"{text['ce_type']}: {where}: {first['msg']}") from None
    return Envelope(
        id=text["ce_id"],
        type=text["ce_type"],
        source=text["ce_source"],
        subject=text.get("ce_subject", ""),
        time=time,
        topic=topic,
        key=key_text,
        event=event,
        traceparent=_trace_context(text.get("traceparent")),
    )


def _storable(text: str, length: int) -> bool:
    """Whether the inbox and the parking can hold it; else one record would stop its consumer for ever."""
    return len(text) <= length and "\x00" not in text


def _trace_context(text: str | None) -> str | None:
    """The text where it is a W3C ``traceparent``; anything else is no reason to refuse an event."""
    return text if text and _TRACEPARENT.match(text) else None
