"""PostgreSQL's clock as this process may reckon with it: never ahead of it, and behind by a round trip at most.

Pure: the caller brings the readings. It only says when to ask PostgreSQL; what is due PostgreSQL decides.
"""

from __future__ import annotations

MAX_DRIFT = 200e-6  # seconds a second that two sound clocks drift apart at most
RESOLUTION_S = 2e-6  # PostgreSQL tells microseconds, and a float of seconds since 1970 is hardly finer


class DatabaseClock:
    """The offset from the process's monotonic clock to the database's, in seconds, as an interval.

    An answer with the database's time in it was made between the sending of the question and its own arrival, so each
    brackets the offset (Cristian, "Probabilistic clock synchronization", 1989); brackets of several answers overlap,
    each widened by what the clocks may have drifted since. A bracket that does not overlap means that the database's
    clock was set, or that another server answers: then the new one counts.
    """

    def __init__(self) -> None:
        self._low = 0.0
        self._high = 0.0
        self._at: float | None = None

    @property
    def known(self) -> bool:
        """Whether there was a reading yet."""
        return self._at is not None

    def observe(self, database_s: float, asked_at: float, answered_at: float) -> float | None:
        """Take a reading: the database's time, and the monotonic times around it.

        Returns the seconds that the database's clock was set by, where it was; else None.
        """
        slack = RESOLUTION_S + MAX_DRIFT * (answered_at - asked_at)  # it was read somewhere in between
        low, high = database_s - answered_at - slack, database_s - asked_at + slack
        if self._at is None:
            self._low, self._high, self._at = low, high, answered_at
            return None
        drift = MAX_DRIFT * max(0.0, answered_at - self._at)
        before = (self._low + self._high) / 2
        known_low, known_high = self._low - drift, self._high + drift
        self._at = answered_at
        if low > known_high or high < known_low:
            self._low, self._high = low, high
            return (low + high) / 2 - before
        self._low, self._high = max(low, known_low), min(high, known_high)
        return None

    def now_s(self, monotonic: float) -> float:
        """The database's time at a moment of the monotonic clock: the earliest that it can be."""
        if self._at is None:
            raise ValueError("the database's clock was not read yet")
        return monotonic + self._low - MAX_DRIFT * max(0.0, monotonic - self._at)

    def now_ms(self, monotonic: float) -> int:
        """``now_s`` in whole milliseconds, rounded down."""
        return int(self.now_s(monotonic) * 1000)
