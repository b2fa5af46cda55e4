"""Blocks of cells hold the circles they are made for, everywhere on the globe."""

from __future__ import annotations

import math

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dispatcher.circles import CellBlock, block_around, circle_inside_m
from dispatcher.geohash import cell_of
from weelo_common.geo import EARTH_RADIUS_M

BEARINGS = [math.radians(degrees) for degrees in range(0, 360, 3)]

latitudes = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, -89.99, 0.0, 28.6, 89.9, 90.0]))
longitudes = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, -179.999, 0.0, 77.2, 180.0]))
circles_m = st.one_of(st.floats(1, 5_000), st.floats(1, 9_900_000))


def outline(latitude: float, longitude: float, circle_m: float) -> list[tuple[float, float]]:
    """Points on a circle a millimetre smaller, in all directions (the direct problem on the sphere)."""
    angle = max(0.0, circle_m - 0.001) / EARTH_RADIUS_M
    phi, lam = math.radians(latitude), math.radians(longitude)
    points = []
    for bearing in BEARINGS:
        sine = math.sin(phi) * math.cos(angle) + math.cos(phi) * math.sin(angle) * math.cos(bearing)
        east = math.atan2(
            math.sin(bearing) * math.sin(angle) * math.cos(phi), math.cos(angle) - math.sin(phi) * sine
        )
        there = math.degrees(math.asin(max(-1.0, min(1.0, sine))))
        points.append((there, (math.degrees(lam + east) + 180.0) % 360.0 - 180.0))
    return points


def holds(block: CellBlock, latitude: float, longitude: float) -> bool:
    row, column = cell_of(latitude, longitude, block.bits)
    return row in block.rows and column in block.columns


@settings(max_examples=300, deadline=None)
@given(latitude=latitudes, longitude=longitudes, circle_m=circles_m)
def test_a_circle_lies_in_the_block_around_it(latitude: float, longitude: float, circle_m: float) -> None:
    block = block_around(latitude, longitude, circle_m)
    assert len(block.rows) * len(block.columns) <= 32
    assert all(holds(block, *point) for point in outline(latitude, longitude, circle_m))


@settings(max_examples=300, deadline=None)
@given(latitude=latitudes, longitude=longitudes, circle_m=circles_m)
def test_the_widest_circle_of_a_block_lies_in_it_and_one_somewhat_wider_does_not(
    latitude: float, longitude: float, circle_m: float
) -> None:
    block = block_around(latitude, longitude, circle_m)
    widest_m = circle_inside_m(block, latitude, longitude)
    assert all(holds(block, *point) for point in outline(latitude, longitude, widest_m))
    assume(abs(latitude) < 60 and widest_m < 300_000)  # near a pole it may be smaller than it could be
    wider = outline(latitude, longitude, widest_m * 1.01 + 1)
    assert not all(holds(block, *point) for point in wider)
