"""When which partition is looked at; the clock is a number that the test sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from expiry.agenda import Agenda

LONGEST_S = 1.0
ROUNDING_S = 1e-6  # sums of floats


def test_a_gained_partition_is_looked_at_at_once() -> None:
    agenda = Agenda(LONGEST_S)
    assert agenda.own({3, 5}, 10.0) == {3, 5}
    assert agenda.wait_s(10.0) == 0
    assert agenda.take_due(10.0) == [3, 5]


def test_a_kept_partition_keeps_its_moment_and_is_not_gained_again() -> None:
    agenda = Agenda(LONGEST_S)
    agenda.own({3}, 10.0)
    agenda.take_due(10.0)
    assert agenda.own({3, 4}, 10.5) == {4}
    assert agenda.take_due(10.5) == [4]


def test_a_lost_partition_is_not_looked_at_any_more() -> None:
    agenda = Agenda(LONGEST_S)
    agenda.own({3, 4}, 10.0)
    agenda.own({4}, 10.0)
    assert agenda.owned == {4}
    assert agenda.take_due(20.0) == [4]


def test_a_sooner_timer_brings_the_look_forward_and_a_later_one_does_not_delay_it() -> None:
    agenda = Agenda(LONGEST_S)
    agenda.own({3}, 10.0)
    agenda.take_due(10.0)
    assert agenda.note(3, 10.4)
    assert not agenda.note(3, 10.6)
    assert agenda.take_due(10.3) == []
    assert agenda.take_due(10.4) == [3]


def test_a_timer_of_a_partition_owned_elsewhere_is_not_noted() -> None:
    agenda = Agenda(LONGEST_S)
    assert not agenda.note(3, 10.0)
    assert agenda.take_due(20.0) == []


def test_what_is_noted_during_a_look_is_kept() -> None:
    agenda = Agenda(LONGEST_S)
    agenda.own({3}, 10.0)
    assert agenda.take_due(10.0) == [3]
    agenda.note(3, 10.1)  # committed while the look was under way
    agenda.note(3, 10.8)  # what the look found to be next
    assert agenda.take_due(10.1) == [3]


def test_the_partition_that_has_waited_longest_comes_first() -> None:
    agenda = Agenda(LONGEST_S)
    agenda.own({1, 2}, 10.0)
    agenda.take_due(10.0)
    agenda.note(1, 10.5)
    agenda.note(2, 10.2)
    assert agenda.take_due(10.6) == [2, 1]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("own"), st.frozensets(st.integers(0, 4))),
        st.tuples(st.just("note"), st.tuples(st.integers(0, 4), st.floats(0, 5))),
        st.tuples(st.just("look"), st.none()),
        st.tuples(st.just("pass"), st.floats(0, 3)),
    ),
    max_size=40,
)


@given(steps)
def test_no_noted_timer_of_an_owned_partition_is_missed_and_no_wait_is_too_long(
    history: list[tuple[str, object]],
) -> None:
    agenda, now = Agenda(LONGEST_S), 0.0
    owned: frozenset[int] = frozenset()
    wanted: dict[int, float] = {}  # the soonest noted moment of each owned partition since its last look
    for step, argument in history:
        if step == "own":
            assert isinstance(argument, frozenset)
            gained = agenda.own(argument, now)
            assert gained == argument - owned
            owned = argument
            wanted = {p: m for p, m in wanted.items() if p in owned} | dict.fromkeys(gained, now)
        elif step == "note":
            assert isinstance(argument, tuple)
            partition, delay = argument
            agenda.note(partition, now + delay)
            if partition in owned:
                wanted[partition] = min(wanted.get(partition, now + delay), now + delay)
        elif step == "pass":
            assert isinstance(argument, float)
            now += argument
        else:
            looked_at = agenda.take_due(now)
            assert {p for p, moment in wanted.items() if moment <= now} <= set(looked_at) <= owned
            for partition in looked_at:
                wanted.pop(partition, None)
        assert agenda.wait_s(now) <= LONGEST_S + ROUNDING_S
        if owned:
            soonest = min(wanted.values(), default=now + LONGEST_S)
            assert now + agenda.wait_s(now) <= max(now, soonest) + ROUNDING_S
