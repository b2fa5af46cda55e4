"""The OpenAPI document of order-api: true to the service, whatever is sent, and readable without the internet."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from deploy.local.stack import LocalStack
from order_api.openapi import KEY_PATTERN
from tests.integration.openapi_conformance import Conformance, roles_and_codes
from tests.integration.openapi_fuzz import fuzz, spoiled_in_path
from tests.integration.order_api_process_rig import OrderApiProcess, order_api_running
from tests.integration.order_api_rig import BODY, PATIENCE_S, Home, order_api_home, signed_offer, token_of
from weelo_common.ids import new_id

EXAMPLES = 30  # requests at each operation in make test: some 5 s in all
MANY_EXAMPLES = 600


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@pytest.fixture(scope="module")
def service(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrderApiProcess]:
    folder = tmp_path_factory.mktemp("openapi")
    with order_api_running(home, folder, CREATES_PER_MINUTE="40") as running:
        yield running


@pytest.fixture(scope="module")
def document(service: OrderApiProcess) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{service.base_url}/openapi.json", timeout=PATIENCE_S).json()
    return found


class People:
    """Callers and orders for requests that shall get further than a 404."""

    roles: tuple[str, ...] = ("customer", "captain", "ops")

    def __init__(self, home: Home, base_url: str, http: httpx.Client) -> None:
        self._home = home
        self._http = http
        self._base_url = f"{base_url}/api/v1"
        self._numbers = itertools.count()
        self.orders: list[str] = [new_id()]
        self.trucks: list[str] = [new_id()]
        self.offers: list[str] = ["e30.e30.e30"]
        self.stock()

    def caller(self, case: Any, role: str, data: st.DataObject) -> str:
        """One of three in a role, or a new customer for a create; ids that exist in half of the paths."""
        token = self.token(role, data.draw(st.integers(0, 2)))
        if (case.method.lower(), case.operation.path) == ("post", "/api/v1/orders") and data.draw(
            st.booleans()
        ):
            token = self.new_customer()
            if (
                case.meta is not None and case.meta.generation.mode.is_positive
            ):  # what a schema cannot say: distinct lines, 50 trucks
                case.body["vehicleRequirements"] = case.body["vehicleRequirements"][:1]
        if case.path_parameters and not spoiled_in_path(case) and data.draw(st.booleans()):
            known = self.trucks if "truck_request_id" in case.path_parameters else self.orders
            case.path_parameters = {
                name: data.draw(st.sampled_from(known[-4:])) for name in case.path_parameters
            }
            if isinstance(case.body, dict) and isinstance(case.body.get("offerToken"), str):
                case.body["offerToken"] = data.draw(st.sampled_from(self.offers[-4:]))
        return token

    def answered(self, case: Any, answer: Any) -> None:
        """An order that was cancelled or taken is followed by another."""
        if answer.status_code == 200 and case.method.lower() == "post":
            self.stock()

    def token(self, role: str, number: int) -> str:
        """A fresh token of one of the people: a long run outlives a token."""
        return token_of(self._home, f"{role}-{number}", role, {})

    def new_customer(self) -> str:
        return token_of(self._home, f"customer-new-{next(self._numbers)}", "customer", {})

    def stock(self) -> None:
        """A fresh order of the first customer, and one that the first captain holds, with offers for them."""
        captain = self.token("captain", 0)
        for customer, taken in ((self.token("customer", 0), False), (self.new_customer(), True)):
            answer = self._http.post(
                f"{self._base_url}/orders", json=BODY, headers={"Authorization": f"Bearer {customer}"}
            )
            if answer.status_code != 201:
                continue  # the first one's order searches on
            order_id = answer.json()["data"]["orderId"]
            self.orders.append(order_id)
            offer = signed_offer(self._home, order_id, "captain-0")
            self.offers.append(offer)
            if taken:
                answer = self._http.post(
                    f"{self._base_url}/orders/{order_id}/accept",
                    json={"offerToken": offer},
                    headers={"Authorization": f"Bearer {captain}"},
                )
                if answer.status_code == 200:
                    self.trucks.append(answer.json()["data"]["truckRequest"]["id"])


def test_no_request_made_from_the_document_gets_a_500_or_an_answer_outside_it(
    document: dict[str, Any], home: Home, service: OrderApiProcess
) -> None:
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as http:
        seen = fuzz(document, service.base_url, People(home, service.base_url, http), EXAMPLES)
    assert {status for _, status in seen} >= {200, 201, 400, 403, 404, 409}
    assert service.running


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_no_request_of_many_made_from_the_document_gets_a_500_or_an_answer_outside_it(
    document: dict[str, Any], home: Home, service: OrderApiProcess
) -> None:
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as http:
        seen = fuzz(document, service.base_url, People(home, service.base_url, http), MANY_EXAMPLES)
    assert sum(seen.values()) > MANY_EXAMPLES
    assert service.running


def test_the_document_names_every_path_of_the_contract_with_its_codes(document: dict[str, Any]) -> None:
    always = ["FORBIDDEN", "UNAUTHENTICATED"]
    with_body = [*always, "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "VALIDATION_ERROR"]
    step = sorted([*with_body, "NOT_FOUND", "INVALID_TRANSITION"])
    accept = ["OFFER_INVALID", "ORDER_CANCELLED", "ORDER_EXPIRED", "TRUCK_REQUEST_TAKEN", "CAPTAIN_BUSY"]
    create = ["CONCURRENT_REQUEST", "ACTIVE_ORDER_EXISTS", "IDEMPOTENCY_KEY_REUSED", "RATE_LIMITED"]
    assert roles_and_codes(document) == {
        "POST /orders": (["customer"], sorted([*with_body, *create])),
        "GET /orders": (["customer"], sorted([*always, "VALIDATION_ERROR"])),
        "GET /orders/check-active": (["customer"], always),
        "GET /orders/{order_id}": (
            ["captain", "customer", "ops"],
            sorted([*always, "NOT_FOUND", "VALIDATION_ERROR"]),
        ),
        "GET /orders/{order_id}/status": (["customer"], sorted([*always, "NOT_FOUND", "VALIDATION_ERROR"])),
        "POST /orders/{order_id}/cancel": (
            ["customer"],
            sorted([*with_body, "NOT_FOUND", "ORDER_NOT_CANCELLABLE"]),
        ),
        "POST /orders/{order_id}/accept": (["captain"], sorted([*with_body, "NOT_FOUND", *accept])),
        "GET /truck-requests": (["captain"], sorted([*always, "VALIDATION_ERROR"])),
        "POST /truck-requests/{truck_request_id}/start": (["captain"], step),
        "POST /truck-requests/{truck_request_id}/complete": (["captain"], step),
        "POST /truck-requests/{truck_request_id}/release": (["captain", "ops"], step),
    }


def test_every_example_of_the_document_is_what_its_schema_says(document: dict[str, Any]) -> None:
    Draft202012Validator.check_schema({"components": document["components"]})
    judge = Conformance(document)
    count = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["security"] == [{"userToken": []}]
            for status, answer in operation["responses"].items():
                content = answer["content"]["application/json"]
                examples = [content["example"]] if "example" in content else []
                examples += [example["value"] for example in content.get("examples", {}).values()]
                assert examples, f"{method} {path} {status} has no example"
                for example in examples:
                    request = httpx.Request(method.upper(), "http://x" + re.sub("{[^}]+}", new_id(), path))
                    shown = httpx.Response(int(status), json=example, request=request)
                    problems = [p for p in judge.problems(shown) if "header" not in p]
                    assert not problems, f"{method} {path} {status}: {problems}"
                    count += 1
    assert count > 80
    body = document["components"]["schemas"]["CreateBody"]
    assert body["examples"] == [BODY]


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("key-1", True),
        ('"key-1"', True),
        (r'"with\"and\\"', True),
        ("k" * 255, True),
        ("k" * 256, False),
        ('"open', False),
        ('""', False),
        ("a b", False),
    ],
)
def test_the_pattern_of_a_key_is_what_the_service_takes(
    home: Home, service: OrderApiProcess, key: str, good: bool
) -> None:
    assert bool(re.match(KEY_PATTERN, key)) is good
    token = token_of(home, f"c-{new_id()}", "customer", {})
    answer = httpx.post(
        f"{service.base_url}/api/v1/orders",
        json=BODY,
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
        timeout=PATIENCE_S,
    )
    assert answer.status_code == (201 if good else 400)


async def test_the_docs_page_asks_nobody_else_for_anything(service: OrderApiProcess) -> None:
    async with httpx.AsyncClient(base_url=service.base_url, timeout=PATIENCE_S) as client:
        page = await client.get("/docs")
        assert page.status_code == 200
        asked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        asked += re.findall(r"url: '([^']+)'", page.text)
        assert len(asked) == 4
        assert not [url for url in asked if "//" in url]
        assert '"validatorUrl": null' in page.text
        found = await asyncio.gather(*(client.get(f"/{url}") for url in asked))
        assert [answer.status_code for answer in found] == [200] * 4
        assert "SwaggerUIBundle" in found[1].text or "SwaggerUIBundle" in found[2].text
        for path in ("/docs/../openapi.py", "/docs/core.py", "/docs/%2e%2e/core.py"):
            assert (await client.get(path)).status_code == 404


def test_the_published_expiry_of_keys_is_the_settings_default(document: dict[str, Any], home: Home) -> None:
    create = document["paths"]["/api/v1/orders"]["post"]
    keys = [parameter for parameter in create["parameters"] if parameter["name"].endswith("Idempotency-Key")]
    assert [key["name"] for key in keys] == ["X-Idempotency-Key", "Idempotency-Key"]
    hours = f"{home.settings().idempotency_keep_h} hours"
    assert all(hours in key["description"] for key in keys)
    assert hours in create["description"]
