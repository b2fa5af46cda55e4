"""Circles on the sphere, and the blocks of geohash cells that hold them. Pure arithmetic.

The box around a circle is exact (J. Matuschek, "Finding Points Within a Distance of a Latitude/Longitude"), so the
borders of cells, the poles and the 180° meridian need no care of their own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dispatcher.geohash import grid_size
from weelo_common.geo import EARTH_RADIUS_M

FINEST = 6  # characters: cells of about 1.2 × 0.6 km at the equator, a hundred points where it is crowded
PRECISIONS = tuple(range(FINEST, 0, -1))
FEW_CELLS = (
    16  # a circle whose box touches more takes the next coarser precision; one of 32 cells always does
)
HAIR_DEGREES = 1e-9  # more than any rounding, and a tenth of a millimetre
STEEP = 0.999_999  # above this sine its arc is not told to a hair any more; the circle all but reaches a pole
WIDEST_ASIDE = 60.0  # degrees; for the same reason

_GRID = {precision: grid_size(precision) for precision in PRECISIONS}
_CELL_M2 = {
    precision: (math.pi * EARTH_RADIUS_M / rows) * (2 * math.pi * EARTH_RADIUS_M / columns)
    for precision, (rows, columns) in _GRID.items()
}


class CellBlock(NamedTuple):
    """Cells side by side. Rows count from the south pole; columns eastwards from 180° west, and on beyond 180° east."""

    precision: int
    first_row: int
    last_row: int
    first_column: int
    across: int

    @property
    def rows(self) -> range:
        """The rows of the grid."""
        return range(self.first_row, self.last_row + 1)

    @property
    def columns(self) -> list[int]:
        """The columns of the grid."""
        _, width = _GRID[self.precision]
        return [column % width for column in range(self.first_column, self.first_column + self.across)]


def cell_m2(precision: int, latitude: float) -> float:
    """How large a cell is, roughly."""
    return _CELL_M2[precision] * math.cos(math.radians(latitude))


def block_around(latitude: float, longitude: float, circle_m: float) -> CellBlock:
    """The cells that a circle's bounding box touches, at the finest precision at which they are few."""
    angle = math.degrees(circle_m / EARTH_RADIUS_M) + HAIR_DEGREES
    south, north = latitude - angle, latitude + angle
    sine = math.sin(math.radians(angle)) / math.cos(math.radians(latitude))
    # With a pole in the circle, every longitude is.
    half_width = math.degrees(math.asin(sine)) + HAIR_DEGREES if sine < STEEP else 180.0
    for precision in PRECISIONS:
        height, width = _GRID[precision]
        first_row = max(0, int((south + 90.0) / 180.0 * height))
        last_row = min(height - 1, int((north + 90.0) / 180.0 * height))
        first_column = math.floor((longitude - half_width + 180.0) / 360.0 * width)
        last_column = math.floor((longitude + half_width + 180.0) / 360.0 * width)
        across = min(width, last_column - first_column + 1)
        if (last_row - first_row + 1) * across <= FEW_CELLS:
            break
    return CellBlock(precision, first_row, last_row, first_column, across)


def circle_inside_m(block: CellBlock, latitude: float, longitude: float) -> float:
    """The widest circle whose box a block holds, without a pole in it: ``block_around`` the other way round."""
    height, width = _GRID[block.precision]
    to_south = latitude + 90.0 - block.first_row * 180.0 / height
    to_north = (block.last_row + 1) * 180.0 / height - 90.0 - latitude
    aside = WIDEST_ASIDE
    if block.across < width:
        west = block.first_column * 360.0 / width - 180.0
        aside = min(aside, longitude - west, west + block.across * 360.0 / width - longitude)
    sine = math.sin(math.radians(aside - HAIR_DEGREES)) * math.cos(math.radians(latitude))
    angle = min(to_south, to_north, math.degrees(math.asin(sine))) - 2 * HAIR_DEGREES
    return max(0.0, math.radians(angle) * EARTH_RADIUS_M)
