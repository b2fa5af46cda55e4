"""All live captains in this replica's memory: states and positions merged into the geo index. Pure: no I/O.

It only proposes candidates; PostgreSQL decides. It must never hold an older state over a newer one, and never
raise on what a topic may hold: what it does not use it says, so that the reader can count it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from dispatcher.geo_index import Candidate, GeoIndex
from weelo_common.events import CaptainState
from weelo_common.events.positions import Position, captain_fingerprint

FRESH_FOR_MS = 60_000  # a captain silent for longer is no candidate
STRANGERS_KEPT = 10_000  # positions that came before their captain's state; two topics keep no common order


@dataclass(frozen=True, slots=True)
class LastPosition:
    """Where a captain was last: degrees, and ms since 1970 when it was received."""

    latitude: float
    longitude: float
    received_at_ms: int


@dataclass(frozen=True, slots=True)
class Near:
    """A captain near a pickup, as the index knows him: maybe one who is not free, for the explanation."""

    captain_id: str
    distance_m: int
    fresh: bool
    free: bool


@dataclass(frozen=True, slots=True)
class Proposal:
    """Captains near a pickup, nearest first. ``complete``: the radius holds no other free one."""

    near: tuple[Near, ...]
    complete: bool
    cells: tuple[str, ...]
    cells_looked_at: int


@dataclass(slots=True, eq=False)
class _Captain:
    captain_id: str
    version: int
    vehicle_type: str
    vehicle_subtype: str
    free: bool
    idle_since_ms: int
    latitude: float = 0.0
    longitude: float = 0.0
    recorded_at_ms: int = 0
    received_at_ms: int | None = None
    silent: bool = False  # moved out of the free ones because nothing was heard of him

    @property
    def group(self) -> tuple[str, str, bool]:
        return self.vehicle_type, self.vehicle_subtype, self.free and not self.silent


class LiveFleet:
    """Captains by what the topics told of them. Times are ms since 1970."""

    def __init__(self, *, fresh_for_ms: int = FRESH_FOR_MS, strangers_kept: int = STRANGERS_KEPT) -> None:
        self._fresh_for_ms = fresh_for_ms
        self._strangers_kept = strangers_kept
        self._captains: dict[bytes, _Captain] = {}
        self._strangers: OrderedDict[bytes, tuple[Position, int]] = OrderedDict()
        self._heard: OrderedDict[bytes, None] = OrderedDict()  # longest silent first, nearly
        self._index = GeoIndex()

    def __len__(self) -> int:
        return len(self._captains)

    @property
    def placed(self) -> int:
        """How many captains have a position in the index."""
        return len(self._index)

    def knows(self, captain_id: str) -> bool:
        """Whether a captain's state is known here."""
        return captain_fingerprint(captain_id) in self._captains

    def apply_state(self, state: CaptainState, at_ms: int, *, idle_since_ms: int | None = None) -> bool:
        """Take a captain's state; False where one as new is known already.

        ``at_ms`` is when the state came about: a captain who becomes free by it is idle since then, unless
        ``idle_since_ms`` says so exactly.
        """
        fingerprint = captain_fingerprint(state.captain_id)
        free = state.available and state.eligible and not state.busy
        captain = self._captains.get(fingerprint)
        if captain is None:
            captain = self._captains[fingerprint] = _Captain(
                state.captain_id, state.version, state.vehicle_type, state.vehicle_subtype, free, at_ms
            )
        elif state.version <= captain.version:
            return False
        elif free and not captain.free:
            captain.idle_since_ms = at_ms
        if idle_since_ms is not None:
            captain.idle_since_ms = idle_since_ms
        captain.version = state.version
        captain.vehicle_type = state.vehicle_type
        captain.vehicle_subtype = state.vehicle_subtype
        captain.free = free
        waiting = self._strangers.pop(fingerprint, None)
        if waiting is not None:
            self.apply_position(*waiting)
        elif captain.received_at_ms is not None:
            self._put(captain)
        return True

    def apply_position(self, position: Position, received_at_ms: int) -> bool:
        """Take a position; False where it is older than the one known, or its captain is not known (yet).

        ``recordedAt`` is of the phone's clock and orders only what is fresh: a clock set back must not make a
        captain invisible for good.
        """
        fingerprint = position.captain
        captain = self._captains.get(fingerprint)
        if captain is None:
            self._strangers[fingerprint] = (position, received_at_ms)
            if len(self._strangers) > self._strangers_kept:
                self._strangers.popitem(last=False)
            return False
        known = captain.received_at_ms
        if known is not None:
            if received_at_ms < known - self._fresh_for_ms:
                return False
            if (
                position.recorded_at_ms <= captain.recorded_at_ms
                and received_at_ms <= known + self._fresh_for_ms
            ):
                return False
        captain.latitude = position.latitude
        captain.longitude = position.longitude
        captain.recorded_at_ms = position.recorded_at_ms
        captain.received_at_ms = received_at_ms
        captain.silent = False
        self._heard[fingerprint] = None
        self._heard.move_to_end(fingerprint)
        self._put(captain)
        return True

    def set_aside_silent(self, now_ms: int, *, most: int) -> int:
        """Move up to ``most`` captains not heard of lately out of the free ones; returns how many.

        A search passes over them anyway; this keeps them from costing time.
        """
        moved = 0
        while self._heard and moved < most:
            fingerprint = next(iter(self._heard))
            captain = self._captains[fingerprint]
            if self._is_fresh(captain.received_at_ms or 0, now_ms):
                break
            del self._heard[fingerprint]
            captain.silent = True
            self._put(captain)
            moved += 1
        return moved

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
    ) -> Proposal:
        """The k nearest free captains of a vehicle, and up to ``not_free`` others near, all by distance.

        The others (busy, not available, silent …) are there to be explained, and because PostgreSQL may know
        better than this memory.
        """
        oldest = now_ms - self._fresh_for_ms
        free = self._index.nearest(
            (vehicle_type, vehicle_subtype, True),
            latitude,
            longitude,
            k=k,
            radius_m=radius_m,
            seen_after_ms=oldest - 1,
        )
        others = self._index.nearest(
            (vehicle_type, vehicle_subtype, False), latitude, longitude, k=not_free, radius_m=radius_m
        )
        ranked: list[tuple[Candidate, bool]] = [(candidate, True) for candidate in free.candidates]
        ranked += [(candidate, False) for candidate in others.candidates]
        ranked.sort(key=lambda pair: (pair[0].distance_m, pair[0].idle_since_ms, pair[0].key))
        return Proposal(
            near=tuple(
                Near(candidate.key, candidate.distance_m, candidate.seen_at_ms >= oldest, is_free)
                for candidate, is_free in ranked
            ),
            complete=len(free.candidates) < k,
            cells=tuple(free.cells(most=32)),
            cells_looked_at=len(free.cell_numbers),
        )

    def last_position(self, captain_id: str) -> LastPosition | None:
        """Where a captain was last heard of, or None."""
        captain = self._captains.get(captain_fingerprint(captain_id))
        if captain is None or captain.received_at_ms is None:
            return None
        return LastPosition(captain.latitude, captain.longitude, captain.received_at_ms)

    def is_fresh(self, captain_id: str, now_ms: int) -> bool:
        """Whether a position of his was received lately enough."""
        last = self.last_position(captain_id)
        return last is not None and self._is_fresh(last.received_at_ms, now_ms)

    def _is_fresh(self, received_at_ms: int, now_ms: int) -> bool:
        return received_at_ms >= now_ms - self._fresh_for_ms

    def _put(self, captain: _Captain) -> None:
        self._index.put(
            captain.captain_id,
            captain.group,
            captain.latitude,
            captain.longitude,
            seen_at_ms=captain.received_at_ms or 0,
            idle_since_ms=captain.idle_since_ms,
        )
