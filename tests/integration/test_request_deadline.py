"""A request as a whole has a deadline: a database that is slow, statement after statement, gives a quick 503.

And what such a request had begun stays right: whether it took effect is told by the same request, sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from deploy.local.ports import HOST, free_block
from deploy.local.stack import LocalStack
from tests.faults.harm import frozen
from tests.integration.order_api_rig import Caller, Home, Rig, code, data, order_api, order_api_home
from tests.integration.service_rig import AS_DEPLOYED
from tools.chaos.proxy import TcpProxy

DELAY_S = 0.45  # each way: no statement comes near its own deadline, nor the watch's sign of life
DEADLINE_S = 1.2  # of a request; shorter than the service's own, so that the tests are
QUICK_S = 10.0  # a 503 comes within this, on a busy machine, too; a phone waits as long
BACK_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@contextlib.asynccontextmanager
async def order_api_behind_a_proxy(
    home: Home, deadline_s: float = DEADLINE_S
) -> AsyncIterator[tuple[Rig, TcpProxy]]:
    """The service, and what stands between it and its PostgreSQL."""
    base = free_block()
    dsn = urlsplit(home.values["postgres_dsn"])
    user = dsn.netloc.rpartition("@")[0]
    behind = urlunsplit(dsn._replace(netloc=f"{user}@{HOST}:{base}"))
    async with (
        TcpProxy(base, dsn.port or 5432) as proxy,
        order_api(home, postgres_dsn=behind, http_request_deadline_s=deadline_s) as rig,
    ):
        yield rig, proxy


async def test_an_accept_whose_statements_are_slow_one_by_one_is_a_503_in_time_and_wins_when_it_is_repeated(
    home: Home,
) -> None:
    async with order_api_behind_a_proxy(home) as (rig, proxy):
        order_id, captain = await insisted_on(rig.customer(), "warm"), rig.captain()
        offer = rig.offer(order_id, captain)
        proxy.slow(DELAY_S)
        began = time.monotonic()
        refused = await captain.accept(order_id, offer)
        assert DEADLINE_S * 0.9 < time.monotonic() - began < QUICK_S
        assert code(refused) == (503, "SERVICE_UNAVAILABLE")
        assert refused.headers["Retry-After"] == "2"
        proxy.mend()
        async with asyncio.timeout(BACK_WITHIN_S):
            while (answer := await captain.accept(order_id, offer)).status_code == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # a phone's own pause
        won = data(answer)
        assert won["truckRequest"]["captainId"] == captain.user_id
        assert (won["order"]["trucksFilled"], won["order"]["status"]) == (1, "fully_filled")


async def test_a_create_that_was_cut_off_is_found_by_the_retry_under_its_key(home: Home) -> None:
    async with order_api_behind_a_proxy(home) as (rig, proxy):
        warm, customer = rig.customer(), rig.customer()
        await insist(warm, "warm")  # a connection is there, with its statements
        proxy.slow(DELAY_S)
        cut_off = await customer.create("cut-off")
        assert code(cut_off) == (503, "SERVICE_UNAVAILABLE")
        proxy.mend()
        retried = await insist(customer, "cut-off")
        assert await insist(customer, "cut-off") == retried
        async with rig.database.connection() as connection:
            orders = await connection.fetch(
                "SELECT id::text FROM orders WHERE customer_id = $1", customer.user_id
            )
        assert [row["id"] for row in orders] == [order_id_in(retried)]


@pytest.mark.faults
async def test_a_postgres_that_hangs_in_the_middle_of_creates_gives_quick_503s_and_each_retry_one_order(
    home: Home, stack: LocalStack
) -> None:
    async with order_api(home, **AS_DEPLOYED) as rig:
        customers = [rig.customer() for _ in range(20)]
        creating = [asyncio.create_task(customer.create("hung")) for customer in customers]
        await asyncio.sleep(0.01)  # some are on their way to PostgreSQL; which ones, does not matter
        began = time.monotonic()
        with frozen(stack.server("postgres")):
            first = await asyncio.gather(*creating)
            assert time.monotonic() - began < QUICK_S
        assert {answer.status_code for answer in first} <= {201, 503}
        assert any(answer.status_code == 503 for answer in first)
        for customer, answer in zip(customers, first, strict=True):
            retried = await insist(customer, "hung")
            if answer.status_code == 201:
                assert retried == answer.content
            assert await insist(customer, "hung") == retried


def order_id_in(body: bytes) -> str:
    order_id: str = json.loads(body)["data"]["orderId"]
    return order_id


async def insisted_on(customer: Caller, key: str) -> str:
    """The id of a new order, however often a busy machine made the service give up."""
    return order_id_in(await insist(customer, key))


async def insist(customer: Caller, key: str) -> bytes:
    """The body of the 201, as soon as PostgreSQL counts as back."""
    async with asyncio.timeout(BACK_WITHIN_S):
        while (answer := await customer.create(key)).status_code != 201:
            assert code(answer) in {(503, "SERVICE_UNAVAILABLE"), (409, "CONCURRENT_REQUEST")}
            await asyncio.sleep(0.1)  # a phone's own pause
    return answer.content
