"""One socket's session over a real WebSocket: what a live frame may do, whatever came before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry
from services.notifier.tests.socket_rig import client, listening

from notifier.metrics import Metrics
from notifier.protocol import event_head
from notifier.session import Session
from notifier.socket_adapter import Socket, text_frame
from notifier.store import Appended, StoredFrame
from weelo_common.auth import Principal, Role

NOW = datetime(2026, 2, 3, 10, 0, tzinfo=UTC)
EPOCH = "the epoch"


class StandingClock:
    """A clock that stands still."""

    def now(self) -> datetime:
        return NOW


@dataclass(frozen=True)
class Limits:
    ws_slow_deadline_s: float = 5.0
    ws_messages_per_s: float = 10.0
    ws_messages_burst: int = 60


def frame(offset: int, *, expires_in_s: float | None = None, dead: bool = False) -> StoredFrame:
    return StoredFrame(
        offset=offset,
        event="new_broadcast",
        rest=json.dumps({"id": f"e{offset}", "event": "new_broadcast", "data": {}})[1:].encode(),
        event_time=NOW,
        traceparent=None,
        expires_at=None if expires_in_s is None else NOW + timedelta(seconds=expires_in_s),
        dead=dead,
    )


async def heard_from(
    stored: list[StoredFrame], act: Callable[[Session], None], upto: int
) -> list[dict[str, Any]]:
    """What a client hears of a session that ``act`` is done to, up to an offset; ``stored`` is the stream."""

    async def read(user_id: str, after: int, limit: int) -> list[StoredFrame]:
        return [one for one in stored if one.offset > after][:limit]

    async def converse(socket: Socket) -> None:
        socket.begin()
        session = Session(
            socket,
            Principal("k-1", Role.CAPTAIN, NOW + timedelta(hours=1)),
            read=read,
            metrics=Metrics(CollectorRegistry()),
            clock=StandingClock(),
            limits=Limits(),
        )
        act(session)
        await socket.gone
        await session.ended()

    heard: list[dict[str, Any]] = []
    async with listening(converse) as port, client(port) as it:
        async with asyncio.timeout(10):
            while not heard or (heard[-1].get("to") or heard[-1]["offset"]) < upto:
                heard.append(json.loads(await it.recv()))
    return heard


def tell(session: Session, one: StoredFrame) -> None:
    session.deliver(Appended("k-1", EPOCH, one), text_frame(event_head(one.offset), one.rest), NOW)


def deliver(*frames: StoredFrame) -> Callable[[Session], None]:
    def act(session: Session) -> None:
        session.begin(epoch=EPOCH, cursor=0, head=0)
        for one in frames:
            tell(session, one)

    return act


async def test_a_live_offer_that_has_ended_by_now_is_passed_over() -> None:
    stored = [frame(1, expires_in_s=0, dead=True), frame(2, expires_in_s=30)]
    heard = await heard_from(stored, deliver(stored[0], stored[1]), upto=2)
    assert [(one["type"], one.get("offset"), one.get("to")) for one in heard] == [
        ("skip", None, 1),
        ("event", 2, None),
    ]


async def test_a_frame_that_is_told_twice_is_sent_once() -> None:
    stored = [frame(1), frame(2)]
    heard = await heard_from(stored, deliver(stored[0], stored[0], stored[1]), upto=2)
    assert [one["offset"] for one in heard] == [1, 2]


async def test_a_frame_out_of_turn_is_preceded_by_what_is_missing() -> None:
    stored = [frame(1), frame(2), frame(3)]
    heard = await heard_from(stored, deliver(stored[2]), upto=3)
    assert [one["offset"] for one in heard] == [1, 2, 3]


async def test_what_was_heard_before_the_stream_was_open_is_sent_with_it() -> None:
    stored = [frame(1)]

    def act(session: Session) -> None:
        tell(session, stored[0])  # committed just after the stream was read
        session.begin(epoch=EPOCH, cursor=0, head=0)

    heard = await heard_from(stored, act, upto=1)
    assert [one["offset"] for one in heard] == [1]


async def test_what_a_resume_missed_is_sent_without_waiting_for_a_check() -> None:
    stored = [frame(1), frame(2, expires_in_s=0, dead=True), frame(3)]
    heard = await heard_from(stored, lambda session: session.begin(epoch=EPOCH, cursor=0, head=3), upto=3)
    assert [(one["type"], one.get("offset") or one["to"]) for one in heard] == [
        ("event", 1),
        ("skip", 2),
        ("event", 3),
    ]
