"""The points of one group in memory: rows sorted by cell, a young run of them sorted likewise, and a short tail.

A point that moves within its cell is written over in place; one that changes its cell leaves a dead row and goes to the
tail. A search reads the rows of some cells, which lie side by side in each run at every precision, and the whole
tail. A tail that has grown is sorted into the young run, and a young run that has grown into the old one: a merge
tree of two steps (P. O'Neil and others, "The log-structured merge-tree"). No I/O, no rules: those of the search are
in ``geo_index``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# One row is one cache line: all that a search and its answer need of a point.
X, Y, Z, SEEN, NUMBER, LATITUDE, LONGITUDE, IDLE = range(8)  # X to Z on the unit sphere; times in ms
ROW_WIDTH = 8
NOBODY = -1.0  # the number in a dead row; its place is the centre of the globe, which is near to nobody
LEAST_ROWS = 16  # of an array: many groups are small
TAIL_MOST = 256  # rows that every search reads; sorting them in takes some 0.1 ms
YOUNG_LEAST, YOUNG_MOST = 256, 4096  # rows of the young run; sorting a hundred thousand takes some ms
YOUNG_SHARE = 8  # one part in so many of all rows may be young, or be dead

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Positions = NDArray[np.intp]


class GeoRows:
    """Points of one group. A row number holds until ``settle``, which the owner of the numbers must follow."""

    __slots__ = ("_keys", "_rows", "dead", "old", "sorted", "used")

    def __init__(self) -> None:
        self._rows: Floats = np.empty((LEAST_ROWS, ROW_WIDTH))
        self._keys: Ints = np.empty(LEAST_ROWS, np.int32)
        self.old = 0  # the old run's rows come first
        self.sorted = 0  # where the young run ends
        self.used = 0  # where the tail ends
        self.dead = 0  # rows of nobody, in any of the three

    def __len__(self) -> int:
        return self.used - self.dead

    def count(self, bounds: Ints) -> Positions:
        """How many of the old rows lie before each of some cells; the dead ones count."""
        return self._keys[: self.old].searchsorted(bounds)

    def read(self, starts: Sequence[int], ends: Sequence[int]) -> Floats:
        """The rows from one cell up to another, for each pair of them, and the tail."""
        bounds = np.array([*starts, *ends], np.int32)
        pieces = [self._rows[self.sorted : self.used]]
        for first, last in ((0, self.old), (self.old, self.sorted)):
            if first == last:
                continue
            found = (self._keys[first:last].searchsorted(bounds) + first).tolist()
            pieces += [
                self._rows[start:end]
                for start, end in zip(found, found[len(starts) :], strict=False)
                if start != end
            ]
        return np.concatenate(pieces)

    def at(self, rows: Ints) -> Floats:
        """The points in some rows."""
        return self._rows[rows]

    def stays(self, rows: Ints, keys: Ints) -> NDArray[np.bool_]:
        """Whether points may be written over where they are, once they are in these cells."""
        in_place: NDArray[np.bool_] = (rows >= self.sorted) | (self._keys[rows] == keys)
        return in_place

    def write(self, rows: Ints, points: Floats, keys: Ints) -> None:
        """Write points over, in place."""
        self._rows[rows] = points
        self._keys[rows] = keys

    def append(self, points: Floats, keys: Ints) -> int:
        """Add points to the tail; returns the row of the first."""
        first, end = self.used, self.used + len(points)
        if end > len(self._keys):
            self._resize(end * 3 // 2)
        self._rows[first:end] = points
        self._keys[first:end] = keys
        self.used = end
        return first

    def kill(self, rows: Ints) -> None:
        """Take points out; their keys stay, so that what is sorted stays sorted."""
        self._rows[rows] = 0.0
        self._rows[rows, NUMBER] = NOBODY
        self.dead += len(rows)

    def settle(self) -> tuple[int, Positions] | None:
        """Sort what wants sorting, and drop its dead; None where nothing does.

        Returns the first row that has changed, and the numbers of the points from there on.
        """
        many = max(YOUNG_LEAST, min(YOUNG_MOST, self.used // YOUNG_SHARE))
        if self.used - self.old > many or self.dead > max(YOUNG_LEAST, self.used // YOUNG_SHARE):
            first = 0
        elif self.used - self.sorted > TAIL_MOST:
            first = self.old
        else:
            return None
        alive = np.flatnonzero(self._rows[first : self.used, NUMBER] != NOBODY) + first
        keys = self._keys[alive]
        order = np.argsort(keys, kind="stable")  # of what is nearly sorted, in nearly linear time
        rows, keys = self._rows[alive[order]], keys[order]
        self.dead -= self.used - first - len(rows)
        self.sorted = self.used = first + len(rows)
        if first == 0:
            self.old = self.used
            size = max(LEAST_ROWS, self.used + self.used // YOUNG_SHARE)
            self._rows, self._keys = np.empty((size, ROW_WIDTH)), np.empty(size, np.int32)
        self._rows[first : self.used] = rows
        self._keys[first : self.used] = keys
        numbers: Positions = rows[:, NUMBER].astype(np.intp)
        return first, numbers

    def _resize(self, size: int) -> None:
        rows, keys = self._rows, self._keys
        self._rows = np.empty((size, ROW_WIDTH))
        self._keys = np.empty(size, np.int32)
        self._rows[: self.used] = rows[: self.used]
        self._keys[: self.used] = keys[: self.used]
