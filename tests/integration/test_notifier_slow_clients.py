"""Many clients that stop reading: sent away with 4429, at no cost to memory or to the others, and made whole later."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from services.notifier.tests.events import offers_made
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    PATIENCE_S,
    Ground,
    NotifierProcess,
    Phone,
    Publish,
    order_id,
    processes,
    soon,
    user,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish
WAVES = 80  # some 50 KiB for each client: more than its queues below hold
QUEUE_BYTES = 8 * 1024
SMALL_QUEUES = {
    "ws_queue_bytes": QUEUE_BYTES,
    "ws_send_buffer_bytes": QUEUE_BYTES,
    "ws_slow_deadline_s": 5.0,  # who reads must manage it on a machine that does much else
    "ws_close_deadline_s": 0.5,
}
SLACK_BYTES = 12 * 1024 * 1024  # what the allocator and the events in flight may take beside the queues
LATER = 1.2  # the p99 of the others may grow by a fifth


class Listener:
    """One client across its connections: where it is, and how long after its event each frame came."""

    def __init__(self, notifier: NotifierProcess) -> None:
        self.user_id = user()
        self.offset = 0
        self.late_s: list[float] = []
        self._notifier = notifier
        self._epoch: str | None = None
        self._phone: Phone | None = None

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Phone]:
        """Connect with small buffers, and resume."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", self._notifier.ws_port))
        raw.setblocking(False)
        async with connect(
            self._notifier.ws_url,
            sock=raw,
            compression=None,
            proxy=None,
            close_timeout=0.1,
            ping_interval=None,
        ) as connection:
            it = Phone(connection)
            known = None if self._epoch is None else {"epoch": self._epoch, "offset": self.offset}
            ready = await it.enter(self.user_id, resume=known)
            assert known is None or ready["recovered"] is True
            self._epoch = ready["epoch"]
            yield it

    async def hear_upto(self, it: Phone, offset: int, sent_at: dict[str, float]) -> None:
        """Read to an offset; each frame must be the next one."""
        while self.offset < offset:
            frame = await it.hear()
            assert (frame["type"], frame["offset"]) == ("event", self.offset + 1)
            self.offset += 1
            if (at := sent_at.get(frame["data"]["orderId"])) is not None:
                self.late_s.append(time.time() - at)


async def send_waves(
    publish: Publish, captains: Sequence[str], waves_per_s: float, sent_at: dict[str, float]
) -> None:
    """Waves of offers to all of them at a rate; notes by order when it was sent."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(WAVES):
        await asyncio.sleep(max(0.0, began + number / waves_per_s - loop.time()))
        order = order_id()
        sent_at[order] = time.time()
        await publish(offers_made(*captains, order_id=order, expires_at=soon(3600)))


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


@pytest.mark.parametrize(
    ("many", "rounds", "waves_per_s"),
    [
        pytest.param(30, 1, 60.0, id="short"),
        pytest.param(200, 3, 6.0, id="whole", marks=[pytest.mark.faults, pytest.mark.timeout(400)]),
    ],
)
async def test_many_who_stop_reading_cost_neither_memory_nor_the_others(
    here: Ground, publish: Publish, tmp_path: Path, many: int, rounds: int, waves_per_s: float
) -> None:
    calm: list[float] = []  # of each round the p99 of the others, while all read
    loud: list[float] = []  # and while many do not
    async with (
        processes(here, tmp_path, 1, **SMALL_QUEUES) as (notifier,),
        contextlib.AsyncExitStack() as open_,
    ):
        others = [Listener(notifier) for _ in range(20)]
        slow = [Listener(notifier) for _ in range(many)]
        captains = [one.user_id for one in (*others, *slow)]
        ears = [(one, await open_.enter_async_context(one.connected())) for one in others]
        goal = 0
        for number in range(rounds):
            async with contextlib.AsyncExitStack() as connected:
                deaf = [(one, await connected.enter_async_context(one.connected())) for one in slow]
                # First all of them read, and are made whole where they were sent away before.
                goal = await wave_round(publish, captains, goal, [*ears, *deaf], waves_per_s)
                calm.append(p99(taken(others)))
                before = notifier.resident_bytes()
                for _, it in deaf:
                    it.connection.transport.pause_reading()
                goal = await wave_round(publish, captains, goal, ears, waves_per_s)
                loud.append(p99(taken(others)))
                await all_closed(notifier, many * (number + 1))
                assert notifier.resident_bytes() - before < many * 4 * QUEUE_BYTES + SLACK_BYTES
                assert notifier.metric("weelo_notifier_longest_queue_bytes") < 2 * QUEUE_BYTES
                assert {await closed_with(it) for _, it in deaf} <= {
                    4429,
                    1006,
                }  # 1006: its kernel never took it
        for one in slow:
            async with one.connected() as it:
                await one.hear_upto(it, goal, {})
        assert {one.offset for one in (*others, *slow)} == {goal}
    if (
        rounds > 1
    ):  # one short round tells nothing of a p99; of several the calmest tells most, as noise only adds
        assert min(loud) <= min(calm) * LATER, f"p99 in s while all read: {calm}; while {many} do not: {loud}"


def taken(listeners: Sequence[Listener]) -> list[float]:
    """What these have measured since the last time."""
    values = [value for one in listeners for value in one.late_s]
    for one in listeners:
        one.late_s.clear()
    return values


async def wave_round(
    publish: Publish,
    captains: Sequence[str],
    goal: int,
    ears: Sequence[tuple[Listener, Phone]],
    waves_per_s: float,
) -> int:
    """Send the waves while these listen, and wait until they have heard them all; returns the new last offset."""
    sent_at: dict[str, float] = {}

    async def hear(one: Listener, it: Phone) -> None:
        await one.hear_upto(it, goal + WAVES, sent_at)

    await asyncio.gather(
        send_waves(publish, captains, waves_per_s, sent_at), *(hear(one, it) for one, it in ears)
    )
    return goal + WAVES


async def all_closed(notifier: NotifierProcess, count: int) -> None:
    """Until so many were sent away for being slow."""
    give_up_at = time.monotonic() + PATIENCE_S
    while (closed := await asyncio.to_thread(notifier.metric, "weelo_notifier_slow_closed_total")) < count:
        assert time.monotonic() < give_up_at, f"only {closed:.0f} of {count} were sent away"
        await asyncio.sleep(0.05)


async def closed_with(it: Phone) -> int:
    """Read what the kernel holds, to the end; returns the close code."""
    it.connection.transport.resume_reading()
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await it.connection.recv()
    return it.connection.close_code or 0
