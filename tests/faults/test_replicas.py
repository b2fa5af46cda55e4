"""Two replicas of each service: restarted one after the other, or frozen long enough to be given up, under traffic."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from deploy.local.processes import Child
from deploy.local.provision import SERVICES
from deploy.local.services import ServiceProcess
from tests.e2e.city import City
from tests.e2e.traffic import Traffic
from tests.faults.harm import frozen

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

BEFORE = 10  # orders before the fault
SHUTDOWN_DEADLINE_S = 20.0  # the services' default
ZOMBIE_S = 12.0  # longer than the relay's lease and a consumer's session

Spares = dict[str, list[ServiceProcess]]


async def ended_in_good_order(process: Child) -> float:
    """Ask a process to stop; seconds until it has, with exit code 0."""
    asked = time.monotonic()
    process.terminate()
    code = await asyncio.to_thread(process.wait, SHUTDOWN_DEADLINE_S + 10)
    assert code == 0, f"{process.name} ended with {code}: {process.log_tail()}"
    return time.monotonic() - asked


async def settle(city: City, traffic: Traffic) -> None:
    assert not traffic.surprises
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())


async def test_a_rolling_restart_of_every_service_loses_and_doubles_nothing(
    city: City, spares: Spares
) -> None:
    city.spares = spares
    traffic = Traffic(city, Random("rolling"))
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        for service in SERVICES:
            for process in city.replicas(service):
                took = await ended_in_good_order(process)
                assert took < SHUTDOWN_DEADLINE_S
                process.start()
                await asyncio.to_thread(process.wait_ready)
        created = traffic.answers["created"]
        await traffic.reached("created", created + BEFORE)
    await settle(city, traffic)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_replica_that_hangs_past_its_lease_and_session_doubles_and_reorders_nothing_when_it_wakes(
    city: City, spares: Spares, service: str
) -> None:
    city.spares = {service: spares[service]}
    others = [process for name in SERVICES if name != service for process in spares[name]]
    for process in others:
        process.stop()
    traffic = Traffic(city, Random(service))
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
        with frozen(city.services[service]):
            await asyncio.sleep(ZOMBIE_S)  # the fault's own length
        created, won = traffic.answers["created"], traffic.answers["won"]
        await traffic.reached("created", created + BEFORE)
        await traffic.reached("won", won + 3)
    await settle(city, traffic)
    for process in city.replicas(service):
        assert process.running


@pytest.mark.parametrize("server", ["kafka", "postgres", "redis"])
async def test_services_stop_in_good_order_while_a_server_hangs(city: City, server: str) -> None:
    traffic = Traffic(city, Random(f"stop without {server}"))
    async with traffic.flowing():
        await traffic.reached("created", BEFORE)
    try:
        with frozen(city.stack.server(server)):
            took = await asyncio.gather(*(ended_in_good_order(city.services[name]) for name in SERVICES))
        assert max(took) < SHUTDOWN_DEADLINE_S
    finally:
        for name in SERVICES:
            city.services[name].start()
        for name in SERVICES:
            await asyncio.to_thread(city.services[name].wait_ready)
    await settle(city, traffic)
