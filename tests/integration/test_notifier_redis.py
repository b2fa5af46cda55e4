"""Redis dies, loses, doubles and shuffles messages: sockets get everything, at worst a heads check later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from services.notifier.tests.events import withdrawn

from deploy.local.stack import LocalStack
from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    PATIENCE_S,
    Ground,
    Pair,
    Phone,
    Publish,
    order_id,
    phone,
    replicas,
    until,
    user,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish
EVENTS = 60
Heard = Callable[[], Awaitable[None]]
"""Waits until both phones have heard all that was published."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(here: Ground) -> AsyncIterator[Pair]:
    settings = here.settings(heads_check_s=0.5)
    async with replicas(settings) as pair:
        yield pair


async def tell_both(pair: Pair, publish: Publish, meanwhile: Callable[[int, Heard], Awaitable[None]]) -> None:
    """Events for a captain on each replica, from partitions of both, with ``meanwhile`` before each; all must come."""
    here, there = user(), user()
    offsets: dict[Phone, list[int]] = {}
    async with phone(pair[0]) as one, phone(pair[1]) as two:
        await one.enter(here)
        await two.enter(there)
        offsets |= {one: [], two: []}
        published = 0

        async def heard() -> None:
            for it, so_far in offsets.items():
                if len(so_far) < published:
                    so_far += [frame["offset"] for frame in await it.hear_upto(published)]

        for _ in range(EVENTS):
            await meanwhile(published, heard)
            await publish(withdrawn("filled", here, there, order_id=order_id()))
            published += 1
        await heard()
    assert all(so_far == list(range(1, EVENTS + 1)) for so_far in offsets.values()), offsets


def late(pair: Pair) -> float:
    return sum(one.metric("weelo_notifier_found_late_total") for one in pair)


async def test_redis_that_dies_and_comes_back_delays_and_loses_nothing(
    stack: LocalStack, pair: Pair, publish: Publish
) -> None:
    redis = stack.server("redis")

    async def fault(number: int, heard: Heard) -> None:
        if number == EVENTS // 3:
            await asyncio.to_thread(redis.kill)
        if number in (2 * EVENTS // 3 - 1, 2 * EVENTS // 3):
            # While Redis is away; and once more the last event alone, so that no frame behind it leads to it.
            await heard()
        if number == 2 * EVENTS // 3:
            redis.start()
            await asyncio.to_thread(stack.wait_server, "redis")

    before = late(pair)
    await tell_both(pair, publish, fault)
    assert late(pair) > before  # so Redis was missed, and the heads check stood in for it
    await until(lambda: all(one.hears_redis for one in pair), "Redis heard again")


async def test_messages_that_redis_loses_are_found_by_the_heads_check(
    here: Ground, pair: Pair, publish: Publish
) -> None:
    async with Redis.from_url(here.env["redis_url"]) as redis:

        async def lose(number: int, heard: Heard) -> None:
            if number % 10 == 0:  # whoever is cut off hears nothing until it has subscribed again
                await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]

        before = late(pair)
        async with asyncio.timeout(3 * PATIENCE_S):
            while late(pair) == before:  # a replica may subscribe again before anything was lost
                await tell_both(pair, publish, lose)


async def test_messages_that_come_again_late_and_in_disorder_change_nothing(
    here: Ground, pair: Pair, publish: Publish
) -> None:
    async with Redis.from_url(here.env["redis_url"]) as redis, redis.pubsub() as tap:
        await tap.psubscribe(f"{here.env['kafka_topic_prefix']}*")
        messages: list[tuple[bytes, bytes]] = []

        async def repeat(number: int, heard: Heard) -> None:
            while (
                message := await tap.get_message(ignore_subscribe_messages=True, timeout=0.01)
            ) is not None:
                messages.append((message["channel"], message["data"]))
            for channel, data in random.sample(messages, min(5, len(messages))):
                await redis.publish(channel, data)

        await tell_both(pair, publish, repeat)
    assert messages
