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
its precision. A search (``geo_search``) guesses from the cells around it how wide a circle holds k points and reads the
cells that the circle's bounding box touches (``circles``). Where the guess proves too small, the circle widens. Points
are sieved by a scalar product, and the few that are left measured by great circle; nothing is approximated: the
answer is that of brute force.

It must never block, raise on a point of the globe, or grow with what was removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dispatcher.circles import FINEST
from dispatcher.geo_rows import (
    IDLE,
    LATITUDE,
    LONGITUDE,
    NUMBER,
    ROW_WIDTH,
    SEEN,
    Floats,
    GeoRows,
    Ints,
    X,
    Y,
    Z,
)
from dispatcher.geo_search import Candidate, Search, Searcher
from dispatcher.geohash import CellTable

MAX_RADIUS_M = 10_000_000.0  # a quarter of the globe; a dead row is farther from everywhere
ASK_AGAIN_FOR = 4  # times as many, where too few were accepted


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
        self._home: NDArray[np.int32] = np.empty(0, np.int32)  # a point's group; -1: nowhere
        self._row: NDArray[np.int32] = np.empty(0, np.int32)  # and his row there

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    @property
    def groups(self) -> int:
        """How many groups there is room for; each costs some KB, empty or not."""
        return len(self._groups)

    def __contains__(self, number: int) -> bool:
        return number < len(self._home) and bool(self._home[number] >= 0)

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
        homes = np.asarray(groups, np.int32)
        order = np.argsort(homes, kind="stable")
        homes = homes[order]
        who = np.asarray(numbers, np.int32)[order]
        points, keys = self._points(
            who,
            np.asarray(latitudes, np.float64)[order],
            np.asarray(longitudes, np.float64)[order],
            np.asarray(seen_at_ms, np.float64)[order],
            np.asarray(idle_since_ms, np.float64)[order],
        )
        if len(who):
            self._reach(int(who.max()) + 1, int(homes[-1]) + 1)
        before = self._home[who]
        self._take_out(who[(before >= 0) & (before != homes)])
        stayed, rows = before == homes, self._row[who]  # taking out may have sorted the others anew
        if not stayed.all():
            self._home[who] = homes
        for start, end in _stretches(homes):
            self._put_into(
                self._groups[homes[start]],
                who[start:end],
                np.where(stayed[start:end], rows[start:end], -1),
                points[start:end],
                keys[start:end],
            )

    def remove(self, number: int) -> bool:
        """Forget a point; False where it was not there."""
        if number not in self:
            return False
        self._take_out(np.array([number], np.int32))
        self._home[number] = -1
        return True

    def regroup(self, numbers: ArrayLike, groups: ArrayLike, *, idle_since_ms: ArrayLike) -> None:
        """Move points, each number once, to groups and leave them where they are; those that are nowhere stay so."""
        who = np.asarray(numbers, np.int32)
        placed = np.flatnonzero(who < len(self._home))
        placed = placed[self._home[who[placed]] >= 0]
        who = who[placed]
        homes, rows = self._home[who], self._row[who]
        points = np.empty((len(who), ROW_WIDTH))
        for home in np.unique(homes):
            points[homes == home] = self._groups[home].at(rows[homes == home])
        self.put_many(
            who,
            np.asarray(groups, np.int32)[placed],
            points[:, LATITUDE],
            points[:, LONGITUDE],
            seen_at_ms=points[:, SEEN],
            idle_since_ms=np.asarray(idle_since_ms)[placed],
        )

    def place(self, number: int) -> Place | None:
        """Where a point is, or None."""
        if number not in self:
            return None
        point = self._groups[self._home[number]].at(self._row[number])
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
            taken, refused = _sifted(search.candidates, accept, k)
            if len(taken) == k or len(search.candidates) < asked:
                return search._replace(candidates=taken, refused=refused)
            asked *= ASK_AGAIN_FOR

    def _points(
        self, who: Ints, latitudes: Floats, longitudes: Floats, seen_at_ms: Floats, idle_since_ms: Floats
    ) -> tuple[Floats, Ints]:
        """Rows, and the cells they are in."""
        phi, lam = np.radians(latitudes), np.radians(longitudes)
        flat = np.cos(phi)
        points = np.empty((len(who), ROW_WIDTH))
        points[:, X] = flat * np.cos(lam)
        points[:, Y] = flat * np.sin(lam)
        points[:, Z] = np.sin(phi)
        points[:, SEEN] = seen_at_ms
        points[:, NUMBER] = who
        points[:, LATITUDE] = latitudes
        points[:, LONGITUDE] = longitudes
        points[:, IDLE] = idle_since_ms
        return points, self._table.numbers(latitudes, longitudes, FINEST)

    def _reach(self, numbers: int, groups: int) -> None:
        """Make room for numbers and groups below these."""
        if numbers > len(self._home):
            more = np.full(numbers * 3 // 2 - len(self._home), -1, np.int32)
            self._home = np.concatenate([self._home, more])
            self._row = np.concatenate([self._row, more])
        while groups > len(self._groups):
            self._groups.append(GeoRows())

    def _put_into(self, at: GeoRows, who: Ints, rows: Ints, points: Floats, keys: Ints) -> None:
        """Put points into their group; ``rows``: where they are in it, or -1."""
        stay = rows >= 0
        here = np.flatnonzero(stay)
        stay[here] = at.stays(rows[here], keys[here])
        if stay.all():
            at.write(rows, points, keys)
            return
        kept, moved = np.flatnonzero(stay), np.flatnonzero(~stay)
        at.write(rows[kept], points[kept], keys[kept])
        left = rows[moved]
        at.kill(left[left >= 0])
        first = at.append(points[moved], keys[moved])
        self._row[who[moved]] = np.arange(first, at.used)
        self._settle(at)

    def _take_out(self, who: Ints) -> None:
        """Take points out of their groups."""
        homes, rows = self._home[who], self._row[who]
        for home in np.unique(homes):
            at = self._groups[home]
            at.kill(rows[homes == home])
            self._settle(at)

    def _settle(self, at: GeoRows) -> None:
        settled = at.settle()
        if settled is not None:
            first, numbers = settled
            self._row[numbers] = np.arange(first, first + len(numbers))


def _sifted(
    candidates: tuple[Candidate, ...], accept: Callable[[int], bool], k: int
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """The first k that are accepted, and those refused before the last of them."""
    taken: list[Candidate] = []
    refused: list[Candidate] = []
    for candidate in candidates:
        if len(taken) == k:
            break
        (taken if accept(candidate.number) else refused).append(candidate)
    return tuple(taken), tuple(refused)


def _stretches(ordered: Ints) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of equal numbers."""
    if not len(ordered):
        return
    cuts = (np.flatnonzero(np.diff(ordered)) + 1).tolist()
    yield from zip([0, *cuts], [*cuts, len(ordered)], strict=True)
