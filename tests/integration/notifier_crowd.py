"""Many phones of many users that listen at once, are cut off, and must be made whole."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from tests.integration.notifier_rig import NOBODY, PATIENCE_S, token
from tools.weelo_client.notifications import Notification, NotificationStream

AT_ONCE = 50  # of a crowd that connect together at the start; what comes later comes as it does


@dataclass
class Crowd:
    """Many users, each with the client that readers copy; it notes what each was told."""

    addresses: Callable[[], Sequence[str]]
    streams: dict[str, NotificationStream] = field(default_factory=dict)
    told: dict[str, list[Notification]] = field(default_factory=dict)
    _away: dict[str, asyncio.Event] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def listening(self, users: Sequence[str]) -> AsyncIterator[None]:
        """All of them connected, until the end."""

        async def listen(user_id: str, stream: NotificationStream) -> None:
            async for message in stream:
                assert isinstance(message, Notification), f"{user_id} was told to read by HTTP"
                self.told[user_id].append(message)

        tasks = []
        for user_id in users:
            self.told[user_id] = []
            self.streams[user_id] = stream = NotificationStream(
                lambda user_id=user_id: self._address(user_id),  # type: ignore[misc]
                lambda user_id=user_id: token(user_id),  # type: ignore[misc]
            )
            tasks.append(asyncio.create_task(listen(user_id, stream)))
            if len(tasks) % AT_ONCE == 0:
                await asyncio.wait_for(stream.ready.wait(), PATIENCE_S)
        try:
            async with asyncio.timeout(PATIENCE_S):
                for stream in self.streams.values():
                    await stream.ready.wait()
            yield
            for task in tasks:
                if task.done():
                    task.result()  # raises what ended it
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _address(self, user_id: str) -> str:
        if (asked := self._away.get(user_id)) is None:
            return random.choice(self.addresses())
        asked.set()
        return NOBODY

    @contextlib.asynccontextmanager
    async def away(self, user_id: str) -> AsyncIterator[None]:
        """One user's connection is cut, and he finds no way back until the end."""
        self._away[user_id] = asked = asyncio.Event()
        async with asyncio.timeout(PATIENCE_S):
            while not asked.is_set():
                if (connection := self.streams[user_id].connection) is not None:
                    connection.transport.abort()
                await asyncio.sleep(0.01)
        try:
            yield
        finally:
            del self._away[user_id]

    async def cut_off(self, share: float, seconds: float) -> None:
        """Cut this share of the connections over so many seconds, one after the other, as bad networks do."""
        some = random.sample(sorted(self.streams), int(len(self.streams) * share))
        for user_id in some:
            connection = self.streams[user_id].connection
            if connection is not None:
                connection.transport.abort()
            await asyncio.sleep(seconds / len(some))

    async def made_whole(self, published: dict[str, int]) -> None:
        """Wait until each is where his stream ends, and check that received and skipped is what was published."""

        def behind() -> list[str]:
            places = {user_id: stream.position for user_id, stream in self.streams.items()}
            return [
                user_id
                for user_id, count in published.items()
                if (place := places[user_id]) is None or place.offset < count
            ]

        give_up_at = time.monotonic() + 3 * PATIENCE_S
        while left := behind():
            assert time.monotonic() < give_up_at, f"{len(left)} never came to the end, as {left[0]}"
            await asyncio.sleep(0.05)
        for user_id, count in published.items():
            stream, told = self.streams[user_id], self.told[user_id]
            offsets = [message.offset for message in told]
            assert offsets == sorted(set(offsets)), f"{user_id}: {offsets}"
            assert len({message.id for message in told}) == len(told), user_id
            assert stream.tally.received + stream.tally.skipped == count, user_id
            assert (stream.tally.gaps, stream.tally.repeats, stream.tally.rereads) == (0, 0, 0), user_id
