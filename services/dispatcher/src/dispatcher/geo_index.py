"""The nearest points of a group, from memory: sorted geohash cells in columns. A library: no I/O, no clock.

>>> index = GeoIndex()
>>> for number, longitude in ((1, 77.21), (2, 77.22), (3, 77.40)):
...     index.put(number, 0, 28.61, longitude, seen_at_ms=0)
>>> found = index.nearest(0, 28.6, 77.2, k=20, radius_m=5_000)
>>> [(one.number, one.distance_m) for one in found.candidates]
[(1, 1479), (2, 2246)]
>>> found.cells(most=2)
['ttnf7', 'ttnfk']

A point is a whole number from 0 on, and so is its group: small ones, because columns are indexed by them. Each group
keeps its points sorted by the cell they are in (``geo_rows``), so that the points of a cell lie side by side, whatever
its size. A search (``geo_search``) guesses from the cells around it how wide a circle holds k points and reads the
cells that the circle's bounding box touches (``circles``). Where the guess proves too small, the circle widens. Points
are sieved by a scalar product, and the few that are left measured by great circle; nothing is approximated: the
answer is that of brute force.

It must never block, raise on a point of the globe, or grow with what was removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dispatcher.circles import FINEST
from dispatcher.geo_rows import (
    IDLE,
    LATITUDE,
    LONGITUDE,
    NUMBER,
    SEEN,
    Floats,
    GeoRows,
    Ints,
    X,
    Y,
    Z,
)
from dispatcher.geo_search import Search, Searcher
from dispatcher.geohash import CellTable
from dispatcher.memory_lines import lines

MAX_RADIUS_M = 10_000_000.0  # a quarter of the globe; a dead row is farther from everywhere
ASK_AGAIN_FOR = 4  # times as many, where too few were accepted
HOME, ROW, CELL = range(3)  # of where a point is: its group, its row there, and the cell this is sorted by
AT_WORDS = 4  # one more than needed: 16 bytes never lie across two lines of memory, and are gathered faster
NOWHERE = -1  # the group of a point that is not there


class Place(NamedTuple):
    """Where a point is: degrees, and ms since 1970 when it was seen there."""

    latitude: float
    longitude: float
    seen_at_ms: int


class GeoIndex:
    """Points by number, each in one group. All times are ms since 1970, given by the caller."""

    def __init__(self) -> None:
        self._table = CellTable()
        self._searcher = Searcher(self._table)
        self._groups: list[GeoRows] = []
        self._at: Ints = np.empty((0, AT_WORDS), np.int32)  # where each point is, by number

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    @property
    def groups(self) -> int:
        """How many groups there is room for; each costs some KB, empty or not."""
        return len(self._groups)

    def __contains__(self, number: int) -> bool:
        return number < len(self._at) and bool(self._at[number, HOME] != NOWHERE)

    def put(
        self,
        number: int,
        group: int,
        latitude: float,
        longitude: float,
        *,
        seen_at_ms: int,
        idle_since_ms: int = 0,
    ) -> None:
        """Add a point, or move it to a place or a group. Degrees of WGS 84."""
        self.put_many(
            [number], [group], [latitude], [longitude], seen_at_ms=[seen_at_ms], idle_since_ms=[idle_since_ms]
        )

    def put_many(
        self,
        numbers: ArrayLike,
        groups: ArrayLike,
        latitudes: ArrayLike,
        longitudes: ArrayLike,
        *,
        seen_at_ms: ArrayLike,
        idle_since_ms: ArrayLike,
    ) -> None:
        """Add or move points, each number once; columns of equal length, as ``put`` takes them."""
        who, homes = np.asarray(numbers, np.int32), np.asarray(groups, np.int32)
        if not len(who):
            return
        self._reach(int(who.max()) + 1, int(homes.max()) + 1)
        latitudes, longitudes = np.asarray(latitudes, np.float64), np.asarray(longitudes, np.float64)
        cells = self._table.numbers(latitudes, longitudes, FINEST)
        before = self._at.take(who, 0)
        stays = (before[:, HOME] == homes) & (before[:, CELL] == cells)
        leave = ((before[:, HOME] >= 0) & ~stays).nonzero()[0]
        touched = self._kill(before[leave])
        # By group, and in each those first who stay in their cells: they are written over where they are.
        ranks = homes * 2
        ranks += ~stays
        order = ranks.argsort()
        who, homes, cells, rows = who[order], homes[order], cells[order], before[:, ROW][order]
        points = _points(
            who,
            latitudes[order],
            longitudes[order],
            np.asarray(seen_at_ms, np.float64)[order],
            np.asarray(idle_since_ms, np.float64)[order],
        )
        for start, end, rank in _stretches(ranks[order]):
            at = self._groups[rank >> 1]
            if rank & 1 == 0:
                at.write(rows[start:end], points[start:end])
                continue
            first = at.append(points[start:end], cells[start:end])
            there = np.empty((end - start, AT_WORDS), np.int32)
            there[:, HOME], there[:, ROW], there[:, CELL] = (
                rank >> 1,
                np.arange(first, at.used),
                cells[start:end],
            )
            self._at[who[start:end]] = there
            touched.add(rank >> 1)
        self._settle(touched)

    def remove(self, number: int) -> bool:
        """Forget a point; False where it was not there."""
        if number not in self:
            return False
        where = np.array([number])
        touched = self._kill(self._at[where])
        self._at[where, HOME] = NOWHERE
        self._settle(touched)
        return True

    def regroup(self, numbers: ArrayLike, groups: ArrayLike, *, idle_since_ms: ArrayLike) -> None:
        """Move points, each number once, to groups and leave them where they are; those that are nowhere stay so."""
        who = np.asarray(numbers, np.int32)
        placed = (who < len(self._at)).nonzero()[0]
        placed = placed[self._at[who[placed], HOME] != NOWHERE]
        who = who[placed]
        there = self._at.take(who, 0)
        order, homes = _in_order(there[:, HOME])
        points = lines(len(who), np.float64)
        for start, end, home in _stretches(homes):
            points[order[start:end]] = self._groups[home].at(there[order[start:end], ROW])
        self.put_many(
            who,
            np.asarray(groups)[placed],
            points[:, LATITUDE],
            points[:, LONGITUDE],
            seen_at_ms=points[:, SEEN],
            idle_since_ms=np.asarray(idle_since_ms)[placed],
        )

    def place(self, number: int) -> Place | None:
        """Where a point is, or None."""
        if number not in self:
            return None
        (point,) = self._groups[self._at[number, HOME]].at(self._at[[number], ROW])
        return Place(float(point[LATITUDE]), float(point[LONGITUDE]), int(point[SEEN]))

    def nearest(
        self,
        group: int,
        latitude: float,
        longitude: float,
        *,
        k: int,
        radius_m: float,
        seen_after_ms: int | None = None,
        accept: Callable[[int], bool] | None = None,
    ) -> Search:
        """The k nearest points of a group within a radius, by whole metres, then longest idle, then number.

        Points not seen after ``seen_after_ms``, and those that ``accept`` refuses, are passed over. ``accept`` is asked
        in the order of distance, of little more than it takes to find k.

        Raises:
            ValueError: k is negative, or the radius is not 0 to ``MAX_RADIUS_M``.
        """
        if k < 0 or not 0 <= radius_m <= MAX_RADIUS_M:
            raise ValueError(f"k must be 0 or more and radius_m 0 to {MAX_RADIUS_M:.0f}")
        if k == 0 or group >= len(self._groups) or not len(self._groups[group]):
            return Search()
        asked = k
        while True:
            search = self._searcher.nearest(
                self._groups[group],
                latitude,
                longitude,
                k=asked,
                radius_m=radius_m,
                seen_after_ms=seen_after_ms,
            )
            if accept is None:
                return search
            sifted = _sifted(search, accept, k)
            if len(sifted.numbers) == k or len(search.numbers) < asked:
                return sifted
            asked *= ASK_AGAIN_FOR

    def _reach(self, numbers: int, groups: int) -> None:
        """Make room for numbers and groups below these."""
        if numbers > len(self._at):
            more = np.full((numbers * 3 // 2 - len(self._at), AT_WORDS), NOWHERE, np.int32)
            self._at = np.concatenate([self._at, more])
        while groups > len(self._groups):
            self._groups.append(GeoRows())

    def _kill(self, there: Ints) -> set[int]:
        """Take points out of the groups and rows they are in; returns these groups, which want to be settled."""
        order, homes = _in_order(there[:, HOME])
        rows = there[:, ROW][order]
        touched = set()
        for start, end, home in _stretches(homes):
            self._groups[home].kill(rows[start:end])
            touched.add(home)
        return touched

    def _settle(self, homes: Iterable[int]) -> None:
        for home in homes:
            settled = self._groups[home].settle()
            if settled is not None:
                first, numbers = settled
                self._at[numbers, ROW] = np.arange(first, first + len(numbers))


def _points(
    who: Ints, latitudes: Floats, longitudes: Floats, seen_at_ms: Floats, idle_since_ms: Floats
) -> Floats:
    """Rows of points, by degrees."""
    phi, lam = np.radians(latitudes), np.radians(longitudes)
    flat = np.cos(phi)
    points = lines(len(who), np.float64)
    points[:, X] = flat * np.cos(lam)
    points[:, Y] = flat * np.sin(lam)
    points[:, Z] = np.sin(phi)
    points[:, SEEN] = seen_at_ms
    points[:, NUMBER] = who
    points[:, IDLE] = idle_since_ms
    points[:, LATITUDE] = latitudes
    points[:, LONGITUDE] = longitudes
    return points


def _sifted(search: Search, accept: Callable[[int], bool], k: int) -> Search:
    """The first k that are accepted, with those refused before the last of them."""
    taken: list[int] = []
    refused: list[int] = []
    for place, number in enumerate(search.numbers):
        if len(taken) == k:
            break
        (taken if accept(number) else refused).append(place)
    candidates = search.candidates
    numbers, distances_m, seen_at_ms, idle_since_ms = (
        [column[place] for place in taken] for column in search[:4]
    )
    return search._replace(
        numbers=numbers,
        distances_m=distances_m,
        seen_at_ms=seen_at_ms,
        idle_since_ms=idle_since_ms,
        refused=tuple(candidates[place] for place in refused),
    )


def _in_order(numbers: Ints) -> tuple[NDArray[np.intp], Ints]:
    """Where numbers stand in ascending order, and they in it."""
    order = numbers.argsort()
    return order, numbers[order]


def _stretches(ordered: Ints) -> Iterator[tuple[int, int, int]]:
    """Start and end of each stretch of equal numbers, and the number."""
    if not len(ordered):
        return
    starts = [0, *((ordered[1:] != ordered[:-1]).nonzero()[0] + 1).tolist()]
    yield from zip(starts, [*starts[1:], len(ordered)], ordered[starts].tolist(), strict=True)
