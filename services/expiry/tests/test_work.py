"""What a replica knows it has to do; the process's clock is a number that the test sets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from expiry.domain import Firing
from expiry.work import Work

EPOCH_MS = 1_770_000_000_000
FIRING = Firing(1, datetime(2026, 2, 3, tzinfo=UTC), ())


class Place:
    """A replica's work at a moment; its clock and PostgreSQL's run side by side."""

    def __init__(self, *partitions: int) -> None:
        self.now_s = 100.0
        self.work = Work(max_timers=1000, monotonic=lambda: self.now_s)
        self.work.own(partitions)
        for partition in partitions:
            self.work.wheel.hold_until(partition, EPOCH_MS + 60_000)

    def read_clock(self) -> None:
        self.work.clock.observe(EPOCH_MS / 1000, self.now_s, self.now_s)

    def note(self, partition: int, timer_id: int, due_in_ms: int) -> None:
        self.work.note(partition, timer_id, EPOCH_MS + due_in_ms, 60_000)

    def due(self) -> list[int]:
        return [one for part in self.work.take_due(fresh_ms=1000, limit=100) for one in part.ids]


def test_before_the_databases_clock_was_read_nobody_is_told_to_do_anything() -> None:
    place = Place(0)
    place.note(0, 1, 0)
    assert place.work.wait_s() is None
    place.read_clock()
    assert place.work.wait_s() == pytest.approx(0, abs=0.001)


def test_the_wait_is_until_the_first_timer_is_due() -> None:
    place = Place(0, 1)
    place.read_clock()
    assert place.work.wait_s() is None
    place.note(0, 1, 5000)
    place.note(1, 2, 2000)
    assert place.work.wait_s() == pytest.approx(2, abs=0.001)


def test_only_a_timer_that_is_due_sooner_wakes() -> None:
    place = Place(0)
    place.note(0, 1, 5000)
    place.work.woken.clear()
    place.note(0, 2, 6000)
    assert not place.work.woken.is_set()
    place.note(0, 3, 4000)
    assert place.work.woken.is_set()


def test_what_is_not_held_wakes_nobody() -> None:
    place = Place(0)
    place.work.woken.clear()
    place.note(7, 1, 0)
    assert not place.work.woken.is_set()


def test_what_is_late_is_left_to_the_backlog_so_that_the_rest_is_on_time() -> None:
    place = Place(0, 1)
    place.read_clock()
    place.note(0, 1, 0)
    place.note(1, 2, 4500)
    place.now_s += 5
    assert place.due() == [2]
    assert place.work.backlog == 0
    assert place.work.wait_s() == 0


def test_partitions_with_a_backlog_take_turns_until_they_have_none() -> None:
    place = Place(0, 1, 2)
    place.work.found_backlog([1, 2, 1, 9])
    turns = []
    for more in (True, True, False, False):
        partition = place.work.backlog
        assert partition is not None
        turns.append(partition)
        place.work.backlog_done(partition, more=more)
    assert turns == [1, 2, 1, 2]
    assert place.work.backlog is None


def test_the_backlog_of_a_lost_partition_is_somebody_elses() -> None:
    place = Place(0, 1)
    place.work.found_backlog([0, 1])
    place.work.own([1])
    assert place.work.backlog == 1


def test_what_is_unfinished_is_to_be_done_at_once() -> None:
    place = Place(0)
    place.work.woken.clear()
    place.work.found_unfinished([])
    assert not place.work.woken.is_set()
    place.work.found_unfinished([FIRING])
    assert place.work.woken.is_set()
    assert place.work.wait_s() == 0
