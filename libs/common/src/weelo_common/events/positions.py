"""``captains.locations.v1``: packed positions, many a record. Internal to the dispatcher; not CloudEvents.

Format 1: one version byte, then 32 bytes a position, little-endian: the first 16 bytes of SHA-256 of the
captain's id, latitude and longitude × 10⁷ as int32, ``recordedAt`` in ms as int64. The record's Kafka timestamp
is the time of receipt.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import NamedTuple

DEGREES = 10_000_000
"""Of a packed coordinate to a degree."""


class PackedField(NamedTuple):
    """One field of a packed position, in the order of the bytes."""

    name: str
    code: str
    """As the module ``struct`` writes it, little-endian."""
    type: str
    meaning: str


FORMAT_VERSION = 1
FIELDS = (
    PackedField("captain", "16s", "bytes", "the first 16 bytes of SHA-256 of the captain's id in UTF-8"),
    PackedField("latitude", "i", "int32", "degrees north × 10⁷"),
    PackedField("longitude", "i", "int32", "degrees east × 10⁷"),
    PackedField("recordedAt", "q", "int64", "ms since 1970-01-01T00:00:00Z by the captain's phone"),
)
"""The layout. Another one needs a higher FORMAT_VERSION, and readers that know both before a writer uses it."""
_LAYOUT = struct.Struct("<" + "".join(one.code for one in FIELDS))
POSITION_BYTES = _LAYOUT.size  # 32


class MalformedPositions(Exception):
    """A record that is not packed positions of a known format."""


class Position(NamedTuple):
    """Where a captain said he was: degrees, and ms since 1970 by his phone's clock."""

    captain: bytes
    latitude: float
    longitude: float
    recorded_at_ms: int


def captain_fingerprint(captain_id: str) -> bytes:
    """The 16 bytes that stand for a captain in a packed record."""
    return hashlib.sha256(captain_id.encode()).digest()[:16]


def pack(positions: Iterable[Position]) -> bytes:
    """One record's value.

    Raises:
        struct.error: a coordinate is out of range.
    """
    return record_of(pack_bytes(positions))


def pack_bytes(positions: Iterable[Position]) -> bytes:
    """Packed positions without the version byte, so that those of several callers can be put together.

    Raises:
        struct.error: a coordinate is out of range.
    """
    return b"".join(
        _LAYOUT.pack(p.captain, round(p.latitude * DEGREES), round(p.longitude * DEGREES), p.recorded_at_ms)
        for p in positions
    )


def record_of(packed: bytes) -> bytes:
    """The value of a record that holds what ``pack_bytes`` made."""
    return bytes([FORMAT_VERSION]) + packed


def positions_bytes(value: bytes) -> memoryview:
    """The packed positions of a record, without its version byte.

    Raises:
        MalformedPositions: the version is unknown, or the length is off.
    """
    if not value or value[0] != FORMAT_VERSION:
        raise MalformedPositions(
            f"format version {value[0] if value else 'missing'}, expected {FORMAT_VERSION}"
        )
    if (len(value) - 1) % POSITION_BYTES:
        raise MalformedPositions(f"{len(value) - 1} bytes are no whole number of positions")
    return memoryview(value)[1:]


def unpack(value: bytes) -> list[Position]:
    """The positions of one record.

    Raises:
        MalformedPositions: as ``positions_bytes``, or a point is not on the globe.
    """
    positions = [
        Position(captain, latitude / DEGREES, longitude / DEGREES, recorded_at_ms)
        for captain, latitude, longitude, recorded_at_ms in _LAYOUT.iter_unpack(positions_bytes(value))
    ]
    for position in positions:
        if not (-90 <= position.latitude <= 90 and -180 <= position.longitude <= 180):
            raise MalformedPositions("a point is not on the globe")
    return positions
