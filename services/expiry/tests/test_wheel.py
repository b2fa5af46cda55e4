"""What the wheel gives out and when; the clock is a number that the test sets."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from expiry.wheel import MAX_FIFOS, NEAR_THE_END, Fifo, Wheel

FAR_MS = 1_000_000
ROOM = 10_000


def wheel_of(*partitions: int, room: int = ROOM) -> Wheel:
    wheel = Wheel(room)
    wheel.own(partitions)
    for partition in partitions:
        wheel.hold_until(partition, FAR_MS)
    return wheel


def given_out(wheel: Wheel, now_ms: int, limit: int = ROOM) -> list[int]:
    return [timer_id for slice_ in wheel.take_due(now_ms, limit) for timer_id in slice_.ids]


def test_timers_of_one_delay_come_out_in_the_order_they_are_due() -> None:
    wheel = wheel_of(0)
    for timer_id, due_ms in enumerate((5, 1, 4, 2, 3)):
        assert wheel.add(0, timer_id, due_ms, 60_000)
    assert given_out(wheel, 5) == [1, 3, 4, 2, 0]


def test_a_timer_is_given_out_when_it_is_due_and_only_once() -> None:
    wheel = wheel_of(0)
    wheel.add(0, 7, 100, 50)
    assert given_out(wheel, 99) == []
    assert wheel.next_due_ms() == 100
    assert given_out(wheel, 100) == [7]
    assert given_out(wheel, 100) == []
    assert wheel.next_due_ms() is None


def test_a_timer_far_ahead_of_its_fellows_goes_to_the_heap_and_comes_out_in_time() -> None:
    wheel = wheel_of(0)
    for number in range(NEAR_THE_END + 10):
        wheel.add(0, number, 1000 + number, 60_000)
    wheel.add(0, -1, 5, 60_000)  # of the same delay by its sender, whose clock jumped
    assert wheel.next_due_ms() == 5
    assert given_out(wheel, 5) == [-1]


def test_more_delays_than_fifos_are_held_all_the_same() -> None:
    wheel = wheel_of(0)
    for number in range(3 * MAX_FIFOS):
        wheel.add(0, number, number, number * 1000)
    assert sorted(given_out(wheel, FAR_MS)) == list(range(3 * MAX_FIFOS))


def test_what_is_not_due_soon_is_left_to_the_table() -> None:
    wheel = wheel_of(0)
    wheel.hold_until(0, 100)
    assert wheel.add(0, 1, 100, 50)
    assert not wheel.add(0, 2, 101, 50)


def test_timers_of_a_partition_owned_elsewhere_are_not_held() -> None:
    wheel = wheel_of(0)
    assert not wheel.add(1, 1, 10, 10)
    assert wheel.add_loaded(1, [10], [1])
    assert len(wheel) == 0


def test_a_gained_partition_is_empty_until_it_was_loaded_and_a_kept_one_keeps_its_timers() -> None:
    wheel = wheel_of(0)
    wheel.add(0, 1, 10, 10)
    assert wheel.own({0, 1}) == {1}
    assert wheel.held_until_ms(1) is None
    assert not wheel.add(1, 2, 10, 10)
    wheel.hold_until(1, FAR_MS)
    assert wheel.add(1, 2, 10, 10)
    assert wheel.own({1}) == frozenset()
    assert given_out(wheel, 10) == [2]
    assert wheel.own({0, 1}) == {0}
    assert given_out(wheel, 10) == []


def test_no_more_timers_are_held_than_there_is_room_for() -> None:
    wheel = wheel_of(0, room=3)
    assert wheel.add_loaded(0, [1, 2], [1, 2])
    assert not wheel.add_loaded(0, [3, 4], [3, 4])
    assert wheel.add(0, 3, 3, 0)
    assert not wheel.add(0, 4, 4, 0)
    assert len(wheel) == 3


def test_loaded_timers_that_overlap_with_those_held_come_out_too() -> None:
    wheel = wheel_of(0)
    wheel.add_loaded(0, [10, 20], [1, 2])
    wheel.add_loaded(0, [15, 30], [3, 4])  # out of order: to the heap
    wheel.add_loaded(0, [40], [5])
    assert sorted(given_out(wheel, 15)) == [1, 3]
    assert sorted(given_out(wheel, 40)) == [2, 4, 5]


def test_a_limited_round_is_followed_by_the_partitions_it_did_not_come_to() -> None:
    wheel = wheel_of(0, 1)
    for number in range(10):
        wheel.add(0, number, 1, 0)
        wheel.add(1, 100 + number, 1, 0)
    assert {timer_id // 100 for timer_id in given_out(wheel, 1, limit=5)} == {0}
    assert {timer_id // 100 for timer_id in given_out(wheel, 1, limit=5)} == {1}


def test_what_is_overdue_is_dropped_and_its_partitions_are_told() -> None:
    wheel = wheel_of(0, 1, 2)
    for partition, due_ms in ((0, 10), (1, 20), (2, 30)):
        wheel.add(partition, partition, due_ms, 0)
    assert wheel.drop_overdue(20) == {0, 1}
    assert given_out(wheel, 100) == [2]
    assert len(wheel) == 0


def test_taking_gives_the_room_back() -> None:
    fifo = Fifo()
    fifo.extend(range(100_000), range(100_000))
    taken = 0
    while taken < 90_000:
        taken += len(fifo.take(FAR_MS, 1000)[1])
    assert len(fifo) == 10_000
    assert len(fifo._due) <= 20_000


@given(st.lists(st.integers(0, 1000), max_size=600))
@settings(max_examples=50)
def test_a_fifo_holds_what_it_took_in_order(dues: list[int]) -> None:
    fifo = Fifo()
    held = [due for number, due in enumerate(dues) if fifo.add(due, number)]
    if held:
        assert fifo.next_due_ms == min(held)
    assert list(fifo.take(FAR_MS, len(dues) + 1)[0]) == sorted(held)


class Histories(RuleBasedStateMachine):
    """Any history beside a plain list: what is held comes out when it is due, once for each time it was put in."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.numbers = 0
        self.wheel = Wheel(ROOM)
        self.held: list[tuple[int, int, int]] = []  # partition, due, id
        self.until: dict[int, int | None] = {}

    @rule(partitions=st.frozensets(st.integers(0, 3)))
    def own(self, partitions: frozenset[int]) -> None:
        gained = self.wheel.own(partitions)
        assert gained == partitions - self.until.keys()
        self.until = {partition: self.until.get(partition) for partition in partitions}
        self.held = [entry for entry in self.held if entry[0] in partitions]

    @rule(partition=st.integers(0, 3), ahead=st.integers(0, 500))
    def hold(self, partition: int, ahead: int) -> None:
        self.wheel.hold_until(partition, self.now_ms + ahead)
        if partition in self.until:
            self.until[partition] = self.now_ms + ahead

    @rule(partition=st.integers(0, 3), ahead=st.integers(-100, 600), delay_s=st.integers(0, 80))
    def schedule(self, partition: int, ahead: int, delay_s: int) -> None:
        self.numbers += 1
        due_ms = self.now_ms + ahead
        until = self.until.get(partition)
        taken = self.wheel.add(partition, self.numbers, due_ms, delay_s * 1000)
        assert taken == (until is not None and due_ms <= until)
        if taken:
            self.held.append((partition, due_ms, self.numbers))

    @rule(partition=st.integers(0, 3), aheads=st.lists(st.integers(0, 500), max_size=8))
    def load(self, partition: int, aheads: list[int]) -> None:
        dues = sorted(self.now_ms + ahead for ahead in aheads)
        first = self.numbers + 1
        self.numbers += len(dues)
        ids = list(range(first, first + len(dues)))
        assert self.wheel.add_loaded(partition, dues, ids)
        if partition in self.until:
            self.held += [(partition, due, one) for due, one in zip(dues, ids, strict=True)]

    @rule(passed=st.integers(0, 200))
    def time_passes(self, passed: int) -> None:
        self.now_ms += passed

    @rule(limit=st.integers(1, 20))
    def take(self, limit: int) -> None:
        due = [entry for entry in self.held if entry[1] <= self.now_ms]
        slices = self.wheel.take_due(self.now_ms, limit)
        taken = [
            (slice_.partition, due_ms, one)
            for slice_ in slices
            for due_ms, one in zip(slice_.due_ms, slice_.ids, strict=True)
        ]
        assert len(taken) == min(limit, len(due))
        assert not Counter(taken) - Counter(due)
        self.held = list((Counter(self.held) - Counter(taken)).elements())

    @precondition(lambda self: self.held)
    @rule(late=st.integers(0, 100))
    def drop(self, late: int) -> None:
        before = self.now_ms - late
        behind = {entry[0] for entry in self.held if entry[1] <= before}
        assert self.wheel.drop_overdue(before) == behind
        self.held = [entry for entry in self.held if entry[1] > before]

    @invariant()
    def the_next_one_is_known(self) -> None:
        assert len(self.wheel) == len(self.held)
        assert self.wheel.next_due_ms() == min((due for _, due, _ in self.held), default=None)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
