"""The index against brute force, everywhere on the globe."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.geo_index import MAX_RADIUS_M, GeoIndex
from dispatcher.geohash import encode, grid_size
from weelo_common.geo import great_circle_m

GROUP = ("TRUCK", "TATA_ACE")
OTHER_GROUP = ("TRUCK", "EICHER_14FT")

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
    points: dict[str, tuple[Point, int, int]], centre: Point, k: int, radius_m: float
) -> list[str]:
    ranked = sorted(
        (int(distance), idle, key)
        for key, (point, _, idle) in points.items()
        if (distance := great_circle_m(*centre, *point)) <= radius_m
    )
    return [key for _, _, key in ranked[:k]]


def fill(index: GeoIndex, points: Sequence[Point]) -> dict[str, tuple[Point, int, int]]:
    known: dict[str, tuple[Point, int, int]] = {}
    for number, point in enumerate(points):
        key, idle = f"c{number}", (number * 7) % 5
        index.put(key, GROUP, *point, seen_at_ms=number, idle_since_ms=idle)
        known[key] = (point, number, idle)
    return known


@settings(max_examples=300, deadline=None)
@given(
    scene=clustered(),
    strangers=st.lists(anywhere, max_size=20),
    k=st.integers(1, 25),
    radius_m=st.sampled_from([0.0, 1.0, 150.0, 2_000.0, 5_000.0, 50_000.0, 3_000_000.0, MAX_RADIUS_M]),
)
def test_index_finds_the_same_captains_in_the_same_order_as_brute_force(
    scene: tuple[Point, list[Point]], strangers: list[Point], k: int, radius_m: float
) -> None:
    centre, points = scene
    index = GeoIndex()
    known = fill(index, points + strangers)
    found = index.nearest(GROUP, *centre, k=k, radius_m=radius_m)
    assert [candidate.key for candidate in found.candidates] == brute_force(known, centre, k, radius_m)


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
            assert [one.key for one in found.candidates] == brute_force(known, centre, k, radius_m)


@settings(max_examples=150, deadline=None)
@given(
    scene=clustered(),
    changes=st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), anywhere, corners)), max_size=60),
    k=st.integers(1, 10),
)
def test_moves_and_removals_leave_no_trace(
    scene: tuple[Point, list[Point]], changes: list[tuple[int, Point | None]], k: int
) -> None:
    centre, points = scene
    index = GeoIndex()
    known = fill(index, points)
    for number, place in changes:
        key = f"c{number}"
        if place is None:
            assert index.remove(key) == (known.pop(key, None) is not None)
        else:
            index.put(key, GROUP, *place, seen_at_ms=0)
            known[key] = (place, 0, 0)
    assert len(index) == len(known)
    found = index.nearest(GROUP, *centre, k=k, radius_m=MAX_RADIUS_M)
    assert [candidate.key for candidate in found.candidates] == brute_force(known, centre, k, MAX_RADIUS_M)
    for key in known:
        assert index.remove(key)
    assert index._groups == {}


def test_a_point_that_changes_group_is_found_in_the_new_one_alone() -> None:
    index = GeoIndex()
    index.put("a", GROUP, 28.6, 77.2, seen_at_ms=1)
    index.put("a", OTHER_GROUP, 28.6, 77.2, seen_at_ms=2)
    assert index.nearest(GROUP, 28.6, 77.2, k=5, radius_m=1_000).candidates == ()
    assert [c.key for c in index.nearest(OTHER_GROUP, 28.6, 77.2, k=5, radius_m=1_000).candidates] == ["a"]


def test_a_point_not_seen_lately_is_passed_over() -> None:
    index = GeoIndex()
    index.put("silent", GROUP, 28.6, 77.2, seen_at_ms=1_000)
    index.put("fresh", GROUP, 28.61, 77.2, seen_at_ms=2_000)
    found = index.nearest(GROUP, 28.6, 77.2, k=1, radius_m=5_000, seen_after_ms=1_000)
    assert [candidate.key for candidate in found.candidates] == ["fresh"]


def test_of_two_at_the_same_distance_the_longer_idle_comes_first() -> None:
    index = GeoIndex()
    index.put("a-just-back", GROUP, 28.6, 77.2, seen_at_ms=0, idle_since_ms=900)
    index.put("b-long-idle", GROUP, 28.6, 77.2, seen_at_ms=0, idle_since_ms=100)
    found = index.nearest(GROUP, 28.6, 77.2, k=1, radius_m=1_000)
    assert [candidate.key for candidate in found.candidates] == ["b-long-idle"]


def test_a_search_tells_its_cells() -> None:
    index = GeoIndex()
    index.put("a", GROUP, 28.6139, 77.2090, seen_at_ms=0)
    found = index.nearest(GROUP, 28.6139, 77.2090, k=1, radius_m=100)
    assert encode(28.6139, 77.2090, 7) in found.cells(most=32)
    assert len(found.cells(most=1)) == 1


def test_a_radius_or_count_that_makes_no_sense_is_refused() -> None:
    index = GeoIndex()
    with pytest.raises(ValueError, match="radius_m"):
        index.nearest(GROUP, 0, 0, k=1, radius_m=MAX_RADIUS_M * 1.1)
    with pytest.raises(ValueError, match="k must"):
        index.nearest(GROUP, 0, 0, k=-1, radius_m=1)


def test_geohashes_are_those_of_everybody_else() -> None:
    assert encode(57.64911, 10.40744, 11) == "u4pruydqqvj"  # the example of Wikipedia
    assert encode(28.6139, 77.2090, 5) == "ttnfu"
    assert encode(90.0, 180.0, 3) == encode(90.0, -180.0, 3)
    with pytest.raises(ValueError, match="13"):
        grid_size(13)
