"""Pings, and the tokens' ends: one loop for all sockets instead of a task and a timer for each.

A wheel of slots, of which one is visited each tick (Varghese and Lauck, 1987). A socket stays in its slot, so it is
visited once an interval: it is asked for a sign of life, and judged by what it sent since it was asked last.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from notifier.protocol import CloseCode
from notifier.session import Session
from weelo_common.clock import Clock

SLOTS = 20  # ticks in an interval: how evenly the pings are spread
SESSIONS_A_TURN = 128  # visited before others have their turn


class Limits(Protocol):
    """What of the settings the heartbeat goes by."""

    @property
    def ws_ping_interval_s(self) -> float:
        """Seconds between two pings of a socket."""

    @property
    def ws_ping_deadline_s(self) -> float:
        """Seconds of silence after a ping that end a socket."""


class Heartbeat:
    """Visits every session of the process once an interval."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._interval_s = limits.ws_ping_interval_s
        self._deadline_s = limits.ws_ping_deadline_s
        self._clock = clock
        self._slots: list[set[Session]] = [set() for _ in range(SLOTS)]
        self._hand = 0

    @property
    def tick_s(self) -> float:
        """Seconds between two slots."""
        return self._interval_s / SLOTS

    @property
    def watched(self) -> int:
        """How many sessions there are."""
        return sum(map(len, self._slots))

    def watch(self, session: Session) -> None:
        """Visit this session from now on; the first time when an interval has passed."""
        session.slot = self._hand
        self._slots[self._hand].add(session)
        self._end_with_token(session)

    def forget(self, session: Session) -> None:
        """Visit it no more."""
        self._slots[session.slot].discard(session)
        if session.token_end is not None:
            session.token_end.cancel()

    async def run(self, stop: asyncio.Event) -> None:
        """Turn the wheel until stopped."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            due = max(due + self.tick_s, loop.time())  # after a hold-up it does not hurry
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), due - loop.time())
            await self.run_once()

    async def run_once(self) -> int:
        """Visit the next slot; returns how many sessions it held."""
        self._hand = (self._hand + 1) % SLOTS
        sessions = tuple(self._slots[self._hand])
        for number, session in enumerate(sessions, start=1):
            self._visit(session)
            if number % SESSIONS_A_TURN == 0:
                await asyncio.sleep(0)
        return len(sessions)

    def _visit(self, session: Session) -> None:
        socket = session.socket
        if not socket.is_open:
            return
        now = asyncio.get_running_loop().time()
        if session.pinged_at is None or socket.heard_at >= session.pinged_at:
            session.pinged_at = now
        elif now - session.pinged_at + self.tick_s / 2 >= self._deadline_s:
            session.close(CloseCode.INTERNAL_ERROR, "no answer to a ping")
            return
        socket.ask_for_life()
        self._end_with_token(session)

    def _end_with_token(self, session: Session) -> None:
        """A timer for the token's end, but only once that is near: a token lives for many intervals."""
        remaining_s = (session.principal.expires_at - self._clock.now()).total_seconds()
        if session.token_end is None and remaining_s < self._interval_s + 2 * self.tick_s:
            session.token_end = asyncio.get_running_loop().call_later(
                max(0.0, remaining_s), session.close, CloseCode.TOKEN_EXPIRED, "the token has expired"
            )
