"""The nearest points of a group, from memory: geohash cells in three levels. A library: no I/O, no clock.

    index = GeoIndex()
    index.put("captain-1", ("TRUCK", "TATA_ACE"), 28.61, 77.21, seen_at_ms=0)
    index.nearest(("TRUCK", "TATA_ACE"), 28.6, 77.2, k=20, radius_m=5_000)

Every point stands in one cell of each level. A search widens its circle, doubling, until k points are found or the
radius ends; a circle takes the finest level at which its bounding box has few cells. The box of a circle on the
sphere is exact (J. Matuschek, "Finding Points Within a Distance of a Latitude/Longitude"), so the borders of cells,
the poles and the 180° meridian need no care of their own. Candidates are sieved by chord length, and the few that
are left measured by great circle; nothing is approximated: the answer is that of brute force.

It must never block, raise on a point of the globe, or grow with what was removed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from dispatcher.geohash import grid_size, text_of
from weelo_common.geo import EARTH_RADIUS_M, great_circle_m

LEVELS = (7, 6, 5)  # characters: cells of about 0.15, 1.2 × 0.6 and 4.9 km at the equator; finest first
FEW_CELLS = 32  # a circle whose box has more takes the next coarser level
FIRST_CIRCLE_M = 150.0  # about a cell of the finest level; smaller circles find nothing sooner
MAX_RADIUS_M = 10_000_000.0  # a quarter of the globe; beyond it chords no longer tell distances well

_ROWS, _COLUMNS = grid_size(LEVELS[0])
_ROW_SHIFTS = tuple(grid_size(LEVELS[0])[0].bit_length() - grid_size(p)[0].bit_length() for p in LEVELS)
_COLUMN_SHIFTS = tuple(grid_size(LEVELS[0])[1].bit_length() - grid_size(p)[1].bit_length() for p in LEVELS)
_WIDTHS = tuple(grid_size(p)[1] for p in LEVELS)
_HEIGHTS = tuple(grid_size(p)[0] for p in LEVELS)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point found. ``distance_m`` is rounded down to whole metres, the unit of the order of candidates."""

    key: str
    distance_m: int
    seen_at_ms: int
    idle_since_ms: int


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found, nearest first, and the cells where it looked."""

    candidates: tuple[Candidate, ...]
    level: int
    cell_numbers: tuple[int, ...]

    def cells(self, most: int) -> list[str]:
        """The geohashes of up to ``most`` of the cells, for people."""
        width, precision = _WIDTHS[self.level], LEVELS[self.level]
        return [text_of(*divmod(number, width), precision) for number in self.cell_numbers[:most]]


@dataclass(slots=True, eq=False)
class _Point:
    key: str
    group: Hashable
    latitude: float = 0.0
    longitude: float = 0.0
    x: float = 0.0  # on the unit sphere
    y: float = 0.0
    z: float = 0.0
    seen_at_ms: int = 0
    idle_since_ms: int = 0
    row: int = -1  # of its cell of the finest level; -1: in no cell
    column: int = -1


_Cells = dict[int, dict[str, _Point]]


class GeoIndex:
    """Points by key, each in one group. All times are ms since 1970, given by the caller."""

    def __init__(self) -> None:
        self._points: dict[str, _Point] = {}
        self._groups: dict[Hashable, tuple[_Cells, ...]] = {}

    def __len__(self) -> int:
        return len(self._points)

    def __contains__(self, key: str) -> bool:
        return key in self._points

    def put(
        self,
        key: str,
        group: Hashable,
        latitude: float,
        longitude: float,
        *,
        seen_at_ms: int,
        idle_since_ms: int = 0,
    ) -> None:
        """Add a point, or move it to a place or a group. Degrees of WGS 84."""
        point = self._points.get(key)
        if point is None:
            point = self._points[key] = _Point(key, group)
        elif point.group != group:
            self._take_out(point)
            point.group = group
        point.latitude = latitude
        point.longitude = longitude
        phi = math.radians(latitude)
        lam = math.radians(longitude)
        flat = math.cos(phi)
        point.x = flat * math.cos(lam)
        point.y = flat * math.sin(lam)
        point.z = math.sin(phi)
        point.seen_at_ms = seen_at_ms
        point.idle_since_ms = idle_since_ms
        row = min(_ROWS - 1, int((latitude + 90.0) / 180.0 * _ROWS))
        column = int((longitude + 180.0) / 360.0 * _COLUMNS) % _COLUMNS
        if row != point.row or column != point.column:
            self._place(point, row, column)

    def remove(self, key: str) -> bool:
        """Forget a point; False where it was not there."""
        point = self._points.pop(key, None)
        if point is None:
            return False
        self._take_out(point)
        return True

    def nearest(
        self,
        group: Hashable,
        latitude: float,
        longitude: float,
        *,
        k: int,
        radius_m: float,
        seen_after_ms: int | None = None,
    ) -> Search:
        """The k nearest points of a group within a radius, by whole metres, then longest idle, then key.

        Points not seen after ``seen_after_ms`` are passed over.

        Raises:
            ValueError: k is negative, or the radius is not 0 to ``MAX_RADIUS_M``.
        """
        if k < 0 or not 0 <= radius_m <= MAX_RADIUS_M:
            raise ValueError(f"k must be 0 or more and radius_m 0 to {MAX_RADIUS_M:.0f}")
        levels = self._groups.get(group)
        if levels is None or k == 0:
            return Search((), 0, ())
        for circle_m in _circles(radius_m):
            level, keys = _cells_of_circle(levels, latitude, longitude, circle_m)
            cells = levels[level]
            buckets = [bucket for cell in keys if (bucket := cells.get(cell))]
            last = circle_m == radius_m
            if not last and sum(map(len, buckets)) < k:
                continue
            found = _ranked(buckets, latitude, longitude, circle_m, k, seen_after_ms)
            # Beyond the circle there may be a point that is, in whole metres, as near as the k-th.
            if last or (len(found) == k and found[-1].distance_m + 1 <= circle_m):
                return Search(tuple(found), level, tuple(keys))
        raise AssertionError("the last circle always answers")

    def _place(self, point: _Point, row: int, column: int) -> None:
        levels = self._groups.get(point.group)
        if levels is None:
            levels = self._groups[point.group] = tuple({} for _ in LEVELS)
        for cells, up, left, width in zip(levels, _ROW_SHIFTS, _COLUMN_SHIFTS, _WIDTHS, strict=True):
            new = (row >> up) * width + (column >> left)
            if point.row >= 0:
                old = (point.row >> up) * width + (point.column >> left)
                if old == new:
                    break  # a coarser cell holds the finer one, so none of the rest changes
                _drop(cells, old, point.key)
            bucket = cells.get(new)
            if bucket is None:
                cells[new] = {point.key: point}
            else:
                bucket[point.key] = point
        point.row = row
        point.column = column

    def _take_out(self, point: _Point) -> None:
        levels = self._groups[point.group]
        for cells, up, left, width in zip(levels, _ROW_SHIFTS, _COLUMN_SHIFTS, _WIDTHS, strict=True):
            _drop(cells, (point.row >> up) * width + (point.column >> left), point.key)
        if not levels[-1]:
            del self._groups[point.group]
        point.row = point.column = -1


def _drop(cells: _Cells, cell: int, key: str) -> None:
    bucket = cells[cell]
    del bucket[key]
    if not bucket:
        del cells[cell]


def _circles(radius_m: float) -> Iterator[float]:
    circle_m = FIRST_CIRCLE_M
    while circle_m < radius_m:
        yield circle_m
        circle_m *= 2
    yield radius_m


def _cells_of_circle(
    levels: tuple[_Cells, ...], latitude: float, longitude: float, circle_m: float
) -> tuple[int, list[int]]:
    """The level for a circle and its cells there: those of the bounding box, or all that hold points."""
    angle = math.degrees(circle_m / EARTH_RADIUS_M) + 1e-9  # a hair wider than any rounding
    south, north = latitude - angle, latitude + angle
    if south <= -90 or north >= 90:
        half_width = 180.0  # a pole is in the circle, and with it every longitude
    else:
        half_width = (
            math.degrees(
                math.asin(min(1.0, math.sin(math.radians(angle)) / math.cos(math.radians(latitude))))
            )
            + 1e-9
        )
    for level, (height, width) in enumerate(zip(_HEIGHTS, _WIDTHS, strict=True)):
        first_row = max(0, int((south + 90.0) / 180.0 * height))
        last_row = min(height - 1, int((north + 90.0) / 180.0 * height))
        first_column = math.floor((longitude - half_width + 180.0) / 360.0 * width)
        last_column = math.floor((longitude + half_width + 180.0) / 360.0 * width)
        columns = min(width, last_column - first_column + 1)
        count = (last_row - first_row + 1) * columns
        if count <= FEW_CELLS or level == len(LEVELS) - 1:
            break
    if count > len(levels[level]):
        return level, list(levels[level])
    wrapped = [column % width for column in range(first_column, first_column + columns)]
    return level, [row * width + column for row in range(first_row, last_row + 1) for column in wrapped]


def _ranked(
    buckets: list[dict[str, _Point]],
    latitude: float,
    longitude: float,
    circle_m: float,
    k: int,
    seen_after_ms: int | None,
) -> list[Candidate]:
    """The k best of the points in the buckets that lie within the circle."""
    phi, lam = math.radians(latitude), math.radians(longitude)
    x, y, z = math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)
    limit = _chord_squared(circle_m)
    near: list[tuple[float, _Point]] = []
    for bucket in buckets:
        for point in bucket.values():
            dx, dy, dz = point.x - x, point.y - y, point.z - z
            chord = dx * dx + dy * dy + dz * dz
            if chord <= limit and (seen_after_ms is None or point.seen_at_ms > seen_after_ms):
                near.append((chord, point))
    if len(near) > k:
        kth = sorted(chord for chord, _ in near)[k - 1]
        # Two metres more: whoever shares the k-th's whole metre may be longer idle.
        enough = _chord_squared(2 * EARTH_RADIUS_M * math.asin(math.sqrt(kth) / 2) + 2)
        near = [pair for pair in near if pair[0] <= enough]
    ranked: list[tuple[int, int, str, int]] = []
    for _, point in near:
        distance_m = great_circle_m(latitude, longitude, point.latitude, point.longitude)
        if distance_m <= circle_m:
            ranked.append((int(distance_m), point.idle_since_ms, point.key, point.seen_at_ms))
    ranked.sort()
    return [Candidate(key, distance_m, seen, idle) for distance_m, idle, key, seen in ranked[:k]]


def _chord_squared(distance_m: float) -> float:
    """The square of the chord of a great-circle distance on the unit sphere, a hair too long."""
    chord = 2 * math.sin(distance_m / (2 * EARTH_RADIUS_M))
    return chord * chord * (1 + 1e-9) + 1e-18
