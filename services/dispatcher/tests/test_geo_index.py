"""The index against brute force, everywhere on the globe."""

from __future__ import annotations

import doctest
import math
import random
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dispatcher import geo_index, live_fleet
from dispatcher.geo_index import MAX_RADIUS_M, GeoIndex
from dispatcher.geohash import (
    CHARACTER_BITS,
    MAX_BITS,
    CellTable,
    cell_of,
    encode,
    grid_size,
    number_of,
    text_of,
)
from weelo_common.geo import EARTH_RADIUS_M, great_circle_m

GROUP = 0
OTHER_GROUP = 7

Point = tuple[float, float]

anywhere = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
corners = st.sampled_from(
    [(90.0, 0.0), (-90.0, 180.0), (0.0, 180.0), (0.0, -180.0), (89.9999, 10.0), (0.0, 0.0), (-45.0, -180.0)]
)
centres = st.one_of(anywhere, corners)


@st.composite
def clustered(draw: st.DrawFn) -> tuple[Point, list[Point]]:
    """A centre, and points around it at all scales, wrapped over poles and the meridian."""
    latitude, longitude = draw(centres)
    spread = draw(st.sampled_from([1e-6, 1e-3, 0.02, 0.5, 10.0]))
    offsets = draw(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), max_size=60))
    widening = 1 / max(0.01, math.cos(math.radians(latitude)))
    points = [
        (
            max(-90.0, min(90.0, latitude + north * spread)),
            (longitude + east * spread * widening + 180.0) % 360.0 - 180.0,
        )
        for north, east in offsets
    ]
    return (latitude, longitude), points


def brute_force(
    points: dict[int, tuple[Point, int, int]], centre: Point, k: int, radius_m: float
) -> list[int]:
    ranked = sorted(
        (int(distance), idle, key)
        for key, (point, _, idle) in points.items()
        if (distance := great_circle_m(*centre, *point)) <= radius_m
    )
    return [key for _, _, key in ranked[:k]]


def fill(index: GeoIndex, points: Sequence[Point], group: int = GROUP) -> dict[int, tuple[Point, int, int]]:
    numbers = range(len(points))
    idle = [(number * 7) % 5 for number in numbers]
    index.put_many(
        numbers,
        [group] * len(points),
        [latitude for latitude, _ in points],
        [longitude for _, longitude in points],
        seen_at_ms=numbers,
        idle_since_ms=idle,
    )
    return {number: (point, number, idle[number]) for number, point in enumerate(points)}


@settings(max_examples=300, deadline=None)
@given(
    scene=clustered(),
    strangers=st.lists(anywhere, max_size=20),
    k=st.integers(1, 25),
    radius_m=st.sampled_from([1.0, 150.0, 2_000.0, 5_000.0, 50_000.0, 3_000_000.0, MAX_RADIUS_M]),
)
def test_index_finds_the_same_captains_in_the_same_order_as_brute_force(
    scene: tuple[Point, list[Point]], strangers: list[Point], k: int, radius_m: float
) -> None:
    centre, points = scene
    index = GeoIndex()
    known = fill(index, points + strangers)
    found = index.nearest(GROUP, *centre, k=k, radius_m=radius_m)
    assert [candidate.number for candidate in found.candidates] == brute_force(known, centre, k, radius_m)


@pytest.mark.parametrize("centre", [(28.6, 77.2), (0.0, 180.0), (-45.0, -179.999), (89.97, 10.0)])
def test_in_a_crowd_every_cell_around_the_centre_is_looked_at(centre: Point) -> None:
    dice = random.Random(7)
    latitude, longitude = centre
    widening = 1 / math.cos(math.radians(latitude))
    index = GeoIndex()
    known = fill(
        index,
        [
            (
                min(90.0, latitude + dice.uniform(-0.02, 0.02)),
                (longitude + dice.uniform(-0.02, 0.02) * widening + 180.0) % 360.0 - 180.0,
            )
            for _ in range(4000)
        ],
    )
    for radius_m in (100.0, 200.0, 500.0, 1_500.0):
        for k in (1, 20, 4000):
            found = index.nearest(GROUP, *centre, k=k, radius_m=radius_m)
            assert [one.number for one in found.candidates] == brute_force(known, centre, k, radius_m)


