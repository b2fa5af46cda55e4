"""The demo's world is real and repeatable: towns, distances, prices, ways."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.demo.world import (
    DELHI,
    MARKET_REACH_M,
    REACH_KM,
    SHORTEST_TRIP_KM,
    VEHICLES,
    Town,
    Vehicle,
    World,
    bearing_degrees,
    distance_m,
    offset,
    step_towards,
    towns_around_delhi,
)
from weelo_common.geo import Coordinates

NEAR_DELHI = st.builds(Coordinates, latitude=st.floats(28.0, 29.2), longitude=st.floats(76.6, 77.9))


@pytest.fixture(scope="module")
def towns() -> tuple[Town, ...]:
    return towns_around_delhi()


def test_the_towns_are_those_within_reach_of_delhi_largest_first(towns: tuple[Town, ...]) -> None:
    assert len(towns) > 150
    assert towns[0].name == "Delhi"
    assert {"Noida", "Gurugram", "Faridabad"} <= {town.name for town in towns}
    assert all(distance_m(DELHI, town.centre) <= REACH_KM * 1000 for town in towns)
    assert [town.inhabitants for town in towns] == sorted((t.inhabitants for t in towns), reverse=True)


def test_the_same_seed_gives_the_same_evening(towns: tuple[Town, ...]) -> None:
    first, second = World(towns, Random(7)), World(towns, Random(7))
    assert [first.trip() for _ in range(20)] == [second.trip() for _ in range(20)]
    assert [first.requirements() for _ in range(20)] == [second.requirements() for _ in range(20)]


def test_a_trip_states_the_real_distance_between_its_ends(towns: tuple[Town, ...]) -> None:
    world = World(towns, Random(1))
    for _ in range(200):
        trip = world.trip()
        assert trip.distance_km >= SHORTEST_TRIP_KM
        assert trip.distance_km == pytest.approx(
            distance_m(trip.pickup.point, trip.drop.point) / 1000, abs=0.05
        )


def test_places_are_drawn_by_population(towns: tuple[Town, ...]) -> None:
    world = World(towns, Random(3))
    drawn = [world.town().name for _ in range(2_000)]
    people = sum(town.inhabitants for town in towns)
    assert drawn.count("Delhi") / 2_000 == pytest.approx(towns[0].inhabitants / people, abs=0.04)


def test_places_lie_around_the_markets_of_their_town(towns: tuple[Town, ...]) -> None:
    world = World(towns, Random(5))
    for town in towns:
        markets = world.markets[town]
        assert all(distance_m(town.centre, market) <= town.radius_m * 1.01 for market in markets)
        place = world.at_market(town)
        assert min(distance_m(market, place) for market in markets) <= MARKET_REACH_M * 1.01


def test_a_large_town_has_more_markets_than_a_small_one(towns: tuple[Town, ...]) -> None:
    markets = World(towns, Random(5)).markets
    assert len(markets[towns[0]]) > 3
    assert len(markets[towns[-1]]) == 1


def test_an_order_books_distinct_kinds_and_at_least_one_truck(towns: tuple[Town, ...]) -> None:
    world = World(towns, Random(9))
    for _ in range(300):
        lines = world.requirements()
        assert all(quantity >= 1 for _, quantity in lines)
        assert len({vehicle for vehicle, _ in lines}) == len(lines)


@pytest.mark.parametrize("vehicle", VEHICLES, ids=lambda vehicle: vehicle.vehicle_subtype)
def test_a_price_is_whole_rupees_and_grows_with_the_distance(vehicle: Vehicle) -> None:
    prices = [vehicle.price(kilometres) for kilometres in (0.5, 5, 25, 60, 120)]
    assert all(isinstance(price, int) and price >= 50 for price in prices)
    assert prices == sorted(prices)


@given(a=NEAR_DELHI, b=NEAR_DELHI, metres=st.floats(0, 100_000))
def test_a_step_goes_that_far_towards_the_target_and_never_past_it(
    a: Coordinates, b: Coordinates, metres: float
) -> None:
    whole = distance_m(a, b)
    reached = step_towards(a, b, metres)
    assert distance_m(a, reached) == pytest.approx(min(metres, whole), rel=0.02, abs=1)
    assert distance_m(reached, b) == pytest.approx(max(0.0, whole - metres), rel=0.02, abs=whole * 0.02 + 1)


@given(origin=NEAR_DELHI, metres=st.floats(1, 5_000), bearing=st.floats(0, 6.28))
def test_an_offset_is_as_far_away_as_asked(origin: Coordinates, metres: float, bearing: float) -> None:
    assert distance_m(origin, offset(origin, metres, bearing)) == pytest.approx(metres, rel=0.01, abs=0.2)


@pytest.mark.parametrize(("north", "east", "degrees"), [(1, 0, 0), (0, 1, 90), (-1, 0, 180), (0, -1, 270)])
def test_a_heading_counts_from_north_by_east(north: int, east: int, degrees: float) -> None:
    there = Coordinates(latitude=DELHI.latitude + north * 0.01, longitude=DELHI.longitude + east * 0.01)
    assert bearing_degrees(DELHI, there) == degrees
