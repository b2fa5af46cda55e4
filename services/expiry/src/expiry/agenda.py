"""When to look at which partition next: one moment a partition that this replica owns.

Pure: moments are seconds of a monotonic clock that the caller reads. It only saves looks at the database; what is
due, PostgreSQL says. A moment that is too early costs a look that finds nothing. No look is ever put off for longer
than the longest wait, so what memory has not heard of is found as well.
"""

from __future__ import annotations

from collections.abc import Iterable


class Agenda:
    """The next look at each owned partition, never later than ``longest_wait_s`` after the last one."""

    def __init__(self, longest_wait_s: float) -> None:
        self._longest_wait_s = longest_wait_s
        self._next: dict[int, float] = {}

    @property
    def owned(self) -> frozenset[int]:
        """The partitions whose timers are this replica's."""
        return frozenset(self._next)

    def own(self, partitions: Iterable[int], now: float) -> frozenset[int]:
        """Take over exactly these partitions; new ones are looked at at once, and returned."""
        wanted = frozenset(partitions)
        gained = wanted - self.owned
        for lost in self.owned - wanted:
            del self._next[lost]
        for partition in gained:
            self._next[partition] = now
        return gained

    def note(self, partition: int, moment: float) -> bool:
        """A timer of the partition is due at the moment: True where that is sooner than the next look."""
        planned = self._next.get(partition)
        if planned is None or planned <= moment:
            return False
        self._next[partition] = moment
        return True

    def take_due(self, now: float) -> list[int]:
        """The partitions to look at now, the longest waiting first.

        Each is planned anew for the longest wait BEFORE it is looked at, so that what is noted during the look is kept.
        """
        due = sorted((moment, partition) for partition, moment in self._next.items() if moment <= now)
        for _, partition in due:
            self._next[partition] = now + self._longest_wait_s
        return [partition for _, partition in due]

    def wait_s(self, now: float) -> float:
        """Seconds until the next look; 0 where one is due."""
        soonest = min(self._next.values(), default=now + self._longest_wait_s)
        return max(0.0, soonest - now)
