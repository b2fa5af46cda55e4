"""The HTTP application that every service builds: order of checks, envelope, limits, health."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import jwt
import pytest
from fastapi import Depends, Response
from prometheus_client import CollectorRegistry
from pydantic import Field

from weelo_common.auth import TokenVerifier
from weelo_common.health import Health
from weelo_common.http import Body, PathId, Principal, Role, api_router, create_app, principal, success
from weelo_common.postgres import DatabaseUnavailable

SECRET = "a secret of at least thirty-two bytes"


class Thing(Body):
    truck_count: Annotated[int, Field(ge=1)]
    note: str = ""


def token(**changes: object) -> str:
    claims: dict[str, object] = {
        "sub": "c-1",
        "role": "customer",
        "iss": "weelo",
        "aud": "weelo-apps",
        "exp": dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
        "name": "Asha",
        "phone": "+911234567890",
    }
    claims |= changes
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, SECRET, algorithm="HS256")


def bearer(**changes: object) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**changes)}"}


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
async def client(health: Health) -> AsyncIterator[httpx.AsyncClient]:
    router = api_router()

    @router.post("/things")
    async def make(body: Thing, caller: Annotated[Principal, Depends(principal(Role.CUSTOMER))]) -> Response:
        return success({"count": body.truck_count, "by": caller.user_id}, 201)

    @router.get("/things")
    async def all_of_them() -> Response:
        return success({})

    @router.get("/things/{thingId}")
    async def read(thingId: PathId) -> Response:
        if thingId.endswith("0"):
            raise DatabaseUnavailable("gone")
        raise KeyError("a defect")

    verifier = TokenVerifier(
        algorithm="HS256", key=SECRET, issuer="weelo", audience="weelo-apps", leeway_s=10
    )
    app = create_app(
        "test",
        routers=[router],
        health=health,
        registry=CollectorRegistry(),
        request_deadline_s=30,
        verifier=verifier,
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


def code(response: httpx.Response) -> str:
    body = response.json()
    assert body["success"] is False
    return str(body["error"]["code"])


async def test_success_is_the_envelope_with_a_request_id(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/api/v1/things", json={"truckCount": 2}, headers=bearer() | {"X-Request-Id": "r-1"}
    )
    assert response.status_code == 201
    assert response.json() == {"success": True, "data": {"count": 2, "by": "c-1"}}
    assert response.headers["X-Request-Id"] == "r-1"


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/x"]
)
async def test_every_answer_has_one_request_id(client: httpx.AsyncClient, path: str) -> None:
    told = await client.get(path, headers={"X-Request-Id": "mine-1"})
    assert told.headers.get_list("x-request-id") == ["mine-1"]
    assert len((await client.get(path)).headers["x-request-id"]) == 36


@pytest.mark.parametrize(
    "asked", ["r-1", "a" * 128, "2026-02-03T10:08:28.123Z", "0f" * 16, f"{1:08}-{2:04}-{3:04}-{4:04}-{5:012}"]
)
async def test_a_sane_request_id_stays(client: httpx.AsyncClient, asked: str) -> None:
    response = await client.get("/health/none", headers={"X-Request-Id": asked})
    assert response.headers["X-Request-Id"] == asked


@pytest.mark.parametrize(
    "asked",
    [
        'x" onload="',
        "",
        "a" * 129,
        "+911234567890",
        "98765-43210",
        "call-9876543210",
        "tel:+91-98765.43210/2",
    ],
)
async def test_a_request_id_that_is_not_sane_is_replaced(client: httpx.AsyncClient, asked: str) -> None:
    response = await client.get("/health/none", headers={"X-Request-Id": asked})
    assert response.headers["X-Request-Id"] != asked
    assert len(response.headers["X-Request-Id"]) == 36


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic abc"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer not.a.token"},
        bearer(exp=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)),
        bearer(exp=None),
        bearer(aud="others"),
        bearer(iss="others"),
        bearer(sub=""),
        bearer(sub="x" * 65),
        bearer(sub=None),
        bearer(role="king"),
        bearer(role=None),
        {"Authorization": "Bearer " + jwt.encode({"sub": "c-1"}, "", algorithm="none")},
    ],
)
async def test_without_a_good_token_it_is_401_even_where_the_body_is_bad_too(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await client.post("/api/v1/things", content=b"{", headers=headers)
    assert (response.status_code, code(response)) == (401, "UNAUTHENTICATED")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_another_role_is_403_before_the_body_is_read(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/things", content=b"{", headers=bearer(role="captain"))
    assert (response.status_code, code(response)) == (403, "FORBIDDEN")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 60_000, "body"),
        (b'{"truckCount": ' + b"9" * 5000 + b"}", "body"),
        (b"{}", "truckCount"),
        (b'{"truckCount": "2"}', "truckCount"),
        (b'{"truckCount": true}', "truckCount"),
        (b'{"truckCount": NaN}', "truckCount"),
        (b'{"truckCount": 0}', "truckCount"),
        (b'{"truckCount": 1, "note": "a\\u0000b"}', "note"),
        (b'{"truckCount": 1, "note": "\\ud800"}', "note"),
    ],
)
async def test_a_bad_body_is_a_400_that_names_the_field(
    client: httpx.AsyncClient, body: bytes, field: str
) -> None:
    headers = bearer() | {"Content-Type": "application/json"}
    response = await client.post("/api/v1/things", content=body, headers=headers)
    assert (response.status_code, code(response)) == (400, "VALIDATION_ERROR")
    assert [problem["field"] for problem in response.json()["error"]["details"]] == [field]


async def test_a_pair_of_surrogates_is_text(client: httpx.AsyncClient) -> None:
    headers = bearer() | {"Content-Type": "application/json"}
    body = b'{"truckCount": 1, "note": "\\ud83d\\ude9a"}'
    assert (await client.post("/api/v1/things", content=body, headers=headers)).status_code == 201


async def test_a_body_over_64_kib_is_413_told_or_untold(client: httpx.AsyncClient) -> None:
    headers = bearer() | {"Content-Type": "application/json"}
    told = await client.post("/api/v1/things", content=b" " * 65_537, headers=headers)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 1000

    untold = await client.post("/api/v1/things", content=chunks(), headers=headers)
    assert (told.status_code, code(told)) == (413, "PAYLOAD_TOO_LARGE")
    assert (untold.status_code, code(untold)) == (413, "PAYLOAD_TOO_LARGE")


async def test_a_body_of_another_kind_is_415(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/things", data={"truckCount": "1"}, headers=bearer())
    assert (response.status_code, code(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_unknown_paths_wrong_methods_and_malformed_ids_have_their_codes(
    client: httpx.AsyncClient,
) -> None:
    missing = await client.get("/api/v1/nothing")
    wrong = await client.delete("/api/v1/things")
    malformed = await client.get("/api/v1/things/1")
    assert (missing.status_code, code(missing)) == (404, "NOT_FOUND")
    assert (wrong.status_code, code(wrong)) == (405, "METHOD_NOT_ALLOWED")
    assert wrong.headers["allow"] == "GET, POST"
    assert (malformed.status_code, code(malformed)) == (400, "VALIDATION_ERROR")
    assert malformed.json()["error"]["details"][0]["field"] == "thingId"


async def test_a_database_out_of_reach_is_a_503_with_retry_after(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/things/00000000-0000-7000-8000-000000000000")
    assert (response.status_code, code(response)) == (503, "SERVICE_UNAVAILABLE")
    assert response.headers["Retry-After"] == "2"


async def test_a_defect_is_a_500_in_the_envelope(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/things/00000000-0000-7000-8000-000000000001")
    assert (response.status_code, code(response)) == (500, "INTERNAL_ERROR")
    assert "defect" not in response.text


async def test_readiness_follows_the_probes_and_liveness_does_not(
    client: httpx.AsyncClient, health: Health
) -> None:
    trouble: dict[str, Any] = {"database": None}
    health.check("database", lambda: trouble["database"])
    assert (await client.get("/health/ready")).status_code == 200
    trouble["database"] = "gone"
    assert (await client.get("/health/ready")).json() == {"status": "not ready", "reasons": ["gone"]}
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/health/live")).status_code == 200


async def test_a_start_ends_with_the_first_readiness_and_never_begins_again(
    client: httpx.AsyncClient, health: Health
) -> None:
    trouble: dict[str, Any] = {"database": "not there yet"}
    health.check("database", lambda: trouble["database"])
    assert (await client.get("/health/started")).status_code == 503
    trouble["database"] = None
    assert (await client.get("/health/started")).status_code == 200
    trouble["database"] = "gone"
    assert (await client.get("/health/started")).status_code == 200
    assert "/health/started" not in (await client.get("/metrics")).text  # no request of a caller


async def test_a_service_that_goes_down_is_not_ready(client: httpx.AsyncClient, health: Health) -> None:
    health.stopping()
    assert (await client.get("/health/ready")).status_code == 503


async def test_metrics_count_requests_by_route_and_never_by_path(client: httpx.AsyncClient) -> None:
    await client.get("/api/v1/things/00000000-0000-7000-8000-000000000000")
    text = (await client.get("/metrics")).text
    assert 'route="/api/v1/things/{thingId}",status="503"' in text
    assert "00000000" not in text
