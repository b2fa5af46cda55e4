"""Two dispatchers under traffic, killed in turn in the middle of their waves: the ledger holds."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.e2e.city import City
from tests.e2e.traffic import Traffic
from tests.faults.test_replicas import Spares

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

BETWEEN = 6  # orders between two faults
KILLS = 4  # each replica twice


async def test_dispatchers_killed_in_turn_under_traffic_lose_and_double_nothing(
    city: City, spares: Spares
) -> None:
    city.spares = {"dispatcher": spares["dispatcher"]}
    for name, (process,) in spares.items():
        if name != "dispatcher":
            process.stop()
    traffic = Traffic(city, Random("kills"))
    replicas = city.replicas("dispatcher")
    async with traffic.flowing():
        for kill in range(KILLS):
            victim = replicas[kill % len(replicas)]
            await traffic.reached("created", traffic.answers["created"] + BETWEEN)
            victim.kill()  # whatever wave it was in
            await traffic.reached("created", traffic.answers["created"] + BETWEEN)
            victim.start()
            await asyncio.to_thread(victim.wait_ready)
        await traffic.reached("won", traffic.answers["won"] + 3)
    assert not traffic.surprises
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())
