"""The sockets of all phones: frames are counted and handed on; a phone that loses its connection resumes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tools.demo.crew import Crew
from tools.demo.phone import Phone
from tools.demo.settings import DemoError
from tools.demo.tally import Tally
from tools.weelo_client.notifications import NotificationStream, Refused, Reread

CONNECTING_AT_ONCE = 16  # far below what the server lets wait for their first frame
READY_DEADLINE_S = 20.0  # while hundreds connect

OnEvent = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Given an event's name and data; must not wait long, for the next frame waits for it."""


class Listening:
    """Opens sockets for phones and keeps them until the crew goes home."""

    def __init__(self, url: str, tally: Tally) -> None:
        self._url = url
        self._tally = tally
        self._connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def start(self, phone: Phone, on_event: OnEvent, crew: Crew) -> None:
        """Listen for this phone; returns once its socket is ready.

        Raises:
            DemoError: the notifier did not let it in.
        """
        stream = NotificationStream(self._url, lambda: phone.token)
        async with self._connecting:
            crew.create_task(self._listen(stream, phone.person_id, on_event))
            try:
                await asyncio.wait_for(stream.ready.wait(), READY_DEADLINE_S)
            except TimeoutError:
                raise DemoError(f"no socket at {self._url} within {READY_DEADLINE_S:.0f} s") from None

    async def _listen(self, stream: NotificationStream, person_id: str, on_event: OnEvent) -> None:
        try:
            # Closed here, and not when it is collected: the socket ends with the listening.
            async with contextlib.aclosing(stream.__aiter__()) as messages:
                async for message in messages:
                    if isinstance(message, Reread):
                        self._tally.surprise(f"{person_id} missed frames that are gone")
                        continue
                    self._tally.pushed += 1
                    await on_event(message.event, message.data)
        except Refused as error:
            self._tally.surprise(f"the socket of {person_id} was refused: {error}")
