"""Geohash cells: the globe cut into a grid of rows and columns, twice as many with each bit.

Pure arithmetic (G. Niemeyer 2008). A cell of b bits is a column and a row of a grid of 2**b cells; its number
interleaves their bits, longitude first, so the cells inside a coarser cell have numbers in a row: cell ``c`` of b bits
holds those from ``c << q - b`` to ``(c + 1) << q - b``, the end left out, of q bits. The text writes five bits a
character; it is for people, and the index works with numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALPHABET = "0123456789bcdefghjkmnpqrstuvwxyz"
CHARACTER_BITS = 5
MAX_BITS = 60  # 12 characters; finer than any phone's position
MAX_TABLE_BITS = 30  # up to here numbers fit into 32 bits and are looked up


def grid_size(bits: int) -> tuple[int, int]:
    """Rows (latitude) and columns (longitude) of the grid of so many bits.

    Raises:
        ValueError: the bits are not 0 to ``MAX_BITS``.
    """
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"a cell's number has 0 to {MAX_BITS} bits, not {bits}")
    return 1 << (bits // 2), 1 << ((bits + 1) // 2)


def cell_of(latitude: float, longitude: float, bits: int) -> tuple[int, int]:
    """The row (from the south pole) and column (from 180° west, eastwards) of a point given in degrees.

    Longitude 180 is longitude -180; the north pole belongs to the last row.
    """
    rows, columns = grid_size(bits)
    row = min(rows - 1, int((latitude + 90.0) / 180.0 * rows))
    column = int((longitude + 180.0) / 360.0 * columns) % columns
    return row, column


def number_of(row: int, column: int, bits: int) -> int:
    """The number of a cell: its bits are those of column and row in turns, the column's first."""
    first, second = (row, column) if bits % 2 == 0 else (column, row)
    return _spread(first) | _spread(second) << 1


def text_of(number: int, bits: int) -> str:
    """The geohash of a cell of whole characters, e.g. ``ttnfv`` for a part of Delhi."""
    return "".join(
        ALPHABET[number >> shift & 31] for shift in range(bits - CHARACTER_BITS, -1, -CHARACTER_BITS)
    )


def encode(latitude: float, longitude: float, characters: int) -> str:
    """The geohash of a point given in degrees."""
    bits = characters * CHARACTER_BITS
    return text_of(number_of(*cell_of(latitude, longitude, bits), bits), bits)


class CellTable:
    """Numbers of many cells at once, of up to ``MAX_TABLE_BITS``, from a table of spread bits."""

    def __init__(self) -> None:
        size = max(grid_size(MAX_TABLE_BITS))
        bits = np.arange(size, dtype=np.int32)
        for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
            bits = (bits | bits << shift) & mask
        self._spread = bits
        self._spread_list: list[int] = bits.tolist()

    def numbers(
        self, latitudes: NDArray[np.float64], longitudes: NDArray[np.float64], bits: int
    ) -> NDArray[np.int32]:
        """The cells of many points given in degrees; the same as ``number_of(*cell_of(…))`` of each."""
        height, width = grid_size(bits)
        rows = np.minimum(((latitudes + 90.0) / 180.0 * height).astype(np.int32), height - 1)
        columns = ((longitudes + 180.0) / 360.0 * width).astype(np.int32) & (width - 1)
        first, second = (rows, columns) if bits % 2 == 0 else (columns, rows)
        numbers: NDArray[np.int32] = self._spread[first] | self._spread[second] << 1
        return numbers

    def around(self, latitude: float, longitude: float, bits: int) -> list[int]:
        """The four cells whose common corner is nearest to a point, of an odd number of bits from 3 on."""
        height, width = 1 << bits // 2, 1 << (bits + 1) // 2
        column = int(
            (longitude + 180.0) / 360.0 * width + 0.5
        )  # of the two in the east; that of the others is before it
        row = max(1, min(height - 1, int((latitude + 90.0) / 180.0 * height + 0.5)))
        spread = self._spread_list
        west, east = spread[column - 1 & width - 1], spread[column & width - 1]
        south, north = spread[row - 1] << 1, spread[row] << 1
        return [south | west, south | east, north | west, north | east]

    def block(self, rows: range, columns: list[int], bits: int) -> list[int]:
        """The cells of some rows and columns of the grid."""
        spread = self._spread_list
        low, high = (0, 1) if bits % 2 == 0 else (1, 0)
        wide = [spread[column] << high for column in columns]
        return [tall | column for tall in [spread[row] << low for row in rows] for column in wide]


def _spread(bits: int) -> int:
    """The bits of a number, each followed by an empty one."""
    spread = 0
    for place in range(bits.bit_length()):
        spread |= (bits >> place & 1) << 2 * place
    return spread
