"""Circles on the sphere, and the blocks of geohash cells that hold them. Pure arithmetic.

The box around a circle is exact (J. Matuschek, "Finding Points Within a Distance of a Latitude/Longitude"), so the
borders of cells, the poles and the 180° meridian need no care of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dispatcher.geohash import CHARACTER_BITS, MAX_TABLE_BITS, grid_size
from weelo_common.geo import EARTH_RADIUS_M

FINEST = MAX_TABLE_BITS  # cells of about 1.2 × 0.6 km at the equator, a hundred points where it is crowded
SIZES = range(FINEST, -1, -1)
WHOLE_CHARACTERS = range(FINEST, -1, -CHARACTER_BITS)  # the sizes that people can read
FEW_CELLS = 9  # a circle whose box touches more takes larger ones
HAIR_DEGREES = 1e-9  # more than any rounding, and a tenth of a millimetre
STEEP = 0.999_999  # above this sine its arc is not told to a hair any more; the circle all but reaches a pole
WIDEST_ASIDE = 60.0  # degrees; for the same reason

_GRID = [grid_size(bits) for bits in range(FINEST + 1)]
_GLOBE_DEGREES = 180.0 * 360.0  # rows by columns


class CellBlock(NamedTuple):
    """Cells side by side. Rows count from the south pole; columns eastwards from 180° west, and on beyond 180° east."""

    bits: int
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
        last = _GRID[self.bits][1] - 1
        return [column & last for column in range(self.first_column, self.first_column + self.across)]


def cell_m2(bits: int, latitude: float) -> float:
    """How large a cell is, roughly."""
    globe_m2 = (
        2 * (math.pi * EARTH_RADIUS_M) ** 2
    )  # of the grid laid flat: from pole to pole, and twice as much around
    return globe_m2 / (1 << bits) * math.cos(math.radians(latitude))


def block_around(
    latitude: float, longitude: float, circle_m: float, sizes: Sequence[int] = SIZES
) -> CellBlock:
    """The cells that a circle's bounding box touches, of the smallest of some sizes in which they are few."""
    angle = math.degrees(circle_m / EARTH_RADIUS_M) + HAIR_DEGREES
    south, north = latitude + 90.0 - angle, latitude + 90.0 + angle
    sine = math.sin(math.radians(angle)) / math.cos(math.radians(latitude))
    # With a pole in the circle, every longitude is.
    half_width = math.degrees(math.asin(sine)) + HAIR_DEGREES if sine < STEEP else 180.0
    west, east = longitude + 180.0 - half_width, longitude + 180.0 + half_width
    # Of smaller cells the box is larger than a few.
    most = math.log2(FEW_CELLS * _GLOBE_DEGREES / (4.0 * angle * half_width))
    for bits in sizes:
        if bits > most:
            continue
        height, width = _GRID[bits]
        first_row = max(0, int(south / 180.0 * height))
        last_row = min(height - 1, int(north / 180.0 * height))
        first_column = math.floor(west / 360.0 * width)
        across = min(width, math.floor(east / 360.0 * width) - first_column + 1)
        if (last_row - first_row + 1) * across <= FEW_CELLS:
            break
    return CellBlock(bits, first_row, last_row, first_column, across)


def circle_inside_m(block: CellBlock, latitude: float, longitude: float) -> float:
    """The widest circle whose box a block holds, without a pole in it: ``block_around`` the other way round."""
    height, width = _GRID[block.bits]
    to_south = latitude + 90.0 - block.first_row * 180.0 / height
    to_north = (block.last_row + 1) * 180.0 / height - 90.0 - latitude
    aside = WIDEST_ASIDE
    if block.across < width:
        west = block.first_column * 360.0 / width - 180.0
        aside = min(aside, longitude - west, west + block.across * 360.0 / width - longitude)
    sine = math.sin(math.radians(aside - HAIR_DEGREES)) * math.cos(math.radians(latitude))
    angle = min(to_south, to_north, math.degrees(math.asin(sine))) - 2 * HAIR_DEGREES
    return max(0.0, math.radians(angle) * EARTH_RADIUS_M)
