"""Between replicas: frames that one has committed reach the one that holds the socket, over Redis pub/sub.

A user's frames go by one of a fixed number of channels. Nothing hangs on Redis: a message that is lost, late or
doubled is found by the offset in it or by the heads check. So nothing here waits, retries or blocks a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from notifier.metrics import Metrics
from notifier.store import Appended, StoredFrame
from weelo_common.clock import parse_time
from weelo_common.ids import new_id
from weelo_common.redis_client import RedisClient, RedisUnavailable

log = logging.getLogger(__name__)

CHANNELS = 64  # enough to spread over a Redis cluster's nodes one day; every replica hears them all
MAX_WAITING_FRAMES = 10_000  # more than that not yet published are dropped: the heads check finds them
BATCH_FRAMES = 500  # published in one round trip
SIGN_OF_LIFE_S = 2.0  # a quiet connection is asked for a sign of life this often
SILENCE_S = 6.0  # and given up after this; a cut cable would else look like a quiet hour
POLL_S = 0.25  # one wait for a message; also how late a stop is noticed
RECONNECT_PAUSE_S = 1.0


class Router:
    """Publishes this replica's frames and takes in those of the others."""

    def __init__(
        self,
        redis: RedisClient,
        metrics: Metrics,
        *,
        namespace: str,
        push: Callable[[Sequence[Appended]], None],
        caught_up: Callable[[], None],
    ) -> None:
        """``namespace`` keeps environments apart that share a Redis.

        ``caught_up`` is called when messages may have been lost until now.
        """
        self._redis = redis
        self._metrics = metrics
        self._prefix = f"{namespace}weelo:notifier:"
        self._push = push
        self._caught_up = caught_up
        self._replica = new_id()
        self._own = f'{{"replica":"{self._replica}"'.encode()  # so begins what this replica publishes
        self._waiting: deque[Appended] = deque()
        self._filled = asyncio.Event()
        self._listening = False
        metrics.routing_queue.set_function(lambda: len(self._waiting))

    @property
    def trouble(self) -> str | None:
        """None while this replica hears the others."""
        return (
            None if self._listening else "redis: not subscribed; frames of other replicas come seconds later"
        )

    def publish(self, appended: Sequence[Appended]) -> None:
        """Queue frames for the other replicas; returns at once."""
        room = MAX_WAITING_FRAMES - len(self._waiting)
        if room < len(appended):
            self._metrics.unrouted.inc(len(appended) - max(0, room))
        self._waiting.extend(appended[: max(0, room)])
        self._filled.set()

    async def run_publisher(self, stop: asyncio.Event) -> None:
        """Publish what is queued until stopped."""
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._filled.set())
        while not stop.is_set():
            if self._waiting:
                await self.publish_once()
            else:
                self._filled.clear()
                await self._filled.wait()

    async def publish_once(self) -> int:
        """Publish one batch and return its size; where Redis is away the batch is dropped."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH_FRAMES, len(self._waiting)))]
        by_channel: dict[str, list[Appended]] = {}
        for one in batch:
            by_channel.setdefault(self._channel(one.user_id), []).append(one)

        async def send(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipeline:
                for channel, frames in by_channel.items():
                    pipeline.publish(channel, _pack(self._replica, frames))
                await pipeline.execute()

        try:
            await self._redis.call(send)
        except RedisUnavailable:
            self._metrics.unrouted.inc(len(batch))
        else:
            self._metrics.routed.labels("out").inc(len(batch))
        return len(batch)

    async def run_subscriber(self, stop: asyncio.Event) -> None:
        """Take in the other replicas' frames until stopped, through any absence of Redis."""
        while not stop.is_set():
            try:
                subscription = await self._redis.call(self._subscribe)
            except RedisUnavailable:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RECONNECT_PAUSE_S)
                continue
            try:
                await self._listen(subscription, stop)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("Subscription lost", extra={"reason": f"{type(error).__name__}: {error}"})
            finally:
                self._listening = False
                with contextlib.suppress(RedisError, OSError, TimeoutError):  # it is thrown away
                    await asyncio.wait_for(_close(subscription), RECONNECT_PAUSE_S)

    async def _subscribe(self, redis: Redis) -> PubSub:
        subscription = redis.pubsub(ignore_subscribe_messages=True)
        try:
            await subscription.subscribe(*(f"{self._prefix}{number}" for number in range(CHANNELS)))
        except BaseException:
            await _close(subscription)
            raise
        return subscription

    async def _listen(self, subscription: PubSub, stop: asyncio.Event) -> None:
        self._listening = True
        self._caught_up()
        heard_at = time.monotonic()
        while not stop.is_set():
            message = await subscription.get_message(timeout=POLL_S)
            now = time.monotonic()
            if message is not None:
                heard_at = now
                if message["type"] == "message":
                    self._take_in(message["data"])
            elif now - heard_at > SILENCE_S:
                raise TimeoutError("no sign of life from Redis")
            elif now - heard_at > SIGN_OF_LIFE_S:
                await asyncio.wait_for(subscription.ping(), RECONNECT_PAUSE_S)

    def _take_in(self, data: bytes) -> None:
        if data.startswith(self._own):
            return  # Redis gives it back to whoever published it
        try:
            frames = _unpack(data)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            log.warning("Message of an unknown form", extra={"reason": type(error).__name__})
            return
        self._metrics.routed.labels("in").inc(len(frames))
        self._push(frames)

    def _channel(self, user_id: str) -> str:
        return f"{self._prefix}{zlib.crc32(user_id.encode()) % CHANNELS}"


async def _close(subscription: PubSub) -> None:
    await subscription.aclose()  # type: ignore[no-untyped-call]


def _pack(replica: str, frames: Sequence[Appended]) -> bytes:
    rows = [
        [
            one.user_id,
            one.epoch,
            one.frame.offset,
            one.frame.event,
            one.frame.rest.decode(),
            one.frame.event_time.isoformat(),
            one.frame.traceparent,
            one.frame.expires_at.isoformat() if one.frame.expires_at else None,
        ]
        for one in frames
    ]
    return json.dumps(
        {"replica": replica, "frames": rows}, separators=(",", ":"), ensure_ascii=False
    ).encode()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    value.encode()  # JSON lets half a surrogate pass, and no metric, log or socket can write one
    return value


def _unpack(data: bytes) -> list[Appended]:
    """What ``_pack`` made.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError: it did not make this.
    """
    message: dict[str, Any] = json.loads(data)
    return [
        Appended(
            _text(user_id),
            _text(epoch),
            StoredFrame(
                offset=int(offset),
                event=_text(event),
                rest=_text(rest).encode(),
                event_time=parse_time(event_time),
                traceparent=None if traceparent is None else _text(traceparent),
                expires_at=parse_time(expires_at) if expires_at else None,
                dead=False,
            ),
        )
        for user_id, epoch, offset, event, rest, event_time, traceparent, expires_at in message["frames"]
    ]
