"""The OpenAPI document that every service builds: what follows from a route, and what a route tells."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, Response
from prometheus_client import CollectorRegistry
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from weelo_common.api_errors import STATUS, ErrorCode
from weelo_common.health import Health
from weelo_common.http import Body, PathId, Principal, Role, api_router, create_app, principal, success
from weelo_common.openapi import CODES, ROLES, Answer, documented
from weelo_common.openapi_errors import PROBLEMS

EVERYWHERE = {"SERVICE_UNAVAILABLE", "INTERNAL_ERROR"}


class Thing(Body):
    truck_count: Annotated[int, Field(ge=1)]


class ThingAnswer(Answer):
    """A thing."""

    truck_count: int
    note: str | SkipJsonSchema[None] = None


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    router = api_router()

    @router.post(
        "/things",
        **documented(
            ThingAnswer, status=201, summary="Make a thing", fails=[ErrorCode.RATE_LIMITED], example={}
        ),
    )
    async def make(body: Thing, caller: Annotated[Principal, Depends(principal(Role.OPS))]) -> Response:
        return success({}, 201)

    @router.get("/things/{thing_id}")
    async def read(thing_id: PathId) -> Response:
        return success({})

    app = create_app(
        "test", routers=[router], health=Health(), registry=CollectorRegistry(), request_deadline_s=30
    )
    return app.openapi()


def test_every_code_of_the_contract_is_described() -> None:
    assert PROBLEMS.keys() == STATUS.keys() == set(ErrorCode)


def test_the_codes_of_a_route_follow_from_its_token_its_body_and_what_it_tells(
    document: dict[str, Any],
) -> None:
    make = document["paths"]["/api/v1/things"]["post"]
    assert set(make[CODES]) == EVERYWHERE | {
        "VALIDATION_ERROR",
        "UNAUTHENTICATED",
        "FORBIDDEN",
        "PAYLOAD_TOO_LARGE",
        "UNSUPPORTED_MEDIA_TYPE",
        "RATE_LIMITED",
    }
    assert make[ROLES] == ["ops"]
    assert make["security"] == [{"userToken": []}]
    assert set(make["responses"]) == {"201", "400", "401", "403", "413", "415", "429", "500", "503"}
    read = document["paths"]["/api/v1/things/{thing_id}"]["get"]
    assert set(read[CODES]) == EVERYWHERE | {"VALIDATION_ERROR"}
    assert "security" not in read


def test_a_status_tells_its_headers_and_its_codes_with_examples(document: dict[str, Any]) -> None:
    answers = document["paths"]["/api/v1/things"]["post"]["responses"]
    for status, headers in (("429", {"Retry-After"}), ("401", {"WWW-Authenticate"}), ("201", set())):
        assert set(answers[status]["headers"]) == {"X-Request-Id"} | headers
    limited = answers["429"]["content"]["application/json"]
    assert limited["examples"]["RATE_LIMITED"]["value"]["error"]["code"] == "RATE_LIMITED"
    assert limited["schema"] == {"$ref": "#/components/schemas/Error_RATE_LIMITED"}


def test_a_field_that_may_be_left_out_is_never_null_and_fastapis_own_errors_are_gone(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["ThingAnswer"]["required"] == ["truckCount"]
    assert schemas["ThingAnswer"]["properties"]["note"] == {"type": "string", "title": "Note"}
    assert not [name for name in schemas if "HTTPValidation" in name]


async def test_the_document_and_its_page_need_no_token_and_no_other_host() -> None:
    app = create_app("test", routers=[], health=Health(), registry=CollectorRegistry(), request_deadline_s=30)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/openapi.json")).json()["info"]["title"] == "Weelo test"
        page = (await client.get("/docs")).text
        assert "http" not in page.replace("httpMethod", "")
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
            assert f"docs/{asset}" in page
            assert (await client.get(f"/docs/{asset}")).status_code == 200
