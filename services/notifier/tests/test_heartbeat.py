"""One wheel for all sockets: each is pinged once an interval, and let go when it is silent or its token ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry
from services.notifier.tests.socket_rig import PATIENCE_S, bare_client, client, eventually, listening
from websockets.exceptions import ConnectionClosed

from notifier.heartbeat import SLOTS, Heartbeat
from notifier.metrics import Metrics
from notifier.session import Session
from notifier.socket_adapter import Message, Socket
from notifier.store import StoredFrame
from weelo_common.auth import Principal, Role
from weelo_common.clock import SystemClock


@dataclass(frozen=True)
class Limits:
    ws_ping_interval_s: float = 0.1
    ws_ping_deadline_s: float = 0.1
    ws_slow_deadline_s: float = 5.0
    ws_messages_per_s: float = 10.0
    ws_messages_burst: int = 60


class Watched:
    """Sessions that a heartbeat watches, as the socket server makes them."""

    def __init__(self, limits: Limits, token_lives_s: float = 3600) -> None:
        self.heartbeat = Heartbeat(limits, SystemClock())
        self.metrics = Metrics(CollectorRegistry())
        self.there = asyncio.Event()
        self.heard: list[Message] = []
        self.sessions: list[Session] = []
        self.token_ends_at = datetime.now(UTC) + timedelta(seconds=token_lives_s)
        self._limits = limits

    async def converse(self, socket: Socket) -> None:
        socket.begin()
        session = Session(
            socket,
            Principal("d-1", Role.CAPTAIN, self.token_ends_at),
            read=nothing_stored,
            metrics=self.metrics,
            clock=SystemClock(),
            limits=self._limits,
        )
        socket.listen(lambda _, message: self.heard.append(message))
        self.heartbeat.watch(session)
        self.sessions.append(session)
        self.there.set()
        await socket.gone
        self.heartbeat.forget(session)
        await session.ended()

    def answered(self) -> list[bool]:
        """Of each session, whether its client has answered the last ping."""
        return [one.pinged_at is not None and one.socket.heard_at >= one.pinged_at for one in self.sessions]

    async def turn(self, times: int = SLOTS) -> int:
        """So many ticks at once; returns how many visits they were."""
        return sum([await self.heartbeat.run_once() for _ in range(times)])


async def nothing_stored(user_id: str, after: int, limit: int) -> list[StoredFrame]:
    return []


async def test_each_socket_is_visited_once_an_interval_and_no_more_when_it_is_gone() -> None:
    watched = Watched(Limits())
    async with listening(watched.converse) as port:
        async with client(port):
            await watched.there.wait()
            assert await watched.turn(SLOTS - 1) == 0
            assert await watched.turn(1) == 1
            assert await watched.turn(3 * SLOTS) == 3
        await eventually(lambda: watched.heartbeat.watched == 0)
        assert await watched.turn() == 0


async def test_a_client_that_answers_stays_and_one_that_is_silent_goes_with_1011() -> None:
    limits = Limits()
    watched = Watched(limits)
    async with listening(watched.converse) as port, client(port) as answers, bare_client(port) as (reader, _):
        await eventually(lambda: len(watched.sessions) == 2)
        await watched.turn()
        await eventually(lambda: any(watched.answered()))
        await asyncio.sleep(limits.ws_ping_deadline_s)  # time is what the silent one is judged by
        await watched.turn()
        async with asyncio.timeout(PATIENCE_S):
            frames = await reader.readuntil(b"no answer to a ping")
        assert frames.startswith(b"\x89\x00")  # it was asked first
        assert (1011).to_bytes(2, "big") in frames
        await answers.send("still here")
        await eventually(lambda: watched.heard == ["still here"])


async def test_a_longer_deadline_lets_a_client_be_silent_for_several_pings() -> None:
    watched = Watched(Limits(ws_ping_interval_s=0.05, ws_ping_deadline_s=3600))
    async with listening(watched.converse) as port, bare_client(port) as (reader, _):
        await watched.there.wait()
        await watched.turn(5 * SLOTS)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readexactly(10) == b"\x89\x00" * 5
    assert watched.metrics.closed.labels("1011")._value.get() == 0


async def test_a_socket_goes_with_4408_when_its_token_ends_though_the_token_outlived_some_intervals() -> None:
    watched = Watched(Limits(), token_lives_s=0.5)
    stop = asyncio.Event()
    async with listening(watched.converse) as port, client(port) as it:
        turning = asyncio.create_task(watched.heartbeat.run(stop))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await it.recv()
        except ConnectionClosed:
            pass
        stop.set()
        await turning
    assert it.close_code == 4408
    assert datetime.now(UTC) > watched.token_ends_at - timedelta(seconds=0.01)  # the loop counts roughly
