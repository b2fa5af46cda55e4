"""The notifier as the fan-out benchmark measures it: ``python -m bench.fanout_server`` with the service's environment.

The whole service, in production's event loop and with its settings, and beside it a loop that takes commands on stdin:
``push <count> <users>`` hands that many committed frames to the hub, each for a random one of the first users with a
socket, as the consumer does after a commit, and answers with the CPU seconds it took. Answers begin with ``BENCH``.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from bench.fanout_frames import OFFERS_AN_EVENT, event_of_offers
from notifier.domain import notices
from notifier.hub import Hub
from notifier.main import SERVICE, assemble
from notifier.settings import Settings
from notifier.store import Appended, StoredFrame
from weelo_common.ids import new_id
from weelo_common.lifecycle import Lifecycle, run

EVENTS_A_TURN = 25  # 125 sends, then the loop has its turn
EVENTS_A_BATCH = 100  # made before the clock starts, and not long before: a commit's frames are warm, too


class Pusher:
    """Makes frames as a commit leaves them behind, and pushes them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._streams: dict[str, list[str | int]] = {}

    async def push(self, count: int, most_users: int) -> float:
        """Push so many frames; returns the CPU seconds of this process."""
        for session in self._hub.sessions():
            if session.user_id not in self._streams:
                stream = await self._hub.open_stream(session.user_id)
                self._streams[session.user_id] = [stream.epoch, stream.head]
        users = sorted(self._streams)[:most_users]
        used_s = 0.0
        for start in range(0, count // OFFERS_AN_EVENT, EVENTS_A_BATCH):
            events = []
            for _ in range(min(EVENTS_A_BATCH, count // OFFERS_AN_EVENT - start)):
                events.append(self._committed(random.sample(users, OFFERS_AN_EVENT)))
                await asyncio.sleep(0)  # what falls due in the service meanwhile is no part of a push
            began = time.process_time()
            for number, event in enumerate(events, start=1):
                self._hub.push(event)
                if number % EVENTS_A_TURN == 0:
                    await asyncio.sleep(0)
            used_s += time.process_time() - began
        return used_s

    def _committed(self, users: list[str]) -> list[Appended]:
        now = datetime.now(UTC)
        event_id = new_id()
        appended: list[Appended] = []
        for notice in notices(event_of_offers(users, now + timedelta(hours=1))):
            stream = self._streams[notice.user_id]
            epoch, head = str(stream[0]), int(stream[1]) + 1
            stream[1] = head
            frame = StoredFrame(
                head,
                notice.name.value,
                notice.body(event_id)[1:].encode(),
                now,
                None,
                notice.expires_at,
                False,
            )
            appended.append(Appended(notice.user_id, epoch, frame))
        return appended


async def build(settings: Settings, life: Lifecycle) -> None:
    """The service, and the loop that takes commands."""
    pusher = Pusher((await assemble(settings, life)).hub)

    async def take_commands(stop: asyncio.Event) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            _, count, users = line.split()
            used_s = await pusher.push(int(count), int(users))
            print(f"BENCH {used_s:.6f}", flush=True)
        await stop.wait()

    life.spawn("commands", take_commands)


if __name__ == "__main__":
    run(SERVICE, Settings, build, migrations=[])
