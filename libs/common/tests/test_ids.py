"""Ids that are made here: UUIDv7, in the order of their milliseconds."""

from __future__ import annotations

import time
import uuid

import pytest

from weelo_common.ids import new_id, well_formed_id


def test_a_new_id_is_a_uuid_of_version_7_in_canonical_form() -> None:
    for _ in range(2000):
        made = new_id()
        read = uuid.UUID(made)
        assert (read.version, read.variant) == (7, uuid.RFC_4122)
        assert well_formed_id(made) == made


@pytest.mark.parametrize(
    "text",
    [
        "019c2b1e6f2a7c3d8e4f5a6b7c8d9e10",
        "----019c2b1e6f2a7c3d8e4f5a6b7c8d9e10",
        "019c2b1e-6f2a7-c3d-8e4f-5a6b7c8d9e10",
        " 19c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e10",
        "+19c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e10",
        "019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e1\n",
        "{019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e}",
        "019c_b1e-6f2a-7c3d-8e4f-5a6b7c8d9e10",
    ],
)
def test_an_id_in_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a UUID"):
        well_formed_id(text)


def test_an_id_in_capitals_is_the_same_id() -> None:
    assert well_formed_id("019C2B1E-6F2A-7C3D-8E4F-5A6B7C8D9E10") == "019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e10"


def test_a_new_id_begins_with_the_milliseconds_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


def test_each_random_bit_of_new_ids_is_now_0_and_now_1() -> None:
    ones = zeros = 0
    for _ in range(500):
        bits = uuid.UUID(new_id()).int
        ones |= bits
        zeros |= ~bits
    random = (1 << 76) - (1 << 64) | (1 << 62) - 1  # beside time, version and variant
    assert ones & zeros & random == random
