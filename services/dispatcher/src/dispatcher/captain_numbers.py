"""Captains as small numbers, by their fingerprint and by their id: what lets the index be columns. Pure: no I/O.

A number is given once and stays. Each captain has a line of memory: his fingerprint, and six words for what the owner
of the numbers knows of him. Fingerprints are found by open addressing with linear probing (D. Knuth, The Art of
Computer Programming 6.4, algorithm L), many at a time; they are cut from SHA-256, so their bits need no more mixing.
The table holds numbers alone, so that it stays in the processor's caches.
Ids lie in one string of bytes: an object of its own for each of a million captains would cost memory, and the time of
every garbage collection.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dispatcher.memory_lines import WORDS, lines
from weelo_common.events.positions import captain_fingerprint

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Fingerprints = Longs  # two halves a captain

UNKNOWN = -1
LOW, HIGH = range(2)  # the fingerprint's halves in a line; the owner's words follow
OWN_WORDS = WORDS - 2
SPACE = 3  # times as many places as captains, or more: chains stay short
LEAST_PLACES = 1024
LEAST_LINES = 1024
_HALVES = struct.Struct("<qq")


def halves(fingerprints: bytes) -> Fingerprints:
    """The fingerprints of some captains, as the table has them."""
    return np.frombuffer(fingerprints, "<i8").reshape(-1, 2)


class CaptainNumbers:
    """Captains 0, 1, 2 … in the order in which they became known."""

    def __init__(self, new: Sequence[int] = (0,) * OWN_WORDS) -> None:
        """``new``: the owner's words of a captain who has just got his number."""
        self._new = np.array(new, np.int64)
        self._count = 0
        self._places: Ints = np.full(LEAST_PLACES, UNKNOWN, np.int32)
        self._ids = bytearray()
        self._id_ends: Longs = np.zeros(LEAST_LINES, np.int64)  # of number n at n + 1
        self.lines: Longs = lines(LEAST_LINES, np.int64)
        """A line for each captain, by number, and room for more; replaced as captains are added."""

    def __len__(self) -> int:
        return self._count

    def captain_ids(self, numbers: Sequence[int]) -> list[str]:
        """The ids of some captains."""
        at = np.array(numbers, np.intp)
        starts, ends = self._id_ends.take(at).tolist(), self._id_ends.take(at + 1).tolist()
        ids = self._ids
        return [ids[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def number(self, captain_id: str) -> int:
        """The number of a captain, or ``UNKNOWN``."""
        low, high = _HALVES.unpack(captain_fingerprint(captain_id))
        last = len(self._places) - 1
        line = self.lines.item
        place = low & last
        while (number := self._places.item(place)) != UNKNOWN:
            if line(number, LOW) == low and line(number, HIGH) == high:
                break
            place = place + 1 & last
        return number

    def find(self, fingerprints: Fingerprints) -> Ints:
        """The numbers of many captains; ``UNKNOWN`` for those who are not known."""
        last = len(self._places) - 1
        places = fingerprints[:, LOW] & last
        numbers = self._places.take(places)
        others = self._are_others(numbers, fingerprints).nonzero()[0]
        while len(others):
            places[others] = places[others] + 1 & last
            numbers[others] = found = self._places.take(places[others])
            others = others[self._are_others(found, fingerprints[others])]
        return numbers

    def add(self, captain_ids: Sequence[str], fingerprints: Fingerprints) -> Ints:
        """Number captains who are not known yet, each named once."""
        encoded = [captain_id.encode() for captain_id in captain_ids]
        first, self._count = self._count, self._count + len(encoded)
        self._make_room()
        self.lines[first : self._count, : LOW + 2] = fingerprints
        self.lines[first : self._count, LOW + 2 :] = self._new
        self._ids += b"".join(encoded)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._id_ends[first + 1 : self._count + 1] = self._id_ends[first] + np.cumsum(lengths)
        places = len(self._places)
        while self._count * SPACE > places:
            places *= 2
        if places > len(self._places):
            self._places = np.full(places, UNKNOWN, np.int32)
            self._enter(0)
        else:
            self._enter(first)
        numbers: Ints = np.arange(first, self._count, dtype=np.int32)
        return numbers

    def add_one(self, captain_id: str) -> int:
        """Number a captain who is not known yet."""
        return int(self.add([captain_id], halves(captain_fingerprint(captain_id)))[0])

    def _make_room(self) -> None:
        if self._count >= len(self._id_ends):
            more = self._count * 3 // 2
            ends, known = self._id_ends, self.lines
            self._id_ends, self.lines = np.zeros(more + 1, np.int64), lines(more, np.int64)
            self._id_ends[: len(ends)] = ends
            self.lines[: len(known)] = known

    def _enter(self, first: int) -> None:
        """Put the numbers from one on into the table."""
        last = len(self._places) - 1
        numbers: Ints = np.arange(first, self._count, dtype=np.int32)
        places = self.lines[first : self._count, LOW] & last
        while len(numbers):
            free = self._places.take(places) == UNKNOWN
            self._places[places[free]] = numbers[free]  # of several that want one place, one gets it
            lost = self._places.take(places) != numbers
            numbers, places = numbers[lost], places[lost] + 1 & last

    def _are_others(self, numbers: Ints, fingerprints: Fingerprints) -> NDArray[np.bool_]:
        """Where a number is somebody else's than a fingerprint; nobody's is not."""
        there = self.lines.take(numbers, 0)  # of nobody, number -1, it is the last line
        others: NDArray[np.bool_] = there[:, LOW] != fingerprints[:, LOW]
        others |= there[:, HIGH] != fingerprints[:, HIGH]
        others &= numbers != UNKNOWN
        return others
