"""Geohash cells: the globe cut into a grid of rows and columns, finer with each character.

Pure arithmetic (G. Niemeyer 2008). A cell of precision p is a row and a column of a grid of 2**(2.5 p) cells; its
text interleaves their bits. The index works with rows and columns; the text is for people.
"""

from __future__ import annotations

ALPHABET = "0123456789bcdefghjkmnpqrstuvwxyz"
MAX_PRECISION = 12  # 60 bits; finer than any phone's position


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


def text_of(row: int, column: int, precision: int) -> str:
    """The geohash of a cell, e.g. ``ttnfv`` for a part of Delhi."""
    row_bits = 5 * precision // 2
    column_bits = 5 * precision - row_bits
    characters: list[str] = []
    value = 0
    for place in range(5 * precision):  # longitude and latitude take turns, longitude first
        if place % 2 == 0:
            column_bits -= 1
            bit = column >> column_bits & 1
        else:
            row_bits -= 1
            bit = row >> row_bits & 1
        value = value << 1 | bit
        if place % 5 == 4:
            characters.append(ALPHABET[value])
            value = 0
    return "".join(characters)


def encode(latitude: float, longitude: float, precision: int) -> str:
    """The geohash of a point given in degrees."""
    return text_of(*cell_of(latitude, longitude, precision), precision)
