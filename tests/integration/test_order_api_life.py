"""An order's life after its creation, over HTTP on real servers: cancel, accept, trips, reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import pytest_asyncio

from deploy.local.stack import LocalStack
from order_api.intake_store import delete_old_answers
from tests.integration.order_api_rig import (
    Home,
    Rig,
    body,
    code,
    data,
    made,
    order_api,
    order_api_home,
    settled,
    told,
)
from weelo_common.events import (
    DispatchExhausted,
    Offer,
    OfferDeclined,
    OffersMade,
    Place,
    TimerCancelled,
    TimerScheduled,
)
from weelo_common.events.topics import ORDERS_EVENTS, TIMERS_COMMANDS

pytestmark = pytest.mark.asyncio(loop_scope="module")
PLACE = Place(latitude=28.5, longitude=77.3, address="x")


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with order_api(home) as running:
        yield running


async def test_a_cancelled_order_makes_room_for_the_next_at_once(rig: Rig) -> None:
    customer = rig.customer()
    order_id = await made(customer)
    answer = data(await customer.post(f"/orders/{order_id}/cancel", {"reason": "found another"}))
    assert (answer["orderId"], answer["status"], answer["reason"]) == (order_id, "cancelled", "found another")
    assert (await customer.create()).status_code == 201
    envelopes = await rig.events(ORDERS_EVENTS, order_id, "OrderCancelled")
    assert told(envelopes) == [("OrderCreated", 1, "active"), ("OrderCancelled", 2, "cancelled")]
    assert "found another" not in str(envelopes)  # what people typed stays in order-api
    timers = await rig.events(TIMERS_COMMANDS, order_id, "TimerCancelled")
    assert [type(envelope.event) for envelope in timers] == [TimerScheduled, TimerCancelled]


async def test_cancelling_again_gives_the_same_answer(rig: Rig) -> None:
    customer = rig.customer()
    order_id = await made(customer)
    first = await customer.post(f"/orders/{order_id}/cancel", {"reason": "one"})
    again = await customer.post(f"/orders/{order_id}/cancel", {"reason": "two"})
    without = await customer.post(f"/orders/{order_id}/cancel")
    assert first.content == again.content == without.content


async def test_another_customers_order_is_not_found(rig: Rig) -> None:
    order_id = await made(rig.customer())
    stranger = rig.customer()
    for answer in (
        await stranger.post(f"/orders/{order_id}/cancel"),
        await stranger.get(f"/orders/{order_id}"),
        await stranger.get(f"/orders/{order_id}/status"),
        await rig.captain().get(f"/orders/{order_id}"),
        await rig.customer().get(f"/orders/{uuid4()}"),
    ):
        assert code(answer) == (404, "NOT_FOUND")
    assert code(await stranger.get("/orders/not-a-uuid")) == (400, "VALIDATION_ERROR")


async def test_an_order_is_read_by_a_captain_only_while_he_has_a_truck_of_it_and_by_ops_at_any_time(
    rig: Rig,
) -> None:
    customer, captain, other = rig.customer(), rig.captain(), rig.captain()
    order_id = await made(customer, 2)
    truck = (await rig.win(order_id, captain))["id"]
    await rig.win(order_id, other)
    for reader in (customer, captain, other, rig.ops()):
        assert data(await reader.get(f"/orders/{order_id}"))["order"]["id"] == order_id
    await captain.post(f"/truck-requests/{truck}/release", {"reason": "tyre"})
    assert code(await captain.get(f"/orders/{order_id}")) == (404, "NOT_FOUND")
    await customer.post(f"/orders/{order_id}/cancel")
    assert code(await other.get(f"/orders/{order_id}")) == (404, "NOT_FOUND")
    assert data(await rig.ops().get(f"/orders/{order_id}"))["order"]["status"] == "cancelled"


async def test_an_expired_order_cannot_be_cancelled_and_a_started_one_neither(rig: Rig) -> None:
    customer, captain = rig.customer(), rig.captain()
    expired = await made(customer)
    await rig.make_overdue(expired)
    answer = await customer.post(f"/orders/{expired}/cancel")
    assert code(answer) == (409, "ORDER_NOT_CANCELLABLE")
    assert answer.json()["error"]["data"] == {"status": "expired"}
    started = await made(customer)
    truck = await rig.win(started, captain)
    await captain.post(f"/truck-requests/{truck['id']}/start")
    answer = await customer.post(f"/orders/{started}/cancel")
    assert answer.json()["error"]["data"] == {"status": "in_progress"}


async def test_captains_win_until_the_order_is_full_and_the_next_is_told_so(rig: Rig) -> None:
    customer = rig.customer()
    order_id = await made(customer, 2)
    first, second, third = rig.captain(), rig.captain(), rig.captain()
    answer = data(await first.accept(order_id, rig.offer(order_id, first)))
    assert answer["order"]["status"] == "partially_filled"
    assert answer["truckRequest"]["captainId"] == first.user_id
    assert answer["truckRequest"]["vehicleNumber"] == "DL1AB1234"
    answer = data(await second.accept(order_id, rig.offer(order_id, second)))
    assert (answer["order"]["status"], answer["order"]["trucksFilled"]) == ("fully_filled", 2)
    assert code(await third.accept(order_id, rig.offer(order_id, third))) == (409, "TRUCK_REQUEST_TAKEN")
    envelopes = await rig.events(ORDERS_EVENTS, order_id, "OrderFullyFilled")
    assert told(envelopes) == [
        ("OrderCreated", 1, "active"),
        ("TruckAssigned", 2, "partially_filled"),
        ("TruckAssigned", 3, "fully_filled"),
        ("OrderFullyFilled", 4, "fully_filled"),
    ]


async def test_a_captains_repeated_accept_gives_the_same_truck_even_after_the_search(rig: Rig) -> None:
    captain = rig.captain()
    order_id = await made(rig.customer(), 2)
    token = rig.offer(order_id, captain)
    first = data(await captain.accept(order_id, token))
    await rig.make_overdue(order_id)
    again = data(await captain.accept(order_id, token))
    assert again["truckRequest"] == first["truckRequest"]


async def test_a_lost_accept_gets_its_typed_409(rig: Rig) -> None:
    customer, captain = rig.customer(), rig.captain()
    cancelled = await made(customer)
    await customer.post(f"/orders/{cancelled}/cancel")
    assert code(await captain.accept(cancelled, rig.offer(cancelled, captain)))[1] == "ORDER_CANCELLED"
    expired = await made(customer)
    await rig.make_overdue(expired)
    assert code(await captain.accept(expired, rig.offer(expired, captain)))[1] == "ORDER_EXPIRED"
    await rig.win(await made(rig.customer()), captain)
    other = await made(customer)
    assert code(await captain.accept(other, rig.offer(other, captain)))[1] == "CAPTAIN_BUSY"


async def test_an_offer_that_is_not_his_is_invalid(rig: Rig) -> None:
    order_id, captain, thief = await made(rig.customer()), rig.captain(), rig.captain()
    token = rig.offer(order_id, captain)
    other_order = await made(rig.customer())
    header, payload, signature = token.split(".")
    for answer in (
        await thief.accept(order_id, token),
        await captain.accept(other_order, token),
        await captain.accept(order_id, f"{header}.{payload}.{signature[::-1]}"),
        await captain.accept(order_id, captain.token),
        await captain.accept(order_id, "nonsense"),
    ):
        assert code(answer) == (403, "OFFER_INVALID")
    assert (await captain.accept(order_id, token)).status_code == 200


async def test_trips_run_and_their_steps_are_repeatable(rig: Rig) -> None:
    customer, captain = rig.customer(), rig.captain()
    order_id = await made(customer)
    truck = (await rig.win(order_id, captain))["id"]
    early = await captain.post(f"/truck-requests/{truck}/complete")
    assert code(early) == (409, "INVALID_TRANSITION")
    assert early.json()["error"]["data"] == {"status": "assigned"}
    for step, status in (("start", "in_progress"), ("complete", "completed")):
        first = await captain.post(f"/truck-requests/{truck}/{step}")
        again = await captain.post(f"/truck-requests/{truck}/{step}")
        assert data(first)["truckRequest"]["status"] == status
        assert first.content == again.content
    own = data(await captain.get("/truck-requests", status="completed"))["truckRequests"]
    assert [found["id"] for found in own] == [truck]
    assert own[0]["orderId"] == order_id
    assert data(await captain.get(f"/orders/{order_id}"))["order"]["status"] == "completed"
    assert told(await rig.events(ORDERS_EVENTS, order_id, "OrderCompleted"))[-3:] == [
        ("TruckStarted", 4, "in_progress"),
        ("TruckReleased", 5, "completed"),
        ("OrderCompleted", 6, "completed"),
    ]
    await rig.win(await made(customer), captain)  # he is free again


async def test_a_released_truck_is_searched_for_again_and_its_captain_is_free(rig: Rig) -> None:
    captain, other = rig.captain(), rig.captain()
    order_id = await made(rig.customer(), 2)
    truck = (await rig.win(order_id, captain))["id"]
    first = await captain.post(f"/truck-requests/{truck}/release", {"reason": "tyre"})
    again = await captain.post(f"/truck-requests/{truck}/release", {"reason": "tyre"})
    assert first.content == again.content
    assert data(first)["truckRequest"]["status"] == "searching"
    assert "captainId" not in data(first)["truckRequest"]
    await rig.win(await made(rig.customer()), captain)
    assert (await rig.win(order_id, other))["id"] == truck
    late = await captain.post(f"/truck-requests/{truck}/release", {"reason": "tyre"})
    assert code(late) == (404, "NOT_FOUND")
    by_ops = await rig.ops().post(f"/truck-requests/{truck}/release", {"reason": "complaint"})
    assert data(by_ops)["truckRequest"]["status"] == "searching"


async def test_a_truck_request_that_is_not_the_captains_is_not_found(rig: Rig) -> None:
    captain = rig.captain()
    truck = (await rig.win(await made(rig.customer()), captain))["id"]
    for answer in (
        await rig.captain().post(f"/truck-requests/{truck}/start"),
        await captain.post(f"/truck-requests/{uuid4()}/start"),
    ):
        assert code(answer) == (404, "NOT_FOUND")
    assert code(await captain.post("/truck-requests/1/start")) == (400, "VALIDATION_ERROR")
    assert code(await captain.post(f"/truck-requests/{truck}/release", {})) == (400, "VALIDATION_ERROR")
    assert code(await rig.customer().post(f"/truck-requests/{truck}/start")) == (403, "FORBIDDEN")


async def test_only_kept_answers_past_their_time_are_dropped(rig: Rig) -> None:
    customers = [rig.customer(), rig.customer()]
    for customer in customers:
        await customer.create("key-1")
    async with rig.database.transaction() as connection:
        await connection.execute(
            "UPDATE idempotency_records SET created_at = created_at - interval '25 hours' WHERE customer_id = $1",
            customers[0].user_id,
        )
        assert await delete_old_answers(connection, keep_h=24, limit=10) == 1
    left = "SELECT count(*) FROM idempotency_records WHERE customer_id = $1"
    assert [await rig.value(left, customer.user_id) for customer in customers] == [0, 1]


async def test_a_key_past_its_time_is_new_and_has_its_own_answer_from_then_on(home: Home, rig: Rig) -> None:
    customer = rig.customer()
    first = await customer.create("key-1")
    await customer.post(f"/orders/{data(first)['orderId']}/cancel")
    async with rig.database.transaction() as connection:
        await connection.execute(
            "UPDATE idempotency_records SET created_at = created_at - interval '25 hours' WHERE customer_id = $1",
            customer.user_id,
        )
        await delete_old_answers(connection, keep_h=24, limit=10)
    async with order_api(home, redis_url=f"{home.values['redis_url'].rpartition('/')[0]}/8") as forgetful:
        late = forgetful.customer(customer.user_id)
        second = await late.create("key-1", body(2))
        again = await late.create("key-1", body(2))
        assert code(await late.create("key-1")) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (second.status_code, again.content) == (201, second.content)
    assert data(second)["orderId"] != data(first)["orderId"]
    assert "idempotent-replayed" not in second.headers


async def test_check_active_names_the_order_that_searches(rig: Rig) -> None:
    customer = rig.customer()
    assert data(await customer.get("/orders/check-active")) == {"hasActiveOrder": False, "activeOrder": None}
    order = data(await customer.create())["order"]
    assert data(await customer.get("/orders/check-active")) == {
        "hasActiveOrder": True,
        "activeOrder": {"orderId": order["id"], "status": "active", "createdAt": order["createdAt"]},
    }


async def test_orders_are_paged_newest_first_and_filtered(rig: Rig) -> None:
    customer = rig.customer()
    made_ids = []
    for _ in range(3):
        order_id = await made(customer)
        made_ids.append(order_id)
        await customer.post(f"/orders/{order_id}/cancel")
    made_ids.append(await made(customer))
    first = data(await customer.get("/orders", limit=3))
    assert [order["id"] for order in first["orders"]] == made_ids[:0:-1]
    assert (first["total"], first["hasMore"]) == (4, True)
    second = data(await customer.get("/orders", limit=3, page=2, status=""))
    assert [order["id"] for order in second["orders"]] == made_ids[:1]
    assert second["hasMore"] is False
    only = data(await customer.get("/orders", status="active"))
    assert [order["id"] for order in only["orders"]] == made_ids[3:]
    for bad in ({"limit": 101}, {"limit": 0}, {"page": 0}, {"status": "nonsense"}, {"page": 10**30}):
        assert code(await customer.get("/orders", **bad)) == (400, "VALIDATION_ERROR")


async def test_orders_of_one_millisecond_stand_on_one_page_each_and_a_new_one_pushes_them_on(
    rig: Rig,
) -> None:
    customer = rig.customer()
    for _ in range(4):
        await customer.post(f"/orders/{await made(customer)}/cancel")
    async with rig.database.connection() as connection:
        await connection.execute(
            "UPDATE orders SET created_at = '2026-02-03T10:08:28.123Z' WHERE customer_id = $1",
            customer.user_id,
        )

    async def page(number: int) -> list[str]:
        found = data(await customer.get("/orders", limit=2, page=number))["orders"]
        return [order["id"] for order in found]

    one, two = await page(1), await page(2)
    assert len({*one, *two}) == 4
    assert [*one, *two] == sorted([*one, *two], reverse=True)
    newest = await made(customer)
    assert [await page(number) for number in (1, 2, 3)] == [[newest, one[0]], [one[1], two[0]], [two[1]]]


async def test_status_tells_how_far_the_dispatch_is(rig: Rig) -> None:
    customer = rig.customer()
    order_id = await made(customer)
    queued = data(await customer.get(f"/orders/{order_id}/status"))
    assert (queued["dispatchState"], queued["dispatchAttempts"], queued["isActive"]) == ("queued", 0, True)
    assert 30 <= queued["remainingSeconds"] <= 60
    offers = tuple(offer(transporter) for transporter in ("t-1", "t-2", "t-1"))
    wave = OffersMade(
        order_id=order_id, wave=1, radius_m=2000, offers=offers, pickup=PLACE, drop=PLACE, distance_km=25
    )
    await settled(
        rig,
        wave,
        OfferDeclined(order_id=order_id, offer_id="o", captain_id="k", reason="OTHER"),
        wave.model_copy(update={"wave": 2, "offers": offers[:1]}),
    )
    dispatching = data(await customer.get(f"/orders/{order_id}/status"))
    assert dispatching["dispatchState"] == "dispatching"
    assert (dispatching["dispatchAttempts"], dispatching["notifiedTransporters"]) == (2, 2)
    await settled(rig, DispatchExhausted(order_id=order_id, waves=6))
    exhausted = data(await customer.get(f"/orders/{order_id}/status"))
    assert (exhausted["dispatchState"], exhausted["dispatchAttempts"]) == ("exhausted", 6)
    await customer.post(f"/orders/{order_id}/cancel")
    closed = data(await customer.get(f"/orders/{order_id}/status"))
    assert (closed["dispatchState"], closed["remainingSeconds"], closed["isActive"]) == ("closed", 0, False)


def offer(transporter: str) -> Offer:
    return Offer(
        offer_id=str(uuid4()),
        captain_id=f"k-{uuid4()}",
        transporter_id=transporter,
        vehicle_type="TRUCK",
        vehicle_subtype="TATA_ACE",
        pickup_distance_m=100,
        price_per_truck=500,
        open_trucks=1,
        offer_token="t",
        expires_at=datetime.now(UTC),
    )
