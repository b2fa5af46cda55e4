"""Packed positions in columns: many records of ``captains.locations.v1`` at once. Pure: no I/O.

The format, and how one record is read without numpy, stands in ``weelo_common.events.positions``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dispatcher.captain_numbers import Fingerprints, halves
from weelo_common.events.positions import DEGREES, FIELDS, MalformedPositions, Position, positions_bytes

_TYPES = {"bytes": ("<i8", (2,)), "int32": ("<i4", ()), "int64": ("<i8", ())}
LAYOUT = np.dtype([(field.name, *_TYPES[field.type]) for field in FIELDS])
"""One position, as it is packed."""

Record = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class PositionColumns:
    """Positions in the order in which they came.

    ``records`` numbers the record of each: those of one record were received at the same time. Degrees, and ms since
    1970.
    """

    fingerprints: Fingerprints
    latitudes: NDArray[np.float64]
    longitudes: NDArray[np.float64]
    recorded_at_ms: NDArray[np.int64]
    received_at_ms: NDArray[np.int64]
    records: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.latitudes)

    def only(self, at: NDArray[np.intp]) -> PositionColumns:
        """Some of the positions, by where they stand."""
        return PositionColumns(
            self.fingerprints[at],
            self.latitudes[at],
            self.longitudes[at],
            self.recorded_at_ms[at],
            self.received_at_ms[at],
            self.records[at],
        )


def read(values: Sequence[bytes], received_at_ms: Sequence[int]) -> tuple[PositionColumns, dict[int, str]]:
    """The positions of some records, and why others (by where they stand) are malformed.

    A record is malformed as to ``weelo_common.events.positions.unpack``.
    """
    malformed: dict[int, str] = {}
    bodies: list[memoryview] = []
    times: list[int] = []
    where: list[int] = []
    for number, (value, time_ms) in enumerate(zip(values, received_at_ms, strict=True)):
        try:
            bodies.append(positions_bytes(value))
        except MalformedPositions as error:
            malformed[number] = str(error)
            continue
        times.append(time_ms)
        where.append(number)
    packed = np.frombuffer(b"".join(bodies), LAYOUT)
    sizes = np.array([len(body) // LAYOUT.itemsize for body in bodies], np.intp)
    records = np.repeat(np.arange(len(bodies)), sizes)
    strange = _off_the_globe(packed)
    if strange.any():
        bad = np.unique(records[strange])
        malformed |= {where[number]: "a point is not on the globe" for number in bad.tolist()}
        good = ~np.isin(records, bad)
        packed, records = packed[good], records[good]
    positions = PositionColumns(
        fingerprints=packed["captain"],
        latitudes=packed["latitude"] / DEGREES,
        longitudes=packed["longitude"] / DEGREES,
        recorded_at_ms=packed["recordedAt"],
        received_at_ms=np.array(times, np.int64)[records],
        records=records,
    )
    return positions, malformed


def _off_the_globe(packed: Record) -> NDArray[np.bool_]:
    latitudes, longitudes = packed["latitude"], packed["longitude"]
    strange: NDArray[np.bool_] = (
        (latitudes < -90 * DEGREES)
        | (latitudes > 90 * DEGREES)
        | (longitudes < -180 * DEGREES)
        | (longitudes > 180 * DEGREES)
    )
    return strange


def single(position: Position, received_at_ms: int) -> PositionColumns:
    """One position as columns."""
    return PositionColumns(
        fingerprints=halves(position.captain),
        latitudes=np.array([position.latitude]),
        longitudes=np.array([position.longitude]),
        recorded_at_ms=np.array([position.recorded_at_ms]),
        received_at_ms=np.array([received_at_ms]),
        records=np.zeros(1, np.int64),
    )
