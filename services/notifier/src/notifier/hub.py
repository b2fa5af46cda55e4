"""Which sockets this process holds, by user; and the check that finds what no wake-up told.

Wake-ups come from this process's own commits and, over Redis, from the other replicas. Either may be lost: the heads
check compares every connected user's stream with what his sockets were told, so a loss costs seconds, never a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable

from notifier import store
from notifier.metrics import Metrics
from notifier.protocol import CloseCode, event_head
from notifier.session import Session
from notifier.socket_adapter import text_frame
from notifier.store import Appended, Head, StoredFrame, Stream
from weelo_common.clock import Clock
from weelo_common.postgres import Database, DatabaseUnavailable

log = logging.getLogger(__name__)

SOCKETS_A_QUERY = 1_000  # asked about in one statement
MAX_CONCURRENT_READS = 6  # half the pool: a storm of resumes leaves connections for what is new


class Hub:
    """All sessions of the process."""

    def __init__(
        self, database: Database, metrics: Metrics, clock: Clock, *, most_per_user: int, read_wait_s: float
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._most_per_user = most_per_user
        self._read_wait_s = read_wait_s
        # The oldest of each user; the others stand beside it. Hardly anybody has two, and a push looks at one less.
        self._oldest: dict[str, Session] = {}
        self._reads = asyncio.Semaphore(MAX_CONCURRENT_READS)
        self._check_now = asyncio.Event()

    def enter(self, session: Session) -> None:
        """Take in a session; beyond the limit its user's oldest one is closed with 4409."""
        sessions = (*self._of(session.user_id), session)
        self._keep(session.user_id, sessions)
        self._metrics.sockets.inc()
        self._metrics.opened.inc()
        if len(sessions) > self._most_per_user:
            self.leave(sessions[0], CloseCode.TOO_MANY_CONNECTIONS, "another connection took the place")

    def leave(self, session: Session, code: CloseCode | None = None, reason: str = "") -> None:
        """Let go of a session, closing it where a code is given; a second call does nothing."""
        if code is not None:
            session.close(code, reason)
        sessions = self._of(session.user_id)
        if session not in sessions:
            return
        session.beside = ()
        self._keep(session.user_id, tuple(other for other in sessions if other is not session))
        self._metrics.sockets.dec()

    def _of(self, user_id: str) -> tuple[Session, ...]:
        """A user's sessions, the oldest first."""
        oldest = self._oldest.get(user_id)
        return () if oldest is None else (oldest, *oldest.beside)

    def _keep(self, user_id: str, sessions: tuple[Session, ...]) -> None:
        if sessions:
            self._oldest[user_id], sessions[0].beside = sessions[0], sessions[1:]
        else:
            del self._oldest[user_id]
        self._metrics.users.set(len(self._oldest))

    def push(self, appended: Iterable[Appended]) -> None:
        """Frames were committed, here or elsewhere: hand them to the sockets of their users."""
        now = self._clock.now()
        get = self._oldest.get
        last: StoredFrame | None = None
        sent = 0
        for one in appended:
            session = get(one.user_id)
            if session is None:
                continue
            frame = one.frame
            if last is not None and (frame.event_time is not last.event_time or frame.event != last.event):
                self._metrics.pushes.live(last.event, now, last.event_time, sent)
                sent = 0
            last = frame
            wire = text_frame(event_head(frame.offset), frame.rest)
            sent += session.deliver(one, wire, now)
            if session.beside:
                for other in session.beside:
                    sent += other.deliver(one, wire, now)
        if last is not None:
            self._metrics.pushes.live(last.event, now, last.event_time, sent)

    def observe_queues(self) -> None:
        """Tell the metrics what waits in the process for the sockets."""
        waiting = [session.socket.queued_bytes for session in self.sessions()]
        self._metrics.queued_bytes.set(sum(waiting))
        self._metrics.longest_queue_bytes.set(max(waiting, default=0))
        self._metrics.full_queues.set(sum(session.socket.is_full for session in self.sessions()))

    def sessions(self) -> list[Session]:
        """All of them, in no order that matters."""
        return [session for oldest in self._oldest.values() for session in (oldest, *oldest.beside)]

    async def open_stream(self, user_id: str) -> Stream:
        """A user's stream.

        Raises:
            DatabaseUnavailable: PostgreSQL is out of reach, or too many wait for it.
        """
        async with self._turn_to_read(), self._database.connection() as connection:
            return await store.open_stream(connection, user_id)

    async def read(self, user_id: str, after: int, limit: int) -> list[StoredFrame]:
        """Frames of a user's stream.

        Raises:
            DatabaseUnavailable: PostgreSQL is out of reach, or too many wait for it.
        """
        async with self._turn_to_read(), self._database.connection() as connection:
            return await store.read_stream(connection, user_id, after=after, limit=limit)

    @contextlib.asynccontextmanager
    async def _turn_to_read(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._read_wait_s):
                await self._reads.acquire()
        except TimeoutError:
            raise DatabaseUnavailable(f"no turn to read a stream within {self._read_wait_s:g} s") from None
        try:
            yield
        finally:
            self._reads.release()

    def check_soon(self) -> None:
        """Wake-ups may have been lost: check the heads now rather than at the next turn."""
        self._check_now.set()

    async def run(self, stop: asyncio.Event, period_s: float) -> None:
        """Check the heads every ``period_s`` seconds, and when told to."""
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._check_now.set())
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._check_now.wait(), period_s)
            self._check_now.clear()
            if stop.is_set():
                return
            self.observe_queues()
            try:
                await self.check_heads()
            except DatabaseUnavailable as error:
                log.warning("Heads check waits", extra={"reason": str(error)})

    async def check_heads(self) -> int:
        """Compare all connected users' streams with what their sockets know; returns how many were behind.

        Raises:
            DatabaseUnavailable: PostgreSQL is out of reach.
        """
        places = [(session.user_id, *session.place) for session in self.sessions() if session.place]
        behind = 0
        for start in range(0, len(places), SOCKETS_A_QUERY):
            users, epochs, cursors = zip(*places[start : start + SOCKETS_A_QUERY], strict=True)
            async with self._database.connection() as connection:
                others = await store.other_heads(connection, users, epochs, cursors)
            behind += self._compare(others)
        if behind:
            self._metrics.found_late.inc(behind)
        return behind

    def _compare(self, heads: Iterable[Head]) -> int:
        behind = 0
        for one in heads:
            for session in self._of(one.user_id):
                if one.went_back:
                    # What comes next would have offsets that the client knows; its resume says that it is not whole.
                    session.close(CloseCode.GOING_DOWN, "the stream went back; resume")
                else:
                    behind += session.head_is(epoch=one.epoch, head=one.head)
        return behind
