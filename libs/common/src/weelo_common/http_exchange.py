"""One request and its answer, which is begun once: by the application, or at the deadline without it.

Every await behind a request has a deadline of its own, but several come one after the other: a connection, a statement,
the end of its transaction. This is the one deadline for all of them together. It must never cut off an answer that has
begun, nor count the time in which the caller was still sending.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Send

STALL_S = 0.1  # a timer that comes later than this tells of a process that stood still
CLOCK_S = 0.001  # the event loop counts in milliseconds

Refuse = Callable[[Send], Awaitable[None]]


class Exchange:
    """Hands the application its ``receive`` and ``send``. Make it in the request's task, and close it at the end.

    At the deadline the caller gets what ``refuse`` sends, at once; then the application is cancelled, and what it sends
    while it tidies up goes nowhere.
    """

    def __init__(self, receive: Receive, send: Send, refuse: Refuse, *, deadline_s: float) -> None:
        self.status = 500
        """Of the answer, once it has begun."""
        self.begun = False
        self.cut_off = False
        """Whether the deadline answered."""
        self._receive = receive
        self._send = send
        self._refuse = refuse
        self._started = self._ended = time.perf_counter()
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + deadline_s
        self._listens_since: float | None = None
        self._stalled = False
        self._due = self._ends_at
        self._timer = self._loop.call_at(self._due, self._look)
        self._refusing: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """The next piece of the request. The deadline stands still meanwhile."""
        since = self._listens_since = self._loop.time()
        try:
            return await self._receive()
        finally:
            self._listens_since = None
            self._ends_at += self._loop.time() - since

    async def send(self, message: Message) -> None:
        """Send a piece of the answer, for the application; nowhere, where the deadline answered."""
        if not self.cut_off:
            await self._pass_on(message)

    async def close(self) -> float:
        """The application has ended; the seconds that the caller waited for the whole answer."""
        self._timer.cancel()
        if self._refusing is not None:
            await self._refusing
        else:
            self._ended = time.perf_counter()
        return self._ended - self._started

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            self._timer.cancel()
        await self._send(message)

    def _look(self) -> None:
        now = self._loop.time()
        if self._listens_since is not None:
            self._look_again_at(now + self._ends_at - self._listens_since)
        elif now < self._ends_at - CLOCK_S:
            self._look_again_at(self._ends_at)
        elif now - self._due > STALL_S and not self._stalled:
            self._stalled = True  # answers may lie in the sockets: they are read before anybody is given up
            self._look_again_at(now + STALL_S)
        else:
            self.cut_off = True
            self._refusing = self._loop.create_task(self._refuse_now())
            if self._task is not None:
                self._task.cancel()

    def _look_again_at(self, when: float) -> None:
        self._due = when
        self._timer = self._loop.call_at(when, self._look)

    async def _refuse_now(self) -> None:
        await self._refuse(self._pass_on)
        self._ended = time.perf_counter()
