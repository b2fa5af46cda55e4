"""The reckoning of PostgreSQL's clock; both clocks are numbers that the test sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expiry.database_clock import MAX_DRIFT, DatabaseClock

EPOCH_S = 1_770_000_000.0
ROUNDING_S = 1e-5  # of floats that hold seconds since 1970, and of sums of them


def test_before_the_first_reading_nobody_knows_the_time() -> None:
    clock = DatabaseClock()
    assert not clock.known
    with pytest.raises(ValueError, match="not read yet"):
        clock.now_s(5.0)


def test_the_time_is_the_earliest_that_it_can_be() -> None:
    clock = DatabaseClock()
    assert clock.observe(EPOCH_S, asked_at=10.0, answered_at=10.2) is None
    assert clock.now_s(10.2) == pytest.approx(EPOCH_S - 0.2 * MAX_DRIFT, abs=ROUNDING_S)
    assert clock.now_ms(11.2) == int((EPOCH_S + 1 - 1.2 * MAX_DRIFT) * 1000)


def test_a_quick_answer_narrows_what_a_slow_one_left_open() -> None:
    clock = DatabaseClock()
    clock.observe(EPOCH_S + 0.5, asked_at=10.0, answered_at=11.0)
    clock.observe(EPOCH_S + 2.0, asked_at=11.499, answered_at=11.501)
    assert clock.now_s(11.501) == pytest.approx(EPOCH_S + 2.0, abs=0.001)


def test_a_slow_answer_takes_nothing_away_from_a_quick_one() -> None:
    clock = DatabaseClock()
    clock.observe(EPOCH_S, asked_at=10.0, answered_at=10.001)
    clock.observe(EPOCH_S + 0.2, asked_at=10.1, answered_at=13.0)
    assert clock.now_s(13.0) == pytest.approx(EPOCH_S + 3.0, abs=0.003)


@pytest.mark.parametrize("set_by_s", [-3600.0, -2.0, 2.0, 30.0])
def test_a_clock_that_was_set_is_noticed_and_followed(set_by_s: float) -> None:
    clock = DatabaseClock()
    clock.observe(EPOCH_S, asked_at=10.0, answered_at=10.002)
    told = clock.observe(EPOCH_S + 1 + set_by_s, asked_at=11.0, answered_at=11.002)
    assert told == pytest.approx(set_by_s, abs=0.01)
    assert clock.now_s(11.002) == pytest.approx(EPOCH_S + 1 + set_by_s, abs=0.01)


@given(
    drift=st.floats(-MAX_DRIFT / 2, MAX_DRIFT / 2),
    questions=st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=20
    ),
    wait_s=st.floats(0, 100),
)
def test_it_is_never_ahead_of_a_sound_clock_and_never_far_behind(
    drift: float, questions: list[tuple[float, float, float]], wait_s: float
) -> None:
    """Each question: a pause before it, its way there, and its way back."""
    clock, monotonic = DatabaseClock(), 0.0

    def database(moment: float) -> float:
        return EPOCH_S + moment * (1 + drift)

    for pause, there, back in questions:
        asked = monotonic + pause
        monotonic = asked + there + back
        assert clock.observe(database(asked + there), asked, monotonic) is None
        assert clock.now_s(monotonic) <= database(monotonic) + ROUNDING_S
    last_trip = questions[-1][1] + questions[-1][2]
    late = monotonic + wait_s
    assert clock.now_s(late) <= database(late) + ROUNDING_S
    behind = last_trip + 2 * MAX_DRIFT * (wait_s + last_trip)
    assert clock.now_s(late) >= database(late) - behind - ROUNDING_S
