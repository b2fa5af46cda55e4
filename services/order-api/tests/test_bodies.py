"""The limits of a create's body."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from order_api.bodies import CreateBody
from order_api.idempotency import fingerprint

LINE = {"vehicleType": "TRUCK", "vehicleSubtype": "TATA_ACE", "quantity": 1, "pricePerTruck": 500}
PLACE = {"latitude": 28.5, "longitude": 77.3, "address": "Noida"}


def body(**changes: Any) -> dict[str, Any]:
    return {"pickup": PLACE, "drop": PLACE, "distanceKm": 25, "vehicleRequirements": [LINE]} | changes


def lines(count: int, quantity: int = 1) -> list[dict[str, Any]]:
    return [LINE | {"vehicleSubtype": f"S{number}", "quantity": quantity} for number in range(count)]


def test_the_widest_body_is_understood() -> None:
    CreateBody.model_validate(
        body(
            distanceKm=5000,
            vehicleRequirements=lines(10, 5),
            goodsType="bricks",
            cargoWeightKg=1.5,
            pickup=PLACE
            | {"address": "x" * 500, "city": "Noida", "state": None, "latitude": -90, "longitude": 180},
            unknown={"is": "ignored"},
        )
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"vehicleRequirements": lines(11)},
        {"vehicleRequirements": lines(10, 6)},
        {"vehicleRequirements": [LINE, LINE]},
        {"vehicleRequirements": [LINE | {"pricePerTruck": 0}]},
        {"vehicleRequirements": [LINE | {"pricePerTruck": 10_000_001}]},
        {"vehicleRequirements": [LINE | {"pricePerTruck": 499.5}]},
        {"vehicleRequirements": [LINE | {"quantity": "1"}]},
        {"vehicleRequirements": [LINE | {"quantity": True}]},
        {"vehicleRequirements": [LINE | {"vehicleType": ""}]},
        {"vehicleRequirements": [LINE | {"vehicleSubtype": "x" * 65}]},
        {"vehicleRequirements": None},
        {"distanceKm": float("nan")},
        {"distanceKm": float("inf")},
        {"distanceKm": -1},
        {"cargoWeightKg": -1},
        {"cargoWeightKg": 10**400},
        {"drop": PLACE | {"longitude": 180.1}},
        {"drop": {"latitude": 1, "longitude": 1}},
    ],
)
def test_a_body_beyond_a_limit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CreateBody.model_validate(body(**changes))


def test_whole_distances_stay_integers_and_the_rest_stays_as_it_is() -> None:
    assert repr(CreateBody.model_validate(body(distanceKm=25.0)).distance_km) == "25"
    assert repr(CreateBody.model_validate(body(distanceKm=25.4)).distance_km) == "25.4"


def test_bodies_that_mean_the_same_have_one_fingerprint() -> None:
    def taken(**changes: Any) -> bytes:
        return fingerprint(CreateBody.model_validate(body(**changes)).understood())

    assert taken() == taken(distanceKm=25.0) == taken(unknown=1) == taken(goodsType=None)
    assert taken() != taken(distanceKm=26)
    assert taken() != taken(goodsType="bricks")
