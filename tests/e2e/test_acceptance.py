"""The users' own check list: what must work before anybody lets customers in."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import httpx

from tests.e2e.city import PATIENCE_S, City, listening, new_subtype, order_body
from tests.e2e.conftest import LIFETIME_S


async def test_the_same_key_twice_gives_the_same_order(city: City) -> None:
    customer, body, key = city.customer(), order_body(new_subtype()), str(uuid4())
    first = await customer.create(body, key)
    again = await customer.create(body, key)
    assert (first.status, first.replayed) == (201, False)
    assert (again.status, again.replayed, again.body) == (201, True, first.body)


async def test_two_creates_at_once_give_201_and_409(city: City) -> None:
    customer, body = city.customer(), order_body(new_subtype())
    answers = await asyncio.gather(*(customer.create(body, str(uuid4())) for _ in range(2)))
    assert sorted(answer.status for answer in answers) == [201, 409]
    (loser,) = (answer for answer in answers if answer.status == 409)
    assert loser.code in ("CONCURRENT_REQUEST", "ACTIVE_ORDER_EXISTS")


async def test_after_a_cancel_the_next_create_works_at_once(city: City) -> None:
    customer, body = city.customer(), order_body(new_subtype())
    first = await customer.create(body)
    blocked = await customer.create(body)
    cancelled = await customer.cancel(first.data["orderId"])
    second = await customer.create(body)
    assert (blocked.status, blocked.code) == (409, "ACTIVE_ORDER_EXISTS")
    assert blocked.data["activeOrderId"] == first.data["orderId"]
    assert (cancelled.status, cancelled.data["status"]) == (200, "cancelled")
    assert second.status == 201


async def test_after_the_expiry_the_next_create_works(city: City) -> None:
    customer, body = city.customer(), order_body(new_subtype())
    async with listening(city, customer.phone) as inbox:
        first = await customer.create(body)
        expired = await inbox.wait_for("order_expired", orderId=first.data["orderId"])
    assert expired.data["status"] == "expired"
    read = await customer.read(first.data["orderId"])
    assert (read.data["order"]["status"], read.data["order"]["searching"]) == ("expired", False)
    assert first.data["timeoutSeconds"] == LIFETIME_S
    assert (await customer.create(body)).status == 201


async def test_when_the_reply_is_lost_the_retry_gets_the_same_order(city: City) -> None:
    customer, body, key = city.customer(), order_body(new_subtype()), str(uuid4())
    url = httpx.URL(city.url("order-api", "/orders"))
    request = httpx.Request(
        "POST",
        url,
        json=body,
        headers={"authorization": f"Bearer {customer.phone.token}", "x-idempotency-key": key},
    )
    head = b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST " + url.raw_path + b" HTTP/1.1\r\n" + head + b"\r\n" + request.read())
    await writer.drain()
    writer.close()  # the phone is gone before any answer
    await writer.wait_closed()
    async with asyncio.timeout(PATIENCE_S):
        while (retried := await customer.create(body, key)).code == "CONCURRENT_REQUEST":
            pass  # the first try is still in flight
    assert retried.status == 201
    again = await customer.create(body, key)
    assert (again.data["orderId"], again.replayed) == (retried.data["orderId"], True)
    listed = await customer.phone.call("GET", city.url("order-api", "/orders"))
    assert listed.data["total"] == 1


async def test_rapid_taps_with_one_key_make_one_order(city: City) -> None:
    customer, body, key = city.customer(), order_body(new_subtype()), str(uuid4())
    answers = await asyncio.gather(*(customer.create(body, key) for _ in range(10)))
    assert {answer.status for answer in answers} <= {201, 409}
    assert all(answer.code == "CONCURRENT_REQUEST" for answer in answers if answer.status == 409)
    assert len({answer.data["orderId"] for answer in answers if answer.status == 201}) == 1
    assert len({answer.body for answer in answers if answer.status == 201}) == 1


async def test_rapid_taps_with_a_key_each_make_one_order(city: City) -> None:
    customer, body = city.customer(), order_body(new_subtype())
    answers = await asyncio.gather(*(customer.create(body, str(uuid4())) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 9


async def test_a_captain_receives_an_order_near_him(city: City) -> None:
    subtype = new_subtype()
    async with city.captain(subtype) as captain:
        customer = city.customer()
        created = await customer.create(order_body(subtype))
        offer = await captain.offer(created.data["orderId"])
        assert offer.data["vehicleSubtype"] == subtype
        assert offer.data["pricePerTruck"] == 500
        assert offer.data["pickupDistanceM"] < 50
        assert offer.data["pickup"]["address"] == "Connaught Place"


async def test_a_captain_accepts_and_everybody_hears_of_it(city: City) -> None:
    subtype, customer = new_subtype(), city.customer()
    async with (
        city.captain(subtype) as winner,
        city.captain(subtype) as other,
        listening(city, customer.phone) as inbox,
    ):
        created = await customer.create(order_body(subtype))
        order_id = created.data["orderId"]
        offer, late = await winner.offer(order_id), await other.offer(order_id)
        accepted = await winner.accept(order_id, offer)
        lost = await other.accept(order_id, late)
        again = await winner.accept(order_id, offer)
        assert (accepted.status, accepted.data["truckRequest"]["captainId"]) == (200, winner.person_id)
        assert accepted.data["order"]["status"] == "fully_filled"
        assert (lost.status, lost.code) == (409, "TRUCK_REQUEST_TAKEN")
        assert again.status == 200
        assigned = await inbox.wait_for("truck_assigned", orderId=order_id)
        assert assigned.data["captainId"] == winner.person_id
        await inbox.wait_for("order_fully_filled", orderId=order_id)
        await winner.inbox.wait_for("trip_assigned", orderId=order_id)
        dismissed = await other.inbox.wait_for("broadcast_dismissed", orderId=order_id)
        assert dismissed.data["reason"] == "filled"


async def test_a_captain_rejects_and_the_order_goes_on_to_the_next(city: City) -> None:
    subtype, customer = new_subtype(), city.customer()
    async with city.captain(subtype) as near:
        created = await customer.create(order_body(subtype))
        order_id = created.data["orderId"]
        offer = await near.offer(order_id)
        declined = await near.decline(offer)
        again = await near.decline(offer)
        assert (declined.status, declined.data["status"]) == (200, "declined")
        assert (again.status, again.body) == (200, declined.body)
        async with city.captain(subtype) as next_one:
            later = await next_one.offer(order_id)
            assert (await next_one.accept(order_id, later)).status == 200
    read = await customer.read(order_id)
    assert read.data["order"]["status"] == "fully_filled"


async def test_the_ledger_holds_after_all_of_it(city: City) -> None:
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())
