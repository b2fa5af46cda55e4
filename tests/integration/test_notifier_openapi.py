"""The OpenAPI document of the notifier: true to the service, for every frame that there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from services.notifier.tests.events import assigned, offers_made, order_event, released, withdrawn

from notifier.domain import FrameName
from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    PATIENCE_S,
    Ground,
    Publish,
    Replica,
    order_id,
    phone,
    replica,
    token,
    user,
)
from tests.integration.openapi_conformance import Conformance
from weelo_common.events import OrderCancelled, OrderExpired, OrderFullyFilled

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notifier(here: Ground) -> AsyncIterator[Replica]:
    async with replica(here.settings()) as notifier:
        yield notifier


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(notifier: Replica) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=notifier.http_url, trust_env=False, timeout=PATIENCE_S) as http:
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(http: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/openapi.json")).json()
    return found


async def test_every_frame_that_there_is_is_told_field_by_field(
    notifier: Replica, publish: Publish, http: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    captain, customer, order = user(), user("c"), order_id()
    mine: dict[str, Any] = {"customer_id": customer}
    async with phone(notifier) as it, phone(notifier) as theirs:
        await it.enter(captain)
        await theirs.enter(customer, "customer")
        await publish(
            offers_made(captain, order_id=order_id()),
            offers_made(captain, order_id=order),
            withdrawn("busy", captain, order_id=order),
        )
        await it.hear_upto(3)
        await publish(
            assigned(order, 2, captain=captain, **mine),
            released("released", order, 3, captain=captain, **mine),
            order_event(OrderFullyFilled, order, 4, **mine),
            order_event(OrderCancelled, order, 5, reason="customer", searching=False, **mine),
            order_event(OrderExpired, order, 6, expired_truck_request_ids=("t-1",), searching=False, **mine),
        )
        await it.hear_upto(5)
        await theirs.hear_upto(10)
    conforms = Conformance(document)
    told: set[str] = set()
    for person, role in ((captain, "captain"), (customer, "customer")):
        answer = await http.get(
            "/api/v1/notifications", headers={"Authorization": f"Bearer {token(person, role)}"}
        )
        assert answer.status_code == 200
        assert not conforms.problems(answer)
        told |= {frame.get("event", frame["type"]) for frame in answer.json()["data"]["events"]}
    assert told == {name.value for name in FrameName} | {"skip"}


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "limit=0", "limit=201", "after=99999999999999999999"]
)
async def test_a_bad_query_is_answered_as_the_document_says(
    http: httpx.AsyncClient, document: dict[str, Any], query: str
) -> None:
    answer = await http.get(
        f"/api/v1/notifications?{query}", headers={"Authorization": f"Bearer {token(user())}"}
    )
    assert answer.status_code == 400
    assert not Conformance(document).problems(answer)


async def test_no_token_is_answered_as_the_document_says(
    http: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    answer = await http.get("/api/v1/notifications")
    assert answer.status_code == 401
    assert not Conformance(document).problems(answer)


async def test_the_example_is_what_its_schema_says(document: dict[str, Any]) -> None:
    content = document["paths"]["/api/v1/notifications"]["get"]["responses"]["200"]["content"][
        "application/json"
    ]
    schema = {"components": document["components"], **content["schema"]}
    assert not list(Draft202012Validator(schema).iter_errors(content["example"]))
