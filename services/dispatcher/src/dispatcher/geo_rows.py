"""The points of one group in memory: rows sorted by cell, a young run of them sorted likewise, and a short tail.

A point that moves within its cell is written over in place; one that changes its cell leaves a dead row and goes to the
tail. A search reads the rows of some cells, which lie side by side in each run at every size of cells, and the whole
tail. A tail that has grown is sorted into the young run, and a young run that has grown into the old one: a merge
tree of two steps (P. O'Neil and others, "The log-structured merge-tree"). No I/O, no rules: those of the search are
in ``geo_index``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dispatcher.memory_lines import WORDS, lines, write

# A row is a line of memory: all that a search and its answer need of a point.
X, Y, Z, SEEN, NUMBER, IDLE, LATITUDE, LONGITUDE = range(WORDS)  # X to Z on the unit sphere; times in ms
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
        self._rows: Floats = lines(LEAST_ROWS, np.float64)
        self._keys: Ints = np.empty(LEAST_ROWS, np.int32)
        self.old = 0  # the old run's rows come first
        self.sorted = 0  # where the young run ends
        self.used = 0  # where the tail ends
        self.dead = 0  # rows of nobody, in any of the three

    def __len__(self) -> int:
        return self.used - self.dead

    def count(self, cells: list[int], shift: int) -> int:
        """How many of the old rows lie in some cells, whose numbers want so many bits more; the dead ones count."""
        found: list[int] = self._keys[: self.old].searchsorted(_bounds(cells, shift)).tolist()
        return sum(found[len(cells) :]) - sum(found[: len(cells)])

    def read(self, cells: list[int], shift: int) -> Floats:
        """The rows in some cells, in the order of their numbers, which want so many bits more; and the tail."""
        bounds = _bounds(cells, shift)
        pieces = [self._rows[self.sorted : self.used]]
        for first, last in ((0, self.old), (self.old, self.sorted)):
            if first == last:
                continue
            found = self._keys[first:last].searchsorted(bounds).tolist()
            start = end = 0  # of a piece: it goes on through cells that lie side by side
            for cell_start, cell_end in zip(found, found[len(cells) :], strict=False):
                if cell_start != end:
                    if start != end:
                        pieces.append(self._rows[first + start : first + end])
                    start = cell_start
                end = cell_end
            if start != end:
                pieces.append(self._rows[first + start : first + end])
        return np.concatenate(pieces)

    def at(self, rows: Ints) -> Floats:
        """The points in some rows."""
        return self._rows.take(rows, 0)

    def write(self, rows: Ints, points: Floats) -> None:
        """Write points over, each in a row of its cell."""
        write(self._rows, rows, points)

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
        alive = (self._rows[first : self.used, NUMBER] != NOBODY).nonzero()[0] + first
        keys = self._keys.take(alive)
        order = keys.argsort(kind="stable")  # of what is nearly sorted, in nearly linear time
        rows, keys = self._rows.take(alive.take(order), 0), keys.take(order)
        self.dead -= self.used - first - len(rows)
        self.sorted = self.used = first + len(rows)
        if first == 0:
            self.old = self.used
            self._rows, self._keys = _room(max(LEAST_ROWS, self.used + self.used // YOUNG_SHARE))
        self._rows[first : self.used] = rows
        self._keys[first : self.used] = keys
        return first, rows[:, NUMBER].astype(np.intp)

    def _resize(self, size: int) -> None:
        rows, keys = self._rows, self._keys
        self._rows, self._keys = _room(size)
        self._rows[: self.used] = rows[: self.used]
        self._keys[: self.used] = keys[: self.used]


def _room(size: int) -> tuple[Floats, Ints]:
    return lines(size, np.float64), np.empty(size, np.int32)


def _bounds(cells: list[int], shift: int) -> Ints:
    """Where cells begin, and then where they end."""
    bounds: Ints = np.array(cells + [cell + 1 for cell in cells], np.int32) << shift
    return bounds
