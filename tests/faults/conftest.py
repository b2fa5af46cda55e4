"""One running system for all fault tests of a run; each test leaves it whole for the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from deploy.local.provision import SERVICES
from deploy.local.services import ServiceProcess
from deploy.local.stack import LocalStack
from tests.e2e.city import City, start_city
from tools.demo.phone import new_client

LIFETIME_S = 8  # of an order: longer than most faults here, short enough to wait for
ENV = {"ORDER_LIFETIME_S": str(LIFETIME_S), "LOG_LEVEL": "INFO", "CREATES_PER_MINUTE": "1000"}


@pytest.fixture(scope="session")
def services(stack: LocalStack) -> Mapping[str, ServiceProcess]:
    """The four services, ready; stopped with the stack."""
    return start_city(stack, ENV)


@pytest.fixture
async def city(stack: LocalStack, services: Mapping[str, ServiceProcess]) -> AsyncIterator[City]:
    """The system, with phones of this test's own."""
    for process in services.values():
        if not process.running:  # a test before this one failed half-way
            await asyncio.to_thread(process.restart)
    async with new_client() as client:
        yield City(stack, services, client, stack.command_env())


@pytest.fixture
def spares(
    stack: LocalStack, services: Mapping[str, ServiceProcess]
) -> Iterator[dict[str, list[ServiceProcess]]]:
    """A second replica of each service, stopped after the test."""
    started = {name: [stack.start_service(name, ENV)] for name in SERVICES}
    try:
        for (process,) in started.values():
            process.wait_ready()
        yield started
    finally:
        for (process,) in started.values():
            process.stop()
