"""Packed positions in columns are what the contract's own reader reads."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.packed_positions import read, single
from weelo_common.events.positions import FORMAT_VERSION, MalformedPositions, Position, pack, unpack

positions = st.builds(
    Position,
    st.binary(min_size=16, max_size=16),
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.integers(-(2**63), 2**63 - 1),
)


@given(st.lists(st.lists(positions, max_size=5), min_size=1, max_size=5))
def test_records_in_columns_hold_what_unpack_reads(records: list[list[Position]]) -> None:
    values = [pack(record) for record in records]
    columns, malformed = read(values, list(range(len(values))))
    assert malformed == {}
    wanted = [(number, position) for number, value in enumerate(values) for position in unpack(value)]
    assert len(columns) == len(wanted)
    assert columns.fingerprints.tobytes() == b"".join(position.captain for _, position in wanted)
    assert columns.latitudes.tolist() == [position.latitude for _, position in wanted]
    assert columns.longitudes.tolist() == [position.longitude for _, position in wanted]
    assert columns.recorded_at_ms.tolist() == [position.recorded_at_ms for _, position in wanted]
    assert columns.received_at_ms.tolist() == [number for number, _ in wanted]
    assert columns.records.tolist() == [number for number, _ in wanted]


@given(positions)
def test_a_single_position_is_a_record_of_one(position: Position) -> None:
    exact = unpack(pack([position]))[0]
    one, (record, _) = single(exact, 5), read([pack([position])], [5])
    for name in ("fingerprints", "latitudes", "longitudes", "recorded_at_ms", "received_at_ms", "records"):
        assert getattr(one, name).tolist() == getattr(record, name).tolist()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        bytes([FORMAT_VERSION + 1]),
        bytes([FORMAT_VERSION]) + b"x" * 31,
        bytes([FORMAT_VERSION]) + struct.pack("<16siiq", b"", 900_000_001, 0, 0),
        bytes([FORMAT_VERSION]) + struct.pack("<16siiq", b"", -900_000_001, 0, 0),
        bytes([FORMAT_VERSION]) + struct.pack("<16siiq", b"", -(2**31), 0, 0),
        bytes([FORMAT_VERSION]) + struct.pack("<16siiq", b"", 0, 1_800_000_001, 0),
        bytes([FORMAT_VERSION]) + struct.pack("<16siiq", b"", 0, -1_800_000_001, 0),
    ],
    ids=["empty", "version", "length", "north", "south", "far south", "east", "west"],
)
def test_what_is_no_record_of_positions_is_malformed_to_both_readers_and_harms_no_other(value: bytes) -> None:
    with pytest.raises(MalformedPositions) as theirs:
        unpack(value)
    good = [Position(b"a" * 16, 1.0, 2.0, 3), Position(b"b" * 16, 4.0, 5.0, 6)]
    columns, malformed = read([b"", pack(good[:1]), value, pack(good[1:]), value], [9, 10, 11, 12, 13])
    assert malformed == {0: "format version missing, expected 1", 2: str(theirs.value), 4: str(theirs.value)}
    assert columns.latitudes.tolist() == [1.0, 4.0]
    assert columns.received_at_ms.tolist() == [10, 12]
    assert len(read([value], [0])[0]) == 0