class MovingPoints(RuleBasedStateMachine):
    """Points that come, move, change groups and go, many at a time, and questions in between."""

    def __init__(self) -> None:
        super().__init__()
        self.index = GeoIndex()
        self.groups: dict[int, dict[int, tuple[Point, int, int]]] = {GROUP: {}, OTHER_GROUP: {}}

    @rule(
        group=st.sampled_from([GROUP, OTHER_GROUP]),
        first=st.integers(0, 300),
        scene=clustered(),
        seen=st.integers(0, 9),
        idle=st.integers(0, 3),
    )
    def put_many(
        self, group: int, first: int, scene: tuple[Point, list[Point]], seen: int, idle: int
    ) -> None:
        _, points = scene
        numbers = range(first, first + len(points))
        self.index.put_many(
            numbers,
            [group] * len(points),
            [latitude for latitude, _ in points],
            [longitude for _, longitude in points],
            seen_at_ms=[seen] * len(points),
            idle_since_ms=[idle] * len(points),
        )
        for number, point in zip(numbers, points, strict=True):
            self.forget(number)
            self.groups[group][number] = (point, seen, idle)

    @rule(number=st.integers(0, 360))
    def remove(self, number: int) -> None:
        assert self.index.remove(number) == self.forget(number)

    @rule(numbers=st.sets(st.integers(0, 360), max_size=200), group=st.sampled_from([GROUP, OTHER_GROUP]))
    def regroup(self, numbers: set[int], group: int) -> None:
        self.index.regroup(sorted(numbers), [group] * len(numbers), idle_since_ms=[7] * len(numbers))
        for number in numbers:
            for points in self.groups.values():
                if number in points:
                    point, seen, _ = points.pop(number)
                    self.groups[group][number] = (point, seen, 7)
                    break

    @rule(
        group=st.sampled_from([GROUP, OTHER_GROUP]),
        centre=centres,
        k=st.integers(1, 30),
        radius_m=st.sampled_from([200.0, 20_000.0, 2_000_000.0, MAX_RADIUS_M]),
        seen_after=st.integers(-1, 9),
    )
    def ask(self, group: int, centre: Point, k: int, radius_m: float, seen_after: int) -> None:
        seen = {number: one for number, one in self.groups[group].items() if one[1] > seen_after}
        found = self.index.nearest(group, *centre, k=k, radius_m=radius_m, seen_after_ms=seen_after)
        assert [one.number for one in found.candidates] == brute_force(seen, centre, k, radius_m)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert len(self.index) == sum(map(len, self.groups.values()))
        for points in self.groups.values():
            for number, ((latitude, longitude), seen, _) in points.items():
                assert self.index.place(number) == (latitude, longitude, seen)

    def forget(self, number: int) -> bool:
        return any(points.pop(number, None) is not None for points in self.groups.values())


TestMovingPoints = MovingPoints.TestCase
TestMovingPoints.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_crowd_that_drives_about_for_long_is_found_as_by_brute_force() -> None:
    """Long enough that every run is sorted many times, and in a crowd, so that each search reads all of them."""
    dice = random.Random(11)
    index = GeoIndex()
    places = [(28.6 + dice.gauss(0, 0.02), 77.2 + dice.gauss(0, 0.02)) for _ in range(9000)]
    known = fill(index, places)
    for turn in range(60):
        movers = dice.sample(sorted(known), 400)
        moved = [
            (known[number][0][0] + dice.gauss(0, 0.004), known[number][0][1] + dice.gauss(0, 0.004))
            for number in movers
        ]
        index.put_many(
            movers,
            [GROUP] * len(movers),
            [latitude for latitude, _ in moved],
            [longitude for _, longitude in moved],
            seen_at_ms=[turn] * len(movers),
            idle_since_ms=[turn] * len(movers),
        )
        for number, point in zip(movers, moved, strict=True):
            known[number] = (point, turn, turn)
        for number in dice.sample(sorted(known), 20):
            index.remove(number)
            del known[number]
        centre = (28.6 + dice.gauss(0, 0.03), 77.2 + dice.gauss(0, 0.03))
        found = index.nearest(GROUP, *centre, k=20, radius_m=5_000)
        assert [one.number for one in found.candidates] == brute_force(known, centre, 20, 5_000)
    assert len(index) == len(known)


