"""One search among the rows of a group: guess a circle, read its cells, sieve, measure, and widen where it must.

Pure: it changes nothing. ``geo_index`` says what the answer is; nothing here may approximate it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dispatcher.circles import FINEST, PRECISIONS, CellBlock, block_around, cell_m2, circle_inside_m
from dispatcher.geo_rows import IDLE, NUMBER, ROW_WIDTH, SEEN, Floats, GeoRows
from dispatcher.geohash import CellTable, cell_of, text_of
from weelo_common.geo import EARTH_RADIUS_M

GUESS_FROM = PRECISIONS[:4]  # cells of 1 to 150 km; where all hold few, the whole radius is read
ENOUGH_TO_GUESS = 12  # points in a cell that tell how crowded it is there
SPARE = 2.5  # times k: how many points the first circle should hold, so that it seldom proves too small
LEAST_CIRCLE_M = 200.0  # its cells are read anyway
LEAST_WIDENING, WIDENING, MOST_WIDENING = 1.2, 2.5, 8.0  # times the circle that held too few
SIEVE_M = 2.0  # a cosine tells distances to 20 cm, and a metre more: the order is by whole ones
UNTHREADED_ROWS = (
    1024  # of more than some 1,150 OpenBLAS makes a product in several threads, which takes longer
)


class Candidate(NamedTuple):
    """A point found. ``distance_m`` is rounded down to whole metres, the unit of the order of candidates."""

    number: int
    distance_m: int
    seen_at_ms: int
    idle_since_ms: int


class Search(NamedTuple):
    """What a search found, nearest first, and where it looked.

    ``refused`` are those nearer than the last candidate whom ``accept`` turned down; ``looked_at`` counts the points in
    the cells of the last circle.
    """

    candidates: tuple[Candidate, ...] = ()
    refused: tuple[Candidate, ...] = ()
    precision: int = FINEST
    cell_numbers: tuple[int, ...] = ()
    looked_at: int = 0

    def cells(self, most: int) -> list[str]:
        """The geohashes of up to ``most`` of the cells, for people."""
        return [text_of(number, self.precision) for number in self.cell_numbers[:most]]


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
        toward = np.zeros(ROW_WIDTH)
        toward[:3] = flat * math.cos(lam), flat * math.sin(lam), math.sin(phi)
        circle_m = self._first_circle_m(rows, latitude, longitude, k, radius_m)
        while True:
            block = block_around(latitude, longitude, circle_m)
            cells, points = self._read(rows, block)
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
            # Beyond the circle there may be a point that is, in whole metres, as near as the k-th.
            if last or (len(order) == k and whole[order[-1]] + 1 <= circle_m):
                break
            circle_m = min(radius_m, _wider_m(circle_m, cosines, k))
        found = near[order].astype(np.int64)
        candidates = map(
            Candidate,
            found[:, NUMBER].tolist(),
            whole[order].tolist(),
            found[:, SEEN].tolist(),
            found[:, IDLE].tolist(),
        )
        return Search(tuple(candidates), (), block.precision, tuple(cells), len(points))

    def _first_circle_m(
        self, rows: GeoRows, latitude: float, longitude: float, k: int, radius_m: float
    ) -> float:
        """A circle that likely holds k points, by how crowded the cells around its centre are."""
        row, column = cell_of(latitude, longitude, FINEST)
        (number,) = self._table.block(range(row, row + 1), [column], FINEST)
        bounds: list[int] = []
        for precision in GUESS_FROM:
            shift = 5 * (FINEST - precision)
            first = number >> shift << shift
            bounds += (first, first + (1 << shift))
        found = rows.count(np.array(bounds, np.int32)).tolist()
        for place, precision in enumerate(GUESS_FROM):
            count = found[2 * place + 1] - found[2 * place]
            if count >= ENOUGH_TO_GUESS:
                circle_m = math.sqrt(SPARE * k * cell_m2(precision, latitude) / (math.pi * count))
                return min(radius_m, max(LEAST_CIRCLE_M, circle_m))
        return radius_m

    def _read(self, rows: GeoRows, block: CellBlock) -> tuple[list[int], Floats]:
        """The cells of a block, and the rows in them and in the tail."""
        cells = self._table.block(block.rows, block.columns, block.precision)
        shift = 5 * (FINEST - block.precision)
        return cells, rows.read([cell << shift for cell in cells], [cell + 1 << shift for cell in cells])


def _cosines(points: Floats, toward: Floats) -> Floats:
    """Of the angles between points and a direction."""
    parts = range(0, len(points), UNTHREADED_ROWS)
    cosines: Floats = (
        points @ toward
        if len(points) <= UNTHREADED_ROWS
        else np.concatenate([points[start : start + UNTHREADED_ROWS] @ toward for start in parts])
    )
    return cosines


def _within(points: Floats, cosines: Floats, circle_m: float, seen_after_ms: int | None) -> Floats:
    """The points in a circle and a little beyond it, of those seen lately."""
    near = points[np.flatnonzero(cosines >= math.cos((circle_m + SIEVE_M) / EARTH_RADIUS_M))]
    return near if seen_after_ms is None else near[near[:, SEEN] > seen_after_ms]


def _great_circles_m(points: Floats, toward: Floats) -> Floats:
    """Exact distances, to some nanometres: from the chord, which unlike the cosine is true to the nearest, too."""
    gaps = points[:, :3] - toward[:3]
    half_chords = np.sqrt(np.einsum("ij,ij->i", gaps, gaps)) * 0.5
    distances_m: Floats = np.arcsin(half_chords) * (2 * EARTH_RADIUS_M)
    return distances_m


def _wider_m(circle_m: float, cosines: Floats, k: int) -> float:
    """The next circle: to the k-th point that was read, if there is one."""
    if len(cosines) < k:
        return circle_m * WIDENING
    kth_m = math.acos(min(1.0, np.partition(cosines, -k)[-k])) * EARTH_RADIUS_M
    return max(circle_m * LEAST_WIDENING, min(kth_m + SIEVE_M, circle_m * MOST_WIDENING))
