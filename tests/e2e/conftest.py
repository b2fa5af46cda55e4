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


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the services send their traces."""
    with Collector().listening() as collector:
        yield collector


LEAVES_BROKEN_RECORDS = "test_personal_data.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What leaves broken records in the shared system's topics runs last: the ledger would find them ever after."""
    items.sort(key=lambda item: item.path.name == LEAVES_BROKEN_RECORDS)


@pytest.fixture(scope="session")
def services(stack: LocalStack, collector: Collector) -> Mapping[str, ServiceProcess]:
    """The four services, ready; stopped with the stack. They record no trace but those that a caller records."""
    env = {
        "ORDER_LIFETIME_S": str(LIFETIME_S),
        "LOG_LEVEL": "INFO",
        "CREATES_PER_MINUTE": "1000",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_TRACES_SAMPLE_RATIO": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "200",  # ms: how long spans are gathered before they are sent
    }
    return start_city(stack, env)


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
