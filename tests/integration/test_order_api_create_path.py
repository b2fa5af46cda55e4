"""The short way of a create answers exactly as the application does, and creates that come together stay their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from typing import cast
from uuid import uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from order_api.create_path import BODY_WAIT_S
from order_api.domain import Line, NewOrder
from order_api.gate import Gate
from order_api.intake import CreateRequest, Intake
from order_api.intake_store import StoredAnswer
from order_api.metrics import OrderMetrics
from tests.integration.events_rig import until
from tests.integration.order_api_rig import (
    BODY,
    PATIENCE_S,
    Home,
    Rig,
    body,
    code,
    data,
    order_api,
    order_api_home,
)
from weelo_common.events import Place
from weelo_common.events.topics import ORDER_API, ORDERS_EVENTS
from weelo_common.outbox import Outbox
from weelo_common.redis_client import RedisClient

pytestmark = pytest.mark.asyncio(loop_scope="module")
# The short way takes this media type only without a parameter; with one the application answers.
SHORT, LONG = "application/json", "application/json; charset=utf-8"
DEEP = b'{"pickup":' + b"[" * 20_000 + b"]" * 20_000 + b"}"


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with order_api(home) as running:
        yield running


async def sent(
    rig: Rig, token: str | None, content: bytes, kind: str, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    told = {"Content-Type": kind} | dict(headers or {})
    if token is not None:
        told["Authorization"] = f"Bearer {token}"
    return await rig.http.post("/api/v1/orders", content=content, headers=told)


def shape(value: object) -> object:
    """The names and kinds in a body, without the values."""
    if isinstance(value, dict):
        return {name: shape(child) for name, child in value.items()}
    if isinstance(value, list):
        return [shape(child) for child in value]
    return type(value).__name__


async def test_both_ways_answer_a_good_create_with_the_same_headers_and_shape(rig: Rig) -> None:
    content = json.dumps(body(2, goodsType="ईंट"), ensure_ascii=False).encode()
    answers = [
        await sent(rig, rig.customer().token, content, kind, {"X-Request-Id": "r-1"})
        for kind in (SHORT, LONG)
    ]
    short, long = answers
    assert short.status_code == long.status_code == 201
    assert short.headers.keys() == long.headers.keys()
    assert short.headers["x-request-id"] == long.headers["x-request-id"] == "r-1"
    assert shape(short.json()) == shape(long.json())


async def test_a_replay_on_the_other_way_has_the_same_bytes(rig: Rig) -> None:
    for first_kind, second_kind in ((SHORT, LONG), (LONG, SHORT)):
        customer, key = rig.customer(), {"Idempotency-Key": f'"{uuid4()}"'}
        content = json.dumps(BODY).encode()
        first = await sent(rig, customer.token, content, first_kind, key)
        again = await sent(rig, customer.token, content, second_kind, key)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        DEEP,
        json.dumps(BODY | {"distanceKm": 0}).encode(),
        json.dumps(BODY | {"distanceKm": "25"}).encode(),
        json.dumps(BODY | {"goodsType": "\x00"}).encode(),
        json.dumps(BODY | {"goodsType": "\x00"}).encode("utf-16"),
        json.dumps(BODY | {"goodsType": "\ud800"}).encode(),
        json.dumps(BODY | {"distanceKm": float("nan")}).encode(),
        json.dumps(BODY | {"pickup": {}}).encode(),
        json.dumps(BODY | {"note": "x" * 70_000}).encode(),
    ],
)
async def test_both_ways_refuse_a_bad_body_alike(rig: Rig, content: bytes) -> None:
    customer = rig.customer()
    short, long = [await sent(rig, customer.token, content, kind) for kind in (SHORT, LONG)]
    assert short.status_code == long.status_code
    assert 400 <= short.status_code < 500
    assert short.content == long.content


async def test_both_ways_refuse_a_bad_caller_or_key_alike(rig: Rig) -> None:
    content = json.dumps(BODY).encode()
    cases: list[tuple[str | None, Mapping[str, str]]] = [
        (None, {}),
        ("rubbish", {}),
        (rig.captain().token, {}),
        (rig.customer().token, {"X-Idempotency-Key": "with space"}),
        (rig.customer().token, {"X-Idempotency-Key": "one", "Idempotency-Key": "two"}),
    ]
    for token, headers in cases:
        short, long = [await sent(rig, token, content, kind, headers) for kind in (SHORT, LONG)]
        assert short.status_code == long.status_code
        assert short.status_code in (400, 401, 403)
        assert short.content == long.content


async def test_both_ways_refuse_a_second_order_alike(rig: Rig) -> None:
    customer = rig.customer()
    assert (await customer.create()).status_code == 201
    content = json.dumps(BODY).encode()
    short, long = [await sent(rig, customer.token, content, kind) for kind in (SHORT, LONG)]
    assert code(short) == code(long) == (409, "ACTIVE_ORDER_EXISTS")
    assert short.content == long.content


async def test_the_metrics_call_both_ways_by_one_name(rig: Rig) -> None:
    def counted() -> float:
        labels = {"method": "POST", "route": "/api/v1/orders", "status": "201"}
        return rig.life.registry.get_sample_value("weelo_http_request_seconds_count", labels) or 0

    content, before = json.dumps(BODY).encode(), counted()
    for kind in (SHORT, LONG):
        assert (await sent(rig, rig.customer().token, content, kind)).status_code == 201
    await until(lambda: counted() == before + 2, "both counted")


async def test_creates_that_share_a_statement_get_each_its_own_answer(rig: Rig) -> None:
    """Some have an order already, some use one key twice: they are refused or replayed, and cost nobody else."""
    busy = [rig.customer() for _ in range(6)]
    for customer in busy:
        assert (await customer.create()).status_code == 201
    free = [rig.customer() for _ in range(40)]
    mixed = [pair for group in zip(free, busy * 7, strict=False) for pair in group]
    answers = await asyncio.gather(*(customer.create(f"k-{n}") for n, customer in enumerate(mixed)))
    for customer, answer in zip(mixed, answers, strict=True):
        if customer in free:
            assert answer.status_code == 201
            assert answer.json()["data"]["order"]["customerId"] == customer.user_id
        else:
            assert answer.status_code == 409
    made = await rig.value(
        "SELECT count(*) FROM orders WHERE customer_id = ANY($1)", [customer.user_id for customer in free]
    )
    assert made == len(free)


async def test_twins_without_redis_that_meet_in_one_statement_make_one_order(home: Home) -> None:
    async with order_api(home, redis_url="redis://127.0.0.1:9/0") as rig:
        customers = [rig.customer() for _ in range(10)]
        answers = await asyncio.gather(
            *(customer.create(f"twin-{customer.user_id}") for customer in customers for _ in range(3))
        )
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["data"]["orderId"] for answer in answers}) == len(customers)


@pytest.mark.parametrize("pause_s", [0.02, BODY_WAIT_S + 0.1], ids=["soon", "late"])
async def test_a_body_that_comes_after_its_head_is_waited_for(rig: Rig, pause_s: float) -> None:
    content = json.dumps(BODY).encode()
    head = (
        f"POST /api/v1/orders HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {rig.customer().token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(rig.http.base_url.host, rig.http.base_url.port)
    writer.write(head.encode())
    await asyncio.sleep(pause_s)  # what is tested is time
    writer.write(content)
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["success"] is True


async def test_creates_that_share_a_statement_carry_each_its_own_trace_to_their_events(rig: Rig) -> None:
    content = json.dumps(BODY).encode()
    traces = [f"{number:032x}" for number in range(1, 7)]
    answers = await asyncio.gather(
        *(
            sent(rig, rig.customer().token, content, SHORT, {"traceparent": f"00-{trace}-{1:016x}-00"})
            for trace in traces
        )
    )
    for trace, answer in zip(traces, answers, strict=True):
        (created,) = await rig.events(ORDERS_EVENTS, data(answer)["orderId"], "OrderCreated")
        assert created.traceparent is not None
        assert created.traceparent.split("-")[1] == trace


async def test_a_create_that_breaks_breaks_no_other_of_its_group(rig: Rig) -> None:
    def wanted(number: int) -> NewOrder:
        place = Place(latitude=28.5, longitude=77.4, address="Noida")
        lines = (Line("TRUCK", "TATA_ACE", 1, 500),)
        return NewOrder(f"c-{uuid4()}", f"Asha {number}", "", place, place, 25, None, None, lines)

    wishes = [wanted(number) for number in range(8)]
    wishes[2] = replace(wishes[2], lines=(Line("TRUCK", "TATA_ACE", cast(int, None), 500),))  # cannot be made
    wishes[5] = replace(wishes[5], customer_name="\x00")  # PostgreSQL writes no such text
    async with RedisClient.open(rig.settings) as redis:
        gate = Gate(redis, lock_ms=10_000, replay_s=300, creates_per_minute=1000)
        metrics = OrderMetrics(CollectorRegistry())
        intake = Intake(rig.database, Outbox(ORDER_API), gate, metrics, lifetime=timedelta(seconds=60))
        group = [(CreateRequest(wish, None, bytes(32)), copy_context()) for wish in wishes]
        outcomes = await asyncio.gather(*(intake._creates(one) for one in group), return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes]
    assert (kinds[2], kinds[5]) == (TypeError, asyncpg.CharacterNotInRepertoireError)
    assert [kinds[number] for number in (0, 1, 3, 4, 6, 7)] == [StoredAnswer] * 6
    customers = [wish.customer_id for wish in wishes]
    assert await rig.value("SELECT count(*) FROM orders WHERE customer_id = ANY($1)", customers) == 6
