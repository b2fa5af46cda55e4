"""Commands to Redis that share a round trip get each its own answer, and one that fails is not another's trouble."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError

from deploy.local.stack import LocalStack
from tests.integration.events_rig import PATIENCE_S, until
from tests.integration.test_redis_client import BlackHole
from weelo_common.redis_batch import MAX_BATCH, RedisBatches
from weelo_common.redis_client import RedisClient, RedisUnavailable
from weelo_common.settings import RedisSettings


def settings(url: str, **changes: Any) -> RedisSettings:
    return RedisSettings.model_validate({"redis_url": url, "redis_deadline_s": PATIENCE_S} | changes)


async def test_commands_asked_for_together_get_each_its_own_answer(stack: LocalStack) -> None:
    prefix = uuid4().hex
    async with RedisClient.open(settings(stack.servers.redis_url)) as redis:
        names = [f"{prefix}:{number}" for number in range(500)]
        await asyncio.gather(*(redis.command("SET", name, name, "PX", 10_000) for name in names))
        answers = await asyncio.gather(*(redis.command("GET", name) for name in names))
        assert answers == [name.encode() for name in names]


async def test_a_command_that_redis_refuses_leaves_the_others_their_answers(stack: LocalStack) -> None:
    async with RedisClient.open(settings(stack.servers.redis_url)) as redis:
        answers = await asyncio.gather(
            redis.command("ECHO", "a"),
            redis.command("EVALSHA", "0" * 40, 0),
            redis.command("NOSUCHCOMMAND"),
            redis.command("ECHO", "b"),
            return_exceptions=True,
        )
        assert (answers[0], answers[3]) == (b"a", b"b")
        assert isinstance(answers[1], NoScriptError)
        assert isinstance(answers[2], RedisUnavailable)


async def test_a_cancelled_caller_shifts_no_answer_to_another(stack: LocalStack) -> None:
    async with RedisClient.open(settings(stack.servers.redis_url)) as redis:
        tasks = [asyncio.create_task(redis.command("ECHO", str(number))) for number in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[1::2] == [str(number).encode() for number in range(1, 50, 2)]
        assert await redis.command("ECHO", "next") == b"next"


class CountingPool(BlockingConnectionPool):
    """Counts how often its connection is taken and given back."""

    taken = given_back = 0

    def is_idle(self) -> bool:
        return self.taken == self.given_back

    async def get_connection(self, *command: Any, **options: Any) -> AbstractConnection:
        self.taken += 1
        return await super().get_connection(*command, **options)  # type: ignore[no-any-return, no-untyped-call]

    async def release(self, connection: AbstractConnection) -> None:
        self.given_back += 1
        await super().release(connection)


async def test_batches_that_follow_each_other_share_a_connection_and_the_last_gives_it_back(
    stack: LocalStack,
) -> None:
    pool = CountingPool.from_url(stack.servers.redis_url, max_connections=1, timeout=PATIENCE_S)
    batches = RedisBatches(pool, deadline_s=PATIENCE_S)
    try:
        for turn in (1, 2):
            texts = [str(number).encode() for number in range(3 * MAX_BATCH)]
            assert await asyncio.gather(*(batches.command("ECHO", text) for text in texts)) == texts
            await until(pool.is_idle, "the connection's return")
            assert pool.taken == turn
    finally:
        await batches.aclose()
        await pool.disconnect()


async def test_who_waits_behind_a_connection_that_breaks_is_told_and_the_next_command_has_a_new_one(
    stack: LocalStack,
) -> None:
    patient = settings(stack.servers.redis_url, redis_breaker_failures=1000)
    async with RedisClient.open(patient) as redis, asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(redis.command("ECHO", str(number)) for number in range(MAX_BATCH - 1)),
            redis.command("QUIT"),  # the last of the first batch: Redis answers it and hangs up
            *(redis.command("ECHO", "behind") for _ in range(2 * MAX_BATCH)),
            return_exceptions=True,
        )
        assert answers[: MAX_BATCH - 1] == [str(number).encode() for number in range(MAX_BATCH - 1)]
        assert answers[MAX_BATCH - 1] == b"OK"
        assert all(isinstance(answer, RedisUnavailable) for answer in answers[MAX_BATCH:])
        assert await redis.command("ECHO", "next") == b"next"


async def test_all_that_wait_for_a_silent_redis_are_told_within_one_deadline() -> None:
    hasty = {"redis_deadline_s": 0.2, "redis_breaker_failures": 300, "redis_breaker_pause_s": PATIENCE_S}
    async with (
        BlackHole().open() as hole,
        RedisClient.open(settings(hole.url, **hasty)) as redis,
        asyncio.timeout(PATIENCE_S),  # one after the other they would take a minute
    ):
        outcomes = await asyncio.gather(
            *(redis.command("ECHO", "a") for _ in range(300)), return_exceptions=True
        )
        assert all(isinstance(outcome, RedisUnavailable) for outcome in outcomes)
        assert not redis.available
