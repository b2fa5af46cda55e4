"""The OpenAPI document of the dispatcher: true to the service, whatever is sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from deploy.local.processes import Nursery
from deploy.local.stack import LocalStack
from tests.integration.dispatcher_people import ME, Known, People
from tests.integration.dispatcher_rig import PATIENCE_S, Home, Rig, dispatcher, dispatcher_home
from tests.integration.openapi_conformance import Conformance, roles_and_codes
from tests.integration.openapi_fuzz import fuzz
from tests.integration.service_process import RunningService
from weelo_common.ids import new_id

EXAMPLES = 20  # requests at each operation in make test: some 5 s in all
MANY_EXAMPLES = 600
OFFERS = 30  # of the first captain, of each kind: to be declined, and over


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture(scope="module")
def known(home: Home) -> Known:
    """Before the service is there: hypothesis minds that anybody else in its process draws random numbers."""
    return asyncio.run(stock(home))


@pytest.fixture(scope="module")
def service(home: Home, known: Known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    nursery = Nursery()
    log = tmp_path_factory.mktemp("openapi") / "dispatcher.log"
    process = RunningService(nursery, "dispatcher", log, home.environment())
    try:
        process.start()
        yield process
    finally:
        process.stop()
        nursery.close()


@pytest.fixture(scope="module")
def document(service: RunningService) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{service.base_url}/openapi.json", timeout=PATIENCE_S).json()
    return found


async def stock(home: Home) -> Known:
    """An order that a captain has won, and offers to be declined."""
    async with dispatcher(home) as rig:
        captain = await rig.captain(100)
        order = rig.order(customer_id="customer-0")
        await rig.publish(order.created())
        offers = await rig.live(order, 1)
        await rig.publish(*order.assigned(captain.user_id, offers[captain.user_id]))
        await rig.live(order, 0)
        given = [await give_offer(rig, "captain-0", status) for status in ("live", "withdrawn") * OFFERS]
        return Known([order.order_id], given)


async def give_offer(rig: Rig, captain_id: str, status: str) -> str:
    """An offer of an order of its own, as a wave would write it."""
    order, offer_id = rig.order(), new_id()
    await rig.rows(
        """
        WITH made AS (
            INSERT INTO orders (order_id, customer_id, version, status, searching, pickup, drop_place, distance_km,
                                created_at, expires_at, wave)
            VALUES ($1, 'customer-0', 1, 'active', true, $4, $4, 2.5, now(), now() + interval '1 hour', 1)
            RETURNING order_id)
        INSERT INTO offers (offer_id, order_id, captain_id, transporter_id, vehicle_type, vehicle_subtype,
                            vehicle_number, wave, distance_m, price_per_truck, open_trucks, status, made_at,
                            expires_at)
        SELECT $2, order_id, $3, 'transporter-0', 'TRUCK', 'TATA_ACE', 'DL1', 1, 10, 500, 1, $5, now(),
               now() + interval '1 hour'
          FROM made""",
        order.order_id,
        offer_id,
        captain_id,
        '{"latitude": 28.6, "longitude": 77.2, "address": "Delhi"}',
        status,
    )
    return offer_id


def test_no_request_made_from_the_document_gets_a_500_or_an_answer_outside_it(
    home: Home, known: Known, service: RunningService, document: dict[str, Any]
) -> None:
    seen = fuzz(document, service.base_url, People(home, service.base_url, known), EXAMPLES)
    assert {status for _, status in seen} >= {200, 202, 400, 403, 404}
    assert service.running


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_no_request_of_many_made_from_the_document_gets_a_500_or_an_answer_outside_it(
    home: Home, known: Known, service: RunningService, document: dict[str, Any]
) -> None:
    seen = fuzz(document, service.base_url, People(home, service.base_url, known), MANY_EXAMPLES)
    assert {status for _, status in seen} >= {200, 202, 400, 403, 404, 409}
    assert service.running


def test_the_document_names_every_path_of_the_contract_with_its_codes(document: dict[str, Any]) -> None:
    always = ["FORBIDDEN", "UNAUTHENTICATED"]
    with_body = [*always, "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "VALIDATION_ERROR"]
    assert roles_and_codes(document) == {
        "PUT /transporters/{transporter_id}": (["ops", "transporter"], sorted(with_body)),
        "PUT /transporters/{transporter_id}/captains/{captain_id}": (
            ["ops", "transporter"],
            sorted([*with_body, "NOT_FOUND"]),
        ),
        "PUT /captains/me": (["captain"], sorted(with_body)),
        "GET /captains/me": (["captain"], sorted([*always, "NOT_FOUND"])),
        "PUT /captains/me/availability": (["captain"], sorted([*with_body, "NOT_FOUND"])),
        "POST /captains/me/locations": (["captain"], sorted([*with_body, "NOT_FOUND"])),
        "GET /offers": (["captain"], always),
        "POST /offers/{offer_id}/decline": (
            ["captain"],
            sorted([*with_body, "NOT_FOUND", "OFFER_EXPIRED"]),
        ),
        "GET /dispatch/orders/{order_id}": (["ops"], sorted([*always, "NOT_FOUND", "VALIDATION_ERROR"])),
        "GET /dispatch/orders/{order_id}/captains": (
            ["customer", "ops"],
            sorted([*always, "NOT_FOUND", "VALIDATION_ERROR"]),
        ),
    }


def test_every_example_of_the_document_is_what_its_schema_says(document: dict[str, Any]) -> None:
    Draft202012Validator.check_schema({"components": document["components"]})
    judge, count = Conformance(document), 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["security"] == [{"userToken": []}]
            for status, example in examples_of(operation):
                request = httpx.Request(method.upper(), "http://x" + re.sub("{[^}]+}", new_id(), path))
                shown = httpx.Response(int(status), json=example, request=request)
                problems = [p for p in judge.problems(shown) if "header" not in p]
                assert not problems, f"{method} {path} {status}: {problems}"
                count += 1
    assert count > 60
    assert document["components"]["schemas"]["CaptainBody"]["examples"] == [
        ME | {"transporterId": "t-1", "name": "A. Captain"}
    ]


def examples_of(operation: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every example of an operation's answers, with its status; each answer must have one."""
    for status, answer in operation["responses"].items():
        content = answer["content"]["application/json"]
        found = [content["example"]] if "example" in content else []
        found += [example["value"] for example in content.get("examples", {}).values()]
        assert found, f"{operation['operationId']} {status} has no example"
        yield from ((status, example) for example in found)