def test_many_who_leave_a_group_at_once_take_nobody_with_them_who_stays() -> None:
    """So many that the group is sorted anew while the same call moves others inside it."""
    dice = random.Random(5)
    index = GeoIndex()
    fill(index, [(28.6 + dice.gauss(0, 0.05), 77.2 + dice.gauss(0, 0.05)) for _ in range(3000)])
    places = [(28.6 + dice.gauss(0, 0.05), 77.2 + dice.gauss(0, 0.05)) for _ in range(3000)]
    index.put_many(
        range(3000),
        [OTHER_GROUP if number % 3 == 0 else GROUP for number in range(3000)],
        [latitude for latitude, _ in places],
        [longitude for _, longitude in places],
        seen_at_ms=[1] * 3000,
        idle_since_ms=[0] * 3000,
    )
    assert [index.place(number) for number in range(3000)] == [(*place, 1) for place in places]
    for group in (OTHER_GROUP, GROUP):
        known = {
            number: (place, 1, 0)
            for number, place in enumerate(places)
            if (number % 3 == 0) == (group == OTHER_GROUP)
        }
        found = index.nearest(group, 28.6, 77.2, k=3000, radius_m=30_000)
        assert [one.number for one in found.candidates] == brute_force(known, (28.6, 77.2), 3000, 30_000)


@pytest.mark.parametrize("crowd", range(20_000, 32_000, 2_000))
def test_of_those_in_the_last_metre_of_a_circle_nobody_beyond_it_is_forgotten(crowd: int) -> None:
    """A row of points to the north, half a metre apart, and a crowd farther away that makes the first circle small.

    For some k the k-th stands at the circle's rim, and somebody just outside shares his metre and is idle for longer.
    """
    dice = random.Random(crowd)
    latitude, longitude = 28.597412109375, 77.200927734375  # a corner of the cells that are counted
    metre = math.degrees(1 / EARTH_RADIUS_M)
    points = [(latitude + (number * 0.5 + 0.25) * metre, longitude) for number in range(1_600)]
    row = range(len(points))
    for _ in range(crowd):
        aside = dice.choice((-1, 1)) * dice.uniform(0.0095, 0.0105)
        points.append((latitude + dice.uniform(-0.002, 0.002), longitude + aside))
    idle = [dice.randrange(1_000_000) for _ in points]
    index = GeoIndex()
    index.put_many(
        range(len(points)),
        [GROUP] * len(points),
        *zip(*points, strict=True),
        seen_at_ms=[0] * len(points),
        idle_since_ms=idle,
    )
    known = {number: (points[number], 0, idle[number]) for number in row}
    expected = brute_force(known, (latitude, longitude), len(row), 800.0)
    for k in range(701, 1_200, 2):
        found = index.nearest(GROUP, latitude, longitude, k=k, radius_m=800.0)
        assert list(found.numbers) == expected[:k]


def test_a_group_that_many_have_left_is_not_searched_for_those_who_are_gone() -> None:
    dice = random.Random(9)
    index = GeoIndex()
    fill(index, [(28.6 + dice.gauss(0, 0.002), 77.2 + dice.gauss(0, 0.002)) for _ in range(3000)])
    index.regroup(range(2000), [OTHER_GROUP] * 2000, idle_since_ms=[0] * 2000)
    assert index.nearest(GROUP, 28.6, 77.2, k=20, radius_m=5_000).looked_at <= 1000
    for number in range(2000, 2999):
        index.remove(number)
    assert index.nearest(GROUP, 28.6, 77.2, k=20, radius_m=5_000).looked_at < 300


@settings(max_examples=100, deadline=None)
@given(scene=clustered(), refused=st.sets(st.integers(0, 60)), k=st.integers(1, 10))
def test_who_is_refused_does_not_count_and_is_told_where_he_is_nearer_than_the_last(
    scene: tuple[Point, list[Point]], refused: set[int], k: int
) -> None:
    centre, points = scene
    index = GeoIndex()
    known = fill(index, points)
    found = index.nearest(
        GROUP, *centre, k=k, radius_m=MAX_RADIUS_M, accept=lambda number: number not in refused
    )
    everybody = brute_force(known, centre, len(known), MAX_RADIUS_M)
    taken = [number for number in everybody if number not in refused][:k]
    assert [one.number for one in found.candidates] == taken
    nearer = everybody[: everybody.index(taken[-1])] if len(taken) == k else everybody
    assert [one.number for one in found.refused] == [number for number in nearer if number in refused]


