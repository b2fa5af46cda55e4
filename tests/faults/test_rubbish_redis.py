"""Rubbish in Redis, under our own names: it only speeds things up, so what it invents changes no outcome either."""

from __future__ import annotations

import asyncio
import contextlib
import json
from random import Random

import pytest
from redis.asyncio import Redis

from tests.e2e.city import City
from tests.e2e.traffic import Traffic
from weelo_common.ids import new_id

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

CHANNEL = "weelo:notifier:"
CHANNELS = 64
KEYS_A_ROUND = 100  # tests before this one leave thousands
PAUSE_S = 0.5  # between rounds
BEFORE = 25  # orders while Redis is littered


def messages(person: str) -> list[bytes]:
    """What no replica of the notifier would publish to the others."""

    def frame(*fields: object) -> bytes:
        return json.dumps({"replica": new_id(), "frames": [fields]}).encode()

    good = [person, new_id(), 7, "new_broadcast", "{}", "2026-02-03T10:08:28+00:00", None, None]
    values: tuple[object, ...] = (None, [], {}, -1, 10**30, "", "2026-02-03T10:08:28", "\ud800")
    spoiled = [frame(*good[:at], value, *good[at + 1 :]) for at in range(len(good)) for value in values]
    return [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"replica":1}',
        b'{"replica":1,"frames":5}',
        *spoiled,
    ]


async def litter(redis: Redis, person: str, random: Random, enough: asyncio.Event) -> None:
    """Publish rubbish on every channel, and write it over whatever is kept."""
    rubbish = messages(person)
    while not enough.is_set():
        for number in range(CHANNELS):
            await redis.publish(f"{CHANNEL}{number}", random.choice(rubbish))
        names = [name async for name in redis.scan_iter(match="order-api:*", count=1000)]
        for name in random.sample(names, min(len(names), KEYS_A_ROUND)):
            if name.endswith(b":lock"):
                continue  # a lock that is always held is obeyed, as long as it is held
            async with redis.pipeline(transaction=True) as at_once:
                at_once.delete(name)
                if random.random() < 0.5:
                    at_once.set(name, random.choice([b"", b"\xff" * 200, b"9" * 50, b"{}"]), ex=1)
                else:
                    at_once.rpush(name, "x")
                    at_once.expire(name, 1)
                await at_once.execute()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), PAUSE_S)


async def test_rubbish_in_redis_changes_no_outcome(city: City) -> None:
    traffic = Traffic(city, Random("littered redis"))
    async with Redis.from_url(city.stack.servers.redis_url) as redis, traffic.flowing():
        person = next(iter(traffic.people))
        enough = asyncio.Event()  # a cancel may be lost in wait_for() inside redis-py (Python 3.11)
        littering = asyncio.create_task(litter(redis, person, Random("rubbish"), enough))
        try:
            await traffic.reached("created", BEFORE)
        finally:
            enough.set()
            await littering
    assert not traffic.surprises
    for process in city.services.values():
        assert process.running, process.log_tail()
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())
