"""The one entrance: what it passes on unchanged, and what it answers by itself, always in the contract's envelope."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from deploy.local.gateway import LocalGateway, find_nginx
from deploy.local.ports import HOST, free_block
from deploy.local.processes import Nursery
from deploy.local.services import ServicePorts, ServiceProcess
from tests.e2e.city import PATIENCE_S, City, new_subtype, order_body

pytestmark = pytest.mark.skipif(
    find_nginx("/usr/sbin:/usr/bin:/usr/local/bin") is None, reason="needs nginx (Debian: nginx-light)"
)
LONG = "x" * 9_000  # characters: more than one line of a request may have


@pytest.fixture
def entrance(city: City) -> LocalGateway:
    """The gateway before the city's services."""
    assert city.gateway is not None
    return city.gateway


@pytest.fixture
def before_nothing(tmp_path: Path) -> Iterator[LocalGateway]:
    """A gateway whose services are all away."""
    nursery, base = Nursery(), free_block()
    away = [
        ServiceProcess(nursery, name, 0, ServicePorts(base + index, base + 13), {}, tmp_path)
        for index, name in enumerate(("order-api", "dispatcher", "notifier"), start=1)
    ]
    gateway = LocalGateway(tmp_path, base, nursery, {})
    gateway.start(away)
    yield gateway
    for child in gateway.children:
        child.stop()
    nursery.close()


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code; everything else about the envelope is asserted here."""
    assert answer.headers["content-type"].startswith("application/json"), answer.text
    assert answer.headers.get_list("x-request-id")[1:] == [], "one request id"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert body["success"] is False
    assert body["error"]["message"]
    return answer.status_code, body["error"]["code"]


async def test_the_path_that_the_app_in_the_field_asks_first_is_the_same_resource(
    city: City, entrance: LocalGateway
) -> None:
    phone = city.customer().phone
    bookings = f"{entrance.base_url}/api/v1/bookings/orders"
    key = str(uuid4())
    created = await phone.call("POST", bookings, order_body(new_subtype()), idempotency_key=key)
    assert created.status == 201
    city.created.add(created.data["orderId"])
    order_id = created.data["orderId"]
    plain = await phone.call("GET", city.url("order-api", f"/orders/{order_id}"))
    listed = await phone.call("GET", f"{bookings}?status=active&page=1&limit=1")
    cancelled = await phone.call("POST", f"{bookings}/{order_id}/cancel", {"reason": "a test"})
    assert plain.data["order"]["id"] == order_id
    assert [order["id"] for order in listed.data["orders"]] == [order_id]
    assert (cancelled.status, cancelled.data["orderId"]) == (200, order_id)


async def test_a_retry_by_the_other_path_is_a_replay_with_the_same_bytes(
    city: City, entrance: LocalGateway
) -> None:
    phone, body, key = city.customer().phone, order_body(new_subtype()), str(uuid4())
    first = await phone.call("POST", city.url("order-api", "/orders"), body, idempotency_key=key)
    city.created.add(first.data["orderId"])
    again = await phone.call("POST", f"{entrance.base_url}/api/v1/bookings/orders", body, idempotency_key=key)
    assert (again.status, again.body) == (201, first.body)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/health/ready",
        "/docs",
        "/api/v1/ordersx",
        "/api/v1/bookings",
        "/gateway/503",
        "/wsx",
    ],
)
async def test_what_is_not_for_the_apps_is_not_found(city: City, entrance: LocalGateway, path: str) -> None:
    assert refusal(await city.client.get(entrance.base_url + path)) == (404, "NOT_FOUND")


async def test_health_answers_at_the_entrance(city: City, entrance: LocalGateway) -> None:
    answer = await city.client.get(f"{entrance.base_url}/health")
    assert (answer.status_code, answer.json()["service"]) == (200, "order-api")


async def test_a_line_that_is_too_long_is_a_named_400(city: City, entrance: LocalGateway) -> None:
    url = f"{entrance.base_url}/api/v1/orders"
    header = await city.client.get(url, headers={"Authorization": f"Bearer {LONG}"})
    path = await city.client.get(f"{url}?status={LONG}")
    assert refusal(header) == (400, "VALIDATION_ERROR")
    assert header.json()["error"]["details"][0]["field"] == "header"
    assert refusal(path) == (400, "VALIDATION_ERROR")
    assert path.json()["error"]["details"][0]["field"] == "path"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /api/v1/orders HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /api/v1/orders HTTP/3.0\r\nHost: a\r\n\r\n",
        b"POST /api/v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_the_envelope_too(entrance: LocalGateway, head: bytes) -> None:
    reader, writer = await asyncio.open_connection(HOST, int(entrance.base_url.rpartition(":")[2]))
    writer.write(head)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "VALIDATION_ERROR"


async def test_a_body_far_too_large_is_refused_before_a_service_sees_it(
    city: City, entrance: LocalGateway
) -> None:
    url = f"{entrance.base_url}/api/v1/orders"
    json_body = {"Content-Type": "application/json"}
    large = await city.client.post(url, content=b" " * 70_000, headers=json_body)
    huge = await city.client.post(url, content=b" " * 300_000, headers=json_body)
    assert refusal(large) == (401, "UNAUTHENTICATED")  # the token is asked for before the body is looked at
    assert refusal(huge) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    "path", ["/api/v1/orders", "/api/v1/offers", "/api/v1/notifications", "/ws", "/health"]
)
async def test_a_service_that_cannot_be_reached_is_a_503_that_says_when_to_try_again(
    before_nothing: LocalGateway, path: str
) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        answer = await client.get(before_nothing.base_url + path)
    assert refusal(answer) == (503, "SERVICE_UNAVAILABLE")
    assert answer.headers["retry-after"] == "2"


async def test_a_replica_that_is_away_costs_no_request(city: City, tmp_path: Path) -> None:
    nursery, base = Nursery(), free_block()
    away = ServiceProcess(nursery, "order-api", 1, ServicePorts(base + 1, None), {}, tmp_path)
    gateway = LocalGateway(tmp_path, base, nursery, {})
    gateway.start([away, *city.services.values()])
    try:
        url = f"{gateway.base_url}/api/v1/orders"
        answers = [await city.client.post(url, json={}) for _ in range(8)]
        assert {refusal(answer) for answer in answers} == {(401, "UNAUTHENTICATED")}
    finally:
        for child in gateway.children:
            child.stop()
        nursery.close()


async def test_a_sane_request_id_comes_back_and_a_phone_number_does_not(
    city: City, entrance: LocalGateway
) -> None:
    phone_number = "+919876501234"
    gateway_log, log = city.stack.run_dir / "gateway.log", ""
    before = gateway_log.stat().st_size
    for path in ("/api/v1/orders", "/nowhere"):
        url = f"{entrance.base_url}{path}"
        kept = await city.client.get(url, headers={"X-Request-Id": "checkout-17"})
        replaced = await city.client.get(url, headers={"X-Request-Id": phone_number})
        assert kept.headers["x-request-id"] == "checkout-17"
        assert phone_number not in replaced.headers["x-request-id"]
    await city.client.get(
        f"{entrance.base_url}/api/v1/orders/{phone_number}?phone={phone_number}",
        headers={"X-Request-Id": "the-last"},
    )
    async with asyncio.timeout(PATIENCE_S):
        while '"the-last"' not in log:  # a line is written once its answer has left
            log = (await asyncio.to_thread(gateway_log.read_bytes))[before:].decode()
    assert '"checkout-17"' in log
    assert phone_number.lstrip("+") not in log


async def test_a_sockets_close_code_comes_through(entrance: LocalGateway) -> None:
    async with connect(entrance.ws_url, proxy=None) as socket:
        await socket.send(json.dumps({"type": "auth", "token": "none"}))
        with pytest.raises(ConnectionClosedError) as closed:
            await asyncio.wait_for(socket.recv(), PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401
