"""Captains as small numbers, by their fingerprint and by their id: what lets the index be columns. Pure: no I/O.

A number is given once and stays. Fingerprints are found by open addressing with linear probing (D. Knuth, The Art of
Computer Programming 6.4, algorithm L), many at a time; they are cut from SHA-256, so their bits need no more mixing.
A place holds the whole fingerprint, so that most captains are found by one look at memory.
Ids lie in one string of bytes: an object of its own for each of a million captains would cost memory, and the time of
every garbage collection.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weelo_common.events.positions import captain_fingerprint

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Fingerprints = Longs  # two halves a captain

UNKNOWN = -1
LOW, HIGH, NUMBER = range(3)  # of a place in the table: the fingerprint's halves, and whose it is
FILLED, OF = 2, 3  # at most so many of so many places are taken, or chains grow long
LEAST_PLACES = 1024
_HALVES = struct.Struct("<qq")


def halves(fingerprints: bytes) -> Fingerprints:
    """The fingerprints of some captains, as the table has them."""
    return np.frombuffer(fingerprints, "<i8").reshape(-1, 2)


class CaptainNumbers:
    """Captains 0, 1, 2 … in the order in which they became known."""

    def __init__(self) -> None:
        self._count = 0
        self._places: Longs = np.full((LEAST_PLACES, 3), UNKNOWN, np.int64)
        self._ids = bytearray()
        self._id_ends: Longs = np.zeros(LEAST_PLACES, np.int64)  # of number n at n + 1

    def __len__(self) -> int:
        return self._count

    def captain_ids(self, numbers: Sequence[int]) -> list[str]:
        """The ids of some captains."""
        at = np.array(numbers, np.intp)
        starts, ends = self._id_ends[at].tolist(), self._id_ends[at + 1].tolist()
        return [self._ids[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def number(self, captain_id: str) -> int:
        """The number of a captain, or ``UNKNOWN``."""
        low, high = _HALVES.unpack(captain_fingerprint(captain_id))
        last = len(self._places) - 1
        item = self._places.item
        place = low & last
        while (number := item(place, NUMBER)) != UNKNOWN:
            if item(place, LOW) == low and item(place, HIGH) == high:
                break
            place = place + 1 & last
        return number

    def find(self, fingerprints: Fingerprints) -> Ints:
        """The numbers of many captains; ``UNKNOWN`` for those who are not known."""
        last = len(self._places) - 1
        places = fingerprints[:, LOW] & last
        there = self._places[places]
        numbers: Ints = there[:, NUMBER].astype(np.int32)
        open_ones = np.flatnonzero(_differs(there, fingerprints))
        while len(open_ones):
            places[open_ones] = places[open_ones] + 1 & last
            there = self._places[places[open_ones]]
            numbers[open_ones] = there[:, NUMBER]
            open_ones = open_ones[_differs(there, fingerprints[open_ones])]
        return numbers

    def add(self, captain_ids: Sequence[str], fingerprints: Fingerprints) -> Ints:
        """Number captains who are not known yet, each named once."""
        encoded = [captain_id.encode() for captain_id in captain_ids]
        first, self._count = self._count, self._count + len(encoded)
        if self._count >= len(self._id_ends):
            more = np.zeros(self._count * 3 // 2 - len(self._id_ends) + 1, np.int64)
            self._id_ends = np.concatenate([self._id_ends, more])
        self._ids += b"".join(encoded)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._id_ends[first + 1 : self._count + 1] = self._id_ends[first] + np.cumsum(lengths)
        numbers: Ints = np.arange(first, self._count, dtype=np.int32)
        places = len(self._places)
        while self._count * OF > places * FILLED:
            places *= 2
        if places > len(self._places):
            known = self._places[self._places[:, NUMBER] != UNKNOWN]
            self._places = np.full((places, 3), UNKNOWN, np.int64)
            self._enter(known)
        self._enter(np.column_stack([fingerprints, numbers]))
        return numbers

    def add_one(self, captain_id: str) -> int:
        """Number a captain who is not known yet."""
        return int(self.add([captain_id], halves(captain_fingerprint(captain_id)))[0])

    def _enter(self, entries: Longs) -> None:
        last = len(self._places) - 1
        places = entries[:, LOW] & last
        while len(entries):
            free = self._places[places, NUMBER] == UNKNOWN
            self._places[places[free]] = entries[free]  # of several that want one place, one gets it
            lost = self._places[places, NUMBER] != entries[:, NUMBER]
            entries, places = entries[lost], places[lost] + 1 & last


def _differs(there: Longs, fingerprints: Fingerprints) -> NDArray[np.bool_]:
    """Where a place holds somebody else."""
    same = (there[:, LOW] == fingerprints[:, LOW]) & (there[:, HIGH] == fingerprints[:, HIGH])
    differs: NDArray[np.bool_] = ~(same | (there[:, NUMBER] == UNKNOWN))
    return differs
