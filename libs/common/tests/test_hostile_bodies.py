"""Bodies that are made to break the reader: each gets the contract's 400, whatever the nesting and the characters."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry
from starlette.types import Message

from weelo_common.health import Health
from weelo_common.http import Body, api_router, create_app, success


class Thing(Body):
    count: int


@pytest.fixture
def app() -> FastAPI:
    router = api_router()

    @router.post("/things")
    async def make(body: Thing) -> Response:
        return success({"count": body.count}, 201)

    return create_app(
        "order-api", routers=[router], health=Health(), registry=CollectorRegistry(), request_deadline_s=30
    )


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
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
        *(
            '{"count": 1, "x": "\\u0000"}'.encode(encoding)
            for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")
        ),
        '{"count": 1}'.encode("utf-16-le"),
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_a_body_that_is_made_to_break_the_reader_is_a_validation_error(
    client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post("/api/v1/things", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "VALIDATION_ERROR"
    assert all(len(problem["field"]) <= 200 for problem in error["details"])


async def test_a_caller_who_hangs_up_in_the_middle_of_his_body_is_no_defect_of_ours(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    pieces: list[Message] = [
        {"type": "http.request", "body": b'{"count": ', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return pieces.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/things",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    assert sent == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    counted = (await client.get("/metrics")).text
    assert (
        'weelo_http_request_seconds_count{method="POST",route="/api/v1/things",status="499"} 1.0' in counted
    )