def test_a_point_that_changes_group_is_found_in_the_new_one_alone() -> None:
    index = GeoIndex()
    index.put(1, GROUP, 28.6, 77.2, seen_at_ms=1)
    index.put(1, OTHER_GROUP, 28.6, 77.2, seen_at_ms=2)
    assert index.nearest(GROUP, 28.6, 77.2, k=5, radius_m=1_000).candidates == ()
    assert [c.number for c in index.nearest(OTHER_GROUP, 28.6, 77.2, k=5, radius_m=1_000).candidates] == [1]


def test_a_point_right_at_the_centre_is_within_no_radius_at_all() -> None:
    index = GeoIndex()
    index.put(1, GROUP, 28.6, 77.2, seen_at_ms=1)
    index.put(2, GROUP, 28.6001, 77.2, seen_at_ms=1)
    assert [one.number for one in index.nearest(GROUP, 28.6, 77.2, k=5, radius_m=0.0).candidates] == [1]


def test_a_point_not_seen_lately_is_passed_over() -> None:
    index = GeoIndex()
    index.put(1, GROUP, 28.6, 77.2, seen_at_ms=1_000)
    index.put(2, GROUP, 28.61, 77.2, seen_at_ms=2_000)
    found = index.nearest(GROUP, 28.6, 77.2, k=1, radius_m=5_000, seen_after_ms=1_000)
    assert [candidate.number for candidate in found.candidates] == [2]


def test_of_two_at_the_same_distance_the_longer_idle_comes_first() -> None:
    index = GeoIndex()
    index.put(1, GROUP, 28.6, 77.2, seen_at_ms=0, idle_since_ms=900)
    index.put(2, GROUP, 28.6, 77.2, seen_at_ms=0, idle_since_ms=100)
    found = index.nearest(GROUP, 28.6, 77.2, k=1, radius_m=1_000)
    assert [candidate.number for candidate in found.candidates] == [2]


@pytest.mark.parametrize("module", [geo_index, live_fleet])
def test_the_examples_in_the_documentation_run(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert (results.failed, results.attempted > 0) == (0, True)


def test_a_search_tells_its_cells() -> None:
    index = GeoIndex()
    index.put(1, GROUP, 28.6139, 77.2090, seen_at_ms=0)
    found = index.nearest(GROUP, 28.6139, 77.2090, k=1, radius_m=100)
    assert encode(28.6139, 77.2090, 6) in found.cells(most=32)
    assert len(found.cells(most=1)) == 1


def test_a_radius_or_count_that_makes_no_sense_is_refused() -> None:
    index = GeoIndex()
    with pytest.raises(ValueError, match="radius_m"):
        index.nearest(GROUP, 0, 0, k=1, radius_m=MAX_RADIUS_M * 1.1)
    with pytest.raises(ValueError, match="k must"):
        index.nearest(GROUP, 0, 0, k=-1, radius_m=1)


def test_a_cells_number_holds_those_of_the_finer_cells_inside_it() -> None:
    dice = random.Random(3)
    for _ in range(200):
        point = dice.uniform(-90, 90), dice.uniform(-180, 180)
        numbers = [number_of(*cell_of(*point, bits), bits) for bits in range(MAX_BITS + 1)]
        longest = encode(*point, MAX_BITS // CHARACTER_BITS)
        for bits, fine in enumerate(numbers):
            assert all(numbers[coarse] == fine >> bits - coarse for coarse in range(bits))
            if bits % CHARACTER_BITS == 0:
                assert text_of(fine, bits) == longest[: bits // CHARACTER_BITS]


@given(places=st.lists(st.one_of(anywhere, corners), min_size=1), bits=st.integers(1, 30))
def test_many_cells_at_once_are_those_of_each(places: list[Point], bits: int) -> None:
    numbers = CellTable().numbers(
        np.array([latitude for latitude, _ in places]),
        np.array([longitude for _, longitude in places]),
        bits,
    )
    assert numbers.tolist() == [number_of(*cell_of(*place, bits), bits) for place in places]


def test_geohashes_are_those_of_everybody_else() -> None:
    assert encode(57.64911, 10.40744, 11) == "u4pruydqqvj"  # the example of Wikipedia
    assert encode(28.6139, 77.2090, 5) == "ttnfu"
    assert encode(90.0, 180.0, 3) == encode(90.0, -180.0, 3)
    with pytest.raises(ValueError, match="61"):
        grid_size(61)
