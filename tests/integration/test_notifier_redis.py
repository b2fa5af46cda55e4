"""Redis dies, loses, doubles and shuffles messages: sockets get everything, at worst a heads check later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from services.notifier.tests.events import withdrawn

from deploy.local.stack import LocalStack
from tests.integration import notifier_rig
from tests.integration.notifier_rig import Ground, Pair, Publish, order_id, phone, replicas, until, user

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish
EVENTS = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(here: Ground) -> AsyncIterator[Pair]:
    settings = here.settings(heads_check_s=0.5)
    async with replicas(settings) as pair:
        yield pair


async def tell_both(pair: Pair, publish: Publish, meanwhile: Callable[[int], Any]) -> None:
    """Events for a captain on each replica, from partitions of both, with ``meanwhile`` before each; all must come."""
    here, there = user(), user()
    async with phone(pair[0]) as one, phone(pair[1]) as two:
        await one.enter(here)
        await two.enter(there)
        for number in range(EVENTS):
            await meanwhile(number)
            await publish(withdrawn("filled", here, there, order_id=order_id()))
        for it in (one, two):
            assert [frame["offset"] for frame in await it.hear_upto(EVENTS)] == list(range(1, EVENTS + 1))


def late(pair: Pair) -> float:
    return sum(one.metric("weelo_notifier_found_late_total") for one in pair)


async def test_redis_that_dies_and_comes_back_delays_and_loses_nothing(
    stack: LocalStack, pair: Pair, publish: Publish
) -> None:
    redis = stack.server("redis")

    async def fault(number: int) -> None:
        if number == EVENTS // 3:
            await asyncio.to_thread(redis.kill)
        if number == 2 * EVENTS // 3:
            redis.start()
            await asyncio.to_thread(stack.wait_server, "redis")

    before = late(pair)
    await tell_both(pair, publish, fault)
    assert late(pair) > before  # so Redis was missed, and the heads check stood in for it
    await until(lambda: all(one.life.health.report()["redis"] == "ok" for one in pair), "Redis heard again")


async def test_messages_that_redis_loses_are_found_by_the_heads_check(
    here: Ground, pair: Pair, publish: Publish
) -> None:
    async with Redis.from_url(here.env["redis_url"]) as redis:

        async def lose(number: int) -> None:
            if number % 10 == 0:  # whoever is cut off hears nothing until it has subscribed again
                await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]

        before = late(pair)
        await tell_both(pair, publish, lose)
        assert late(pair) > before


async def test_messages_that_come_again_late_and_in_disorder_change_nothing(
    here: Ground, pair: Pair, publish: Publish
) -> None:
    async with Redis.from_url(here.env["redis_url"]) as redis, redis.pubsub() as tap:
        await tap.psubscribe(f"{here.env['kafka_topic_prefix']}*")
        heard: list[tuple[bytes, bytes]] = []

        async def repeat(number: int) -> None:
            while (
                message := await tap.get_message(ignore_subscribe_messages=True, timeout=0.01)
            ) is not None:
                heard.append((message["channel"], message["data"]))
            for channel, data in random.sample(heard, min(5, len(heard))):
                await redis.publish(channel, data)

        await tell_both(pair, publish, repeat)
    assert heard
