"""Kinds of vehicle as small numbers, for the index's columns. Pure: no I/O.

>>> kinds = VehicleKinds()
>>> kinds.enter("TRUCK", "TATA_ACE"), kinds.enter("TRUCK", "EICHER_14FT"), kinds.enter("TRUCK", "TATA_ACE")
(0, 1, 0)
>>> kinds.leave(1)
>>> kinds.number("TRUCK", "EICHER_14FT") is None
True
>>> kinds.enter("AUTO", "BAJAJ_MAXIMA")
1

A captain names his vehicle as he likes, so the number of a kind that nobody drives any more goes to the next new one:
there must never be more numbers than kinds were driven at one time.
"""

from __future__ import annotations

Kind = tuple[str, str]


class VehicleKinds:
    """Kinds that captains drive now, each a type and a subtype."""

    def __init__(self) -> None:
        self._numbers: dict[Kind, int] = {}
        self._kinds: list[Kind] = []  # by number; of a spare one it is the last that had it
        self._drivers: list[int] = []
        self._spare: list[int] = []

    def number(self, vehicle_type: str, vehicle_subtype: str) -> int | None:
        """The number of a kind, or None where nobody drives one."""
        return self._numbers.get((vehicle_type, vehicle_subtype))

    def enter(self, vehicle_type: str, vehicle_subtype: str) -> int:
        """One more captain drives this kind; returns its number."""
        kind = (vehicle_type, vehicle_subtype)
        number = self._numbers.get(kind)
        if number is None:
            number = self._numbers[kind] = self._new_number(kind)
        self._drivers[number] += 1
        return number

    def leave(self, number: int) -> None:
        """One captain less drives the kind of this number."""
        self._drivers[number] -= 1
        if self._drivers[number] == 0:
            del self._numbers[self._kinds[number]]
            self._spare.append(number)

    def _new_number(self, kind: Kind) -> int:
        if self._spare:
            number = self._spare.pop()
            self._kinds[number] = kind
            return number
        self._kinds.append(kind)
        self._drivers.append(0)
        return len(self._kinds) - 1
