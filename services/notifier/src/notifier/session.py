"""One authenticated socket: a cursor in its user's stream that only ever moves forward, one offset at a time.

A frame that was just committed is written at once if it is the next one. Whatever else (a resume, a frame out of turn,
a lost wake-up, a full queue) is caught up from PostgreSQL. Both ways move the same cursor, so replay and live flow join
without a gap or a repeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from notifier import protocol
from notifier.metrics import Metrics
from notifier.protocol import Allowance, CloseCode
from notifier.socket_adapter import SlowClient, Socket, text_frame
from notifier.store import Appended, StoredFrame
from weelo_common.auth import Principal
from weelo_common.clock import Clock
from weelo_common.postgres import DatabaseUnavailable
from weelo_common.telemetry import is_recorded, span

log = logging.getLogger(__name__)

PAGE_FRAMES = 200  # of a stream read at once: some 200 KiB

ReadStream = Callable[[str, int, int], Awaitable[list[StoredFrame]]]
"""(user id, after this offset, at most so many) → frames. Raises DatabaseUnavailable."""


class Limits(Protocol):
    """What of the settings a session goes by."""

    @property
    def ws_slow_deadline_s(self) -> float:
        """Seconds a full queue may stay full."""

    @property
    def ws_messages_per_s(self) -> float:
        """How many messages a client may send in the long run."""

    @property
    def ws_messages_burst(self) -> int:
        """How many it may send at once."""


class _Place:
    """What a push looks at in a session: the slots of a parent lie first, so these share a line of the CPU's cache.

    Among thousands of sockets none is warm in it, and a push waits longer for each line than it computes.
    """

    __slots__ = ("_catching_up", "_cursor", "_epoch", "_head", "beside", "socket")


class Session(_Place):
    """Sends one user's stream down one socket."""

    __slots__ = (
        "_clock",
        "_limits",
        "_metrics",
        "_read",
        "_replay_upto",
        "acked",
        "allowance",
        "pinged_at",
        "principal",
        "slot",
        "token_end",
    )

    def __init__(
        self,
        socket: Socket,
        principal: Principal,
        *,
        read: ReadStream,
        metrics: Metrics,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.socket = socket
        self.principal = principal
        self.beside: tuple[Session, ...] = ()
        """The user's younger sessions, where this is his oldest; kept by the hub."""
        self.acked = 0
        """The highest offset that the client has acknowledged."""
        self.allowance: Allowance | None = None
        """How much it may still say; None while it has said nothing but acks."""
        self.slot = 0  # these three are the heartbeat's
        self.pinged_at: float | None = None
        self.token_end: asyncio.TimerHandle | None = None
        self._read = read
        self._metrics = metrics
        self._clock = clock
        self._limits = limits
        self._epoch: str | None = None  # None until the stream is open
        self._cursor = 0  # the last offset sent
        self._head = 0  # the last offset known to exist
        self._replay_upto = 0
        self._catching_up: asyncio.Task[None] | None = None

    @property
    def user_id(self) -> str:
        """Whose stream it is."""
        return self.principal.user_id

    @property
    def cursor(self) -> int:
        """The last offset sent or passed over."""
        return self._cursor

    @property
    def place(self) -> tuple[str, int] | None:
        """Where it is: the epoch and the last offset sent; None until the stream is open."""
        return None if self._epoch is None else (self._epoch, self._cursor)

    def begin(self, *, epoch: str, cursor: int, head: int) -> None:
        """Send everything after ``cursor`` from now on. What was heard of the stream before counts, too."""
        self._epoch = epoch
        self._cursor = cursor
        self._head = max(self._head, head)
        self._replay_upto = head
        if self._cursor < self._head:
            self._catch_up()

    def deliver(self, appended: Appended, wire: bytes, now: datetime) -> bool:
        """A frame of this user's stream was committed, here or in another replica; True where it was sent at once.

        ``wire`` is the frame as it goes over the socket: built once, however many sockets the user has.
        """
        frame = appended.frame
        offset = frame.offset
        if (
            offset == self._cursor + 1
            and self._catching_up is None
            and appended.epoch == self._epoch
            and not self.socket.is_full
            and (frame.expires_at is None or frame.expires_at > now)
        ):
            self._cursor = offset
            if offset > self._head:
                self._head = offset
            if frame.traceparent is None:
                self.socket.write(wire)
            else:
                self._write_traced(frame, wire)
            return True
        self._deliver_out_of_turn(appended)
        return False

    def _deliver_out_of_turn(self, appended: Appended) -> None:
        offset = appended.frame.offset
        if self._epoch is not None and appended.epoch != self._epoch:
            return  # the heads check decides whether our stream was replaced
        self._head = max(self._head, offset)
        if self._epoch is not None and self._catching_up is None and offset > self._cursor:
            self._catch_up()

    def head_is(self, *, epoch: str, head: int) -> bool:
        """What PostgreSQL says of the stream; True where the socket was behind and nobody had told it."""
        if self._epoch is None:
            return False
        if epoch != self._epoch:
            self.close(CloseCode.GOING_DOWN, "the stream was replaced; resume")
            return False
        was_told = head <= self._head
        self._head = max(self._head, head)
        if self._cursor < self._head and self._catching_up is None:
            self._catch_up()
        return not was_told

    def may_say(self, now_s: float) -> bool:
        """Whether the client may say one more thing, at ``now_s`` of a steady clock."""
        if self.allowance is None:
            self.allowance = Allowance(self._limits.ws_messages_per_s, self._limits.ws_messages_burst, now_s)
        return self.allowance.take(now_s)

    def close(self, code: CloseCode, reason: str) -> None:
        """Begin to close the socket, once."""
        if self.socket.end(code, reason):
            self._metrics.closed.labels(str(int(code))).inc()

    async def ended(self) -> None:
        """End what still runs for this session; the socket is gone or going."""
        catching_up = self._catching_up
        if catching_up is not None:
            catching_up.cancel()
            await asyncio.wait([catching_up])
        await self.socket.ended()

    def _catch_up(self) -> None:
        if self.socket.is_open:
            self._catching_up = asyncio.create_task(self._read_and_send())

    async def _read_and_send(self) -> None:
        try:
            await self._until_at_head()
        except SlowClient:
            self._metrics.slow_closed.inc()
            self.close(CloseCode.TOO_SLOW_OR_CHATTY, "too slow; resume")
        except DatabaseUnavailable as error:
            # The next heads check starts this again.
            log.warning("Catching up waits", extra={"userId": self.user_id, "reason": str(error)})
        except Exception:
            log.exception("Catching up failed", extra={"userId": self.user_id})
            self.close(CloseCode.INTERNAL_ERROR, "internal error; resume")
        finally:
            self._catching_up = None

    def _is_open(self) -> bool:
        return self.socket.is_open

    async def _until_at_head(self) -> None:
        deadline_s = self._limits.ws_slow_deadline_s
        await self.socket.drained(deadline_s)
        while self._cursor < self._head and self._is_open():
            frames = await self._read(self.user_id, self._cursor, PAGE_FRAMES)
            if not frames or frames[0].offset != self._cursor + 1:
                # Retention took what this socket had not been sent yet: an honest resume will say so.
                self.close(CloseCode.TOO_SLOW_OR_CHATTY, "frames are gone; resume")
                return
            dead_since: int | None = None
            for frame in frames:
                if frame.dead:
                    dead_since = dead_since or frame.offset
                    continue
                if dead_since is not None:
                    self._skip(dead_since, frame.offset - 1)
                    dead_since = None
                self._send(frame)
                if self.socket.is_full:
                    await self.socket.drained(deadline_s)
                    if not self._is_open():
                        return
            if dead_since is not None:
                self._skip(dead_since, frames[-1].offset)

    def _send(self, frame: StoredFrame) -> None:
        """Send what was read from the stream."""
        self._cursor = frame.offset
        self._head = max(self._head, frame.offset)
        self._write_traced(frame, text_frame(protocol.event_head(frame.offset), frame.rest))
        if frame.offset > self._replay_upto:
            self._metrics.pushes.live(frame.event, self._clock.now(), frame.event_time)
        else:
            self._metrics.pushes.replayed(frame.event)

    def _write_traced(self, frame: StoredFrame, wire: bytes) -> None:
        if frame.traceparent is not None and is_recorded(frame.traceparent):
            with span(f"push {frame.event}", parent=frame.traceparent):
                self.socket.write(wire)
        else:
            self.socket.write(wire)

    def _skip(self, first: int, last: int) -> None:
        self._cursor = last
        self._head = max(self._head, last)
        self.socket.write(text_frame(protocol.skip_frame(first, last)))
        self._metrics.skipped.inc(last - first + 1)
