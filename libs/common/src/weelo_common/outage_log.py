"""Tells of an outage once when it begins and once when it is over, however many tries fail in between.

What is tried again and again must not fill the log: how often it was tried is for a counter.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from types import MappingProxyType


class OutageLog:
    """Of one thing that may be away, for all that wait for it: told apart by any name of theirs.

    The first that waits begins the outage, and the last that goes on ends it.
    """

    def __init__(self, log: logging.Logger, *, begins: str, ends: str) -> None:
        self._log = log
        self._begins = begins
        self._ends = ends
        self._waiting: set[Hashable] = set()

    def waits(
        self, reason: str, who: Hashable = None, extra: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """A try failed; the next one will come."""
        if not self._waiting:
            self._log.warning(self._begins, extra={"reason": reason, **extra})
        self._waiting.add(who)

    def goes_on(self, who: Hashable = None, extra: Mapping[str, object] = MappingProxyType({})) -> None:
        """A try went well."""
        if who in self._waiting and self.gives_up(who):
            self._log.warning(self._ends, extra=dict(extra))

    def gives_up(self, who: Hashable = None) -> bool:
        """There will be no further try; whether nobody waits now. It is no end of the outage, and not told as one."""
        self._waiting.discard(who)
        return not self._waiting
