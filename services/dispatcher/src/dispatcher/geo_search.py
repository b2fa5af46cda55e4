"""One search among the rows of a group: guess a circle, read its cells, sieve, measure, and widen where it must.

Pure: it changes nothing. ``geo_index`` says what the answer is; nothing here may approximate it. A search costs some
thirty calls into numpy, of a microsecond or less, and hardly more for a thousand rows than for a hundred. So the first
circle is wide enough that few searches read twice, and each call is the cheapest of those that do the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice, product
from typing import NamedTuple

import numpy as np

from dispatcher.circles import FINEST, WHOLE_CHARACTERS, block_around, cell_m2, circle_inside_m
from dispatcher.geo_rows import IDLE, NUMBER, SEEN, Floats, GeoRows, X, Y, Z
from dispatcher.geohash import CellTable, number_of, text_of
from dispatcher.memory_lines import WORDS
from weelo_common.geo import EARTH_RADIUS_M

GUESS_FROM = (
    29,
    27,
    25,
    23,
    21,
    19,
    17,
    15,
)  # bits of cells nearly square, each twice as wide: 1.2 to 150 km
SPARE = 3.5  # times k: how many points the first circle should hold; with 2.5 one search in fifty reads twice
LEAST_CIRCLE_M = 200.0  # its cells are read anyway
LEAST_WIDENING, WIDENING, MOST_WIDENING = 1.2, 2.5, 8.0  # times the circle that held too few
SIEVE_M = 2.0  # a cosine tells distances to 20 cm, and a metre more: the order is by whole ones
UNTHREADED_ROWS = (
    1024  # of more than some 1,150 OpenBLAS makes a product in several threads, which takes longer
)

_ON_THE_SPHERE = np.isin(range(WORDS), (X, Y, Z)).astype(np.float64)


class Candidate(NamedTuple):
    """A point found. ``distance_m`` is rounded down to whole metres, the unit of the order of candidates."""

    number: int
    distance_m: int
    seen_at_ms: int
    idle_since_ms: int


class Search(NamedTuple):
    """What a search found, nearest first, in columns, and where it looked.

    ``refused`` are those nearer than the last one found whom ``accept`` turned down; ``circle`` is the last that was
    looked at, in degrees of its centre and metres; ``looked_at`` counts the points that were read for it.
    """

    numbers: Sequence[int] = ()
    distances_m: Sequence[int] = ()
    seen_at_ms: Sequence[int] = ()
    idle_since_ms: Sequence[int] = ()
    refused: tuple[Candidate, ...] = ()
    circle: tuple[float, float, float] | None = None
    looked_at: int = 0

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those found, one by one."""
        return tuple(map(Candidate, self.numbers, self.distances_m, self.seen_at_ms, self.idle_since_ms))

    @property
    def cells_looked_at(self) -> int:
        """How many geohash cells the circle touches, of the smallest size in which they are few."""
        if self.circle is None:
            return 0
        block = block_around(*self.circle, WHOLE_CHARACTERS)
        return len(block.rows) * block.across

    def cells(self, most: int) -> list[str]:
        """The geohashes of up to ``most`` of these cells, for people."""
        if self.circle is None:
            return []
        block = block_around(*self.circle, WHOLE_CHARACTERS)
        places = islice(product(block.rows, block.columns), most)
        return [text_of(number_of(row, column, block.bits), block.bits) for row, column in places]


