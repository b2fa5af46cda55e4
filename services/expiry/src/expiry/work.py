"""What this replica knows it has to do: timers due soon, partitions with a backlog, firings that nobody finished.

The consumer's handlers and the keeper put it in, the firer takes it out. All of it may be lost: the tables have it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from expiry.database_clock import DatabaseClock
from expiry.domain import Firing
from expiry.wheel import Slice, Wheel


class Work:
    """One replica's; ``monotonic`` is the process's clock in seconds. Its methods only signal: safe in a rebalance."""

    def __init__(self, *, max_timers: int, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self.clock = DatabaseClock()
        self.unfinished: deque[Firing] = deque()
        """To be published again; as many as there are lanes, and one batch that the keeper found."""
        self.woken = asyncio.Event()
        """Set where the firer may have something to do now."""
        self._wheel = Wheel(max_timers)
        self._backlog: deque[int] = deque()

    @property
    def wheel(self) -> Wheel:
        """What is due soon."""
        return self._wheel

    @property
    def owned(self) -> frozenset[int]:
        """The partitions whose timers are this replica's."""
        return self._wheel.owned

    def own(self, partitions: Iterable[int]) -> None:
        """Fire the timers of exactly these partitions from now on."""
        self._wheel.own(partitions)
        self._backlog = deque(partition for partition in self._backlog if partition in self.owned)
        self.woken.set()

    def note(self, partition: int, timer_id: int, due_ms: int, delay_ms: int) -> None:
        """A timer was committed, to be due ``delay_ms`` after its command was written."""
        before = self._wheel.next_due_ms()
        if self._wheel.add(partition, timer_id, due_ms, delay_ms) and (before is None or due_ms < before):
            self.woken.set()

    def found_backlog(self, partitions: Iterable[int]) -> None:
        """The table has timers of these partitions that are overdue."""
        for partition in partitions:
            if partition in self.owned and partition not in self._backlog:
                self._backlog.append(partition)
                self.woken.set()

    def found_unfinished(self, firings: Iterable[Firing]) -> None:
        """Firings that nobody works on."""
        self.unfinished.extend(firings)
        if self.unfinished:
            self.woken.set()

    @property
    def backlog(self) -> int | None:
        """The partition whose backlog is next, if any; ``backlog_done`` tells what came of it."""
        return self._backlog[0] if self._backlog else None

    def backlog_done(self, partition: int, *, more: bool) -> None:
        """A batch of the partition's backlog was claimed; ``more`` where the table may have another."""
        if partition in self._backlog:
            self._backlog.remove(partition)
            if more:
                self._backlog.append(partition)  # after the others

    def take_due(self, *, fresh_ms: int, limit: int) -> list[Slice]:
        """Up to ``limit`` timers that are due. What is later than ``fresh_ms`` is left to the backlog."""
        now_ms = self.clock.now_ms(self.monotonic())
        self.found_backlog(self._wheel.drop_overdue(now_ms - fresh_ms))
        return self._wheel.take_due(now_ms, limit)

    def wait_s(self) -> float | None:
        """Seconds until there is something to do, 0 where there is; None: until somebody says so."""
        if self.unfinished:
            return 0.0
        if not self.clock.known:
            return None
        if self._backlog:
            return 0.0
        next_due_ms = self._wheel.next_due_ms()
        if next_due_ms is None:
            return None
        return max(0.0, next_due_ms / 1000 - self.clock.now_s(self.monotonic()))
