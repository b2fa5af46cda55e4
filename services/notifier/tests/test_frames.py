"""Which frames an event gives to whom."""

from __future__ import annotations

import json

import pytest
from services.notifier.tests.events import (
    AT,
    assigned,
    offer_id,
    offers_made,
    order_event,
    released,
    withdrawn,
)

from notifier.domain import Notice, ended_offers, notices, without_status
from weelo_common.events import (
    DispatchExhausted,
    Event,
    OfferDeclined,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderExpired,
    OrderFullyFilled,
    Place,
    TruckStarted,
)


def told(event: Event) -> list[tuple[str, str]]:
    return [(notice.user_id, notice.name.value) for notice in notices(event)]


def the(event: Event, name: str) -> Notice:
    return next(notice for notice in notices(event) if notice.name == name)


def test_each_captain_of_a_wave_gets_his_own_offer_and_nobody_elses() -> None:
    frames = notices(offers_made("d-1", "d-2"))
    assert [(frame.user_id, frame.data["offerId"]) for frame in frames] == [
        ("d-1", offer_id("o-1", "d-1")),
        ("d-2", offer_id("o-1", "d-2")),
    ]


def test_new_broadcast_has_the_fields_of_the_contract_and_dies_with_its_offer() -> None:
    (frame,) = notices(offers_made("d-1", expires_at=AT))
    assert set(frame.data) == {
        "offerId", "offerToken", "orderId", "vehicleType", "vehicleSubtype", "pickup", "drop", "distanceKm",
        "pickupDistanceM", "pricePerTruck", "openTrucks", "expiresAt",
    }  # fmt: skip
    assert frame.data["pickup"] == {"latitude": 28.5355, "longitude": 77.391, "address": "Noida"}
    assert frame.data["distanceKm"] == 25
    assert (frame.offer_id, frame.expires_at) == (offer_id("o-1", "d-1"), AT)


def test_a_frames_body_carries_the_events_id_with_its_name_and_the_time_it_expires() -> None:
    (frame,) = notices(offers_made("d-1", expires_at=AT))
    body = json.loads(frame.body("e-1"))
    assert body["id"] == "e-1:new_broadcast"
    assert body["event"] == "new_broadcast"
    assert body["expiresAt"] == body["data"]["expiresAt"] == "2026-02-03T10:08:28.123Z"


def test_a_wave_without_offers_tells_nobody() -> None:
    assert told(offers_made()) == []


def test_an_offer_that_ended_is_dismissed_with_the_reason_and_is_always_worth_sending() -> None:
    (frame,) = notices(withdrawn("filled", "d-1"))
    assert frame.name == "broadcast_dismissed"
    assert frame.data == {"orderId": "o-1", "offerId": offer_id("o-1", "d-1"), "reason": "filled"}
    assert frame.offer_id is None


def test_an_assignment_tells_the_captain_with_both_places_and_the_customer_twice() -> None:
    event = assigned()
    assert told(event) == [
        ("d-1", "trip_assigned"),
        ("c-1", "truck_assigned"),
        ("c-1", "order_status_update"),
    ]
    assert {"pickup", "drop", "truckRequestId", "vehicleNumber", "orderVersion"} <= set(
        the(event, "trip_assigned").data
    )


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("released", [("d-1", "trip_cancelled"), ("c-1", "truck_released"), ("c-1", "order_status_update")]),
        ("cancelled", [("d-1", "trip_cancelled"), ("c-1", "order_status_update")]),
        ("completed", [("c-1", "order_status_update")]),
        ("a reason of a newer service", [("c-1", "order_status_update")]),
    ],
)
def test_a_release_is_told_by_its_reason(reason: str, expected: list[tuple[str, str]]) -> None:
    assert told(released(reason)) == expected


def test_every_order_event_gives_its_customer_exactly_one_status_update() -> None:
    created = order_event(
        OrderCreated,
        pickup=Place(latitude=1, longitude=2, address="a"),
        drop=Place(latitude=1, longitude=2, address="b"),
        distance_km=3,
        total_amount=5,
        expires_at=AT,
        truck_requests=(),
    )
    events = [
        created,
        assigned(),
        order_event(OrderFullyFilled),
        released("released"),
        order_event(OrderCancelled, reason="customer"),
        order_event(OrderExpired, expired_truck_request_ids=()),
        order_event(TruckStarted, truck_request_id="t-1", captain_id="d-1"),
        order_event(OrderCompleted),
    ]
    for event in events:
        assert told(event).count(("c-1", "order_status_update")) == 1, type(event).__name__


def test_the_end_of_an_order_is_told_by_its_own_frame() -> None:
    assert told(order_event(OrderFullyFilled))[0] == ("c-1", "order_fully_filled")
    assert told(order_event(OrderCancelled, reason="customer"))[0] == ("c-1", "order_cancelled")
    assert told(order_event(OrderExpired, expired_truck_request_ids=("t-1",)))[0] == ("c-1", "order_expired")
    assert the(order_event(OrderCancelled, reason="no_truck_left"), "order_cancelled").data["reason"] == (
        "no_truck_left"
    )


def test_a_status_update_has_the_fields_of_the_contract() -> None:
    data = the(assigned(version=7), "order_status_update").data
    assert {"orderId", "status", "orderVersion", "trucksFilled", "totalTrucks"} <= set(data)
    assert (data["orderVersion"], data["trucksFilled"], data["totalTrucks"]) == (7, 1, 2)


def test_an_overtaken_event_still_tells_what_happened_but_no_status() -> None:
    left = without_status(notices(assigned()))
    assert [frame.name.value for frame in left] == ["trip_assigned", "truck_assigned"]


def test_an_offer_ends_by_withdrawal_decline_and_acceptance() -> None:
    assert ended_offers(withdrawn("busy", "d-1", "d-2")) == (offer_id("o-1", "d-1"), offer_id("o-1", "d-2"))
    declined = OfferDeclined(order_id="o-1", offer_id="f-1", captain_id="d-1", reason="OTHER")
    assert ended_offers(declined) == ("f-1",)
    assert ended_offers(assigned()) == (offer_id("o-1", "d-1"),)
    assert ended_offers(offers_made("d-1")) == ()


def test_events_that_concern_no_phone_tell_nobody() -> None:
    assert notices(DispatchExhausted(order_id="o-1", waves=6)) == []
    assert notices(OfferDeclined(order_id="o-1", offer_id="f-1", captain_id="d-1", reason="OTHER")) == []


def test_a_captain_named_twice_in_one_event_gets_one_frame_because_its_id_must_be_unique() -> None:
    assert told(offers_made("d-1", "d-1")) == [("d-1", "new_broadcast")]
