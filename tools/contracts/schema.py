"""JSON Schema 2020-12 of an event class: what a writer of today puts on the wire.

It says nothing of fields that are not named: readers ignore them. Only keywords that draft-07 has too are used, so
that the AsyncAPI document can hold the same schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from weelo_common.events import Event
from weelo_common.events.envelope import SCHEMA_ROOT
from weelo_common.events.fields import PERSONAL, SECRET

Schema: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$"
_DEFS = "#/$defs/"
_ANY_JSON = {"$ref": f"{_DEFS}JsonValue"}  # pydantic's name for whatever JSON can hold
_SINGLE = frozenset({"items", "additionalProperties"})  # keywords that hold one schema
_LISTS = frozenset({"allOf", "anyOf", "oneOf"})  # keywords that hold several
_FIRST = ("title", "description", "type", "properties")  # what people read first
_ANNOTATIONS = frozenset({"title", "description", "examples", "default", "$comment", "$id", "$schema"})


class _OnTheWire(GenerateJsonSchema):
    """Differs from pydantic's own where we write less than we would read."""

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        """Times are written in UTC with milliseconds and Z."""
        return {"type": "string", "format": "date-time", "pattern": TIME_PATTERN}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """What is absent is left out; null is never written."""
        return self.generate_inner(schema["schema"])


def payload_schema(event_class: type[Event]) -> Schema:
    """The schema of an event's body, with its parts under ``$defs`` and its marks as ``x-`` extensions."""
    made = event_class.model_json_schema(by_alias=True, mode="validation", schema_generator=_OnTheWire)
    return _tidied(made, is_model=True)


def standalone(event_class: type[Event], example: object) -> Schema:
    """The published file of one event: it needs no other file, and no keyword that a strict validator refuses."""
    body = _commented(payload_schema(event_class))
    defs = body.pop("$defs", None)
    document: Schema = {"$schema": DIALECT, "$id": f"{SCHEMA_ROOT}{event_class.TYPE}"} | body
    document["examples"] = [example]
    if defs is not None:
        document["$defs"] = defs
    return document


def with_refs_to(root: str, schema: Schema) -> Schema:
    """The schema without its ``$defs``, pointing to ``root`` instead. What stands beside a ``$ref`` moves to an
    ``allOf``, because draft-07 ignores it there."""

    def point(node: Schema) -> Schema:
        if "$ref" not in node:
            return node
        target = {"$ref": root + node["$ref"].removeprefix(_DEFS)}
        rest = {name: value for name, value in node.items() if name != "$ref"}
        return rest | {"allOf": [target]} if rest else target

    return _mapped({name: value for name, value in schema.items() if name != "$defs"}, point)


def shape(schema: Schema) -> Schema:
    """What the schema promises, without words: ``$defs`` put in place; descriptions, examples and marks left out."""
    defs = schema.get("$defs", {})

    def strip(node: Schema) -> Schema:
        if "$ref" in node:
            return shape({**defs[node["$ref"].removeprefix(_DEFS)], "$defs": defs})
        return {name: value for name, value in node.items() if not _is_annotation(name)}

    return _mapped({name: value for name, value in schema.items() if name != "$defs"}, strip)


def marks(schema: Schema, extension: str) -> Iterator[tuple[str, str]]:
    """Each field with this mark: its path, such as ``offers[].captainId``, and what the mark says."""

    def visit(node: Schema, path: str) -> Iterator[tuple[str, str]]:
        if "$ref" in node:
            yield from visit(schema["$defs"][node["$ref"].removeprefix(_DEFS)], path)
        if extension in node:
            yield path, node[extension]
        for name, child in node.get("properties", {}).items():
            yield from visit(child, f"{path}.{name}" if path else name)
        if "items" in node:
            yield from visit(node["items"], f"{path}[]")

    yield from visit(schema, "")


def prose(text: str) -> str:
    """A docstring as readers of the schema want it: one line, single backticks."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def _tidied(schema: Mapping[str, Any], *, is_model: bool = False) -> Schema:
    """Without pydantic's made-up titles and defaults; ``int | float`` is a number; free JSON needs no words."""
    tidy: Schema = {}
    for name in sorted(schema, key=lambda one: _FIRST.index(one) if one in _FIRST else len(_FIRST)):
        value = schema[name]
        if name == "properties":
            tidy[name] = {field: _tidied(child) for field, child in value.items()}
        elif name == "$defs":
            defs = {model: _tidied(child, is_model=True) for model, child in value.items() if child}
            if defs:
                tidy[name] = defs
        elif name == "anyOf" and [branch.get("type") for branch in value] == ["integer", "number"]:
            tidy["type"] = "number"
        elif name in _LISTS:
            tidy[name] = [_tidied(child) for child in value]
        elif name in _SINGLE and isinstance(value, dict):
            if value != _ANY_JSON:
                tidy[name] = _tidied(value)
        elif name == "description":
            tidy[name] = prose(value)
        elif not (name == "default" or (name == "title" and not is_model)):
            tidy[name] = value
    return tidy


def _commented(schema: Schema) -> Schema:
    """Marks as ``$comment``: a strict validator refuses keywords of our own."""

    def comment(node: Schema) -> Schema:
        said = [
            f"{word} ({node[mark]})"
            for word, mark in (("Personal data", PERSONAL), ("Secret", SECRET))
            if mark in node
        ]
        plain = {name: value for name, value in node.items() if not name.startswith("x-")}
        return plain | {"$comment": ". ".join(said)} if said else plain

    return _mapped(schema, comment)


def _mapped(node: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """The schema with ``change`` applied to every schema in it, the inner ones first."""
    made: Schema = {}
    for name, value in node.items():
        if name in {"properties", "$defs"}:
            made[name] = {key: _mapped(child, change) for key, child in value.items()}
        elif name in _SINGLE and isinstance(value, dict):
            made[name] = _mapped(value, change)
        elif name in _LISTS:
            made[name] = [_mapped(child, change) for child in value]
        else:
            made[name] = value
    return change(made)


def _is_annotation(name: str) -> bool:
    return name in _ANNOTATIONS or name.startswith("x-")
