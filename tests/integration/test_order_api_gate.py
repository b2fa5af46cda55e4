"""The gate before a create, on a real Redis: what its lock, its replay cache and its rate limit may and may not do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest
from pydantic import SecretStr

from deploy.local.ports import HOST, free_block
from deploy.local.stack import LocalStack
from order_api.gate import Busy, Entered, Gate
from order_api.intake import ENDPOINT
from tests.faults.harm import frozen
from tests.integration.order_api_rig import PATIENCE_S, Home, Rig, code, order_api, order_api_home
from tools.chaos.proxy import TcpProxy
from weelo_common.redis_client import RedisClient


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with order_api(home) as running:
        yield running


def gate(redis: RedisClient, *, lock_ms: int = 10_000) -> Gate:
    return Gate(redis, lock_ms=lock_ms, replay_s=300, creates_per_minute=1000)


async def test_a_retry_is_replayed_from_redis_while_that_remembers(rig: Rig) -> None:
    customer = rig.customer()
    first = await customer.create("key-1")
    async with rig.database.connection() as connection:
        await connection.execute(
            "DELETE FROM idempotency_records WHERE customer_id = $1", customer.user_id
        )  # so that only Redis can know
    again = await customer.create("key-1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_retry_over_the_rate_limit_is_replayed_from_postgresql_before_a_429_leaves(
    home: Home,
) -> None:
    async with order_api(home, creates_per_minute=1) as rig, RedisClient.open(rig.settings) as redis:
        customer = rig.customer()
        first = await customer.create("key-1")
        names = await redis.call(lambda r: r.keys("order-api:*:replay:*"))
        await redis.call(lambda r: r.delete(*names))
        assert code(await customer.create("key-2")) == (429, "RATE_LIMITED")
        again = await customer.create("key-1")
        assert (again.status_code, again.content) == (201, first.content)


async def test_a_lock_whose_holder_died_runs_out_by_itself(rig: Rig) -> None:
    customer = rig.customer()
    async with RedisClient.open(rig.settings) as redis:
        entered = await gate(redis, lock_ms=60_000).enter(customer.user_id, ENDPOINT, None)
        assert isinstance(entered, Entered)
        assert code(await customer.create("key-1")) == (409, "CONCURRENT_REQUEST")
        left_ms = await redis.command("PTTL", entered.names.lock)
        assert 0 < left_ms <= 60_000
        await redis.command("PEXPIRE", entered.names.lock, 50)  # as if most of it had passed
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if (await customer.create("key-1")).status_code == 201:
                    break
                await asyncio.sleep(0.02)


async def test_who_was_too_slow_for_his_lock_does_not_release_the_next_ones(rig: Rig) -> None:
    customer = rig.customer().user_id
    async with RedisClient.open(rig.settings) as redis:
        short, long = gate(redis, lock_ms=50), gate(redis)
        slow = await short.enter(customer, ENDPOINT, None)
        assert isinstance(slow, Entered)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if isinstance(await long.enter(customer, ENDPOINT, None), Entered):
                    break
                await asyncio.sleep(0.01)
        await short.leave(slow, customer, None, None)
        assert await long.enter(customer, ENDPOINT, None) == Busy()


async def test_a_create_that_is_cut_off_while_redis_is_asked_leaves_no_lock(
    rig: Rig, stack: LocalStack
) -> None:
    customer = rig.customer().user_id
    unhurried = rig.settings.model_copy(update={"redis_deadline_s": PATIENCE_S})
    async with RedisClient.open(unhurried) as redis, asyncio.timeout(2 * PATIENCE_S):
        door = gate(redis, lock_ms=600_000)
        before = await door.enter(rig.customer().user_id, ENDPOINT, None)  # Redis knows the scripts
        assert isinstance(before, Entered)
        await door.leave(before, customer, None, None)
        with frozen(stack.server("redis")):
            entering = asyncio.create_task(door.enter(customer, ENDPOINT, None))
            await asyncio.sleep(0)  # it asks
            entering.cancel()
            await asyncio.wait([entering])
        assert entering.cancelled()
        assert isinstance(await door.enter(customer, ENDPOINT, None), Entered)


async def test_of_an_outage_of_redis_the_gate_tells_when_it_begins_and_when_it_ends(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    customer = rig.customer().user_id
    url = urlsplit(rig.settings.redis_url.get_secret_value())
    port = free_block()
    unhurried = rig.settings.model_copy(
        update={
            "redis_url": SecretStr(urlunsplit(url._replace(netloc=f"{HOST}:{port}"))),
            "redis_deadline_s": PATIENCE_S,
            "redis_breaker_pause_s": 0.05,
        }
    )
    async with TcpProxy(port, url.port or 6379) as proxy, RedisClient.open(unhurried) as redis:
        door = gate(redis)

        async def create() -> bool:
            entered = await door.enter(customer, ENDPOINT, None)
            assert isinstance(entered, Entered)
            await door.leave(entered, customer, None, None)
            return entered.locked

        assert await create()
        proxy.cut()
        for _ in range(5):
            assert not await create()
        proxy.mend()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await create():
                    break
                await asyncio.sleep(0.01)
    told = [record.getMessage() for record in caplog.records if record.name == "order_api.gate"]
    assert [message for message in told if "Lock" not in message] == [
        "Creates go on without Redis",
        "Creates go through Redis again",
    ]


async def test_what_the_gate_says_is_counted(home: Home) -> None:
    async with order_api(home, creates_per_minute=2) as rig, RedisClient.open(rig.settings) as redis:
        customer = rig.customer()
        await customer.create("key-1")
        await customer.create("key-1")
        held = await gate(redis).enter(customer.user_id, ENDPOINT, None)
        assert isinstance(held, Entered)
        assert code(await customer.create("key-2")) == (409, "CONCURRENT_REQUEST")
        await gate(redis).leave(held, customer.user_id, None, None)
        assert code(await customer.create("key-3")) == (429, "RATE_LIMITED")

        def counted(outcome: str) -> float | None:
            name = "weelo_order_api_gate_total"
            return rig.life.registry.get_sample_value(name, {"outcome": outcome})

        assert [counted(outcome) for outcome in ("entered", "replay", "busy", "rate_limited")] == [1, 1, 1, 1]
        assert counted("unlocked") == 0
