"""Bodies that are made to break the reader: each gets the contract's 400, whatever the nesting and the characters."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Response
from prometheus_client import CollectorRegistry

from weelo_common.health import Health
from weelo_common.http import Body, api_router, create_app, success


class Thing(Body):
    count: int


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    router = api_router()

    @router.post("/things")
    async def make(body: Thing) -> Response:
        return success({"count": body.count}, 201)

    app = create_app(
        "order-api", routers=[router], health=Health(), registry=CollectorRegistry(), request_deadline_s=4
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


@pytest.mark.parametrize(
    "body",
    [
        rb'{"count": 1, "\ud800": "\u0000"}',
        rb'{"count": 1, "\ud800": {"x": "\udfff"}}',
        *(
            b'{"count": 1, "x": ' + b"[" * depth + rb'"\u0000"' + b"]" * depth + b"}"
            for depth in (100, 500, 900, 980, 5000)
        ),
        b'{"count": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: body[:30].decode(),
)
async def test_a_body_that_is_made_to_break_the_reader_is_a_validation_error(
    client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post("/api/v1/things", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "VALIDATION_ERROR"
    assert all(len(problem["field"]) <= 200 for problem in error["details"])
