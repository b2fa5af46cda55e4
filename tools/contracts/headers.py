"""The Kafka headers of events and of dead letters, as schemas: CloudEvents 1.0, Kafka binding, binary mode.

Kafka's headers are bytes; all of ours are UTF-8 text, which these schemas describe.
"""

from __future__ import annotations

from tools.contracts.schema import TIME_PATTERN, Schema
from weelo_common.events.envelope import CONTENT_TYPE, MAX_EVENT_ID_LENGTH, SCHEMA_ROOT

EVENT_HEADERS: Schema = {
    "title": "CloudEventsHeaders",
    "description": "The envelope of every event. Names are in lower case; readers ignore headers they do not know.",
    "type": "object",
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0", "description": "CloudEvents 1.0."},
        "ce_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_EVENT_ID_LENGTH,
            "description": "Unique to the event. Delivery is at least once: drop what you have seen by it.",
        },
        "ce_type": {
            "type": "string",
            "pattern": r"^weelo\.[a-z_]+\.[a-z_]+\.v[0-9]+$",
            "description": "Which event it is. Ignore a type that you do not know.",
        },
        "ce_source": {
            "type": "string",
            "pattern": "^/weelo/[a-z-]+$",
            "description": "The service that made it.",
            "examples": ["/weelo/order-api", "/weelo/dispatcher", "/weelo/expiry"],
        },
        "ce_subject": {"type": "string", "description": "The order's, captain's or timer's id."},
        "ce_time": {
            "type": "string",
            "format": "date-time",
            "pattern": TIME_PATTERN,
            "description": "When it happened, by the clock of the making service's database.",
        },
        "ce_dataschema": {
            "type": "string",
            "pattern": f"^{SCHEMA_ROOT}weelo\\.",
            "description": "The `$id` of the body's JSON Schema; the file is `schemas/events/<ce_type>.json`.",
        },
        "content-type": {
            "type": "string",
            "const": CONTENT_TYPE,
            "description": "The body is JSON, in UTF-8.",
        },
        "traceparent": {
            "type": "string",
            "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            "description": "W3C Trace Context of what caused it, where there is one.",
        },
    },
    "required": [
        "ce_specversion",
        "ce_id",
        "ce_type",
        "ce_source",
        "ce_subject",
        "ce_time",
        "ce_dataschema",
        "content-type",
    ],
}

DEAD_LETTER_HEADERS: Schema = {
    "title": "DeadLetterHeaders",
    "description": "The record's own headers, as far as they fit, and then where it stood, why it died, and how often "
    "it was tried.",
    "type": "object",
    "properties": {
        "dlq-topic": {"type": "string", "description": "The topic it stood in, without any prefix."},
        "dlq-partition": {"type": "string", "pattern": "^[0-9]+$", "description": "The partition there."},
        "dlq-offset": {"type": "string", "pattern": "^[0-9]+$", "description": "The offset there."},
        "dlq-group": {"type": "string", "description": "The consumer group that could not handle it."},
        "dlq-reason": {"type": "string", "description": "Why, for people; without personal data."},
        "dlq-attempts": {"type": "string", "pattern": "^[0-9]+$", "description": "How often it was tried."},
        "dlq-resolution": {
            "type": "string",
            "description": "There only on a record that says what became of an earlier one: an operator sent it again "
            "(`retried`), or nobody will (`dropped`). Its other headers are the earlier one's, its body is empty.",
            "examples": ["retried", "dropped"],
        },
        "dlq-resolves": {
            "type": "string",
            "pattern": "^[0-9]+$",
            "description": "There with `dlq-resolution`: the offset of the earlier record in this topic.",
        },
        "dlq-truncated": {
            "type": "string",
            "const": "true",
            "description": "There only where something of a very large record was cut off; the whole stands where "
            "`dlq-topic`, `dlq-partition` and `dlq-offset` say, as long as that topic keeps it.",
        },
    },
    "required": ["dlq-topic", "dlq-partition", "dlq-offset", "dlq-group", "dlq-reason", "dlq-attempts"],
}
