"""How long a relay lets rows gather follows from how many its last pass had."""

from __future__ import annotations

import pytest

from weelo_common.relay import GATHER_FROM_ROWS, HEAVY_FROM_ROWS, HEAVY_GATHERS, gathering_s


@pytest.mark.parametrize("rows", [0, 1, GATHER_FROM_ROWS - 1])
def test_after_a_few_rows_the_next_event_goes_at_once(rows: int) -> None:
    assert gathering_s(rows, 0.01) == 0.0


@pytest.mark.parametrize("rows", [GATHER_FROM_ROWS, HEAVY_FROM_ROWS - 1])
def test_under_load_passes_begin_as_far_apart_as_the_setting_says(rows: int) -> None:
    assert gathering_s(rows, 0.01) == 0.01


@pytest.mark.parametrize("rows", [HEAVY_FROM_ROWS, 2000])
def test_under_heavy_load_they_begin_further_apart(rows: int) -> None:
    assert gathering_s(rows, 0.01) == pytest.approx(0.01 * HEAVY_GATHERS)


def test_a_thousand_events_a_second_are_no_heavy_load() -> None:
    """What is seen in a pass at that rate, however far apart they began, leads to the usual pause."""
    for began_apart_s in (0.01, 0.01 * HEAVY_GATHERS):
        assert gathering_s(int(1000 * began_apart_s), 0.01) == 0.01


def test_who_lets_nothing_gather_is_obeyed_under_any_load() -> None:
    assert gathering_s(2000, 0.0) == 0.0
