"""All live captains in this replica's memory: states and positions merged into the geo index. Pure: no I/O.

>>> from weelo_common.events import CaptainState
>>> from weelo_common.events.positions import Position, captain_fingerprint
>>> fleet = LiveFleet()
>>> state = CaptainState(captain_id="k-1", version=1, transporter_id="t-1", vehicle_type="TRUCK",
...     vehicle_subtype="TATA_ACE", available=True, eligible=True, busy=False)
>>> fleet.apply_state(state, at_ms=0)
True
>>> fleet.apply_position(Position(captain_fingerprint("k-1"), 28.61, 77.21, 0), received_at_ms=0)
True
>>> fleet.propose("TRUCK", "TATA_ACE", 28.6, 77.2, k=20, not_free=0, radius_m=5_000, now_ms=0).near
(Near(captain_id='k-1', distance_m=1479, fresh=True, free=True),)

It only proposes candidates; PostgreSQL decides. It must never hold an older state over a newer one, and never
raise on what a topic may hold: what it does not use it says, so that the reader can count it. Captains are numbers
here, and what is known of them stands in columns: a million objects would cost memory and long pauses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import compress, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dispatcher.captain_numbers import UNKNOWN, CaptainNumbers, halves
from dispatcher.geo_index import GeoIndex
from dispatcher.geo_search import Search
from dispatcher.memory_lines import write
from dispatcher.packed_positions import PositionColumns, single
from dispatcher.vehicle_kinds import VehicleKinds
from weelo_common.events import CaptainState
from weelo_common.events.positions import Position, captain_fingerprint

FRESH_FOR_MS = 60_000  # a captain silent for longer is no candidate
STRANGERS_KEPT = 10_000  # positions that came before their captain's state; two topics keep no common order
NEVER = -(1 << 60)  # a time before every other, far from overflow

# What a captain's line holds after his fingerprint; times in ms. GROUP is that of the index, by his state alone.
VERSION, IDLE_SINCE, RECORDED_AT, RECEIVED_AT, GROUP, SILENT = range(2, 8)
NEW_CAPTAIN = (NEVER, NEVER, NEVER, NEVER, 0, 0)
NOT_FREE = 1  # the bit of a group that holds those who are not free
CELLS_TOLD = 16
FINGERPRINT_BYTES = 16

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CaptainColumns:
    """A page of captains, each list in the order of their ids.

    ``free``: he wants offers, may get some, and has no truck request.
    """

    captain_ids: list[str]
    versions: list[int]
    vehicle_types: list[str]
    vehicle_subtypes: list[str]
    free: list[bool]
    idle_since_ms: list[int]

    def __len__(self) -> int:
        return len(self.captain_ids)


class Near(NamedTuple):
    """A captain near a pickup, as the index knows him: maybe one who is not free, for the explanation."""

    captain_id: str
    distance_m: int
    fresh: bool
    free: bool


@dataclass(frozen=True, slots=True)
class LastPosition:
    """Where a captain was last: degrees, and ms since 1970 when it was received."""

    latitude: float
    longitude: float
    received_at_ms: int


class Proposal(NamedTuple):
    """Captains near a pickup, nearest first. ``complete``: the radius holds no other free one.

    ``search`` is how the free ones were found.
    """

    near: tuple[Near, ...]
    complete: bool
    search: Search

    @property
    def cells(self) -> tuple[str, ...]:
        """The geohashes of the cells looked at, for people: a dozen or two."""
        return tuple(self.search.cells(most=CELLS_TOLD))

    @property
    def cells_looked_at(self) -> int:
        """How many cells were looked at."""
        return self.search.cells_looked_at

    @property
    def looked_at(self) -> int:
        """How many free captains were in these cells."""
        return self.search.looked_at


class LiveFleet:
    """Captains by what the topics told of them. Times are ms since 1970."""

    def __init__(self, *, fresh_for_ms: int = FRESH_FOR_MS, strangers_kept: int = STRANGERS_KEPT) -> None:
        self._fresh_for_ms = fresh_for_ms
        self._strangers_kept = strangers_kept
        self._numbers = CaptainNumbers(NEW_CAPTAIN)
        self._vehicles = VehicleKinds()
        self._strangers: OrderedDict[bytes, tuple[float, float, int, int]] = OrderedDict()
        self._index = GeoIndex()
        self._next_to_check = 0

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def placed(self) -> int:
        """How many captains have a position in the index."""
        return len(self._index)

    @property
    def groups(self) -> int:
        """How many groups the index has: two for each kind of vehicle, as many as were driven at one time."""
        return self._index.groups

    def knows(self, captain_id: str) -> bool:
        """Whether a captain's state is known here."""
        return self._numbers.number(captain_id) != UNKNOWN

    def load(self, page: CaptainColumns) -> None:
        """Take captains from the database; of those whose state is known as new already nothing changes."""
        fingerprints = halves(b"".join(map(captain_fingerprint, page.captain_ids)))
        numbers = self._numbers.find(fingerprints)
        unknown = np.flatnonzero(numbers == UNKNOWN)
        numbers[unknown] = self._numbers.add(
            [page.captain_ids[at] for at in unknown.tolist()], fingerprints[unknown]
        )
        known = self._numbers.lines
        versions = np.array(page.versions, np.int64)
        newer = versions > known[numbers, VERSION]
        changed = numbers[newer]
        left = known[changed[known[changed, VERSION] != NEVER], GROUP] >> 1
        known[changed, VERSION] = versions[newer]
        known[changed, IDLE_SINCE] = np.array(page.idle_since_ms, np.int64)[newer]
        wanted = newer.tolist()
        types, subtypes = compress(page.vehicle_types, wanted), compress(page.vehicle_subtypes, wanted)
        groups = map(_group, map(self._vehicles.enter, types, subtypes), compress(page.free, wanted))
        known[changed, GROUP] = np.fromiter(groups, np.int64, len(changed))
        self._regroup(changed)
        for vehicle in left.tolist():
            self._vehicles.leave(vehicle)
        for number in numbers[unknown].tolist() if self._strangers else ():
            self._place_stranger(number)

    def apply_state(self, state: CaptainState, at_ms: int, *, idle_since_ms: int | None = None) -> bool:
        """Take a captain's state; False where one as new is known already.

        ``at_ms`` is when the state came about: a captain who becomes free by it is idle since then, unless
        ``idle_since_ms`` says so exactly.
        """
        free = state.available and state.eligible and not state.busy
        number = self._numbers.number(state.captain_id)
        new = number == UNKNOWN
        if new:
            number = self._numbers.add_one(state.captain_id)
        known = self._numbers.lines[number]
        if not new and state.version <= known[VERSION]:
            return False
        if idle_since_ms is not None:
            known[IDLE_SINCE] = idle_since_ms
        elif new or (free and known[GROUP] & NOT_FREE):
            known[IDLE_SINCE] = at_ms
        known[VERSION] = state.version
        left = int(known[GROUP]) >> 1
        known[GROUP] = _group(self._vehicles.enter(state.vehicle_type, state.vehicle_subtype), free)
        if new:
            self._place_stranger(number)
        else:
            self._regroup(np.array([number]))
            self._vehicles.leave(left)
        return True

    def apply_position(self, position: Position, received_at_ms: int) -> bool:
        """Take one position, as ``apply_positions`` does; whether it is now the captain's."""
        return self.apply_positions(single(position, received_at_ms)) == 1

    def apply_positions(self, positions: PositionColumns) -> int:
        """Take positions; returns how many are newer than what was known, of captains who are known.

        Of several of one captain in one record the newest counts. ``recordedAt`` is of the phone's clock and orders
        only what is fresh: a clock set back must not make a captain invisible for good. One that was recorded at the
        same time and received later counts as newer: a phone that lies still tells its last fix again and again.
        """
        numbers = self._numbers.find(positions.fingerprints)
        strange = numbers == UNKNOWN
        if strange.any():
            self._keep_strangers(positions.only(np.flatnonzero(strange)))
            positions, numbers = positions.only(np.flatnonzero(~strange)), numbers[~strange]
        return sum(
            self._move(numbers[at], positions if len(at) == len(numbers) else positions.only(at))
            for at in _each_captain_once(numbers, positions)
        )

    def set_aside_silent(self, now_ms: int, *, most: int) -> int:
        """Move those not heard of lately out of the free ones, among the next ``most`` captains; returns how many.

        A search passes over them anyway; this keeps them from costing time.
        """
        if self._next_to_check >= len(self._numbers):
            self._next_to_check = 0
        start, end = self._next_to_check, min(self._next_to_check + most, len(self._numbers))
        self._next_to_check = end
        known = self._numbers.lines[start:end]
        received = known[:, RECEIVED_AT]
        silent = (received != NEVER) & (received < now_ms - self._fresh_for_ms) & (known[:, SILENT] == 0)
        numbers = silent.nonzero()[0]
        known[numbers, SILENT] = 1
        numbers += start
        self._regroup(numbers)
        return len(numbers)

    def propose(
        self,
        vehicle_type: str,
        vehicle_subtype: str,
        latitude: float,
        longitude: float,
        *,
        k: int,
        not_free: int,
        radius_m: float,
        now_ms: int,
        accept: Callable[[str], bool] | None = None,
    ) -> Proposal:
        """The k nearest free captains of a vehicle, and up to ``not_free`` others not farther, all by distance.

        The others (busy, not available, silent …) are there to be explained, and because PostgreSQL may know
        better than this memory. ``accept`` is asked, by id, who of the free counts; those it refuses are left out.
        """
        vehicle = self._vehicles.number(vehicle_type, vehicle_subtype)
        if vehicle is None:
            return Proposal((), complete=True, search=Search())
        oldest = now_ms - self._fresh_for_ms
        free = self._index.nearest(
            _group(vehicle, True),
            latitude,
            longitude,
            k=k,
            radius_m=radius_m,
            seen_after_ms=oldest - 1,
            accept=None if accept is None else lambda number: accept(*self._numbers.captain_ids([number])),
        )
        found = len(free.numbers)
        near = self._near(free, repeat(True), free=True)
        if not_free:
            # Whoever is not free and farther than the last free one matters to nobody.
            enough = 0 < k == found
            others = self._index.nearest(
                _group(vehicle, False),
                latitude,
                longitude,
                k=not_free,
                radius_m=min(radius_m, free.distances_m[-1] + 1.0) if enough else radius_m,
            )
            near += self._near(others, [seen >= oldest for seen in others.seen_at_ms], free=False)
            ranked = sorted(zip(_ranks(free) + _ranks(others), near, strict=True))
            near = [one for _, one in ranked]
        return Proposal(tuple(near), found < k, free)

    def last_position(self, captain_id: str) -> LastPosition | None:
        """Where a captain was last heard of, or None."""
        number = self._numbers.number(captain_id)
        place = None if number == UNKNOWN else self._index.place(number)
        return None if place is None else LastPosition(*place)

    def is_fresh(self, captain_id: str, now_ms: int) -> bool:
        """Whether a position of his was received lately enough."""
        number = self._numbers.number(captain_id)
        return number != UNKNOWN and bool(
            self._numbers.lines[number, RECEIVED_AT] >= now_ms - self._fresh_for_ms
        )

    def _near(self, search: Search, fresh: Iterable[bool], *, free: bool) -> list[Near]:
        captain_ids = self._numbers.captain_ids(search.numbers)
        return list(map(Near._make, zip(captain_ids, search.distances_m, fresh, repeat(free), strict=False)))

    def _move(self, numbers: Ints, positions: PositionColumns) -> int:
        """Take positions of captains named once each."""
        known = self._numbers.lines.take(numbers, 0)
        silence = positions.received_at_ms - known[:, RECEIVED_AT]
        newer = positions.recorded_at_ms > known[:, RECORDED_AT]
        newer |= (positions.recorded_at_ms == known[:, RECORDED_AT]) & (silence > 0)
        taken = ((silence > self._fresh_for_ms) | (newer & (silence >= -self._fresh_for_ms))).nonzero()[0]
        if len(taken) < len(numbers):
            numbers, positions, known = numbers[taken], positions.only(taken), known[taken]
        known[:, RECORDED_AT] = positions.recorded_at_ms
        known[:, RECEIVED_AT] = positions.received_at_ms
        known[:, SILENT] = 0
        write(self._numbers.lines, numbers, known)
        self._index.put_many(
            numbers,
            known[:, GROUP],
            positions.latitudes,
            positions.longitudes,
            seen_at_ms=positions.received_at_ms,
            idle_since_ms=known[:, IDLE_SINCE],
        )
        return len(numbers)

    def _regroup(self, numbers: NDArray[np.integer]) -> None:
        known = self._numbers.lines.take(numbers, 0)
        self._index.regroup(
            numbers, known[:, GROUP] | known[:, SILENT] * NOT_FREE, idle_since_ms=known[:, IDLE_SINCE]
        )

    def _keep_strangers(self, positions: PositionColumns) -> None:
        packed = positions.fingerprints.tobytes()
        for start, *position in zip(
            range(0, len(packed), FINGERPRINT_BYTES),
            positions.latitudes.tolist(),
            positions.longitudes.tolist(),
            positions.recorded_at_ms.tolist(),
            positions.received_at_ms.tolist(),
            strict=True,
        ):
            self._strangers[packed[start : start + FINGERPRINT_BYTES]] = tuple(position)
            if len(self._strangers) > self._strangers_kept:
                self._strangers.popitem(last=False)

    def _place_stranger(self, number: int) -> None:
        """Take the position that came before its captain, if one did."""
        fingerprint = captain_fingerprint(*self._numbers.captain_ids([number]))
        position = self._strangers.pop(fingerprint, None)
        if position is not None:
            latitude, longitude, recorded_at_ms, received_at_ms = position
            self.apply_position(Position(fingerprint, latitude, longitude, recorded_at_ms), received_at_ms)


def _group(vehicle: int, free: bool) -> int:
    """The index's group of those with a vehicle who are free, or are not."""
    return 2 * vehicle + (0 if free else NOT_FREE)


def _ranks(search: Search) -> list[tuple[int, int, int]]:
    return list(zip(search.distances_m, search.idle_since_ms, search.numbers, strict=True))


def _each_captain_once(numbers: Ints, positions: PositionColumns) -> Iterator[NDArray[np.intp]]:
    """Where positions stand, in as many turns as a captain has records, so that each turn has him once.

    Of those of one captain in one record, which were received together, only the newest is told.
    """
    ordered = np.sort(numbers)
    count = np.arange(len(numbers))
    if not (ordered[1:] == ordered[:-1]).any():
        yield count
        return
    order = np.lexsort((-count, positions.recorded_at_ms, positions.records, numbers))
    who, record = numbers[order], positions.records[order]
    newest = np.append((who[1:] != who[:-1]) | (record[1:] != record[:-1]), True)
    order, who = order[newest], who[newest]
    count = np.arange(len(who))
    first = np.append(True, who[1:] != who[:-1])
    turns = count - np.maximum.accumulate(np.where(first, count, 0))
    for turn in range(int(turns.max()) + 1):
        yield order[turns == turn]
