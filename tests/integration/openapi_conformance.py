"""Holds real answers against an OpenAPI document: every status, header and field of them must be in it.

Stricter than a reader should be: an object of an answer may have no field that the document does not tell.
"""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from jsonschema import Draft202012Validator

_COMPONENT = "#/components/schemas/"


class Conformance:
    """One document, ready to judge."""

    def __init__(self, document: dict[str, Any]) -> None:
        closed = {
            name: _closed(schema) if name != "AnySuccess" else schema
            for name, schema in document["components"]["schemas"].items()
        }
        self._root = {"components": {"schemas": closed}}
        self._bodies: dict[
            str, Draft202012Validator
        ] = {}  # by the schema's text: making one costs more than asking it
        self._headers: dict[str, Any] = document["components"]["headers"]
        self._paths = [
            (re.compile("^" + re.sub(r"{[^}]+}", "[^/]+", path) + "$"), operations)
            for path, operations in sorted(document["paths"].items(), key=lambda item: "{" in item[0])
        ]

    def problems(self, answer: httpx.Response) -> list[str]:
        """What of the answer is not as the document tells it; nothing for a path that it does not have."""
        operation = self._operation(answer.request.method.lower(), answer.request.url.path)
        if operation is None:
            return []
        described = operation["responses"].get(str(answer.status_code))
        if described is None:
            return [f"status {answer.status_code} is not told"]
        return [*self._header_problems(described, answer), *self._body_problems(described, answer)]

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for pattern, operations in self._paths:
            if pattern.match(path):
                found: dict[str, Any] | None = operations.get(method)
                return found
        return None

    def _header_problems(self, described: dict[str, Any], answer: httpx.Response) -> list[str]:
        problems = []
        for name, told in described["headers"].items():
            header = self._headers[told["$ref"].rpartition("/")[2]] if "$ref" in told else told
            if name in answer.headers:
                value: Any = answer.headers[name]
                if header["schema"].get("type") == "integer":
                    value = int(value)
                problems += [
                    f"{name}: {e.message}" for e in Draft202012Validator(header["schema"]).iter_errors(value)
                ]
            elif header.get("required"):
                problems.append(f"the header {name} is missing")
        for name in ("location", "idempotent-replayed", "retry-after", "www-authenticate"):
            if name in answer.headers and name not in {told.lower() for told in described["headers"]}:
                problems.append(f"the header {name} is not told")
        return problems

    def _body_problems(self, described: dict[str, Any], answer: httpx.Response) -> list[str]:
        if answer.headers["content-type"] != "application/json":
            return [f"content-type {answer.headers['content-type']}"]
        schema = described["content"]["application/json"]["schema"]
        if (text := json.dumps(schema)) not in self._bodies:
            self._bodies[text] = Draft202012Validator(
                {**self._root, **schema}, format_checker=Draft202012Validator.FORMAT_CHECKER
            )
        return [
            f"{'.'.join(map(str, error.path))}: {error.message}"
            for error in self._bodies[text].iter_errors(answer.json())
        ]


def roles_and_codes(document: dict[str, Any]) -> dict[str, tuple[list[str], list[str]]]:
    """Of each operation who may ask for it, and its own error codes; those that every one has are left out."""
    return {
        f"{method.upper()} {path.removeprefix('/api/v1')}": (
            operation["x-roles"],
            sorted(set(operation["x-error-codes"]) - {"SERVICE_UNAVAILABLE", "INTERNAL_ERROR"}),
        )
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


def _closed(schema: Any) -> Any:
    """The schema with every object closed against fields that it does not name."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(inner) for name, inner in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed["additionalProperties"] = False
    return closed
