"""Taking orders in, over HTTP on real servers: retries, twins, limits, and what is left when Redis is not there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import pytest_asyncio

from deploy.local.stack import LocalStack
from order_api.gate import Entered, Gate
from order_api.intake import ENDPOINT
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
from tests.integration.service_rig import AS_DEPLOYED
from weelo_common.events import OrderCreated, TimerScheduled
from weelo_common.events.topics import ORDERS_EVENTS, TIMERS_COMMANDS
from weelo_common.redis_client import RedisClient

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUICK_S = 10.0  # well below a phone's patience, and a machine may stall
NOBODY_LISTENS = "redis://127.0.0.1:9/0"  # the discard port: refused at once


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with order_api(home) as running:
        yield running


async def held_lock(redis: RedisClient, customer_id: str) -> tuple[Gate, Entered]:
    """The lock of a create that is still in flight."""
    gate = Gate(redis, lock_ms=10_000, replay_s=300, creates_per_minute=1000)
    entered = await gate.enter(customer_id, ENDPOINT, None)
    assert isinstance(entered, Entered)
    assert entered.locked
    return gate, entered


@contextlib.asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """The port of a server that takes connections and never answers."""
    writers: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda reader, writer: writers.append(writer), "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
    for writer in writers:
        writer.close()
        await writer.wait_closed()


async def test_a_create_answers_as_the_contract_says(rig: Rig) -> None:
    customer = rig.customer(name="Asha", phone="+911234567890")
    answer = await customer.create("key-1", body(2, goodsType="bricks"))
    assert answer.status_code == 201
    made = data(answer)
    order = made["order"]
    assert answer.headers["location"] == f"/api/v1/orders/{made['orderId']}"
    assert "idempotent-replayed" not in answer.headers
    assert order["customerId"] == customer.user_id
    assert (order["customerName"], order["customerPhone"]) == ("Asha", "+911234567890")
    assert (order["status"], order["searching"], order["version"]) == ("active", True, 1)
    assert (order["totalTrucks"], order["trucksFilled"], order["totalAmount"]) == (2, 0, 1000)
    assert (order["distanceKm"], order["goodsType"]) == (25, "bricks")
    assert '"distanceKm":25,' in answer.text
    assert (order["expiresIn"], made["timeoutSeconds"], made["dispatchState"]) == (60, 60, "queued")
    assert [truck["requestNumber"] for truck in made["truckRequests"]] == [1, 2]
    assert "captainId" not in made["truckRequests"][0]
    assert made["broadcastSummary"] == {
        "totalRequests": 2,
        "groupedBy": [
            {"vehicleType": "TRUCK", "vehicleSubtype": "TATA_ACE", "count": 2, "transportersNotified": 0}
        ],
        "totalTransportersNotified": 0,
    }


async def test_the_order_and_its_timer_reach_kafka_without_personal_data(rig: Rig) -> None:
    made = data(await rig.customer(name="Asha", phone="+911234567890").create())
    (created,) = await rig.events(ORDERS_EVENTS, made["orderId"], "OrderCreated")
    (timer,) = await rig.events(TIMERS_COMMANDS, made["orderId"], "TimerScheduled")
    assert isinstance(created.event, OrderCreated)
    assert isinstance(timer.event, TimerScheduled)
    assert created.event.order_version == 1
    assert created.source == "/weelo/order-api"
    assert created.event.expires_at == timer.event.due_at
    assert (created.event.expires_at - created.event.occurred_at).total_seconds() == 60
    assert "Asha" not in created.event.model_dump_json()
    assert "+911234567890" not in created.event.model_dump_json()


async def test_the_same_key_gives_the_same_order_byte_for_byte(rig: Rig) -> None:
    customer = rig.customer()
    first = await customer.create("key-1")
    again = await customer.create("key-1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert await rig.value("SELECT count(*) FROM orders WHERE customer_id = $1", customer.user_id) == 1


async def test_when_the_reply_is_lost_the_retry_gets_the_same_order(rig: Rig) -> None:
    customer = rig.customer()
    content = json.dumps(BODY).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", rig.life.http_port)
    writer.write(
        b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Idempotency-Key: k\r\n"
        + f"Authorization: Bearer {customer.token}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content
    )
    await writer.drain()
    writer.close()  # the phone is gone before a byte of the answer
    await writer.wait_closed()
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await customer.create("k")).status_code == 409:
            assert code(answer)[1] == "CONCURRENT_REQUEST"  # the first try is still in flight
    assert answer.status_code == 201
    found = data(await customer.get("/orders"))["orders"]
    assert [order["id"] for order in found] == [data(answer)["orderId"]]


async def test_a_replay_comes_from_postgresql_when_redis_has_forgotten(home: Home, rig: Rig) -> None:
    customer = rig.customer()
    first = await customer.create("key-1")
    async with order_api(home, redis_url=NOBODY_LISTENS) as other:
        again = await other.customer(customer.user_id).create("key-1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_quoted_key_and_the_other_header_are_the_same_key(rig: Rig) -> None:
    customer = rig.customer()
    first = await customer.create("key-1")
    for headers in (
        {"Idempotency-Key": '"key-1"'},
        {"Idempotency-Key": "key-1", "X-Idempotency-Key": "key-1"},
    ):
        assert (await customer.post("/orders", BODY, headers)).content == first.content


@pytest.mark.parametrize(
    "headers",
    [
        {"Idempotency-Key": "one", "X-Idempotency-Key": "two"},
        {"Idempotency-Key": ""},
        {"Idempotency-Key": "a b"},
        {"Idempotency-Key": '"open'},
        {"Idempotency-Key": "x" * 256},
    ],
)
async def test_a_malformed_key_is_refused(rig: Rig, headers: dict[str, str]) -> None:
    assert code(await rig.customer().post("/orders", BODY, headers)) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize("redis", [True, False])
async def test_the_same_key_with_another_body_is_refused(home: Home, redis: bool) -> None:
    async with order_api(home, **({} if redis else {"redis_url": NOBODY_LISTENS})) as rig:
        customer = rig.customer()
        await customer.create("key-1")
        answer = await customer.create("key-1", body(2))
        assert code(answer) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_body_that_means_the_same_is_the_same_request(rig: Rig) -> None:
    customer = rig.customer()
    first = await customer.create("key-1")
    same = dict(reversed(BODY.items())) | {"distanceKm": 25.0, "unknown": "ignored"}
    assert (await customer.create("key-1", same)).content == first.content


async def test_two_customers_may_use_the_same_key(rig: Rig) -> None:
    one, two = await rig.customer().create("key-1"), await rig.customer().create("key-1")
    assert data(one)["orderId"] != data(two)["orderId"]


async def test_a_second_order_while_one_searches_is_refused_with_its_id(rig: Rig) -> None:
    customer = rig.customer()
    first = data(await customer.create("key-1"))
    answer = await customer.create("key-2")
    assert code(answer) == (409, "ACTIVE_ORDER_EXISTS")
    assert answer.json()["error"]["data"] == {
        "activeOrderId": first["orderId"],
        "status": "active",
        "createdAt": first["order"]["createdAt"],
    }


async def test_second_request_of_a_customer_in_flight_gets_409(home: Home, rig: Rig) -> None:
    customer = rig.customer()
    async with RedisClient.open(rig.settings) as redis:
        gate, entered = await held_lock(redis, customer.user_id)
        answer = await customer.create("key-1")
        assert code(answer) == (409, "CONCURRENT_REQUEST")
        assert answer.headers["retry-after"] == "2"
        assert answer.json()["error"]["data"] == {"retryAfter": 2}
        await gate.leave(entered, customer.user_id, None, None)
    assert (await customer.create("key-1")).status_code == 201


async def test_a_retry_is_replayed_from_postgresql_before_a_409_leaves(home: Home) -> None:
    async with order_api(home, replay_cache_s=1) as rig, RedisClient.open(rig.settings) as redis:
        customer = rig.customer()
        first = await customer.create("key-1")
        name = await redis.call(lambda r: r.keys("order-api:*:replay:*"))
        await redis.call(lambda r: r.delete(*name))
        gate, entered = await held_lock(redis, customer.user_id)
        again = await customer.create("key-1")
        assert (again.status_code, again.content) == (201, first.content)
        await gate.leave(entered, customer.user_id, None, None)


async def test_a_lock_is_released_only_by_its_own_token(rig: Rig) -> None:
    customer = rig.customer()
    async with RedisClient.open(rig.settings) as redis:
        gate, entered = await held_lock(redis, customer.user_id)
        await gate.leave(replace(entered, token="another token"), customer.user_id, None, None)
        assert (await customer.create()).status_code == 409
        await gate.leave(entered, customer.user_id, None, None)
        assert (await customer.create()).status_code == 201


async def test_more_creates_than_the_limit_are_refused_until_the_window_ends(home: Home) -> None:
    async with order_api(home, creates_per_minute=2) as rig:
        customer = rig.customer()
        first = await customer.create("key-1")
        assert (await customer.create("key-2")).status_code == 409
        answer = await customer.create("key-3")
        assert code(answer) == (429, "RATE_LIMITED")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (await customer.create("key-1")).content == first.content  # an honest retry is still replayed


@pytest.mark.parametrize("redis", [True, False])
async def test_many_taps_at_once_make_one_order(home: Home, redis: bool) -> None:
    async with order_api(home, **({} if redis else {"redis_url": NOBODY_LISTENS})) as rig:
        customer = rig.customer()
        answers = await asyncio.gather(*(customer.create(f"key-{number}") for number in range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
        codes = {code(answer)[1] for answer in answers if answer.status_code == 409}
        assert codes <= {"CONCURRENT_REQUEST", "ACTIVE_ORDER_EXISTS"}
        assert await rig.value("SELECT count(*) FROM orders WHERE customer_id = $1", customer.user_id) == 1


async def test_twins_under_one_key_without_redis_get_the_same_order(home: Home) -> None:
    async with order_api(home, redis_url=NOBODY_LISTENS) as rig:
        customer = rig.customer()
        answers = await asyncio.gather(*(customer.create("key-1") for _ in range(8)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        replayed = [answer for answer in answers if "idempotent-replayed" in answer.headers]
        assert len(replayed) == 7


async def test_a_black_holed_redis_costs_a_fraction_of_a_second_and_no_order(home: Home) -> None:
    async with (
        black_hole() as port,
        order_api(home, redis_url=f"redis://127.0.0.1:{port}/0", **AS_DEPLOYED) as rig,
    ):
        assert (
            await rig.customer().create("key-1")
        ).status_code == 201  # its defaults would hang for a minute


async def test_a_create_ends_the_search_of_an_overdue_order_first(rig: Rig) -> None:
    customer = rig.customer()
    old = data(await customer.create("key-1"))["orderId"]
    await rig.make_overdue(old)
    new = data(await customer.create("key-2"))["orderId"]
    assert data(await customer.get(f"/orders/{old}"))["order"]["status"] == "expired"
    assert data(await customer.get("/orders/check-active"))["activeOrder"]["orderId"] == new
    expired = await rig.events(ORDERS_EVENTS, old, "OrderExpired")
    assert [envelope.event.order_version for envelope in expired if envelope.event] == [1, 2]  # type: ignore[attr-defined]


async def test_with_postgresql_away_the_answer_is_a_quick_503(home: Home) -> None:
    dsn = "postgresql://nobody@127.0.0.1:9/nothing"
    async with order_api(home, postgres_dsn=dsn, **AS_DEPLOYED) as rig:
        started = asyncio.get_running_loop().time()
        answer = await rig.customer().create("key-1")
        assert code(answer) == (503, "SERVICE_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) > 0
        assert asyncio.get_running_loop().time() - started < QUICK_S


async def test_with_kafka_away_orders_are_taken_as_ever(home: Home) -> None:
    async with order_api(home, kafka_bootstrap_servers="127.0.0.1:9") as rig:
        assert (await rig.customer().create("key-1")).status_code == 201
        assert (await rig.http.get("/health/ready")).status_code == 200


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (BODY | {"distanceKm": 0}, "distanceKm"),
        (BODY | {"distanceKm": 5001}, "distanceKm"),
        (BODY | {"distanceKm": "25"}, "distanceKm"),
        (BODY | {"distanceKm": True}, "distanceKm"),
        (BODY | {"cargoWeightKg": "1"}, "cargoWeightKg"),
        (BODY | {"distanceKm": 10**400}, "distanceKm"),
        (BODY | {"pickup": BODY["pickup"] | {"latitude": 91}}, "pickup.latitude"),
        (BODY | {"pickup": BODY["pickup"] | {"address": ""}}, "pickup.address"),
        (BODY | {"pickup": BODY["pickup"] | {"address": "x" * 501}}, "pickup.address"),
        (BODY | {"pickup": None}, "pickup"),
        (BODY | {"vehicleRequirements": []}, "vehicleRequirements"),
        (BODY | {"vehicleRequirements": BODY["vehicleRequirements"] * 2}, "body"),
        (body(51), "vehicleRequirements.0.quantity"),
        (body(0), "vehicleRequirements.0.quantity"),
        (BODY | {"goodsType": "a\u0000b"}, "goodsType"),
        ([], "body"),
        ("text", "body"),
    ],
)
async def test_a_bad_body_is_a_400_that_names_the_field(rig: Rig, content: object, field: str) -> None:
    answer = await rig.customer().create("key-1", content)
    assert code(answer) == (400, "VALIDATION_ERROR")
    assert [problem["field"] for problem in answer.json()["error"]["details"]] == [field]


async def test_text_that_is_no_text_is_a_400(rig: Rig) -> None:
    customer = rig.customer()
    headers = {"Authorization": f"Bearer {customer.token}", "Content-Type": "application/json"}
    for text in (b"\\ud800", b"\\u0000", b"\xff"):
        content = json.dumps(BODY | {"goodsType": "TEXT"}).encode().replace(b"TEXT", text)
        answer = await rig.http.post("/api/v1/orders", content=content, headers=headers)
        assert code(answer) == (400, "VALIDATION_ERROR")


async def test_the_token_is_checked_before_the_body(rig: Rig) -> None:
    assert (await rig.http.post("/api/v1/orders", content=b"{")).status_code == 401
    assert code(await rig.captain().create()) == (403, "FORBIDDEN")


async def test_the_messages_ops_search_for_are_logged_and_hold_no_personal_data(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="order_api")
    caplog.set_level(logging.DEBUG, logger="weelo_common")
    customer = rig.customer(name="Asha", phone="+911234567890")
    await customer.create("key-+911234567890")
    await customer.create("key-+911234567890")
    messages = [record.getMessage() for record in caplog.records]
    for message in (
        "Idempotency key received",
        "Lock acquired",
        "Idempotency cached",
        "Lock released",
        "Idempotency HIT",
    ):
        assert message in messages
    told = " ".join(str(vars(record)) for record in caplog.records)
    assert "1234567890" not in told
    assert "Asha" not in told
    assert "Noida" not in told
    assert customer.token not in told
