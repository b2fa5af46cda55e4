"""Commands to Redis that share a round trip get each its own answer, and one that fails is not another's trouble."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from redis.exceptions import NoScriptError

from deploy.local.stack import LocalStack
from tests.integration.test_redis_client import BlackHole
from weelo_common.redis_client import RedisClient, RedisUnavailable
from weelo_common.settings import RedisSettings


def settings(url: str, **changes: Any) -> RedisSettings:
    return RedisSettings.model_validate({"redis_url": url} | changes)


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


async def test_all_that_wait_for_a_silent_redis_are_told_within_one_deadline() -> None:
    async with (
        BlackHole().open() as hole,
        RedisClient.open(settings(hole.url, redis_deadline_s=0.2)) as redis,
        asyncio.timeout(1.0),
    ):
        outcomes = await asyncio.gather(
            *(redis.command("ECHO", "a") for _ in range(300)), return_exceptions=True
        )
        assert all(isinstance(outcome, RedisUnavailable) for outcome in outcomes)
        assert not redis.available
