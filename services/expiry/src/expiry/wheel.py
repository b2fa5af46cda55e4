"""What is due soon, in memory: which timers to claim next, and when the next one is due.

Pure: moments are milliseconds of PostgreSQL's clock, and the caller gives them. It only drives. Whether a timer is
still pending and due the claim decides, so an entry too many costs a look in vain, and a missing one is found by the
looks at the table. It must never hold what a crash may not lose.

Timers of one delay come due in the order they were scheduled (Varghese and Lauck, "Hashed and hierarchical timing
wheels", 1987, call this the special case of equal intervals): a FIFO for each delay, two columns of 8 bytes a timer,
takes and gives whole slices. Only what fits into no FIFO goes to a heap.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_FIFOS = 64  # of a partition; delays beyond so many are not common, and the heap takes them
NEAR_THE_END = 256  # entries: commands of one delay come out of order by some ms, so by some places
DELAY_STEP_MS = 1000  # delays in one such step share a FIFO: a sender's own latency makes no new one
LOADED = -1  # the FIFO of what was loaded from the table, in order
_COMPACT_FROM = 4096  # entries taken, before their room is given back


@dataclass(frozen=True, slots=True)
class Slice:
    """Timers of one partition that are due: the columns ``due_ms`` and ``ids``."""

    partition: int
    due_ms: array[int]
    ids: array[int]


class Fifo:
    """Timers in the order they are due."""

    __slots__ = ("_due", "_head", "_ids")

    def __init__(self) -> None:
        self._due = array("q")
        self._ids = array("q")
        self._head = 0

    def __len__(self) -> int:
        return len(self._due) - self._head

    @property
    def next_due_ms(self) -> int:
        """When the first one is due; there must be one."""
        return self._due[self._head]

    def add(self, due_ms: int, timer_id: int) -> bool:
        """Put a timer in its place at the end or near it; False where its place is further forward."""
        due = self._due
        if not self or due[-1] <= due_ms:
            due.append(due_ms)
            self._ids.append(timer_id)
            return True
        floor = max(self._head, len(due) - NEAR_THE_END)
        if floor > self._head and due[floor - 1] > due_ms:
            return False
        place = bisect_right(due, due_ms, floor)
        due.insert(place, due_ms)
        self._ids.insert(place, timer_id)
        return True

    def extend(self, due_ms: Sequence[int], ids: Sequence[int]) -> bool:
        """Add timers that are in order; False where they do not come after what is here."""
        if self and due_ms and due_ms[0] < self._due[-1]:
            return False
        self._due.extend(due_ms)
        self._ids.extend(ids)
        return True

    def take(self, until_ms: int, limit: int) -> tuple[array[int], array[int]]:
        """Up to ``limit`` timers due by then, the first ones, as columns."""
        head = self._head
        end = bisect_right(self._due, until_ms, head, min(len(self._due), head + limit))
        taken = self._due[head:end], self._ids[head:end]
        self._head = end
        if end == len(self._due) or (end >= _COMPACT_FROM and end * 2 >= len(self._due)):
            del self._due[:end], self._ids[:end]
            self._head = 0
        return taken


class _Partition:
    """The timers of one partition."""

    __slots__ = ("fifos", "held_until_ms", "odd")

    def __init__(self) -> None:
        self.fifos: dict[int, Fifo] = {}
        self.odd: list[tuple[int, int]] = []  # a heap of (due, id)
        self.held_until_ms: int | None = None

    def __len__(self) -> int:
        return len(self.odd) + sum(len(fifo) for fifo in self.fifos.values())

    def fifo(self, delay: int) -> Fifo | None:
        """The FIFO of a delay, made where there is room for one more."""
        fifo = self.fifos.get(delay)
        if fifo is None and len(self.fifos) < MAX_FIFOS:
            fifo = self.fifos[delay] = Fifo()
        return fifo

    def next_due_ms(self) -> int | None:
        soonest = self.odd[0][0] if self.odd else None
        for fifo in self.fifos.values():
            if soonest is None or fifo.next_due_ms < soonest:
                soonest = fifo.next_due_ms
        return soonest

    def take(self, until_ms: int, limit: int) -> tuple[array[int], array[int]]:
        due, ids = array("q"), array("q")
        for delay, fifo in list(self.fifos.items()):
            if fifo.next_due_ms > until_ms:
                continue
            more_due, more_ids = fifo.take(until_ms, limit - len(ids))
            due += more_due
            ids += more_ids
            if not fifo:
                del self.fifos[delay]
            if len(ids) >= limit:
                return due, ids
        while self.odd and self.odd[0][0] <= until_ms and len(ids) < limit:
            one_due, one_id = heapq.heappop(self.odd)
            due.append(one_due)
            ids.append(one_id)
        return due, ids


class Wheel:
    """The timers due soon of the owned partitions, ``max_timers`` at most."""

    def __init__(self, max_timers: int) -> None:
        self._max_timers = max_timers
        self._count = 0
        self._partitions: dict[int, _Partition] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def owned(self) -> frozenset[int]:
        """The partitions whose timers are this replica's."""
        return frozenset(self._partitions)

    def own(self, partitions: Iterable[int]) -> frozenset[int]:
        """Own exactly these partitions. What is held of others is dropped; returns those that are new, and empty."""
        wanted = frozenset(partitions)
        gained = wanted - self.owned
        for lost in self.owned - wanted:
            self._count -= len(self._partitions.pop(lost))
        for partition in gained:
            self._partitions[partition] = _Partition()
        return gained

    def held_until_ms(self, partition: int) -> int | None:
        """Up to when a partition's timers are held; None before anything was loaded, and for others' partitions."""
        held = self._partitions.get(partition)
        return None if held is None else held.held_until_ms

    def hold_until(self, partition: int, until_ms: int) -> None:
        """From now on take the partition's new timers due by then.

        To be called BEFORE the table is read up to then: what is committed meanwhile is in the one or the other, or
        in both, and nothing is missed.
        """
        held = self._partitions.get(partition)
        if held is not None:
            held.held_until_ms = until_ms

    def add(self, partition: int, timer_id: int, due_ms: int, delay_ms: int) -> bool:
        """Take a new timer, which was scheduled ``delay_ms`` before it is due.

        False where it is not held: another's partition, not due soon, or no room. The table has it in any case.
        """
        held = self._partitions.get(partition)
        if held is None or held.held_until_ms is None or due_ms > held.held_until_ms:
            return False
        if self._count >= self._max_timers:
            return False
        fifo = held.fifo(max(0, delay_ms + DELAY_STEP_MS // 2) // DELAY_STEP_MS)
        if fifo is None or not fifo.add(due_ms, timer_id):
            heapq.heappush(held.odd, (due_ms, timer_id))
        self._count += 1
        return True

    def add_odd(self, partition: int, timer_id: int, due_ms: int) -> None:
        """Take back a timer that was given out and is to be tried again."""
        held = self._partitions.get(partition)
        if held is not None:
            heapq.heappush(held.odd, (due_ms, timer_id))
            self._count += 1

    def add_loaded(self, partition: int, due_ms: Sequence[int], ids: Sequence[int]) -> bool:
        """Take timers read from the table, in the order they are due. False where there is no room for them all."""
        held = self._partitions.get(partition)
        if held is None or not ids:
            return True
        if self._count + len(ids) > self._max_timers:
            return False
        fifo = held.fifo(LOADED)
        if fifo is None or not fifo.extend(due_ms, ids):
            for one_due, one_id in zip(due_ms, ids, strict=True):
                heapq.heappush(held.odd, (one_due, one_id))
        self._count += len(ids)
        return True

    def take_due(self, now_ms: int, limit: int) -> list[Slice]:
        """Up to ``limit`` timers that are due, each given out once; no partition waits for another for long."""
        slices: list[Slice] = []
        for partition in list(self._partitions):
            held = self._partitions[partition]
            due, ids = held.take(now_ms, limit)
            if ids:
                slices.append(Slice(partition, due, ids))
                limit -= len(ids)
                self._count -= len(ids)
                # The next round begins with those that this one did not come to.
                self._partitions[partition] = self._partitions.pop(partition)
            if limit <= 0:
                break
        return slices

    def drop_overdue(self, before_ms: int) -> set[int]:
        """Forget what was due before then: it is backlog, and read from the table. The partitions that had any."""
        behind: set[int] = set()
        for partition, held in self._partitions.items():
            _, ids = held.take(before_ms, self._max_timers)
            if ids:
                behind.add(partition)
                self._count -= len(ids)
        return behind

    def next_due_ms(self) -> int | None:
        """When the next timer is due; None where none is held."""
        moments = [
            soonest for held in self._partitions.values() if (soonest := held.next_due_ms()) is not None
        ]
        return min(moments, default=None)