class Searcher:
    """Searches rows around a centre in degrees."""

    def __init__(self, table: CellTable) -> None:
        self._table = table

    def nearest(
        self,
        rows: GeoRows,
        latitude: float,
        longitude: float,
        *,
        k: int,
        radius_m: float,
        seen_after_ms: int | None,
    ) -> Search:
        """The k nearest points within a radius, by whole metres, then longest idle, then number."""
        phi, lam = math.radians(latitude), math.radians(longitude)
        flat = math.cos(phi)
        toward = np.array((flat * math.cos(lam), flat * math.sin(lam), math.sin(phi), 0, 0, 0, 0, 0))
        circle_m = self._first_circle_m(rows, latitude, longitude, k, radius_m)
        while True:
            block = block_around(latitude, longitude, circle_m)
            cells = self._table.block(block.rows, block.columns, block.bits)
            points = rows.read(sorted(cells), FINEST - block.bits)
            cosines = _cosines(points, toward)
            near = _within(points, cosines, circle_m, seen_after_ms)
            if len(near) < k and circle_m < radius_m:
                circle_m = min(radius_m, _wider_m(circle_m, cosines, k))
                if circle_m > circle_inside_m(block, latitude, longitude):
                    continue
                # The cells reach as far, and what is in them has been read.
                near = _within(points, cosines, circle_m, seen_after_ms)
            metres = _great_circles_m(near, toward)
            last = circle_m >= radius_m
            if last:
                inside = metres <= radius_m
                near, metres = near[inside], metres[inside]
            whole = metres.astype(np.int64)
            order = np.lexsort((near[:, NUMBER], near[:, IDLE], whole))[:k]
            distances_m: list[int] = whole.take(order).tolist()
            # Beyond the circle there may be a point that is, in whole metres, as near as the k-th.
            if last or (len(order) == k and distances_m[-1] + 1 <= circle_m):
                break
            circle_m = min(radius_m, _wider_m(circle_m, cosines, k))
        # SEEN, NUMBER and IDLE lie side by side.
        seen, numbers, idle = near.take(order, 0)[:, SEEN : IDLE + 1].astype(np.int64).T.tolist()
        return Search(numbers, distances_m, seen, idle, (), (latitude, longitude, circle_m), len(points))

    def _first_circle_m(
        self, rows: GeoRows, latitude: float, longitude: float, k: int, radius_m: float
    ) -> float:
        """A circle that likely holds k points, by how crowded it is around its centre.

        What is counted are the four cells that meet nearest to the centre, so that it is in their midst, and of the
        smallest size in which they hold k points, so that they are about what the circle will be. Where the largest
        hold fewer, it is the whole radius.
        """
        for bits in GUESS_FROM:
            cells = self._table.around(latitude, longitude, bits)
            count = rows.count(cells, FINEST - bits)
            cell = cell_m2(bits, latitude)
            if count >= k:
                circle_m = math.sqrt(SPARE * k * len(cells) * cell / (math.pi * count))
                return min(radius_m, max(LEAST_CIRCLE_M, circle_m))
            if cell > radius_m * radius_m:
                break
        return radius_m


def _cosines(points: Floats, toward: Floats) -> Floats:
    """Of the angles between points and a direction."""
    if len(points) <= UNTHREADED_ROWS:
        cosines: Floats = points.dot(toward)
        return cosines
    parts = range(0, len(points), UNTHREADED_ROWS)
    return np.concatenate([points[start : start + UNTHREADED_ROWS].dot(toward) for start in parts])


def _within(points: Floats, cosines: Floats, circle_m: float, seen_after_ms: int | None) -> Floats:
    """The points in a circle and a little beyond it, of those seen lately."""
    near = cosines >= math.cos((circle_m + SIEVE_M) / EARTH_RADIUS_M)
    if seen_after_ms is not None:
        near &= points[:, SEEN] > seen_after_ms
    return points.take(near.nonzero()[0], 0)


def _great_circles_m(points: Floats, toward: Floats) -> Floats:
    """Exact distances, to some nanometres: from the chord, which unlike the cosine is true to the nearest, too."""
    gaps = points - toward
    gaps *= gaps
    metres: Floats = np.sqrt(gaps.dot(_ON_THE_SPHERE))
    metres *= 0.5
    np.arcsin(metres, metres)
    metres *= 2 * EARTH_RADIUS_M
    return metres


def _wider_m(circle_m: float, cosines: Floats, k: int) -> float:
    """The next circle: to the k-th point that was read, if there is one."""
    if len(cosines) < k:
        return circle_m * WIDENING
    kth_m = math.acos(min(1.0, np.partition(cosines, -k)[-k])) * EARTH_RADIUS_M
    return max(circle_m * LEAST_WIDENING, min(kth_m + SIEVE_M, circle_m * MOST_WIDENING))
