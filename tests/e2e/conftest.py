"""One running system for all end-to-end tests of a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from deploy.local.gateway import LocalGateway
from deploy.local.services import ServiceProcess
from deploy.local.stack import LocalStack
from tests.e2e.city import City, start_city
from tests.e2e.collector import Collector
from tools.demo.phone import new_client

LIFETIME_S = 8  # of an order: long enough for people on a busy machine, short enough to wait for
# How long the services wait for one another: no busy machine may make an answer that a test is about a 503. The phones
# wait 10 s.
PATIENT = {
    "HTTP_REQUEST_DEADLINE_S": "9",
    "POSTGRES_CONNECT_DEADLINE_S": "8",
    "POSTGRES_ACQUIRE_DEADLINE_S": "8",
    "POSTGRES_STATEMENT_TIMEOUT_S": "8",
    "POSTGRES_LOCK_TIMEOUT_S": "8",
    "REDIS_DEADLINE_S": "5",
}


def services_env(collector: Collector) -> dict[str, str]:
    """The settings of all services here. They record no trace but those that a caller records."""
    return PATIENT | {
        "ORDER_LIFETIME_S": str(LIFETIME_S),
        "LOG_LEVEL": "INFO",
        "CREATES_PER_MINUTE": "1000",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_TRACES_SAMPLE_RATIO": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "200",  # ms: how long spans are gathered before they are sent
    }


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the services send their traces."""
    with Collector().listening() as collector:
        yield collector


@pytest.fixture(scope="session")
def services(stack: LocalStack, collector: Collector) -> Mapping[str, ServiceProcess]:
    """The four services, ready; stopped with the stack."""
    return start_city(stack, services_env(collector))


@pytest.fixture(scope="session")
def gateway(stack: LocalStack, services: Mapping[str, ServiceProcess]) -> LocalGateway | None:
    """nginx before them, where it is installed: then all calls and sockets go through it."""
    return stack.start_gateway(list(services.values()))


@pytest.fixture
async def city(
    stack: LocalStack, services: Mapping[str, ServiceProcess], gateway: LocalGateway | None
) -> AsyncIterator[City]:
    """The system, with phones of this test's own."""
    async with new_client() as client:
        yield City(stack, services, client, stack.command_env(), gateway=gateway)
