"""What a library says again and again is told now and then, with how often it was said meanwhile.

aiokafka has a line for each try to reach a broker that is away: thousands a minute, among which the few of ours are not
found. It must never hold back a line of ours, nor the first of its kind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

TELL_EVERY_S = 10.0  # one line of a kind within this
MOST_KINDS = 1000  # that are remembered; a library has some dozens, unless it puts values into its texts


class Repeats(logging.Filter):
    """For a handler. Lines of one kind have the same logger, level and text, whatever values are put into it."""

    def __init__(self, library: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(library)
        self._monotonic = monotonic
        self._told: dict[tuple[str, int, str], tuple[float, int]] = {}  # when, and how many since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is told; it then has ``repeated``, if lines of its kind were held back before it."""
        if not super().filter(record):
            return True  # not of this library
        kind = (record.name, record.levelno, str(record.msg))
        now = self._monotonic()
        told_at, untold = self._told.get(kind, (float("-inf"), 0))
        if now - told_at < TELL_EVERY_S:
            self._told[kind] = (told_at, untold + 1)
            return False
        if len(self._told) >= MOST_KINDS:
            self._told.clear()
        self._told[kind] = (now, 0)
        if untold:
            record.repeated = untold
        return True
