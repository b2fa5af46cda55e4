"""The transporter cache on a real Redis: it speeds up, and decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest

from deploy.local.stack import LocalStack
from dispatcher.store.fleet import TransporterStanding
from dispatcher.transporter_cache import KEY, TransporterCache
from tests.integration.dispatcher_rig import Home, Rig, dispatcher, dispatcher_home
from weelo_common.redis_client import RedisClient


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with dispatcher(home) as rig:
        yield rig


async def test_a_slow_reader_never_puts_back_what_a_change_has_replaced(rig: Rig) -> None:
    old = TransporterStanding(f"t-{uuid4()}", active=True, verified=True, version=3)
    new = replace(old, active=False, version=4)
    async with RedisClient.open(rig.home.settings()) as redis, rig.database.connection() as connection:
        cache = TransporterCache(redis, keep_s=300)
        await cache.put(new)
        await cache.put(old)
        assert await cache.get(connection, old.transporter_id) == new
        left_s = await redis.call(lambda client: client.ttl(KEY.format(old.transporter_id)))
        assert 290 < left_s <= 300
        await redis.call(lambda client: client.set(KEY.format(old.transporter_id), b"rubbish", ex=300))
        assert await cache.get(connection, old.transporter_id) is None  # it asked PostgreSQL


async def test_a_change_is_seen_at_once_though_the_look_up_is_cached(rig: Rig) -> None:
    transporter = f"t-{uuid4()}"
    captain = await rig.captain(100, transporter_id=transporter)
    ops = rig.caller("ops")
    for active in (False, True):
        body = {"name": "T", "active": active, "verified": True}
        assert (await ops.call("PUT", f"/transporters/{transporter}", body)).status_code == 200
        me = (await captain.call("GET", "/captains/me")).json()["data"]["captain"]
        assert me["receivesOffers"] is active


async def test_without_redis_everything_goes_on(home: Home) -> None:
    async with dispatcher(home, redis_url="redis://127.0.0.1:1/0") as rig:
        captain = await rig.captain(100)
        me = (await captain.call("GET", "/captains/me")).json()["data"]["captain"]
        assert me["receivesOffers"] is True
        order = rig.order()
        await rig.publish(order.created())
        assert (await rig.live(order, 1)).keys() == {captain.user_id}
        health = (await rig.replicas[0].http.get("/health/ready")).status_code
        assert health == 200
