"""``kill -9`` of any service under traffic, and its start again: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from deploy.local.provision import SERVICES
from tests.e2e.city import City
from tests.e2e.traffic import Traffic

BEFORE = 12  # orders before the kill
WHILE_AWAY = 5  # orders, or calls in vain, before it is started again
AFTER = 15  # and orders after its return


@pytest.mark.timeout(240)
async def test_services_killed_under_traffic_one_after_the_other_lose_and_double_nothing(city: City) -> None:
    traffic = Traffic(city, Random("kills"))
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        await traffic.reached("won", 3)
        for service in SERVICES:
            process = city.services[service]
            process.kill()
            # People go on without it: new orders come, or the same calls again where it was order-api.
            missed = "again" if service == "order-api" else "created"
            await traffic.reached(missed, traffic.answers[missed] + WHILE_AWAY)
            process.start()
            await asyncio.to_thread(process.wait_ready)
            created, won = traffic.answers["created"], traffic.answers["won"]
            await traffic.reached("created", created + AFTER)
            await traffic.reached("won", won + 3)
            assert not traffic.surprises, f"once {service} was killed"
    assert not traffic.surprises
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())
