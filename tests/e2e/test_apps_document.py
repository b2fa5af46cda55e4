"""``docs/apps.md`` against the services: every path, every frame, every error code, and examples that are true."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema
import pytest

from deploy.local.settings import PROJECT
from notifier.domain import FrameName
from tests.e2e.city import PATIENCE_S, City
from weelo_common.api_errors import STATUS, ErrorCode

TEXT = (PROJECT / "docs" / "apps.md").read_text()
ROW = re.compile(r"^\| `([A-Z_]+)` \| ([0-9]{3}) \| (.+) \|$", re.MULTILINE)
OPS_ALONE = {"GET /api/v1/dispatch/orders/{}"}  # told in words


@dataclass(frozen=True)
class Example:
    """One request of the document."""

    method: str
    path: str
    body: Any


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def examples() -> list[Example]:
    found: list[Example] = []
    for block in blocks("http"):
        head, _, body = block.partition("\n\n")
        method, path = head.splitlines()[0].split()
        found.append(Example(method, path.partition("?")[0], json.loads(body) if body.strip() else None))
    return found


def frames() -> list[dict[str, Any]]:
    return [json.loads(line) for block in blocks("jsonl") for line in block.splitlines()]


def matches(template: str, path: str) -> bool:
    pattern = re.sub(r"\\{[^/]+\\}", "[^/]+", re.escape(template))
    return re.fullmatch(pattern, path) is not None


def test_every_error_code_stands_once_with_its_status_and_what_to_do() -> None:
    rows = {code: int(status) for code, status, _ in ROW.findall(TEXT)}
    assert rows == {code.value: STATUS[code] for code in ErrorCode}
    assert len(ROW.findall(TEXT)) == len(ErrorCode)


def test_every_frame_to_a_phone_has_an_example() -> None:
    told = {frame["event"] for frame in frames() if frame["type"] == "event"}
    assert told == {name.value for name in FrameName}
    assert {frame["type"] for frame in frames()} == {"event", "auth", "ready", "skip", "ack", "ping", "pong"}


@pytest.mark.parametrize("service", ["order-api", "dispatcher", "notifier"])
async def test_every_path_has_an_example_whose_body_the_service_would_take(city: City, service: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        document = (await client.get(f"{city.services[service].base_url}/openapi.json")).json()
    missing: list[str] = []
    for template, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {re.sub(r'{[^/]+}', '{}', template)}"
            mine = [one for one in examples() if one.method == method.upper() and matches(template, one.path)]
            if template.endswith("check-active") or "{" not in template:
                mine = [one for one in mine if one.path == template]
            if not mine and name not in OPS_ALONE:
                missing.append(name)
            for one in mine:
                check_body(document, operation, one)
    assert not missing
    for name in OPS_ALONE:
        assert name.replace("{}", "{orderId}") in TEXT


def check_body(document: dict[str, Any], operation: dict[str, Any], example: Example) -> None:
    """The example's body is what the operation's schema says."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None or example.body is None:
        assert example.body is None or content is not None, example
        return
    jsonschema.validate(example.body, {**content["schema"], "components": document["components"]})


async def test_no_example_is_of_a_path_that_is_not_there(city: City) -> None:
    templates: list[tuple[str, str]] = []
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        for service in ("order-api", "dispatcher", "notifier"):
            document = (await client.get(f"{city.services[service].base_url}/openapi.json")).json()
            templates += [(m.upper(), path) for path, ones in document["paths"].items() for m in ones]
    strangers = [
        one
        for one in examples()
        if not any(one.method == method and matches(path, one.path) for method, path in templates)
    ]
    assert not strangers
