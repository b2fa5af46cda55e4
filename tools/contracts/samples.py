"""One real event of each type: the examples in the published documents, and the stock of the contract's tests.

Every value is fixed, so that the documents come out the same each time. The people and places are made up, and the
token is no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from weelo_common.events import (
    CaptainState,
    DispatchExhausted,
    Envelope,
    Event,
    Offer,
    OfferDeclined,
    OffersMade,
    OffersWithdrawn,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderEvent,
    OrderExpired,
    OrderFullyFilled,
    Place,
    RequestedTruck,
    TimerCancelled,
    TimerFired,
    TimerScheduled,
    TruckAssigned,
    TruckReleased,
    TruckStarted,
    WithdrawnOffer,
    event_classes,
    seal,
    timer_key,
)
from weelo_common.events.positions import Position, captain_fingerprint, pack
from weelo_common.ids import derived_id

CREATED_AT = datetime(2026, 2, 3, 10, 8, 28, 123_000, tzinfo=UTC)
EXPIRES_AT = CREATED_AT + timedelta(seconds=60)

ORDER = "019c22f1-7a3b-7c44-9d2e-5b1f0a6c8e01"
FIRST_TRUCK = "019c22f1-7a3b-7c45-8a10-2f6d4e9b7c02"
SECOND_TRUCK = "019c22f1-7a3b-7c46-b3f7-91c0d8e5a203"
OFFER = "019c22f1-7c90-7d01-a5e4-6c3b8f2d1e04"
OTHER_OFFER = "019c22f1-7c90-7d02-92b8-0d7e5a4f3c05"
CUSTOMER = "c-10482"
CAPTAIN = "cap-2207"
OTHER_CAPTAIN = "cap-3319"
TRANSPORTER = "tr-71"

NOIDA = Place(latitude=28.5355, longitude=77.391, address="Sector 62, Noida", city="Noida", state="UP")
DELHI = Place(latitude=28.6139, longitude=77.209, address="Connaught Place, New Delhi")


class MissingSample(Exception):
    """An event whose example nobody has given."""


def _state(version: int, status: str, *, searching: bool, filled: int, after_s: float) -> dict[str, object]:
    return {
        "order_id": ORDER,
        "order_version": version,
        "customer_id": CUSTOMER,
        "status": status,
        "searching": searching,
        "trucks_filled": filled,
        "total_trucks": 2,
        "occurred_at": CREATED_AT + timedelta(seconds=after_s),
    }


def _timer(name: str, owner: str) -> dict[str, object]:
    return {"timer_key": timer_key(name, ORDER), "version": 1, "order_id": ORDER, "owner": owner}


def _offer(offer_id: str, captain_id: str, distance_m: int) -> Offer:
    return Offer(
        offer_id=offer_id,
        captain_id=captain_id,
        transporter_id=TRANSPORTER,
        vehicle_type="TRUCK",
        vehicle_subtype="TATA_ACE",
        pickup_distance_m=distance_m,
        price_per_truck=500,
        open_trucks=2,
        offer_token="<a signed JWT>",  # noqa: S106 - no token
        expires_at=EXPIRES_AT,
    )


def _made() -> tuple[tuple[str, Event], ...]:
    """Each with its source."""
    running = _state(4, "in_progress", searching=False, filled=2, after_s=900)
    won = _state(2, "partially_filled", searching=True, filled=1, after_s=6.25)
    return (
        (
            "order-api",
            OrderCreated.model_validate(
                _state(1, "active", searching=True, filled=0, after_s=0)
                | {
                    "pickup": NOIDA,
                    "drop": DELHI,
                    "distance_km": 25,
                    "goods_type": "Furniture",
                    "total_amount": 1000,
                    "expires_at": EXPIRES_AT,
                    "truck_requests": tuple(
                        RequestedTruck(
                            id=truck,
                            vehicle_type="TRUCK",
                            vehicle_subtype="TATA_ACE",
                            price_per_truck=500,
                        )
                        for truck in (FIRST_TRUCK, SECOND_TRUCK)
                    ),
                }
            ),
        ),
        (
            "order-api",
            TruckAssigned.model_validate(
                won
                | {
                    "truck_request_id": FIRST_TRUCK,
                    "captain_id": CAPTAIN,
                    "transporter_id": TRANSPORTER,
                    "vehicle_type": "TRUCK",
                    "vehicle_subtype": "TATA_ACE",
                    "vehicle_number": "UP16 AB 1234",
                    "offer_id": OFFER,
                    "pickup": NOIDA,
                    "drop": DELHI,
                }
            ),
        ),
        (
            "order-api",
            OrderFullyFilled.model_validate(
                _state(4, "fully_filled", searching=False, filled=2, after_s=14.5)
            ),
        ),
        (
            "order-api",
            TruckReleased.model_validate(
                _state(3, "active", searching=True, filled=0, after_s=9.75)
                | {
                    "truck_request_id": FIRST_TRUCK,
                    "captain_id": CAPTAIN,
                    "reason": "released",
                    "truck_request_status": "searching",
                }
            ),
        ),
        (
            "order-api",
            OrderCancelled.model_validate(
                _state(2, "cancelled", searching=False, filled=0, after_s=20) | {"reason": "customer"}
            ),
        ),
        (
            "order-api",
            OrderExpired.model_validate(
                _state(3, "partially_filled", searching=False, filled=1, after_s=60)
                | {"expired_truck_request_ids": (SECOND_TRUCK,)}
            ),
        ),
        (
            "order-api",
            TruckStarted.model_validate(running | {"truck_request_id": FIRST_TRUCK, "captain_id": CAPTAIN}),
        ),
        (
            "order-api",
            OrderCompleted.model_validate(_state(8, "completed", searching=False, filled=2, after_s=5400.5)),
        ),
        (
            "dispatcher",
            OffersMade(
                order_id=ORDER,
                wave=1,
                radius_m=2000,
                offers=(_offer(OFFER, CAPTAIN, 640), _offer(OTHER_OFFER, OTHER_CAPTAIN, 1180)),
                pickup=NOIDA,
                drop=DELHI,
                distance_km=25,
            ),
        ),
        (
            "dispatcher",
            OffersWithdrawn(
                order_id=ORDER,
                reason="filled",
                offers=(WithdrawnOffer(offer_id=OTHER_OFFER, captain_id=OTHER_CAPTAIN),),
            ),
        ),
        (
            "dispatcher",
            OfferDeclined(
                order_id=ORDER, offer_id=OTHER_OFFER, captain_id=OTHER_CAPTAIN, reason="DISTANCE_TOO_FAR"
            ),
        ),
        ("dispatcher", DispatchExhausted(order_id=ORDER, waves=6)),
        (
            "order-api",
            TimerScheduled.model_validate(_timer("order-expiry", "order-api") | {"due_at": EXPIRES_AT}),
        ),
        (
            "order-api",
            TimerCancelled.model_validate(_timer("order-expiry", "order-api")),
        ),
        (
            "expiry",
            TimerFired.model_validate(
                _timer("dispatch-wave", "dispatcher")
                | {
                    "due_at": CREATED_AT + timedelta(seconds=10),
                    "fired_at": CREATED_AT + timedelta(seconds=10.012),
                    "payload": {"wave": 2},
                }
            ),
        ),
        (
            "dispatcher",
            CaptainState(
                captain_id=CAPTAIN,
                version=17,
                transporter_id=TRANSPORTER,
                vehicle_type="TRUCK",
                vehicle_subtype="TATA_ACE",
                available=True,
                eligible=True,
                busy=False,
            ),
        ),
    )


def samples() -> Mapping[str, Envelope]:
    """An envelope of each event type, by type, with a fixed id and time.

    Raises:
        MissingSample: an event of the contract has none here.
    """
    found: dict[str, Envelope] = {}
    for source, event in _made():
        moment, event_id = CREATED_AT, derived_id("sample", event.TYPE)
        if isinstance(event, OrderEvent):
            moment = event.occurred_at
        elif isinstance(event, TimerFired):
            moment, event_id = event.fired_at, event.event_id()
        found[event.TYPE] = seal(event, source=source, time=moment, event_id=event_id)
    if missing := [one.TYPE for one in event_classes() if one.TYPE not in found]:
        raise MissingSample(f"tools/contracts/samples.py has no sample of {', '.join(missing)}")
    return found


def packed_positions() -> bytes:
    """One record of two packed positions."""
    recorded_ms = 1_770_113_308_123
    return pack(
        [
            Position(captain_fingerprint(CAPTAIN), 28.5355, 77.391, recorded_ms),
            Position(captain_fingerprint(OTHER_CAPTAIN), 28.6139, 77.209, recorded_ms + 2_000),
        ]
    )


def dead_letter() -> tuple[list[tuple[str, bytes]], bytes]:
    """Headers and value of a record that lacked ``ce_type``, as the dispatcher's dead letters hold it."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", derived_id("sample", "dead letter").encode()),
        ("dlq-topic", b"orders.events.v1"),
        ("dlq-partition", b"7"),
        ("dlq-offset", b"10422"),
        ("dlq-group", b"dispatcher"),
        ("dlq-reason", b"the header ce_type is missing"),
        ("dlq-attempts", b"1"),
    ]
    return headers, b'{"orderId": "'
