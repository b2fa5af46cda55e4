"""Who takes part in the end-to-end benchmark: captains in eight cities, and customers who book near them.

They are the busiest corners of a fleet several times as large, and a pickup lies near a captain whom no other pickup
has: so an order of any moment of the run finds somebody free within the first wave's radius.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from numpy.typing import NDArray

from bench.towns import CLASSES, METRES_PER_DEGREE, Fleet, Towns
from weelo_cli.tokens import make_token

SEED = 9
LARGER = 5  # times as many captains are drawn, and those of the busiest corners kept
CORNER_DEGREES = 0.02  # some two kilometres
NEAR_M = 1_500.0  # within the first wave's 2 km, with room for the distance of a pickup from its captain
NEAR_CAPTAINS = 15  # of the class, counting those who will be busy by the end
FROM_CAPTAIN_M = 200.0  # one standard deviation of a pickup's distance from its captain
TOKENS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Crowd:
    """The fleet, and files with one line each: a captain's token, a customer's token, the body of his order."""

    fleet: Fleet
    captain_tokens: Path
    customer_tokens: Path
    bodies: Path


def gather(folder: Path, private_key: str, *, captains: int, orders: int) -> Crowd:
    """A crowd, the same each time but for the tokens.

    Raises:
        ValueError: so many orders do not find a captain each where enough stand.
    """
    towns = Towns(SEED)
    fleet = _busiest(towns.fleet(LARGER * captains), captains)
    bodies = folder / "e2e.bodies"
    bodies.write_text("".join(f"{body}\n" for body in _bodies(towns, fleet, orders)))
    return Crowd(
        fleet,
        _tokens(folder / "e2e.captains", private_key, "captain", fleet.captain_ids),
        _tokens(
            folder / "e2e.customers", private_key, "customer", [f"c-{number:08d}" for number in range(orders)]
        ),
        bodies,
    )


def _busiest(fleet: Fleet, captains: int) -> Fleet:
    """So many of a fleet, from the corners where most of a class stand; all of them free."""
    corners = np.column_stack(
        [
            fleet.classes,
            np.floor(fleet.latitudes / CORNER_DEGREES).astype(np.int64),
            np.floor(fleet.longitudes / CORNER_DEGREES).astype(np.int64),
        ]
    )
    _, corner, count = np.unique(corners, axis=0, return_inverse=True, return_counts=True)
    kept = np.argsort(-count[corner], kind="stable")[:captains]
    return Fleet(
        fleet.latitudes[kept],
        fleet.longitudes[kept],
        fleet.classes[kept],
        np.ones(captains, np.bool_),
        [fleet.captain_ids[number] for number in kept],
        fleet.fingerprints[kept],
    )


def _bodies(towns: Towns, fleet: Fleet, orders: int) -> list[str]:
    crowded = _crowded(fleet)
    chosen = crowded[towns.order(len(crowded))][:orders]
    if len(chosen) < orders:
        raise ValueError(f"{orders} orders, but only {len(crowded)} captains stand where enough others do")
    dice = np.random.default_rng(SEED)
    away = dice.normal(0, FROM_CAPTAIN_M / METRES_PER_DEGREE, (orders, 2))
    return [
        _body(fleet.latitudes[captain] + north, fleet.longitudes[captain] + east, int(fleet.classes[captain]))
        for captain, (north, east) in zip(chosen, away, strict=True)
    ]


def _crowded(fleet: Fleet) -> NDArray[np.int64]:
    """The captains who have enough of their class around them."""
    north = fleet.latitudes * METRES_PER_DEGREE
    east = fleet.longitudes * METRES_PER_DEGREE * np.cos(np.radians(fleet.latitudes))
    around = np.zeros(len(fleet), np.int64)
    for number in range(len(CLASSES)):
        mine = np.flatnonzero(fleet.classes == number)
        square_m = (north[mine, None] - north[mine]) ** 2 + (east[mine, None] - east[mine]) ** 2
        around[mine] = (square_m < NEAR_M**2).sum(axis=1)
    return np.flatnonzero(around > NEAR_CAPTAINS)


def _body(latitude: float, longitude: float, vehicle: int) -> str:
    vehicle_type, vehicle_subtype, _ = CLASSES[vehicle]
    line = {
        "vehicleType": vehicle_type,
        "vehicleSubtype": vehicle_subtype,
        "quantity": 1,
        "pricePerTruck": 500,
    }
    return json.dumps(
        {
            "pickup": {"latitude": round(latitude, 6), "longitude": round(longitude, 6), "address": "Gate 1"},
            "drop": {"latitude": 28.6139, "longitude": 77.209, "address": "Delhi"},
            "distanceKm": 25,
            "vehicleRequirements": [line],
        },
        separators=(",", ":"),
    )


def _tokens(path: Path, private_key: str, role: str, ids: Sequence[str]) -> Path:
    jobs = [
        (private_key, role, ids[start : start + TOKENS_AT_ONCE])
        for start in range(0, len(ids), TOKENS_AT_ONCE)
    ]
    with ProcessPoolExecutor() as pool, path.open("w") as lines:
        for some in pool.map(_signed, jobs):
            lines.writelines(f"{token}\n" for token in some)
    return path.resolve()


def _signed(job: tuple[str, str, Sequence[str]]) -> list[str]:
    pem, role, ids = job
    key = cast("RSAPrivateKey", load_pem_private_key(pem.encode(), password=None))
    return [make_token(key, role, one, name="Somebody", phone="+910000000000") for one in ids]
