"""Geohash cells: the globe cut into a grid of rows and columns, finer with each character.

Pure arithmetic (G. Niemeyer 2008). A cell of precision p is a row and a column of a grid of 2**(5 p) cells. Its
number interleaves their bits, longitude first, so the cells inside a coarser cell have numbers in a row: cell ``c`` of
precision p holds those from ``c << 5 * (q - p)`` to ``(c + 1) << 5 * (q - p)``, the end left out, of precision q. The
text writes the number in base 32; the index works with numbers, the text is for people.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALPHABET = "0123456789bcdefghjkmnpqrstuvwxyz"
MAX_PRECISION = 12  # 60 bits; finer than any phone's position
MAX_TABLE_PRECISION = 6  # up to here numbers fit into 32 bits and are looked up


def grid_size(precision: int) -> tuple[int, int]:
    """Rows (latitude) and columns (longitude) of the grid of a precision.

    Raises:
        ValueError: the precision is not 1 to ``MAX_PRECISION``.
    """
    if not 1 <= precision <= MAX_PRECISION:
        raise ValueError(f"a geohash has 1 to {MAX_PRECISION} characters, not {precision}")
    bits = 5 * precision
    return 1 << (bits // 2), 1 << ((bits + 1) // 2)


def cell_of(latitude: float, longitude: float, precision: int) -> tuple[int, int]:
    """The row (from the south pole) and column (from 180° west, eastwards) of a point given in degrees.

    Longitude 180 is longitude -180; the north pole belongs to the last row.
    """
    rows, columns = grid_size(precision)
    row = min(rows - 1, int((latitude + 90.0) / 180.0 * rows))
    column = int((longitude + 180.0) / 360.0 * columns) % columns
    return row, column


def number_of(row: int, column: int, precision: int) -> int:
    """The number of a cell: its bits are those of column and row in turns, the last one of a whole pair the row's."""
    first, second = (row, column) if precision % 2 == 0 else (column, row)
    return _spread(first) | _spread(second) << 1


def text_of(number: int, precision: int) -> str:
    """The geohash of a cell, e.g. ``ttnfv`` for a part of Delhi."""
    return "".join(ALPHABET[number >> shift & 31] for shift in range(5 * (precision - 1), -1, -5))


def encode(latitude: float, longitude: float, precision: int) -> str:
    """The geohash of a point given in degrees."""
    return text_of(number_of(*cell_of(latitude, longitude, precision), precision), precision)


class CellTable:
    """Numbers of many cells at once, up to ``MAX_TABLE_PRECISION``, from a table of spread bits."""

    def __init__(self) -> None:
        size = max(grid_size(MAX_TABLE_PRECISION))
        bits = np.arange(size, dtype=np.int32)
        for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
            bits = (bits | bits << shift) & mask
        self._spread = bits
        self._spread_list: list[int] = bits.tolist()

    def numbers(
        self, latitudes: NDArray[np.float64], longitudes: NDArray[np.float64], precision: int
    ) -> NDArray[np.int32]:
        """The cells of many points given in degrees; the same as ``number_of(*cell_of(…))`` of each."""
        height, width = grid_size(precision)
        rows = np.minimum(((latitudes + 90.0) / 180.0 * height).astype(np.int32), height - 1)
        columns = ((longitudes + 180.0) / 360.0 * width).astype(np.int32) & (width - 1)
        first, second = (rows, columns) if precision % 2 == 0 else (columns, rows)
        numbers: NDArray[np.int32] = self._spread[first] | self._spread[second] << 1
        return numbers

    def block(self, rows: range, columns: list[int], precision: int) -> list[int]:
        """The cells of some rows and columns of the grid."""
        spread = self._spread_list
        low, high = (0, 1) if precision % 2 == 0 else (1, 0)
        wide = [spread[column] << high for column in columns]
        return [tall | column for tall in [spread[row] << low for row in rows] for column in wide]


def _spread(bits: int) -> int:
    """The bits of a number, each followed by an empty one."""
    spread = 0
    for place in range(bits.bit_length()):
        spread |= (bits >> place & 1) << 2 * place
    return spread
