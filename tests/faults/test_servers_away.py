"""Redis, PostgreSQL or Kafka freeze, die and come back under traffic: late perhaps, but nothing lost or doubled."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from tests.e2e.city import City
from tests.e2e.traffic import Traffic
from tests.faults.harm import frozen, kill_whole

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

BEFORE = 10  # orders before the fault
AFTER = 15  # and after it
POSTGRES_FROZEN_S = 8.0  # longer than every deadline of a request
KAFKA_FROZEN_S = 12.0  # longer than a consumer's session
BACK_WITHIN_S = 20.0  # the service returns within this of PostgreSQL's return, on a busy machine, too
QUICK_S = 8.0  # a 503 comes within this, long before a phone gives up


async def whole_again(city: City, traffic: Traffic) -> None:
    """People get on with it after the fault."""
    created, won = traffic.answers["created"], traffic.answers["won"]
    await traffic.reached("created", created + AFTER)
    await traffic.reached("won", won + 3)


async def settle(city: City, traffic: Traffic) -> None:
    assert not traffic.surprises
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())


async def test_redis_that_dies_and_forgets_in_mid_run_changes_no_outcome(city: City) -> None:
    traffic = Traffic(city, Random("redis"))
    redis = city.stack.server("redis")
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        kill_whole(redis)
        await traffic.reached("created", traffic.answers["created"] + AFTER)
        redis.start()  # empty: locks, kept answers and scripts are gone
        await asyncio.to_thread(city.stack.wait_server, "redis")
        await whole_again(city, traffic)
    await settle(city, traffic)


async def test_redis_that_hangs_slows_nobody_for_long(city: City) -> None:
    traffic = Traffic(city, Random("hung redis"))
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        with frozen(city.stack.server("redis")):
            await traffic.reached("created", traffic.answers["created"] + AFTER)
        await whole_again(city, traffic)
    await settle(city, traffic)


async def test_postgres_that_hangs_gives_quick_503s_and_the_service_is_back_soon_after(city: City) -> None:
    traffic = Traffic(city, Random("hung postgres"))
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        with frozen(city.stack.server("postgres")):
            await asyncio.sleep(POSTGRES_FROZEN_S)  # the fault's own length
        returned = time.monotonic()
        await traffic.reached("created", traffic.answers["created"] + 3)
        assert time.monotonic() - returned < BACK_WITHIN_S
        await whole_again(city, traffic)
    assert traffic.answers["503"] > 0
    assert traffic.slowest_503_s < QUICK_S
    await settle(city, traffic)


async def test_postgres_killed_and_started_again_loses_and_doubles_nothing(city: City) -> None:
    traffic = Traffic(city, Random("dead postgres"))
    postgres = city.stack.server("postgres")
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        kill_whole(postgres)
        await traffic.reached("503", 20)
        postgres.start()
        await asyncio.to_thread(city.stack.wait_server, "postgres")
        returned = time.monotonic()
        await traffic.reached("created", traffic.answers["created"] + 3)
        assert time.monotonic() - returned < BACK_WITHIN_S
        await whole_again(city, traffic)
    assert traffic.slowest_503_s < QUICK_S
    await settle(city, traffic)


async def test_orders_are_taken_while_kafka_hangs_and_the_backlog_drains_when_it_is_back(city: City) -> None:
    traffic = Traffic(city, Random("hung kafka"))
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        with frozen(city.stack.server("kafka")):
            await asyncio.gather(
                asyncio.sleep(KAFKA_FROZEN_S), traffic.reached("created", traffic.answers["created"] + 5)
            )
        await whole_again(city, traffic)
    assert not traffic.answers["503"]
    await settle(city, traffic)


async def test_orders_are_taken_while_kafka_is_dead_and_the_backlog_drains_when_it_is_back(
    city: City,
) -> None:
    traffic = Traffic(city, Random("dead kafka"))
    kafka = city.stack.server("kafka")
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        kill_whole(kafka)
        await traffic.reached("created", traffic.answers["created"] + 5)
        kafka.start()  # with the log it had
        await asyncio.to_thread(city.stack.wait_server, "kafka")
        await whole_again(city, traffic)
    assert not traffic.answers["503"]
    await settle(city, traffic)
